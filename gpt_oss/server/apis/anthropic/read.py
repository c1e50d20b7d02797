"""A Messages request as an Ask. Pure.

What is not text stays no reason to lose a session: in a tool's result or an earlier message it becomes a note, and only
in the newest message of the user is it refused (harmony/content.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pydantic

from gpt_oss.errors import HarmonyError
from gpt_oss.harmony.content import newest_question, part_text, text_of
from gpt_oss.harmony.history import History, formats_of
from gpt_oss.harmony.json_types import not_too_deep
from gpt_oss.harmony.render import ResponseFormat
from gpt_oss.server.core.ask import EFFORTS, Ask, ask_of
from gpt_oss.server.core.body import Fields, Items, Tools
from gpt_oss.server.core.errors import RequestError
from gpt_oss.server.core.hosted import NOTHING_HOSTED, Hosted
from gpt_oss.server.core.sampling import SamplingFields, TokenLimit, stop_texts
from gpt_oss.server.core.tools import Choice, ToolSet, ToolSpec, function_spec
from gpt_oss.tools.tool import Tool

MUCH_THOUGHT = 16_000  # tokens of a thinking budget from which on effort is high, and
LITTLE_THOUGHT = 2_000  # below which it is low
# The first block of a coding agent's system prompt; it differs from session to session and says nothing to a model.
BILLING = "x-anthropic-billing-header"
SEARCH = "web_search"

# Why a thread is refused, as SDKs read it: they then send the whole conversation, which is what is read here.
NO_THREADS = {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}

# Tools of Anthropic's that the client runs: their arguments, which its models know without being told.
_TEXT = {"type": "string"}
_EDITS = {
    "type": "object",
    "properties": {
        "command": {"enum": ["view", "create", "str_replace", "insert"]},
        "path": _TEXT,
        "file_text": _TEXT,
        "old_str": _TEXT,
        "new_str": _TEXT,
        "insert_line": {"type": "integer"},
        "insert_text": _TEXT,
        "view_range": {"type": "array", "items": {"type": "integer"}},
    },
    "required": ["command", "path"],
}
CLIENT_TOOLS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "bash": (
        "Runs a command in a shell that stays open on the user's machine; `restart` opens a new one.",
        {"type": "object", "properties": {"command": _TEXT, "restart": {"type": "boolean"}}},
    ),
    "text_editor": ("Shows, makes and changes text files on the user's machine.", _EDITS),
}


class MessagesRequest(pydantic.BaseModel):
    """The fields that mean something here. Others are accepted and have no effect."""

    model_config = pydantic.ConfigDict(extra="ignore")

    model: str = ""
    messages: Items = pydantic.Field(min_length=1)
    max_tokens: TokenLimit = None
    system: str | list[dict[str, Any]] | None = None
    tools: Tools | None = None
    tool_choice: dict[str, Any] | None = None
    stop_sequences: list[str] | None = None
    stream: bool | None = False
    temperature: float | None = pydantic.Field(None, ge=0, le=1)
    top_p: float | None = pydantic.Field(None, gt=0, le=1)
    top_k: int | None = pydantic.Field(None, ge=0)
    thinking: dict[str, Any] | None = None
    output_config: dict[str, Any] | None = None
    output_format: dict[str, Any] | None = None
    thread: dict[str, Any] | None = None


@dataclass(frozen=True)
class Known:
    """What a server knows beyond the request.

    recall: see History.
    unseal: opens what was sealed here; None for what was not.
    """

    hosted: Hosted = NOTHING_HOSTED
    recall: Callable[[str], str | None] = lambda _: None
    unseal: Callable[[str], str | None] = lambda _: None


def read_request(request: MessagesRequest, known: Known, *, counts_only: bool = False) -> Ask:
    """counts_only: only the prompt's length is asked for, so that nothing need be refused. Raises RequestError."""
    if request.thread is not None:
        raise RequestError(
            "no thread is kept here; send the whole conversation, without it", param="thread", details=NO_THREADS
        )
    declared = [Fields(tool, f"tools[{number}]") for number, tool in enumerate(request.tools or [])]
    messages = [Fields(message, f"messages[{number}]") for number, message in enumerate(request.messages)]
    tools = ToolSet.of(_specs(declared), built_in=_built_in(declared, known.hosted))
    history = History(lambda name: tools.in_prompt(tools.flat_name(name)), known.recall)
    try:
        not_too_deep(request.messages, "messages")
        history.instruct(_system(request.system))
        newest = None if counts_only else _newest(messages)
        reader = _Reader(history, known)
        for number, message in enumerate(messages):
            reader.read(message, newest=number == newest)
        formats = _formats(request)
    except HarmonyError as error:
        raise RequestError(str(error), param=error.field) from None
    fields = SamplingFields(
        temperature=request.temperature, top_p=request.top_p, top_k=request.top_k, stop=request.stop_sequences
    )
    return ask_of(
        history,
        tools,
        fields,
        choice=_choice(request.tool_choice, tools),
        formats=formats,
        effort=_effort(request),
        max_tokens=request.max_tokens,
        stop_texts=stop_texts(fields, "stop_sequences"),
    )


def _system(given: str | Sequence[Mapping[str, Any]] | None) -> str:
    """The system prompt, without the first block of a coding agent's that says whom to bill."""
    if isinstance(given, str):
        return given.partition("\n")[2] if given.startswith(BILLING) else given
    blocks = list(given or [])
    if blocks and Fields(blocks[0], "system[0]").word("text").startswith(BILLING):
        blocks = blocks[1:]
    return text_of(blocks, "system", between="\n")


def _formats(request: MessagesRequest) -> list[ResponseFormat]:
    inner = Fields(request.output_config or {}, "output_config")["format"]
    if inner is not None:
        return formats_of(inner, "output_config.format")
    return formats_of(request.output_format, "output_format")


def _effort(request: MessagesRequest) -> str:
    effort = Fields(request.output_config or {}, "output_config").word("effort")
    if effort in EFFORTS:
        return EFFORTS[effort]
    match request.thinking:
        case {"type": "disabled"}:
            return "low"
        case {"type": "enabled", "budget_tokens": int(budget)} if budget >= MUCH_THOUGHT:
            return "high"
        case {"type": "enabled", "budget_tokens": int(budget)} if budget < LITTLE_THOUGHT:
            return "low"
    return "medium"


# ---- tools ----------------------------------------------------------------------------------------------------------


def _specs(tools: Sequence[Fields]) -> list[ToolSpec]:
    """The tools that the client runs; those that a server of Anthropic's has, and are not here, are left out."""
    specs = []
    for tool in tools:
        own = next((own for name, own in CLIENT_TOOLS.items() if tool.kind.startswith(f"{name}_")), None)
        if own is not None:
            description, schema = own
            known = Fields({**tool.value, "description": description, "input_schema": schema}, tool.where)
            specs.append(function_spec(known, schema_in="input_schema"))
        elif "input_schema" in tool or tool.kind in ("", "custom"):
            specs.append(function_spec(tool, schema_in="input_schema"))
    return specs


def _built_in(tools: Sequence[Fields], hosted: Hosted) -> list[Tool]:
    return hosted.tools([SEARCH]) if any(tool.kind.startswith((SEARCH, "web_fetch")) for tool in tools) else []


def _choice(given: Mapping[str, Any] | None, tools: ToolSet) -> Choice:
    match given:
        case None | {"type": "auto"}:
            return Choice("auto")
        case {"type": "none"}:
            return Choice("none")
        case {"type": "any"} if tools.specs or tools.built_in:
            return Choice("required")
        case {"type": "tool", "name": str(name)} if any(spec.name == name for spec in tools.specs):
            return Choice(tools.flat_name(name))
        case {"type": "tool", "name": "web_search" | "web_fetch"} if "browser.search" in tools.recipients:
            return Choice("browser.search")
        case {"type": "tool"}:
            raise RequestError("tool_choice names a tool that is not declared, or not here", param="tool_choice")
    raise RequestError("tool_choice.type is auto, any (with tools), tool or none", param="tool_choice")


# ---- messages -------------------------------------------------------------------------------------------------------


def _newest(messages: Sequence[Fields]) -> int | None:
    """The message in which what is not text is refused; see `newest_question`."""
    return newest_question([_role(message) for message in messages])


def _role(message: Fields) -> str:
    """A message's role; results of tools are the client's, and so is what it sends with them."""
    role = message.word("role")
    return "tool" if role == "user" and any(block.kind == "tool_result" for block in _blocks(message)) else role


def _blocks(message: Fields) -> list[Fields]:
    """The blocks of a message; a text by itself is one. Raises RequestError."""
    content = message["content"]
    given = [content] if isinstance(content, str) else content
    if not isinstance(given, list):
        raise message.refuse("content", "must be a string or a list")
    whole = [{"type": "text", "text": block} if isinstance(block, str) else block for block in given]
    return [Fields(block, f"{message.at('content')}[{number}]") for number, block in enumerate(whole)]


@dataclass(frozen=True)
class _Reader:
    """Writes messages into a history."""

    history: History
    known: Known

    def read(self, message: Fields, *, newest: bool) -> None:
        """newest: what is not text is refused in it."""
        match message["role"]:
            case "assistant":
                self._assistant(_blocks(message))
            case "system":
                blocks = [block.value for block in _blocks(message)]
                self.history.instruct(text_of(blocks, message.at("content"), between="\n"))
            case "user":
                self._user(_blocks(message), newest)
            case role:
                raise message.refuse("role", f"must be user or assistant, not {role!r:.40}")

    def _user(self, blocks: Sequence[Fields], newest: bool) -> None:
        """Results come first: they answer what was called before the user spoke."""
        said = []
        for block in blocks:
            if block.kind == "tool_result":
                text = text_of(block["content"], block.at("content"), between="\n")
                self.history.result(text, call_id=block.word("tool_use_id"), failed=block.flag("is_error"))
            else:
                said.append(part_text(block.value, block.where, newest=newest))
        if said:
            self.history.user("\n".join(said))

    def _assistant(self, blocks: Sequence[Fields]) -> None:
        searches: dict[str, Fields] = {}
        for block in blocks:
            kind = block.kind
            if kind == "thinking":
                self.history.think(block.word("thinking") or self._unsealed(block.word("signature")))
            elif kind == "redacted_thinking":
                self.history.think(self._unsealed(block.word("data")))
            elif kind == "tool_use" and block.word("name"):
                arguments = json.dumps(block["input"] or {}, ensure_ascii=False)
                self.history.call(block.word("name"), arguments, call_id=block.word("id"))
            elif kind == "compaction":
                self.history.say(text_of(block["content"], block.at("content")))
            elif kind in ("server_tool_use", "mcp_tool_use"):
                searches[block.word("id")] = block
            elif kind.endswith("_tool_result"):
                self._ran_elsewhere(block, searches.pop(block.word("tool_use_id"), block))
            elif text := part_text(block.value, block.where):
                self.history.say(text)

    def _ran_elsewhere(self, block: Fields, call: Fields) -> None:
        """What a server's tool gave: all of it where it ran here, else what can be read."""
        for part in block.inners("content"):
            opened = self._unsealed(part.word("encrypted_content"))
            if opened:
                recipient, written, answer = json.loads(opened)
                self.history.built_in(recipient, written, answer)
                return
        content = block["content"]
        if not isinstance(content, list):
            content = json.dumps(content, ensure_ascii=False)
        given = json.dumps(call["input"] or {}, ensure_ascii=False)
        text = text_of(content, block.at("content"), between="\n")
        self.history.think(f"[{call.word('name') or block.kind} {given} gave:]\n{text}")

    def _unsealed(self, sealed: str) -> str:
        return (self.known.unseal(sealed) if sealed else None) or ""
