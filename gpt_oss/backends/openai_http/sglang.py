"""SGLang's own /generate: input_ids in, output_ids out.

By default every event repeats all ids so far, with --incremental-streaming-output it has the new ones only: the count
in meta_info tells them apart. Seeds count only where the server runs with --enable-deterministic-inference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from gpt_oss.backends.base import SampledToken
from gpt_oss.backends.http.faults import FaultError
from gpt_oss.backends.http.wire import EVERYTHING, Feature, Heard, Json
from gpt_oss.errors import BackendError
from gpt_oss.params import SamplingParams


@dataclass(frozen=True)
class SglangWire:
    model: str
    name: str = "SGLang"
    path: str = "/generate"
    framing: Literal["events", "lines"] = "events"
    features: frozenset[Feature] = EVERYTHING
    marks_last: bool = True

    def body(self, prompt: Sequence[int], params: SamplingParams, limit: int) -> Json:
        sampling: Json = {
            "max_new_tokens": limit,
            "temperature": params.temperature,
            "top_p": params.top_p,
            "top_k": params.top_k or -1,
            "min_p": params.min_p,
            "presence_penalty": params.presence_penalty,
            "frequency_penalty": params.frequency_penalty,
            "stop_token_ids": list(params.stop_token_ids),
            "ignore_eos": True,
            "no_stop_trim": True,
            "skip_special_tokens": False,
            "spaces_between_special_tokens": False,
        }
        if params.seed is not None:
            sampling["sampling_seed"] = params.seed % 2**31
        if params.logit_bias:
            sampling["logit_bias"] = {str(token): bias for token, bias in params.logit_bias.items()}
        body: Json = {"input_ids": list(prompt), "sampling_params": sampling, "stream": True}
        if params.logprobs is not None:
            body |= {"return_logprob": True, "logprob_start_len": -1, "top_logprobs_num": params.logprobs}
        return body

    def reader(self, prompt: Sequence[int], params: SamplingParams) -> SglangReader:
        return SglangReader(params.logprobs)


class SglangReader:
    def __init__(self, logprobs: int | None) -> None:
        self._logprobs = logprobs
        self._count = 0

    def push(self, event: Json) -> Heard:
        meta = event["meta_info"]
        before, total = self._count, int(meta["completion_tokens"])
        ids = _new(event["output_ids"], before, total)
        tokens = [SampledToken(int(token)) for token in ids]
        if self._logprobs is not None and tokens:
            said = _new(meta["output_token_logprobs"], before, total)
            tops = _new(meta.get("output_top_logprobs") or [], before, total) if self._logprobs else []
            tokens = [
                replace(token, logprob=float(entry[0]), top_logprobs=_top(tops[i]) if i < len(tops) else ())
                for i, (token, entry) in enumerate(zip(tokens, said, strict=True))
            ]
        if tokens and before == 0 and meta.get("cached_tokens"):
            tokens[0] = replace(tokens[0], cached_tokens=int(meta["cached_tokens"]))
        self._count += len(tokens)
        return self._ended(tuple(tokens), meta.get("finish_reason"))

    def _ended(self, tokens: tuple[SampledToken, ...], reason: Json | None) -> Heard:
        if reason is None:
            return Heard(tokens)
        match reason["type"]:
            case "length":
                return Heard(tokens, "length")
            case "stop":
                matched = reason.get("matched")
                hidden = isinstance(matched, int) and (not tokens or tokens[-1].id != matched)
                return Heard(tokens, "stop", matched if hidden else None)
            case other:
                raise FaultError(BackendError(f"the server ended the answer with {other!r}: {reason.get('message')}"))

    def finish(self) -> Heard:
        return Heard(ended="stop")


def _new(entries: Sequence[Any], before: int, total: int) -> Sequence[Any]:
    """Of a list that has everything so far, or only what is new."""
    return entries[before:] if len(entries) == total else entries


def _top(entries: Sequence[Sequence[Any]] | None) -> tuple[tuple[int, float], ...]:
    return tuple((int(token), float(logprob)) for logprob, token, *_ in entries or ())
