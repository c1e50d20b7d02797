"""llama.cpp's own /completion: token ids in, and out with return_tokens.

A stream's event has one token. Where a character is spread over several the server holds them back and then sends only
the last one's id: the others are found in its text. The token that ends an answer is sent like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from gpt_oss.backends.base import SampledToken
from gpt_oss.backends.http.wire import EVERYTHING, Feature, Heard, Json
from gpt_oss.params import SamplingParams
from gpt_oss.vocabulary import encode_ordinary


@dataclass(frozen=True)
class LlamaCppWire:
    """No penalties: llama.cpp's count the prompt's tokens too, which are not what was asked for."""

    model: str
    name: str = "llama.cpp's server"
    path: str = "/completion"
    framing: Literal["events", "lines"] = "events"
    features: frozenset[Feature] = EVERYTHING - {"penalties"}
    marks_last: bool = False

    def body(self, prompt: Sequence[int], params: SamplingParams, limit: int) -> Json:
        return {
            "model": self.model,
            "prompt": list(prompt),
            "n_predict": limit,
            "stream": True,
            "return_tokens": True,
            "return_progress": True,  # how much of the prompt was cached
            "cache_prompt": True,
            # The filters see the distribution after the temperature, and no others are on.
            "samplers": ["temperature", "top_k", "top_p", "min_p"],
            "temperature": params.temperature,
            "top_k": params.top_k,
            "top_p": params.top_p,
            "min_p": params.min_p,
            "repeat_penalty": 1.0,
            "seed": -1 if params.seed is None else params.seed % (2**32 - 1),
            "n_probs": 0 if params.logprobs is None else max(1, params.logprobs),
            "logit_bias": [[token, bias] for token, bias in params.logit_bias.items()],
        }

    def reader(self, prompt: Sequence[int], params: SamplingParams) -> LlamaCppReader:
        return LlamaCppReader(params.logprobs)


class LlamaCppReader:
    def __init__(self, logprobs: int | None) -> None:
        self._logprobs = logprobs
        self._count = 0
        self._cached = 0

    def push(self, event: Json) -> Heard:
        progress = event.get("prompt_progress")
        if progress:
            self._cached = int(progress.get("cache") or 0)
            return Heard()
        if event.get("stop") is True:
            return Heard(ended="length" if event.get("stop_type") == "limit" else "stop")
        ids = [int(token) for token in event["tokens"]]
        if ids:
            ids = self._with_missing(ids, event)
        tokens = [SampledToken(token) for token in ids]
        if tokens and self._logprobs is not None:
            tokens[-1] = self._with_logprobs(tokens[-1], event)
        if tokens and self._count == 0 and self._cached:
            tokens[0] = replace(tokens[0], cached_tokens=self._cached)
        self._count += len(tokens)
        return Heard(tuple(tokens))

    def _with_missing(self, ids: list[int], event: Json) -> list[int]:
        missing = int(event.get("tokens_predicted") or 0) - self._count - len(ids)
        if missing <= 0:
            return ids
        whole = encode_ordinary(event["content"])
        return whole if whole[-1:] == ids[-1:] or len(whole) == missing + 1 else [*whole[:missing], *ids]

    def _with_logprobs(self, token: SampledToken, event: Json) -> SampledToken:
        said = event.get("completion_probabilities")
        if not said or not self._logprobs:
            return replace(token, logprob=said[0]["logprob"]) if said else token
        top = tuple((int(other["id"]), float(other["logprob"])) for other in said[0]["top_logprobs"])
        return replace(token, logprob=said[0]["logprob"], top_logprobs=top[: self._logprobs])

    def finish(self) -> Heard:
        return Heard(ended="stop")
