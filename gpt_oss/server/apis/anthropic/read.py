"""A Messages request as an Ask. Pure.

What is not text stays no reason to lose a session: in a tool's result or an earlier message it becomes a note, and only
in the newest message of the user is it refused (harmony/content.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pydantic

from gpt_oss.errors import HarmonyError
from gpt_oss.harmony.content import part_text, text_of
from gpt_oss.harmony.history import History, formats_of
from gpt_oss.harmony.json_types import LIST, not_too_deep
from gpt_oss.harmony.render import ResponseFormat
from gpt_oss.server.core.ask import EFFORTS, Ask, ask_of
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
    messages: list[dict[str, Any]] = pydantic.Field(min_length=1)
    max_tokens: TokenLimit = None
    system: str | list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: dict[str, Any] | None = None
    stop_sequences: list[str] | None = None
    stream: bool | None = False
    temperature: float | None = pydantic.Field(None, ge=0, le=1)
    top_p: float | None = pydantic.Field(None, gt=0, le=1)
    top_k: int | None = pydantic.Field(None, ge=0)
    thinking: dict[str, Any] | None = None
    output_config: dict[str, Any] | None = None
    output_format: dict[str, Any] | None = None


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
    tools = ToolSet.of(_specs(request.tools or []), built_in=_built_in(request.tools or [], known.hosted))
    history = History(lambda name: tools.in_prompt(tools.flat_name(name)), known.recall)
    try:
        not_too_deep(request.messages, "messages")
        history.instruct(_system(request.system))
        newest = None if counts_only else _newest(request.messages)
        for number, message in enumerate(request.messages):
            _Reader(history, known, f"messages[{number}]", newest=number == newest).read(message)
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
    if isinstance(given, str):
        return given.partition("\n")[2] if given.startswith(BILLING) else given
    blocks = list(given or [])
    if blocks and str(blocks[0].get("text", "")).startswith(BILLING):
        blocks = blocks[1:]
    return text_of(blocks, "system", between="\n")


def _formats(request: MessagesRequest) -> list[ResponseFormat]:
    inner = (request.output_config or {}).get("format")
    if inner is not None:
        return formats_of(inner, "output_config.format")
    return formats_of(request.output_format, "output_format")


def _effort(request: MessagesRequest) -> str:
    effort = (request.output_config or {}).get("effort")
    if isinstance(effort, str) and effort in EFFORTS:
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


def _specs(tools: Sequence[Mapping[str, Any]]) -> list[ToolSpec]:
    """The tools that the client runs; those that a server of Anthropic's has, and are not here, are left out."""
    specs = []
    for number, tool in enumerate(tools):
        where = f"tools[{number}]"
        own = _client_tool(tool)
        if own is not None:
            description, schema = own
            specs.append(function_spec({**tool, "description": description, "input_schema": schema}, where, **_IN))
        elif "input_schema" in tool or tool.get("type") in (None, "custom"):
            specs.append(function_spec(tool, where, **_IN))
    return specs


_IN: dict[str, Any] = {"schema_in": "input_schema"}


def _client_tool(tool: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]] | None:
    kind = str(tool.get("type") or "")
    return next((own for name, own in CLIENT_TOOLS.items() if kind.startswith(f"{name}_")), None)


def _built_in(tools: Sequence[Mapping[str, Any]], hosted: Hosted) -> list[Tool]:
    kinds = [str(tool.get("type")) for tool in tools]
    return hosted.tools([SEARCH]) if any(kind.startswith((SEARCH, "web_fetch")) for kind in kinds) else []


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


def _newest(messages: Sequence[Mapping[str, Any]]) -> int | None:
    """The last message in which the user says something; results of tools are the client's."""
    for number in reversed(range(len(messages))):
        message = messages[number]
        content = message.get("content")
        if message.get("role") != "user":
            continue
        blocks = content if LIST.holds(content) else [content]
        if any(not isinstance(block, Mapping) or block.get("type") != "tool_result" for block in blocks or []):
            return number
    return None


@dataclass(frozen=True)
class _Reader:
    """Writes one message into a history. newest: what is not text is refused in it."""

    history: History
    known: Known
    where: str
    newest: bool

    def read(self, message: Mapping[str, Any]) -> None:
        role, content = message.get("role"), message.get("content")
        if role not in ("user", "assistant", "system"):
            raise RequestError(
                f"{self.where}.role must be user or assistant, not {role!r:.40}", param=f"{self.where}.role"
            )
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(blocks, list):
            raise RequestError(f"{self.where}.content must be a string or a list", param=f"{self.where}.content")
        if role == "assistant":
            self._assistant(blocks)
        elif role == "system":
            self.history.instruct(text_of(blocks, f"{self.where}.content", between="\n"))
        else:
            self._user(blocks)

    def _user(self, blocks: Sequence[Any]) -> None:
        """Results come first: they answer what was called before the user spoke."""
        said = []
        for where, block in self._numbered(blocks):
            if block.get("type") == "tool_result":
                text = text_of(block.get("content"), f"{where}.content", between="\n")
                identity = str(block.get("tool_use_id") or "")
                self.history.result(text, call_id=identity, failed=block.get("is_error") is True)
            else:
                said.append((where, block))
        if said:
            texts = [part_text(block, where, newest=self.newest) for where, block in said]
            self.history.user("\n".join(texts))

    def _assistant(self, blocks: Sequence[Any]) -> None:
        searches: dict[str, Mapping[str, Any]] = {}
        for where, block in self._numbered(blocks):
            match block:
                case {"type": "thinking"}:
                    self.history.think(str(block.get("thinking") or "") or self._unsealed(block.get("signature")))
                case {"type": "redacted_thinking"}:
                    self.history.think(self._unsealed(block.get("data")))
                case {"type": "tool_use", "name": str(name)}:
                    arguments = json.dumps(block.get("input") or {}, ensure_ascii=False)
                    self.history.call(name, arguments, call_id=str(block.get("id") or ""))
                case {"type": "server_tool_use"}:
                    searches[str(block.get("id"))] = block
                case {"type": str(kind)} if kind.endswith("_tool_result"):
                    self._ran_elsewhere(block, searches.pop(str(block.get("tool_use_id")), {}), where)
                case _:
                    text = part_text(block, where)
                    if text:
                        self.history.say(text)

    def _ran_elsewhere(self, block: Mapping[str, Any], call: Mapping[str, Any], where: str) -> None:
        """What a server's tool gave: all of it where it ran here, else what can be read."""
        content = block.get("content")
        for part in content if isinstance(content, list) else []:
            sealed = part.get("encrypted_content") if isinstance(part, Mapping) else None
            opened = self._unsealed(sealed)
            if opened:
                recipient, written, answer = json.loads(opened)
                self.history.built_in(recipient, written, answer)
                return
        name = str(call.get("name") or block.get("type"))
        text = text_of(content if LIST.holds(content) else json.dumps(content, ensure_ascii=False), where, between="\n")
        self.history.think(f"[{name} {json.dumps(call.get('input') or {}, ensure_ascii=False)} gave:]\n{text}")

    def _unsealed(self, sealed: object) -> str:
        return (self.known.unseal(sealed) if isinstance(sealed, str) and sealed else None) or ""

    def _numbered(self, blocks: Sequence[Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        for number, block in enumerate(blocks):
            where = f"{self.where}.content[{number}]"
            if isinstance(block, str):
                yield where, {"type": "text", "text": block}
            elif isinstance(block, Mapping):
                yield where, block
            else:
                raise RequestError(f"{where} must be an object", param=where)
