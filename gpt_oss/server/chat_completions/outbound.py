"""Events of a turn as Chat Completions sends them: deltas, or one message. Pure."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gpt_oss.events import Event, MessageDone, MessageStarted, Sampled, TextDelta, TurnDone, Usage
from gpt_oss.harmony.convert import Aliases
from gpt_oss.server.logprobs import logprob_of
from gpt_oss.vocabulary import ENDOFTEXT

FINISH: Mapping[str, str] = {"stop": "stop", "unknown_tools": "stop", "tool_calls": "tool_calls"}
Delta = dict[str, Any]


@dataclass
class ChoiceFold:
    """One choice under way. `push` gives the deltas that an event adds; `message` is their sum.

    Calls of functions that were not declared are the turn's affair and are not shown.
    """

    aliases: Aliases
    stop_texts: tuple[str, ...] = ()
    shows_reasoning: bool = True
    finish_reason: str | None = None
    stopped_by: str | None = None  # which of the stop texts
    usage: Usage = field(default_factory=Usage)
    content: str = ""
    reasoning: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    _kind: str | None = None  # of the message under way: content, reasoning, call
    _held: str = ""  # the end of the content, which may become a stop text

    def push(self, event: Event) -> list[Delta]:
        if self.finish_reason is not None and not isinstance(event, TurnDone):
            return []
        match event:
            case MessageStarted(header):
                if header.is_call:
                    name = self.aliases.of_recipient(header.recipient or "")
                    if name not in self.aliases.declared:
                        self._kind = None
                        return []
                    self._kind = "call"
                    function = {"name": name, "arguments": ""}
                    call = {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}
                    self.calls.append(call)
                    opening = {"index": len(self.calls) - 1, **call, "function": dict(function)}
                    return [{"tool_calls": [opening]}]
                self._kind = "reasoning" if header.channel == "analysis" else "content"
            case TextDelta(text):
                return self._text(text)
            case Sampled(token) if self._kind == "content" and token.id < ENDOFTEXT and token.logprob is not None:
                self.logprobs.append(logprob_of(token))
            case MessageDone():
                self._kind = None
            case TurnDone(reason, _, usage):
                self.usage = usage
                rest = self._release()
                self.finish_reason = self.finish_reason or FINISH.get(reason, "length")
                return rest
        return []

    def _text(self, text: str) -> list[Delta]:
        match self._kind:
            case "reasoning":
                self.reasoning += text
                return [{"reasoning": text, "reasoning_content": text}] if self.shows_reasoning else []
            case "call":
                self.calls[-1]["function"]["arguments"] += text
                return [{"tool_calls": [{"index": len(self.calls) - 1, "function": {"arguments": text}}]}]
            case "content":
                return self._say(text)
        return []

    def _say(self, text: str) -> list[Delta]:
        """Content, without what a stop text cuts off; what may be the beginning of one is held back."""
        held = self._held + text
        found = min(((at, stop) for stop in self.stop_texts if (at := held.find(stop)) >= 0), default=None)
        if found is not None:
            self._held, self.finish_reason, self.stopped_by = "", "stop", found[1]
            return self._said(held[: found[0]])
        keep = max((n for stop in self.stop_texts for n in range(1, len(stop)) if held.endswith(stop[:n])), default=0)
        self._held = held[len(held) - keep :]
        return self._said(held[: len(held) - keep])

    def _release(self) -> list[Delta]:
        held, self._held = self._held, ""
        return self._said(held) if self.finish_reason is None else []

    def _said(self, text: str) -> list[Delta]:
        self.content += text
        return [{"content": text}] if text else []

    def message(self) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": self.content or (None if self.calls else "")}
        if self.reasoning and self.shows_reasoning:
            message |= {"reasoning": self.reasoning, "reasoning_content": self.reasoning}
        if self.calls:
            message["tool_calls"] = self.calls
        return message | {"refusal": None}


def usage_of(folds: list[ChoiceFold]) -> dict[str, Any]:
    """The prompt counts once, whatever the number of choices."""
    prompt, cached = folds[0].usage.prompt_tokens, folds[0].usage.cached_tokens
    output = sum(fold.usage.output_tokens for fold in folds)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": sum(fold.usage.reasoning_tokens for fold in folds)},
    }


def completion(identity: Mapping[str, Any], folds: list[ChoiceFold], *, logprobs: bool) -> dict[str, Any]:
    """The body of an answer that is not streamed. identity: id, created, model."""
    choices = [
        {
            "index": index,
            "message": fold.message(),
            "finish_reason": fold.finish_reason or "stop",
            "logprobs": {"content": fold.logprobs, "refusal": None} if logprobs else None,
        }
        for index, fold in enumerate(folds)
    ]
    return {**identity, "object": "chat.completion", "choices": choices, "usage": usage_of(folds)}


def chunk(
    identity: Mapping[str, Any], index: int, delta: Delta, finish_reason: str | None = None, logprobs: Any = None
) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "finish_reason": finish_reason, "logprobs": logprobs}
    return {**identity, "object": "chat.completion.chunk", "choices": [choice]}
