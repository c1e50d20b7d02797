"""The parts of an answer as Chat Completions sends them: deltas, or one message. Pure."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from gpt_oss.events import TurnEnd, Usage
from gpt_oss.harmony.content import PARAGRAPH
from gpt_oss.server.core.answer import Closed, Ended, Logprob, Opened, Part, Piece
from gpt_oss.server.core.body import Json
from gpt_oss.server.core.tools import ToolSpec

FINISH: Mapping[TurnEnd, str] = {"stop": "stop", "unknown_tools": "stop", "tool_calls": "tool_calls"}


class ChoiceWriter:
    """One choice: push parts, get deltas; `message` is their sum.

    as_functions: calls in the form that was used before `tools`.
    """

    def __init__(self, *, shows_reasoning: bool = True, as_functions: bool = False) -> None:
        self.finish_reason: str | None = None
        self.usage = Usage()
        self.content = ""
        self.reasoning = ""
        self.calls: list[Json] = []
        self.logprobs: list[Logprob] = []
        self._shows_reasoning = shows_reasoning
        self._as_functions = as_functions
        self._kind = ""
        self._new_paragraph = False

    def push(self, part: Part) -> list[Json]:
        match part:
            case Opened(kind, tool=tool):
                self._kind = kind
                self._new_paragraph = kind == "text" and bool(self.content)
                if kind == "call" and tool is not None:
                    return self._call(tool)
            case Piece(text, logprobs):
                return self._piece(text, logprobs)
            case Closed():
                self._kind = ""
            case Ended(reason, usage):
                self.usage = usage
                self.finish_reason = FINISH.get(reason, "length")
                if self._as_functions and reason == "tool_calls":
                    self.finish_reason = "function_call"
        return []

    def _call(self, tool: ToolSpec) -> list[Json]:
        field = "input" if tool.kind == "custom" else "arguments"
        inner = "custom" if tool.kind == "custom" else "function"
        call: Json = {"id": f"call_{uuid.uuid4().hex[:24]}", "type": inner, inner: {"name": tool.name, field: ""}}
        self.calls.append(call)
        if self._as_functions:
            return [{"function_call": dict(call["function"])}] if len(self.calls) == 1 else []
        return [{"tool_calls": [{"index": len(self.calls) - 1, **call, inner: dict(call[inner])}]}]

    def _piece(self, text: str, logprobs: Sequence[Logprob]) -> list[Json]:
        match self._kind:
            case "reasoning":
                self.reasoning += text
                return [{"reasoning": text, "reasoning_content": text}] if self._shows_reasoning else []
            case "call":
                return self._arguments(text)
            case "text":
                if self._new_paragraph:
                    text, self._new_paragraph = f"{PARAGRAPH}{text}", False
                self.content += text
                self.logprobs += logprobs
                return [{"content": text}]
        return []

    def _arguments(self, text: str) -> list[Json]:
        call = self.calls[-1]
        inner = call["type"]
        field = "input" if inner == "custom" else "arguments"
        call[inner][field] += text
        if self._as_functions:
            return [{"function_call": {field: text}}] if len(self.calls) == 1 else []
        return [{"tool_calls": [{"index": len(self.calls) - 1, inner: {field: text}}]}]

    def message(self) -> Json:
        message: Json = {"role": "assistant", "content": self.content or (None if self.calls else "")}
        if self.reasoning and self._shows_reasoning:
            message |= {"reasoning": self.reasoning, "reasoning_content": self.reasoning}
        if self.calls and self._as_functions:
            message["function_call"] = self.calls[0]["function"]
        elif self.calls:
            message["tool_calls"] = self.calls
        return message | {"refusal": None}


def usage_of(choices: Sequence[ChoiceWriter]) -> Json:
    """The usage of all choices; their prompt counts once."""
    prompt = max(choice.usage.prompt_tokens for choice in choices)
    cached = max(choice.usage.cached_tokens for choice in choices)
    output = sum(choice.usage.output_tokens for choice in choices)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": sum(choice.usage.reasoning_tokens for choice in choices)},
    }


def completion(identity: Mapping[str, Any], writers: Sequence[ChoiceWriter], *, logprobs: bool) -> Json:
    """The body of an answer that is not streamed. identity: id, created, model."""
    choices = [
        {
            "index": index,
            "message": writer.message(),
            "finish_reason": writer.finish_reason or "stop",
            "logprobs": {"content": writer.logprobs, "refusal": None} if logprobs else None,
        }
        for index, writer in enumerate(writers)
    ]
    return {**identity, "object": "chat.completion", "choices": choices, "usage": usage_of(writers)}


def chunk(
    identity: Mapping[str, Any],
    index: int,
    delta: Json,
    finish_reason: str | None = None,
    logprobs: Sequence[Logprob] | None = None,
) -> Json:
    shown = None if logprobs is None else {"content": list(logprobs), "refusal": None}
    choice = {"index": index, "delta": delta, "finish_reason": finish_reason, "logprobs": shown}
    return {**identity, "object": "chat.completion.chunk", "choices": [choice]}
