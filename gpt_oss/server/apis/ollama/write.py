"""The parts of an answer as Ollama's lines of JSON. Pure."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

from gpt_oss.events import Usage
from gpt_oss.harmony.content import PARAGRAPH
from gpt_oss.server.core.answer import Begun, Closed, Ended, Logprob, Opened, Part, Piece
from gpt_oss.server.core.body import Json


class Clock:
    """Nanoseconds, as Ollama counts them."""

    def __init__(self) -> None:
        self._start = time.monotonic_ns()
        self._first: int | None = None

    def tick(self) -> None:
        """A token is there."""
        self._first = self._first or time.monotonic_ns()

    def counts(self, usage: Usage) -> Json:
        now = time.monotonic_ns()
        first = self._first or now
        return {
            "total_duration": now - self._start,
            "load_duration": 0,
            "prompt_eval_count": usage.prompt_tokens,
            "prompt_eval_duration": first - self._start,
            "eval_count": usage.output_tokens,
            "eval_duration": now - first,
        }


class LineWriter:
    """One answer: push parts, get lines without their stamp; `whole` is all of them in one.

    as_chat: the form of /api/chat, else that of /api/generate.
    """

    def __init__(self, *, as_chat: bool) -> None:
        self.calls: list[Json] = []
        self.reasoning = ""
        self._as_chat = as_chat
        self._clock = Clock()
        self._content = ""
        self._logprobs: list[Logprob] = []
        self._opened: Opened | None = None
        self._begun = False
        self._new_paragraph = False
        self._last: Json = {}

    def push(self, part: Part) -> list[Json]:
        match part:
            case Begun() if not self._begun:
                self._begun = True
                return [self._line()]
            case Opened():
                self._opened = part
                self._new_paragraph = part.kind == "text" and bool(self._content)
            case Piece(text, logprobs) if self._opened is not None:
                self._clock.tick()
                return self._piece(self._opened, text, logprobs)
            case Closed(text):
                opened, self._opened = self._opened, None
                if opened is not None and opened.kind == "call" and opened.tool is not None:
                    return self._call(opened.tool.name, text)
            case Ended(usage=usage):
                done_reason = "stop" if part.is_whole else "length"
                self._last = {"done": True, "done_reason": done_reason, **self._clock.counts(usage)}
                return [{**self._line(), **self._last}]
        return []

    def _piece(self, opened: Opened, text: str, logprobs: tuple[Logprob, ...]) -> list[Json]:
        if opened.kind == "reasoning":
            self.reasoning += text
            return [self._line(thinking=text)]
        if opened.kind != "text":
            return []
        if self._new_paragraph:
            text, self._new_paragraph = f"{PARAGRAPH}{text}", False
        self._content += text
        self._logprobs += logprobs
        line = self._line(content=text)
        return [line | ({"logprobs": list(logprobs)} if logprobs else {})]

    def _call(self, name: str, text: str) -> list[Json]:
        """A call, which is sent when it is whole; what is no JSON, which only a grammar keeps away, as it is."""
        try:
            arguments: Any = json.loads(text or "{}", strict=False)
        except (ValueError, RecursionError):
            arguments = {"arguments": text}
        call = {"id": f"call_{uuid.uuid4().hex[:24]}", "function": {"name": name, "arguments": arguments}}
        self.calls.append(call)
        return [self._line(calls=[call])]

    def _line(self, *, content: str = "", thinking: str = "", calls: list[Json] | None = None) -> Json:
        more: Json = {"thinking": thinking} if thinking else {}
        if calls:
            more["tool_calls"] = calls
        if self._as_chat:
            return {"message": {"role": "assistant", "content": content, **more}, "done": False}
        return {"response": content, **more, "done": False}

    def whole(self) -> Json:
        line = self._line(content=self._content, thinking=self.reasoning, calls=self.calls)
        return line | ({"logprobs": self._logprobs} if self._logprobs else {}) | self._last
