"""The tools that a request declares: as functions of the prompt, and what a call of each is to the client.

A namespace of tools is flattened for the prompt; what the tool types of OpenAI's are there says client_tools.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from gpt_oss.harmony.convert import Aliases
from gpt_oss.harmony.grammar import FunctionSchema, can_follow
from gpt_oss.server.errors import RequestError
from gpt_oss.server.hosted import McpTools, is_hosted, recipient_of
from gpt_oss.server.plan import Choice
from gpt_oss.server.responses.client_tools import CLIENT_TOOLS, ClientTool, is_for_client
from gpt_oss.tools.functions import FunctionTool

Syntax = Literal["json", "text", "lark", "regex"]
FREE_TEXT = {"type": "string"}
SYNTAXES: Mapping[object, Syntax] = {"text": "text", "lark": "lark", "regex": "regex"}


@dataclass(frozen=True)
class ToolName:
    """What a function of the prompt is to the client. custom: its content is free text, not JSON. client: it is one of
    OpenAI's types. mcp: the label of the MCP server that runs it."""

    name: str
    namespace: str | None = None
    custom: bool = False
    client: ClientTool | None = None
    mcp: str | None = None


@dataclass(frozen=True)
class Declared:
    """flat: the name in the prompt, before aliases. strict: None is for as far as the schema can be followed."""

    flat: str
    name: ToolName
    description: str
    parameters: Mapping[str, Any] | None
    strict: bool | None = False
    syntax: Syntax = "json"
    definition: str = ""
    runs: FunctionTool | None = None  # a tool of an MCP server

    @property
    def kind(self) -> str:
        """The type of the client's declaration."""
        return self.name.client.type if self.name.client else "custom" if self.name.custom else "function"

    @property
    def declaration(self) -> dict[str, Any]:
        described = {"type": "function", "name": self.flat, "description": self.description}
        return described | ({"parameters": dict(self.parameters)} if self.parameters else {})

    @property
    def is_strict(self) -> bool:
        if self.strict is None and self.syntax == "json":
            return self.parameters is not None and can_follow(self.parameters)
        return bool(self.strict)

    def schema(self, aliases: Aliases) -> FunctionSchema:
        name = aliases.in_prompt(self.flat)
        if self.syntax == "json":
            return FunctionSchema(name, self.parameters)
        return FunctionSchema(name, None, self.syntax, self.definition)


def declared_tools(
    tools: Sequence[Mapping[str, Any]], found_later: Sequence[Mapping[str, Any]], mcp: Sequence[McpTools]
) -> list[Declared]:
    """Functions and custom tools, those inside namespaces too. found_later: of the input's items; what is declared
    already is not declared again. Raises RequestError for a tool of no known type."""
    reader = _Reader([])
    for number, tool in enumerate(tools):
        reader.read(tool, f"tools[{number}]")
    for number, tool in enumerate(found_later):
        reader.read(tool, f"input: tool {number}", again=True)
    taken = {tool.flat for tool in reader.found}
    for server in mcp:
        for each in server.tools:
            if each.name in taken:
                raise RequestError(f"{each.name!r} of the MCP server {server.label!r} is declared twice", param="tools")
            own = ToolName(each.name, mcp=server.label)
            reader.found.append(Declared(each.name, own, each.description, each.parameters, runs=each))
    return reader.found


@dataclass(frozen=True)
class _Reader:
    found: list[Declared]

    def read(
        self, tool: Mapping[str, Any], where: str, namespace: Mapping[str, Any] | None = None, *, again: bool = False
    ) -> None:
        kind = tool.get("type", "function")
        if kind == "namespace" and namespace is None:
            for number, inner in enumerate(tool.get("tools") or []):
                self.read(inner, f"{where}.tools[{number}]", tool, again=again)
        elif kind in ("function", "custom"):
            self._add(_named(tool, where, None if namespace is None else str(namespace.get("name"))), where, again)
        elif is_for_client(tool):
            self._add(_of_openai(CLIENT_TOOLS[str(kind)], tool), where, again)
        elif not is_hosted(kind):
            raise RequestError(f"{where}.type {kind!r} is not known", param=f"{where}.type")

    def _add(self, tool: Declared, where: str, again: bool) -> None:
        if any(_is_same(each, tool) for each in self.found):
            if again:
                return
            raise RequestError(f"{where}.name {tool.name.name!r} is declared twice", param=f"{where}.name")
        flat, taken = tool.flat, {each.flat for each in self.found}
        while flat in taken:
            flat = f"{tool.name.namespace or tool.kind}_{flat}"
        self.found.append(replace(tool, flat=flat))


def _is_same(one: Declared, other: Declared) -> bool:
    return (one.kind, one.name.namespace, one.name.name) == (other.kind, other.name.namespace, other.name.name)


def _named(tool: Mapping[str, Any], where: str, namespace: str | None) -> Declared:
    name = tool.get("name")
    if not isinstance(name, str) or not name:
        raise RequestError(f"{where}.name is missing", param=f"{where}.name")
    description = tool.get("description") or ""
    if not isinstance(description, str):
        raise RequestError(f"{where}.description must be a string", param=f"{where}.description")
    if tool.get("type") != "custom":
        parameters = tool.get("parameters") or None
        if parameters is not None and not isinstance(parameters, Mapping):
            raise RequestError(f"{where}.parameters must be an object", param=f"{where}.parameters")
        strict = tool.get("strict")
        return Declared(
            name, ToolName(name, namespace), description, parameters, None if strict is None else bool(strict)
        )
    form = tool.get("format") or {}
    syntax = SYNTAXES.get(form.get("syntax") if form.get("type") == "grammar" else "text")
    if syntax is None:
        raise RequestError(f"{where}.format.syntax is lark or regex", param=f"{where}.format.syntax")
    own = ToolName(name, namespace, custom=True)
    return Declared(name, own, description, FREE_TEXT, False, syntax, form.get("definition") or "")


def _of_openai(kind: ClientTool, tool: Mapping[str, Any]) -> Declared:
    """A tool that the client runs; a search may have words and parameters of its own."""
    own = ToolName(kind.name, client=kind)
    if kind.parameters is None:
        return Declared(kind.name, own, kind.description, FREE_TEXT, False, kind.syntax, kind.definition)
    description, parameters = kind.description, kind.parameters
    if kind.type == "tool_search":
        description = tool.get("description") or description
        given = tool.get("parameters")
        parameters = given if isinstance(given, dict) and given else parameters
    return Declared(kind.name, own, description, parameters, None)


def choice_of(given: str | Mapping[str, Any], declared: Sequence[Declared], recipients: Sequence[str]) -> Choice:
    """recipients: of hosted tools that are here. Raises RequestError."""

    def meant(tool: Mapping[str, Any]) -> list[str]:
        """What may be called of it, by the names in the prompt, the one to begin with first."""
        kind = str(tool.get("type"))
        if kind in CLIENT_TOOLS:
            return [each.flat for each in declared if each.kind == kind]
        if kind == "mcp":
            mine = [each for each in declared if each.name.mcp == tool.get("server_label")]
            return [each.flat for each in mine if tool.get("name") in (None, each.flat)]
        first = recipient_of(kind)
        if first is not None:
            rest = [each for each in recipients if each.split(".")[0] == first.split(".")[0] and each != first]
            return [first, *rest] if first in recipients else []
        wanted = (tool.get("namespace"), tool.get("name"))
        return [each.flat for each in declared if (each.name.namespace, each.name.name) == wanted]

    forced = meant(given) if isinstance(given, Mapping) else []
    match given:
        case "auto" | "none":
            return Choice(str(given))
        case "required" if declared or recipients:
            return Choice("required")
        case {"type": "allowed_tools", "mode": ("auto" | "required") as mode, "tools": list(allowed)}:
            left = [name for tool in allowed if isinstance(tool, Mapping) for name in meant(tool)]
            if left:
                return Choice(str(mode), frozenset(left))
        case {"type": "mcp"} if forced:
            return Choice("required", frozenset(forced))
        case {"type": str()} if forced:
            return Choice(forced[0])
    raise RequestError(
        "tool_choice is auto, none, required (with tools), or names a tool that is declared and that this server has",
        param="tool_choice",
    )
