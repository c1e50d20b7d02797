"""The tools that a Responses request declares, and its tool_choice.

A namespace of tools is flattened for the prompt; what the tool types of OpenAI's are there says client_tools.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpt_oss.server.apis.responses.client_tools import CLIENT_TOOLS, ClientTool, is_for_client
from gpt_oss.server.core.body import Fields
from gpt_oss.server.core.errors import RequestError
from gpt_oss.server.core.hosted import is_hosted, recipient_of
from gpt_oss.server.core.tools import FREE_TEXT, Choice, ToolSet, ToolSpec, custom_spec, function_spec


def specs_of(tools: Sequence[Any], where: str) -> list[ToolSpec]:
    """Functions and custom tools, those inside namespaces too, and tools that the client runs.

    Raises RequestError for a tool of no known type.
    """
    listed = [Fields(tool, f"{where}[{number}]") for number, tool in enumerate(tools)]
    return [spec for tool in listed for spec in _specs(tool, None)]


def _specs(tool: Fields, namespace: str | None) -> list[ToolSpec]:
    kind = tool.text("type") or "function"
    if kind == "namespace" and namespace is None:
        if not tool.text("name"):
            raise tool.refuse("name", "is missing")
        return [spec for inner in tool.objects("tools") for spec in _specs(inner, tool.text("name"))]
    if kind == "function":
        return [function_spec(tool, namespace=namespace)]
    if kind == "custom":
        return [custom_spec(tool, namespace=namespace)]
    if is_for_client(tool):
        return [_of_openai(CLIENT_TOOLS[kind], tool)]
    if not is_hosted(kind):
        raise tool.refuse("type", f"{kind!r:.60} is not known")
    return []


def _of_openai(kind: ClientTool, tool: Fields) -> ToolSpec:
    """A tool that the client runs; a search may have words and parameters of its own."""
    if kind.parameters is None:
        return ToolSpec(
            kind.name,
            kind.type,
            kind.description,
            FREE_TEXT,
            syntax=kind.syntax,
            definition=kind.definition,
            where=tool.where,
        )
    description, parameters = kind.description, kind.parameters
    if kind.type == "tool_search":
        parameters = dict(tool.inner("parameters").value) or parameters
        description = tool.word("description") or description
    return ToolSpec(kind.name, kind.type, description, parameters, None, where=tool.where)


def choice_of(given: str | Mapping[str, Any], tools: ToolSet) -> Choice:
    """What a tool_choice means. Raises RequestError."""
    match given:
        case "auto" | "none":
            return Choice(str(given))
        case "required" if tools.specs or tools.built_in:
            return Choice("required")
        case {"type": "allowed_tools"}:
            allowed = Fields(given, "tool_choice")
            left = frozenset(name for tool in allowed.objects("tools") for name in _meant(tool, tools))
            if left and allowed.word("mode") in ("auto", "required"):
                return Choice(allowed.word("mode"), left)
        case {"type": str(kind)}:
            forced = _meant(Fields(given, "tool_choice"), tools)
            if forced and kind == "mcp":
                return Choice("required", frozenset(forced))
            if forced:
                return Choice(forced[0])
    raise RequestError(
        "tool_choice is auto, none, required (with tools), or names a tool that is declared and that this server has",
        param="tool_choice",
    )


def _meant(tool: Fields, tools: ToolSet) -> list[str]:
    """What may be called of it, by flat names and recipients, the one to begin with first."""
    kind = tool.kind
    if kind in CLIENT_TOOLS:
        return [spec.flat for spec in tools.specs if spec.kind == kind]
    if kind == "mcp":
        mine = [spec for spec in tools.specs if spec.server is not None and spec.server == tool["server_label"]]
        return [spec.flat for spec in mine if tool["name"] in (None, spec.name)]
    first = recipient_of(kind)
    if first is not None:
        same = [each for each in tools.recipients if each.split(".")[0] == first.split(".")[0]]
        return [first, *(each for each in same if each != first)] if first in same else []
    wanted = (tool["namespace"], tool["name"])
    return [spec.flat for spec in tools.specs if (spec.namespace, spec.name) == wanted]
