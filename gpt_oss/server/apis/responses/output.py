"""The items of a Response, each under way: what it says when it opens, with each piece, and when it closes. Pure.

Events have no sequence number here: they get it when they are published.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gpt_oss.server.apis.responses.client_tools import ClientTool, fields_of
from gpt_oss.server.core.answer import Closed, Logprob, Opened, Piece, Ran
from gpt_oss.server.core.body import Json
from gpt_oss.server.core.hosted import McpTools
from gpt_oss.server.core.tools import ToolSpec
from gpt_oss.tools.citations import Citation
from gpt_oss.tools.python_docker.docker_tool import code_of

WHOLE = ("auto", "detailed")  # kinds of summaries that leave nothing out
_SHOWN_URL = re.compile(r"\[\d+\] .*\((\S+)\)\n")  # the first line of a page that the browser shows


def new_id(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex}"


def call_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"


def event(kind: str, **fields: Any) -> Json:
    return {"type": f"response.{kind}", **fields}


class OutputItem:
    """One item. item: as it stands. index: in the output."""

    def __init__(self, item: Json, index: int) -> None:
        self.item = item
        self.index = index

    def event(self, kind: str, **fields: Any) -> Json:
        return event(kind, item_id=self.item["id"], output_index=self.index, **fields)

    def added(self, **changed: Any) -> Json:
        return event("output_item.added", output_index=self.index, item={**self.item, **changed})

    def done(self) -> Json:
        return event("output_item.done", output_index=self.index, item=dict(self.item))

    def open(self) -> list[Json]:
        return [self.added()]

    def delta(self, piece: Piece) -> list[Json]:
        return []

    def close(self, closed: Closed) -> list[Json]:
        """The last events of the item, which is then complete, or incomplete where it was cut off."""
        return [self.done()]

    def set_status(self, closed: Closed) -> None:
        self.item["status"] = "completed" if closed.whole else "incomplete"


class MessageItem(OutputItem):
    def __init__(self, index: int, *, preamble: bool) -> None:
        item: Json = {"type": "message", "id": new_id("msg"), "role": "assistant", "content": []}
        phase = "commentary" if preamble else "final_answer"
        super().__init__(item | {"status": "in_progress", "phase": phase}, index)
        self._text = ""
        self._logprobs: list[Logprob] = []
        self._annotations: list[Json] = []

    def _part(self) -> Json:
        annotations, logprobs = list(self._annotations), list(self._logprobs)
        return {"type": "output_text", "text": self._text, "annotations": annotations, "logprobs": logprobs}

    def open(self) -> list[Json]:
        return [self.added(), self.event("content_part.added", content_index=0, part=self._part())]

    def delta(self, piece: Piece) -> list[Json]:
        self._text += piece.text
        self._logprobs += piece.logprobs
        return [self.event("output_text.delta", content_index=0, delta=piece.text, logprobs=list(piece.logprobs))]

    def cite(self, citation: Citation) -> list[Json]:
        """The citation's mark stays in the text; start and end are where it stands."""
        source = citation.source
        annotation: Json = {"type": "url_citation", "url": source.url, "title": source.title}
        annotation |= {"start_index": citation.start, "end_index": citation.end}
        number = {"content_index": 0, "annotation_index": len(self._annotations)}
        self._annotations.append(annotation)
        return [self.event("output_text.annotation.added", **number, annotation=annotation)]

    def close(self, closed: Closed) -> list[Json]:
        part = self._part()
        self.item["content"] = [part]
        self.set_status(closed)
        return [
            self.event("output_text.done", content_index=0, text=self._text, logprobs=list(self._logprobs)),
            self.event("content_part.done", content_index=0, part=part),
            self.done(),
        ]


class ReasoningItem(OutputItem):
    """summary: the kind of summary that the client asked for. seal: makes `encrypted_content`, where it asked for it.

    The model's thoughts are all here, so a summary of them is they themselves, or in short how each begins. Where both
    a whole summary and the sealed form are sent, the item has no `content`, as OpenAI's have none: it would be a third
    copy, which GitHub Copilot's CLI takes for words to the user and sends back as such.
    """

    def __init__(self, index: int, *, summary: str | None, seal: Callable[[str], str] | None) -> None:
        item: Json = {"type": "reasoning", "id": new_id("rs"), "summary": [], "content": [], "status": "in_progress"}
        self._has_content = seal is None or summary not in WHOLE
        if not self._has_content:
            del item["content"]
        super().__init__(item, index)
        self._summary = summary
        self._seal = seal

    def open(self) -> list[Json]:
        events = [self.added()]
        if self._has_content:
            part = {"type": "reasoning_text", "text": ""}
            events.append(self.event("content_part.added", content_index=0, part=part))
        if self._summary is not None:
            empty = {"type": "summary_text", "text": ""}
            events.append(self.event("reasoning_summary_part.added", summary_index=0, part=empty))
        return events

    def delta(self, piece: Piece) -> list[Json]:
        events = []
        if self._has_content:
            events.append(self.event("reasoning_text.delta", content_index=0, delta=piece.text))
        if self._summary in WHOLE:
            events.append(self.event("reasoning_summary_text.delta", summary_index=0, delta=piece.text))
        return events

    def close(self, closed: Closed) -> list[Json]:
        events = []
        if self._has_content:
            part = {"type": "reasoning_text", "text": closed.text}
            self.item["content"] = [part]
            events.append(self.event("reasoning_text.done", content_index=0, text=closed.text))
            events.append(self.event("content_part.done", content_index=0, part=part))
        if self._seal is not None:
            self.item["encrypted_content"] = self._seal(closed.text)
        self.set_status(closed)
        return [*events, *self._summed_up(closed.text), self.done()]

    def _summed_up(self, text: str) -> list[Json]:
        if self._summary is None:
            return []
        events = []
        if self._summary == "concise":
            text = in_short(text)
            events.append(self.event("reasoning_summary_text.delta", summary_index=0, delta=text))
        part = {"type": "summary_text", "text": text}
        self.item["summary"] = [part]
        events.append(self.event("reasoning_summary_text.done", summary_index=0, text=text))
        return [*events, self.event("reasoning_summary_part.done", summary_index=0, part=part)]


class FunctionCallItem(OutputItem):
    def __init__(self, index: int, tool: ToolSpec) -> None:
        names = {"name": tool.name, **({"namespace": tool.namespace} if tool.namespace else {})}
        item: Json = {"type": "function_call", "id": new_id("fc"), "call_id": call_id(), **names, "arguments": ""}
        super().__init__(item | {"status": "in_progress"}, index)

    def delta(self, piece: Piece) -> list[Json]:
        return [self.event("function_call_arguments.delta", delta=piece.text)]

    def close(self, closed: Closed) -> list[Json]:
        self.item["arguments"] = closed.text
        self.set_status(closed)
        whole = {"name": self.item["name"], "arguments": closed.text}
        return [self.event("function_call_arguments.done", **whole), self.done()]


class CustomCallItem(OutputItem):
    def __init__(self, index: int, tool: ToolSpec) -> None:
        names = {"name": tool.name, **({"namespace": tool.namespace} if tool.namespace else {})}
        item: Json = {"type": "custom_tool_call", "id": new_id("ctc"), "call_id": call_id(), **names, "input": ""}
        super().__init__(item, index)

    def delta(self, piece: Piece) -> list[Json]:
        return [self.event("custom_tool_call_input.delta", delta=piece.text)]

    def close(self, closed: Closed) -> list[Json]:
        self.item["input"] = closed.text
        return [self.event("custom_tool_call_input.done", input=closed.text), self.done()]


class ClientCallItem(OutputItem):
    """A call of one of OpenAI's tools that the client runs: an item when it is whole."""

    def __init__(self, index: int, tool: ClientTool) -> None:
        super().__init__({"type": tool.call, "id": new_id(tool.prefix), "call_id": call_id()}, index)
        self._tool = tool

    def open(self) -> list[Json]:
        return []

    def close(self, closed: Closed) -> list[Json]:
        tool = self._tool
        self.item |= {**fields_of(tool, closed.text), "status": "in_progress"}
        commands = self.item["action"]["commands"] if tool.type == "shell" else []
        begun = {"action": {**self.item["action"], "commands": []}} if commands else {}
        events = [self.added(**begun)]
        for number, command in enumerate(commands):
            here: Json = {"output_index": self.index, "command_index": number}
            events.append(event("shell_call_command.added", **here, command=""))
            events.append(event("shell_call_command.delta", **here, delta=command))
            events.append(event("shell_call_command.done", **here, command=command))
        # an apply_patch_call that was cut off has no status of its own, and must not look as if it were whole
        if closed.whole or tool.type != "apply_patch":
            self.set_status(closed)
        return [*events, self.done()]


# ---- calls that are run here ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shown:
    """What the client wants to see of calls that are run here.

    outputs: what programs printed. results: what the browser showed.
    """

    outputs: bool = False
    results: bool = False


class HostedItem(OutputItem):
    """A call that is run here. recipient, content: the call itself, when it is whole; answer: what it gave."""

    def __init__(self, item: Json, index: int, recipient: str) -> None:
        super().__init__({**item, "status": "in_progress"}, index)
        self.recipient = recipient
        self.content = ""
        self.answer: str | None = None

    @property
    def kind(self) -> str:
        return str(self.item["type"])

    def open(self) -> list[Json]:
        return [self.added(), self.event(f"{self.kind}.in_progress")]

    def close(self, closed: Closed) -> list[Json]:
        self.content = closed.text
        return []

    def running(self) -> list[Json]:
        return []

    def ran(self, part: Ran) -> list[Json]:
        """The end of the call."""
        self.answer = part.text
        self.item["status"] = "failed" if part.failed else "completed"
        return [self.event(f"{self.kind}.completed"), self.done()]

    def cut(self) -> list[Json]:
        """It was cut off, or will never be answered."""
        self.item["status"] = "incomplete"
        return [self.done()]


class PythonItem(HostedItem):
    def __init__(self, index: int, recipient: str, container: str, shown: Shown) -> None:
        item: Json = {"type": "code_interpreter_call", "id": new_id("ci"), "code": "", "container_id": container}
        super().__init__(item | {"outputs": None}, index, recipient)
        self._shown = shown

    def delta(self, piece: Piece) -> list[Json]:
        return [self.event("code_interpreter_call_code.delta", delta=piece.text)]

    def close(self, closed: Closed) -> list[Json]:
        super().close(closed)
        self.item |= {"code": code_of(closed.text), "status": "interpreting"}
        return [self.event("code_interpreter_call_code.done", code=self.item["code"])]

    def running(self) -> list[Json]:
        return [self.event("code_interpreter_call.interpreting")]

    def ran(self, part: Ran) -> list[Json]:
        if self._shown.outputs:
            self.item["outputs"] = [{"type": "logs", "logs": part.text}]
        return super().ran(part)


class SearchItem(HostedItem):
    def __init__(self, index: int, recipient: str, shown: Shown) -> None:
        item: Json = {"type": "web_search_call", "id": new_id("ws"), "action": action_of(recipient, "{}")}
        super().__init__(item, index, recipient)
        self._shown = shown

    def close(self, closed: Closed) -> list[Json]:
        super().close(closed)
        self.item |= {"action": action_of(self.recipient, closed.text), "status": "searching"}
        return []

    def running(self) -> list[Json]:
        return [self.event("web_search_call.searching")]

    def ran(self, part: Ran) -> list[Json]:
        if self._shown.results:
            self.item["results"] = [{"type": "text", "text": part.text}]
        url = _SHOWN_URL.match(part.text)
        if url and self.item["action"]["type"] != "search":
            self.item["action"]["url"] = url[1]
        return super().ran(part)


class McpItem(HostedItem):
    def __init__(self, index: int, tool: ToolSpec, recipient: str) -> None:
        item: Json = {"type": "mcp_call", "id": new_id("mcp"), "name": tool.name, "server_label": tool.server}
        item |= {"arguments": "", "output": None, "error": None, "approval_request_id": None}
        super().__init__(item, index, recipient)

    def delta(self, piece: Piece) -> list[Json]:
        return [self.event("mcp_call_arguments.delta", delta=piece.text)]

    def close(self, closed: Closed) -> list[Json]:
        super().close(closed)
        self.item |= {"arguments": closed.text, "status": "calling"}
        return [self.event("mcp_call_arguments.done", arguments=closed.text)]

    def ran(self, part: Ran) -> list[Json]:
        events = super().ran(part)
        if not part.failed:
            self.item["output"] = part.text
            return [events[0], self.done()]
        self.item["error"] = {"type": "mcp_tool_execution_error", "content": [{"type": "text", "text": part.text}]}
        return [self.event("mcp_call.failed"), self.done()]


def hosted_item(opened: Opened, index: int, *, container: str, shown: Shown) -> HostedItem:
    """The item of a call that is run here. container: the name of the place where its programs run."""
    if opened.tool is not None:
        return McpItem(index, opened.tool, opened.recipient)
    if opened.recipient == "python":
        return PythonItem(index, opened.recipient, container, shown)
    return SearchItem(index, opened.recipient, shown)


def action_of(recipient: str, content: str) -> Json:
    """What a call of the browser does, as OpenAI's items say it."""
    try:
        given = json.loads(content, strict=False)
    except (ValueError, RecursionError):
        given = {}
    given = given if isinstance(given, dict) else {}
    match recipient.removeprefix("functions.").removeprefix("browser."):
        case "open":
            target = given.get("id")
            return {"type": "open_page", "url": target if isinstance(target, str) else None}
        case "find":
            return {"type": "find_in_page", "pattern": str(given.get("pattern", "")), "url": ""}
    query = str(given.get("query", ""))
    return {"type": "search", "query": query, "queries": [query] if query else []}


@dataclass(frozen=True)
class ToolList:
    """The tools of an MCP server, as an item that comes before anything is said."""

    server: McpTools
    id: str = field(default_factory=lambda: new_id("mcpl"))

    @property
    def item(self) -> Json:
        listed = [
            {"name": tool.name, "description": tool.description, "input_schema": dict(tool.parameters or {})}
            for tool in self.server.tools
        ]
        return {"type": "mcp_list_tools", "id": self.id, "server_label": self.server.label, "tools": listed}

    def events(self, index: int) -> list[Json]:
        item = OutputItem(self.item, index)
        return [
            item.added(tools=[]),
            item.event("mcp_list_tools.in_progress"),
            item.event("mcp_list_tools.completed"),
            item.done(),
        ]


def in_short(text: str) -> str:
    """The first sentence of each paragraph."""
    paragraphs = (each.strip() for each in re.split(r"\n\s*\n", text))
    return "\n\n".join(re.split(r"(?<=[.!?])\s", each, maxsplit=1)[0] for each in paragraphs if each)
