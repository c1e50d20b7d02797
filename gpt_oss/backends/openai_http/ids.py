"""/v1/completions with token ids in and out: vLLM's extension of OpenAI's endpoint, which gpt-oss's own server has too.

The fields are those of vLLM 0.33's CompletionRequest and of its stream's chunks; older ones ignore what they lack.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gpt_oss.backends.base import SampledToken
from gpt_oss.backends.http.faults import FaultError
from gpt_oss.backends.http.text import token_named
from gpt_oss.backends.http.wire import EVERYTHING, NOTHING, Feature, Heard, Json
from gpt_oss.errors import BackendError
from gpt_oss.params import SamplingParams

_PREFIX = "token_id:"  # how vLLM writes a token in logprobs when it is asked to


@dataclass(frozen=True)
class IdsWire:
    model: str
    name: str = "a completions server with token ids"
    path: str = "/v1/completions"
    framing: Literal["events", "lines"] = "events"
    features: frozenset[Feature] = EVERYTHING
    marks_last: bool = True

    def body(self, prompt: Sequence[int], params: SamplingParams, limit: int) -> Json:
        return {
            "model": self.model,
            "prompt": list(prompt),
            "max_tokens": limit,
            "stream": True,
            "temperature": params.temperature,
            "top_p": params.top_p,
            "top_k": params.top_k or -1,
            "min_p": params.min_p,
            "seed": None if params.seed is None else _signed(params.seed),
            "stop_token_ids": list(params.stop_token_ids),
            "ignore_eos": True,  # it ends where we say, and only there
            "logprobs": params.logprobs,
            "logit_bias": {str(token): bias for token, bias in params.logit_bias.items()} or None,
            "presence_penalty": params.presence_penalty,
            "frequency_penalty": params.frequency_penalty,
            "skip_special_tokens": False,
            "add_special_tokens": False,
            "return_token_ids": True,
            "return_tokens_as_token_ids": params.logprobs is not None,
        }

    def reader(self, prompt: Sequence[int], params: SamplingParams) -> IdsReader:
        return IdsReader(params.logprobs)


class IdsReader:
    """logprobs: as in SamplingParams."""

    def __init__(self, logprobs: int | None) -> None:
        self._logprobs = logprobs

    def push(self, event: Json) -> Heard:
        if not event["choices"]:  # of the usage
            return NOTHING
        choice = event["choices"][0]
        ids = choice.get("token_ids")
        if ids is None:
            if not choice.get("text"):
                ids = []
            else:
                raise FaultError(
                    BackendError(
                        "the server sends text without token ids: it is older than return_token_ids",
                        hint="Say --wire text.",
                    )
                )
        tokens = tuple(SampledToken(int(token)) for token in ids)
        if self._logprobs is not None and choice.get("logprobs"):
            tokens = _with_logprobs(ids, choice["logprobs"], self._logprobs)
        match choice.get("finish_reason"):
            case None:
                return Heard(tokens)
            case "stop":
                reason = choice.get("stop_reason")
                hidden = reason if isinstance(reason, int) and (not ids or ids[-1] != reason) else None
                return Heard(tokens, "stop", hidden)
            case "length":
                return Heard(tokens, "length")
            case other:
                raise FaultError(BackendError(f"the server ended the answer with {other!r}"))

    def finish(self) -> Heard:
        return Heard(ended="stop")


def _with_logprobs(ids: Sequence[int], logprobs: Json, top: int) -> tuple[SampledToken, ...]:
    tokens = []
    tops: Sequence[Mapping[str, float] | None] = logprobs.get("top_logprobs") or [None] * len(ids)
    for token, logprob, others in zip(ids, logprobs["token_logprobs"], tops, strict=True):
        named = ((token_of(name), value) for name, value in (others or {}).items())
        known = sorted(((other, value) for other, value in named if other is not None), key=_likeliest_first)
        tokens.append(SampledToken(int(token), logprob, tuple(known[:top])))
    return tuple(tokens)


def _likeliest_first(entry: tuple[int, float]) -> tuple[float, int]:
    return -entry[1], entry[0]


def token_of(name: str) -> int | None:
    """The id that a key of top_logprobs stands for."""
    return int(name[len(_PREFIX) :]) if name.startswith(_PREFIX) else token_named(name)


def _signed(seed: int) -> int:
    """Any seed in the 64 bits that such a server has for it."""
    seed %= 2**64
    return seed - 2**64 if seed >= 2**63 else seed


def serves_ids(answer: Any) -> bool:
    """Whether an answer to a request with return_token_ids has them."""
    return bool(answer["choices"][0].get("token_ids"))
