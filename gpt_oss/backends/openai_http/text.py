"""/v1/completions with text in and out, as OpenAI had it: LM Studio, llama-cpp-python, and most others.

Special tokens are written out in the prompt. Whether they are in the answer is the server's choice; http/text.py reads
both. The fields beyond OpenAI's are llama.cpp's and vLLM's, for servers whose defaults would filter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gpt_oss.backends.base import SampledToken
from gpt_oss.backends.http.faults import FaultError
from gpt_oss.backends.http.text import RecoveredText, prompt_text
from gpt_oss.backends.http.wire import NOTHING, Feature, Heard, Json
from gpt_oss.errors import BackendError
from gpt_oss.params import SamplingParams


@dataclass(frozen=True)
class TextWire:
    model: str
    name: str = "a completions server with text"
    path: str = "/v1/completions"
    framing: Literal["events", "lines"] = "events"
    features: frozenset[Feature] = frozenset(("top_k", "min_p", "seed"))
    marks_last: bool = False

    def body(self, prompt: Sequence[int], params: SamplingParams, limit: int) -> Json:
        return {
            "model": self.model,
            "prompt": prompt_text(prompt),
            "max_tokens": limit,
            "stream": True,
            "temperature": params.temperature,
            "top_p": params.top_p,
            "top_k": params.top_k,
            "min_p": params.min_p,
            "repeat_penalty": 1.0,
            "skip_special_tokens": False,
        } | ({} if params.seed is None else {"seed": params.seed % 2**31})

    def reader(self, prompt: Sequence[int], params: SamplingParams) -> TextReader:
        return TextReader(prompt)


class TextReader:
    def __init__(self, prompt: Sequence[int]) -> None:
        self._text = RecoveredText(prompt)

    def push(self, event: Json) -> Heard:
        if not event["choices"]:
            return NOTHING
        choice = event["choices"][0]
        return self.heard(choice.get("text") or "", choice.get("finish_reason"))

    def heard(self, text: str, reason: str | None) -> Heard:
        ids = self._text.push(text)
        match reason:
            case None | "":
                return Heard(tuple(map(SampledToken, ids)))
            case "length":
                return Heard(tuple(map(SampledToken, [*ids, *self._text.finish()])), "length")
            case "stop":
                ids += self._text.finish()
                return Heard(tuple(map(SampledToken, ids)), "stop", self._text.closing_token())
            case other:
                raise FaultError(BackendError(f"the server ended the answer with {other!r}"))

    def finish(self) -> Heard:
        return self.heard("", "stop")
