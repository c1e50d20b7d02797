"""Events of a turn as the Responses API sends them: typed events with sequence numbers, and the Response. Pure."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gpt_oss.events import (
    CitationFound,
    Event,
    MessageDone,
    MessageStarted,
    ParsedMessage,
    Sampled,
    TextDelta,
    ToolDone,
    ToolStarted,
    TurnDone,
    Usage,
)
from gpt_oss.server.hosted import HostedCall
from gpt_oss.server.logprobs import logprob_of
from gpt_oss.server.responses.client_tools import ClientTool, fields_of
from gpt_oss.server.responses.echo import echo_of
from gpt_oss.server.responses.inbound import Inbound
from gpt_oss.server.responses.tools import ToolName
from gpt_oss.tools.citations import Citation
from gpt_oss.tools.tool import text_of
from gpt_oss.vocabulary import ENDOFTEXT

Json = dict[str, Any]
SUMMARIES = ("auto", "concise", "detailed")
# Ends of a turn that are not the model's, as incomplete_details has them; any other is that of the tokens.
ENDS = {"rounds": "max_messages", "seconds": "max_messages"}


@dataclass
class ResponseFold:
    """One response under way. Every method gives the events to send, in order.

    Calls of functions that were not declared are the turn's affair and are not shown. seal: makes the encrypted_content
    of reasoning, where the client asked for that. ran: by the ids of items, calls that were run here, as recipient,
    content and answer.
    """

    wanted: Inbound
    model: str
    store: bool = False
    seal: Callable[[str], str] | None = None
    id: str = field(default_factory=lambda: f"resp_{uuid.uuid4().hex}")
    created_at: int = field(default_factory=lambda: int(time.time()))
    status: str = "in_progress"
    output: list[Json] = field(default_factory=list)
    usage: Usage | None = None
    error: Json | None = None
    incomplete: str | None = None
    ran: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    _sequence: int = 0
    _item: Json | None = None  # under way
    _client: ClientTool | None = None  # the call under way is one of these, and becomes an item when it is whole
    _text: str = ""
    _logprobs: list[Json] = field(default_factory=list)
    _sent_logprobs: int = 0
    _annotations: list[Json] = field(default_factory=list)
    _hosted: HostedCall | None = None  # the call that is being written
    _running: list[HostedCall] = field(default_factory=list)  # calls without an answer

    def start(self) -> list[Json]:
        created = self._event("response.created", response=self.response())
        if self.status == "queued":
            return [created, self._event("response.queued", response=self.response())]
        return [created, self.keep_alive(), *self._listed()]

    def _listed(self) -> list[Json]:
        """MCP servers' tools, before anything is said."""
        events = []
        for server in self.wanted.mcp:
            place: Json = {"item_id": (item := server.item())["id"], "output_index": len(self.output)}
            empty = {**item, "tools": []}
            events += [
                self._event("response.output_item.added", output_index=len(self.output), item=empty),
                self._event("response.mcp_list_tools.in_progress", **place),
                self._event("response.mcp_list_tools.completed", **place),
                self._event("response.output_item.done", output_index=len(self.output), item=item),
            ]
            self.output.append(item)
        return events

    def queue(self) -> None:
        """It will wait, and nobody for it: to be said before `start`."""
        self.status = "queued"

    def go_on(self) -> list[Json]:
        """From queued to in progress."""
        self.status = "in_progress"
        return [self.keep_alive(), *self._listed()]

    def keep_alive(self) -> Json:
        """A real event, for comments do not reset every client's clock."""
        kind = "queued" if self.status == "queued" else "in_progress"
        return self._event(f"response.{kind}", response=self.response())

    def push(self, event: Event) -> list[Json]:
        match event:
            case MessageStarted(header):
                name = None
                if header.is_call and self._is_hosted(header.recipient or ""):
                    return self._open_hosted(header.recipient or "", header.channel)
                if header.is_call:
                    aliases = self.wanted.plan.aliases
                    name = self.wanted.names.get(aliases.of_recipient(header.recipient or ""))
                    if name is None:
                        return []
                return self._open(header.channel, name)
            case TextDelta(text) if self._hosted is not None:
                if self._hosted.pieces is not None:
                    return [self._hosted_event(self._hosted.pieces[0], self._hosted, delta=text)]
            case TextDelta(text) if self._client is not None:
                self._text += text
            case TextDelta(text) if self._item is not None:
                return self._delta(text)
            case CitationFound(citation) if self._is("message"):
                return self._annotate(citation)
            case Sampled(token) if self._is("message") and token.id < ENDOFTEXT and token.logprob is not None:
                self._logprobs.append(logprob_of(token))
            case MessageDone(message) if self._hosted is not None:
                return self._called(message)
            case MessageDone(message):
                return self._close("incomplete" if message.ended_by is None else "completed")
            case ToolStarted(_, name, _) if self._running and self._is_hosted(name):
                doing = self._running[0].doing
                return [self._hosted_event(f".{doing}", self._running[0])] if doing else []
            case ToolDone(_, name, answers, _, failed) if self._running and self._is_hosted(name):
                return self._answered(self._running.pop(0), "".join(map(text_of, answers)), failed)
            case TurnDone(reason, _, usage):
                self.usage = usage
                done = reason in ("stop", "tool_calls", "unknown_tools")
                events = self._close("completed" if done else "incomplete")
                self.status = "completed" if done else "incomplete"
                self.incomplete = None if done else ENDS.get(reason, "max_output_tokens")
                return [*events, self._event(f"response.{self.status}", response=self.response())]
        return []

    def fail(self, code: str, message: str) -> list[Json]:
        events = self._close("incomplete")
        self.status, self.error = "failed", {"code": code, "message": message}
        return [*events, self._event("response.failed", response=self.response())]

    def done_with_nothing(self, usage: Usage) -> list[Json]:
        """It was only to be made ready."""
        self.usage, self.status = usage, "completed"
        return [self._event("response.completed", response=self.response())]

    def cancel(self) -> list[Json]:
        """The client wants no more. OpenAI's API has no event for it; its last one says what there is."""
        events = self._close("incomplete")
        self.status = "cancelled"
        return [*events, self._event("response.incomplete", response=self.response())]

    # Hosted tools

    def _is_hosted(self, recipient: str) -> bool:
        found = self.wanted.plan.toolbox.find(recipient)
        if found is not None and found[0] in self.wanted.plan.toolbox.built_in:
            return True
        return self._mcp_name(recipient) is not None

    def _mcp_name(self, recipient: str) -> ToolName | None:
        name = self.wanted.names.get(self.wanted.plan.aliases.of_recipient(recipient))
        return name if name is not None and name.mcp else None

    def _open_hosted(self, recipient: str, channel: str | None) -> list[Json]:
        mcp = self._mcp_name(recipient)
        if mcp is not None:
            assert mcp.mcp is not None
            call = HostedCall.begin_mcp(mcp.name, mcp.mcp, len(self.output))
        else:
            found = self.wanted.plan.toolbox.find(recipient)
            assert found is not None
            call = HostedCall.begin(found[1], len(self.output), f"cntr_{self.id.removeprefix('resp_')}")
        self._hosted = call
        self.output.append(call.item)
        self._text = ""
        added = self._event("response.output_item.added", output_index=call.index, item=dict(call.item))
        return [added, self._hosted_event(".in_progress", call)]

    def _called(self, message: ParsedMessage) -> list[Json]:
        call, self._hosted = self._hosted, None
        assert call is not None
        call.called(message.header.recipient or "", message.content)
        self._running.append(call)
        if call.pieces is None:
            return []
        _, done, name = call.pieces
        return [self._hosted_event(done, call, **{name: call.item[name]})]

    def _answered(self, call: HostedCall, answer: str, failed: bool) -> list[Json]:
        include = self.wanted.request.include or []
        call.answered(
            answer,
            failed=failed,
            outputs="code_interpreter_call.outputs" in include,
            results="web_search_call.results" in include,
        )
        self.ran[call.item["id"]] = (call.recipient, call.content, answer)
        done = self._event("response.output_item.done", output_index=call.index, item=dict(call.item))
        ended = "failed" if failed and call.kind == "mcp_call" else "completed"  # the others have no event for it
        return [self._hosted_event(f".{ended}", call), done]

    def _hosted_event(self, what: str, call: HostedCall, **fields: Any) -> Json:
        place = {"item_id": call.item["id"], "output_index": call.index}
        return self._event(f"response.{call.kind}{what}", **place, **fields)

    def _annotate(self, citation: Citation) -> list[Json]:
        """The citation's mark stays in the text; start and end are where it stands."""
        source = citation.source
        annotation: Json = {"type": "url_citation", "url": source.url, "title": source.title}
        annotation |= {"start_index": citation.start, "end_index": citation.end}
        self._annotations.append(annotation)
        number = {"annotation_index": len(self._annotations) - 1, "annotation": annotation}
        return [self._event("response.output_text.annotation.added", **self._place(), **number)]

    # Items

    def _open(self, channel: str | None, call: ToolName | None) -> list[Json]:
        self._text, self._logprobs, self._sent_logprobs, self._annotations = "", [], 0, []
        item: Json
        if call is not None and call.client is not None:
            self._client = call.client
            return []
        if call is not None:
            names = {"name": call.name, **({"namespace": call.namespace} if call.namespace else {})}
            identity = {"call_id": f"call_{uuid.uuid4().hex[:24]}", **names}
            if call.custom:
                item = {"type": "custom_tool_call", "id": f"ctc_{uuid.uuid4().hex}", **identity, "input": ""}
            else:
                item = {"type": "function_call", "id": f"fc_{uuid.uuid4().hex}", **identity, "arguments": ""}
                item["status"] = "in_progress"
        elif channel == "analysis":
            item = {"type": "reasoning", "id": f"rs_{uuid.uuid4().hex}", "summary": [], "content": []}
            item["status"] = "in_progress"
        else:
            item = {"type": "message", "id": f"msg_{uuid.uuid4().hex}", "role": "assistant", "content": []}
            item["status"] = "in_progress"
            item["phase"] = "commentary" if channel == "commentary" else "final_answer"
        self._item = item
        events = [self._event("response.output_item.added", output_index=len(self.output), item=dict(item))]
        if call is None:
            events.append(self._event("response.content_part.added", **self._place(), part=self._part()))
        if self._is("reasoning") and self._summary is not None:
            part = {"type": "summary_text", "text": ""}
            events.append(self._event("response.reasoning_summary_part.added", **self._summary_place(), part=part))
        return events

    @property
    def _summary(self) -> str | None:
        """The kind of summary that the client asked for."""
        kind = self.wanted.request.reasoning.summary if self.wanted.request.reasoning else None
        return kind if kind in SUMMARIES else None

    def _delta(self, text: str) -> list[Json]:
        self._text += text
        if self._is("message"):
            logprobs = self._logprobs[self._sent_logprobs :]
            self._sent_logprobs = len(self._logprobs)
            return [self._event("response.output_text.delta", **self._place(), delta=text, logprobs=logprobs)]
        if self._is("reasoning"):
            events = [self._event("response.reasoning_text.delta", **self._place(), delta=text)]
            if self._summary in ("auto", "detailed"):
                place = self._summary_place()
                events.append(self._event("response.reasoning_summary_text.delta", **place, delta=text))
            return events
        kind = "custom_tool_call_input" if self._is("custom_tool_call") else "function_call_arguments"
        return [self._event(f"response.{kind}.delta", **self._item_place(), delta=text)]

    def _close(self, status: str) -> list[Json]:
        if self._client is not None:
            return self._close_client(self._client, status)
        item = self._item
        if item is None:
            return self._drop_hosted() if status == "incomplete" else []
        text = self._text
        events = []
        match item["type"]:
            case "message":
                events.append(
                    self._event("response.output_text.done", **self._place(), text=text, logprobs=self._logprobs)
                )
            case "reasoning":
                events.append(self._event("response.reasoning_text.done", **self._place(), text=text))
                if self.seal is not None:
                    item["encrypted_content"] = self.seal(text)
            case "function_call":
                item["arguments"] = text
                done = {"name": item["name"], "arguments": text}
                events.append(self._event("response.function_call_arguments.done", **self._item_place(), **done))
            case "custom_tool_call":
                item["input"] = text
                events.append(self._event("response.custom_tool_call_input.done", **self._item_place(), input=text))
        if item["type"] in ("message", "reasoning"):
            item["content"] = [self._part()]
            events.append(self._event("response.content_part.done", **self._place(), part=self._part()))
        if item["type"] == "reasoning" and self._summary is not None:
            events += self._summed_up(item)
        if "status" in item:
            item["status"] = status
        events.append(self._event("response.output_item.done", output_index=len(self.output), item=dict(item)))
        self.output.append(item)
        self._item = None
        return events + (self._drop_hosted() if status == "incomplete" else [])

    def _summed_up(self, item: Json) -> list[Json]:
        """The model's thoughts are all here, so a summary of them is they themselves, or in short how each begins."""
        place, text, events = self._summary_place(), self._text, []
        if self._summary == "concise":
            text = in_short(text)
            events.append(self._event("response.reasoning_summary_text.delta", **place, delta=text))
        part = {"type": "summary_text", "text": text}
        item["summary"] = [part]
        events.append(self._event("response.reasoning_summary_text.done", **place, text=text))
        return [*events, self._event("response.reasoning_summary_part.done", **place, part=part)]

    def _close_client(self, tool: ClientTool, status: str) -> list[Json]:
        """A call that the client runs, of one of OpenAI's types."""
        self._client = None
        ids = {"id": f"{tool.prefix}_{uuid.uuid4().hex}", "call_id": f"call_{uuid.uuid4().hex[:24]}"}
        item: Json = {"type": tool.call, **ids, **fields_of(tool, self._text), "status": "in_progress"}
        place: Json = {"output_index": len(self.output)}
        commands = item["action"]["commands"] if tool.type == "shell" else []
        begun = item | ({"action": {**item["action"], "commands": []}} if commands else {})
        events = [self._event("response.output_item.added", **place, item=begun)]
        for index, command in enumerate(commands):
            here, kind = {**place, "command_index": index}, "response.shell_call_command"
            events.append(self._event(f"{kind}.added", **here, command=""))
            events.append(self._event(f"{kind}.delta", **here, delta=command))
            events.append(self._event(f"{kind}.done", **here, command=command))
        # an apply_patch_call that was cut off has no status of its own, and must not look as if it were whole
        item["status"] = "in_progress" if status == "incomplete" and tool.type == "apply_patch" else status
        self.output.append(item)
        return [*events, self._event("response.output_item.done", **place, item=dict(item))]

    def _drop_hosted(self) -> list[Json]:
        """Calls that were cut off, or will never be answered."""
        calls = [*self._running, *([self._hosted] if self._hosted else [])]
        self._running, self._hosted = [], None
        for call in calls:
            call.item["status"] = "incomplete"
        return [
            self._event("response.output_item.done", output_index=call.index, item=dict(call.item)) for call in calls
        ]

    def _is(self, kind: str) -> bool:
        return self._item is not None and self._item["type"] == kind

    def _part(self) -> Json:
        if self._is("reasoning"):
            return {"type": "reasoning_text", "text": self._text}
        logprobs = list(self._logprobs)
        return {"type": "output_text", "text": self._text, "annotations": list(self._annotations), "logprobs": logprobs}

    def _item_place(self) -> Json:
        assert self._item is not None
        return {"item_id": self._item["id"], "output_index": len(self.output)}

    def _summary_place(self) -> Json:
        return {**self._item_place(), "summary_index": 0}

    def _place(self) -> Json:
        return {**self._item_place(), "content_index": 0}

    def _event(self, kind: str, **fields: Any) -> Json:
        number, self._sequence = self._sequence, self._sequence + 1
        return {"type": kind, "sequence_number": number, **fields}

    def response(self) -> Json:
        """The Response object with all of its fields, as it stands."""
        return {
            **echo_of(self.wanted.request, self.wanted.conversation, self.store),
            "id": self.id,
            "created_at": self.created_at,
            "completed_at": int(time.time()) if self.status == "completed" else None,
            "status": self.status,
            "error": self.error,
            "incomplete_details": {"reason": self.incomplete} if self.incomplete else None,
            "model": self.model,
            "output": [dict(item) for item in self.output],
            "usage": None if self.usage is None else usage_of(self.usage),
        }


def usage_of(usage: Usage) -> Mapping[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.output_tokens,
    }


def in_short(text: str) -> str:
    """The first sentence of each paragraph."""
    paragraphs = (each.strip() for each in re.split(r"\n\s*\n", text))
    return "\n\n".join(re.split(r"(?<=[.!?])\s", each, maxsplit=1)[0] for each in paragraphs if each)
