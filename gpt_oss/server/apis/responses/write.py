"""The parts of an answer as the Responses API sends them: typed events, and the Response. Pure.

A dispatcher over one open item (output.py); calls that are run here stay under way until they are answered.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from gpt_oss.events import Usage
from gpt_oss.server.apis.responses.client_tools import CLIENT_TOOLS
from gpt_oss.server.apis.responses.echo import echo_of
from gpt_oss.server.apis.responses.output import (
    ClientCallItem,
    CustomCallItem,
    FunctionCallItem,
    HostedItem,
    MessageItem,
    OutputItem,
    ReasoningItem,
    Shown,
    ToolList,
    event,
    hosted_item,
    new_id,
)
from gpt_oss.server.apis.responses.read import ResponseAsk
from gpt_oss.server.core.answer import Cited, Closed, Ended, Opened, Part, Piece, Ran, Running
from gpt_oss.server.core.body import Json

SUMMARIES = ("auto", "concise", "detailed")
# Ends of a turn that are not the model's, as incomplete_details has them; any other is that of the tokens.
ENDS = {"rounds": "max_messages", "seconds": "max_messages"}


@dataclass
class ResponseWriter:
    """One response. Every method gives the events to send, in order; they are numbered when they are published.

    seal: makes the encrypted_content of reasoning, where the client asked for it.
    ran: by the ids of items, calls that were run here, as recipient, content and answer.
    """

    wanted: ResponseAsk
    model: str
    store: bool = False
    seal: Callable[[str], str] | None = None
    id: str = field(default_factory=lambda: new_id("resp"))
    created_at: int = field(default_factory=lambda: int(time.time()))
    status: str = "in_progress"
    output: list[Json] = field(default_factory=list)
    usage: Usage | None = None
    error: Json | None = None
    incomplete: str | None = None
    ran: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    _open: OutputItem | None = None
    _hosted: deque[HostedItem] = field(default_factory=deque)  # without an answer

    # The beginning

    def start(self) -> list[Json]:
        created = event("created", response=self.response())
        if self.status == "queued":
            return [created, event("queued", response=self.response())]
        return [created, self.keep_alive(), *self._listed()]

    def _listed(self) -> list[Json]:
        events = []
        for each in map(ToolList, self.wanted.mcp):
            events += each.events(len(self.output))
            self.output.append(each.item)
        return events

    def queue(self) -> None:
        """It will wait, and nobody for it: to be said before `start`."""
        self.status = "queued"

    def go_on(self) -> list[Json]:
        """The events of its going from queued to in progress."""
        self.status = "in_progress"
        return [self.keep_alive(), *self._listed()]

    def keep_alive(self) -> Json:
        """A real event, for comments do not reset every client's clock."""
        kind = "queued" if self.status == "queued" else "in_progress"
        return event(kind, response=self.response())

    # The answer

    def push(self, part: Part) -> list[Json]:
        match part:
            case Opened():
                return self._begin(part)
            case Piece() if self._open is not None:
                return self._open.delta(part)
            case Cited(citation) if isinstance(self._open, MessageItem):
                return self._open.cite(citation)
            case Closed():
                return self._close(part)
            case Running() if self._hosted:
                return self._hosted[0].running()
            case Ran() if self._hosted:
                item = self._hosted.popleft()
                events = item.ran(part)
                self.ran[item.item["id"]] = (item.recipient, item.content, part.text)
                return events
            case Ended():
                return self._end(part)
        return []

    def _begin(self, opened: Opened) -> list[Json]:
        self._open = item = self._item(opened)
        if isinstance(item, HostedItem):  # it stays under way while others may begin
            self.output.append(item.item)
            self._hosted.append(item)
        return item.open()

    def _item(self, opened: Opened) -> OutputItem:
        index, tool, request = len(self.output), opened.tool, self.wanted.request
        if opened.kind == "hosted":
            include = request.include or []
            shown = Shown("code_interpreter_call.outputs" in include, "web_search_call.results" in include)
            return hosted_item(opened, index, container=f"cntr_{self.id.removeprefix('resp_')}", shown=shown)
        if opened.kind == "reasoning":
            summary = request.reasoning.summary if request.reasoning else None
            return ReasoningItem(index, summary=summary if summary in SUMMARIES else None, seal=self.seal)
        if tool is None:
            return MessageItem(index, preamble=opened.preamble)
        if tool.kind in CLIENT_TOOLS:
            return ClientCallItem(index, CLIENT_TOOLS[tool.kind])
        return CustomCallItem(index, tool) if tool.kind == "custom" else FunctionCallItem(index, tool)

    def _close(self, closed: Closed) -> list[Json]:
        item, self._open = self._open, None
        if item is None:
            return []
        if not isinstance(item, HostedItem):
            events = item.close(closed)
            self.output.append(item.item)
            return events
        return item.close(closed) if closed.whole else []

    # The end

    def _end(self, ended: Ended) -> list[Json]:
        self.usage = ended.usage
        events = self._cut()
        self.status = "completed" if ended.is_whole else "incomplete"
        self.incomplete = None if ended.is_whole else ENDS.get(ended.reason, "max_output_tokens")
        return [*events, event(self.status, response=self.response())]

    def fail(self, code: str, message: str, usage: Usage | None = None) -> list[Json]:
        self.usage = usage
        events = self._cut()
        self.status, self.error, self.incomplete = "failed", {"code": code, "message": message}, None
        return [*events, event("failed", response=self.response())]

    def cancel(self, usage: Usage | None = None) -> list[Json]:
        """The client wants no more. OpenAI's API has no event for it; its last one says what there is."""
        self.usage = usage
        events = self._cut()
        self.status = "cancelled"
        return [*events, event("incomplete", response=self.response())]

    def done_with_nothing(self, usage: Usage) -> list[Json]:
        """It was only to be made ready."""
        self.usage, self.status = usage, "completed"
        return [event("completed", response=self.response())]

    def _cut(self) -> list[Json]:
        """The ends of calls that will never be answered."""
        events = [each for call in self._hosted for each in call.cut()]
        self._hosted.clear()
        return events

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


def usage_of(usage: Usage) -> Json:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.output_tokens,
    }
