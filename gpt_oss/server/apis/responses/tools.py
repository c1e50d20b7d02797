"""The tools that a Responses request declares, and its tool_choice.

A namespace of tools is flattened for the prompt; what the tool types of OpenAI's are there says client_tools.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpt_oss.server.apis.responses.client_tools import CLIENT_TOOLS, ClientTool, is_for_client
from gpt_oss.server.core.errors import RequestError
from gpt_oss.server.core.hosted import is_hosted, recipient_of
from gpt_oss.server.core.tools import FREE_TEXT, Choice, ToolSet, ToolSpec, custom_spec, function_spec


def specs_of(tools: Sequence[Mapping[str, Any]], where: str) -> list[ToolSpec]:
    """Functions and custom tools, those inside namespaces too, and tools that the client runs.

    Raises RequestError for a tool of no known type.
    """
    return [spec for number, tool in enumerate(tools) for spec in _specs(tool, f"{where}[{number}]", None)]


def _specs(tool: Any, where: str, namespace: str | None) -> list[ToolSpec]:
    if not isinstance(tool, Mapping):
        raise RequestError(f"{where} must be an object", param=where)
    kind = tool.get("type", "function")
    if kind == "namespace" and namespace is None:
        return _inside(tool, where)
    if kind == "function":
        return [function_spec(tool, where, namespace=namespace)]
    if kind == "custom":
        return [custom_spec(tool, where, namespace=namespace)]
    if is_for_client(tool):
        return [_of_openai(CLIENT_TOOLS[str(kind)], tool, where)]
    if not is_hosted(kind):
        raise RequestError(f"{where}.type {kind!r:.60} is not known", param=f"{where}.type")
    return []


def _inside(tool: Mapping[str, Any], where: str) -> list[ToolSpec]:
    inner, name = tool.get("tools") or [], tool.get("name")
    if not isinstance(inner, list):
        raise RequestError(f"{where}.tools must be a list", param=f"{where}.tools")
    if not isinstance(name, str) or not name:
        raise RequestError(f"{where}.name is missing", param=f"{where}.name")
    return [spec for number, each in enumerate(inner) for spec in _specs(each, f"{where}.tools[{number}]", name)]


def _of_openai(kind: ClientTool, tool: Mapping[str, Any], where: str) -> ToolSpec:
    """A tool that the client runs; a search may have words and parameters of its own."""
    if kind.parameters is None:
        return ToolSpec(
            kind.name,
            kind.type,
            kind.description,
            FREE_TEXT,
            syntax=kind.syntax,
            definition=kind.definition,
            where=where,
        )
    description, parameters = kind.description, kind.parameters
    if kind.type == "tool_search":
        given = tool.get("parameters")
        parameters = given if isinstance(given, dict) and given else parameters
        own = tool.get("description")
        description = own if isinstance(own, str) and own else description
    return ToolSpec(kind.name, kind.type, description, parameters, None, where=where)


def choice_of(given: str | Mapping[str, Any], tools: ToolSet) -> Choice:
    """What a tool_choice means. Raises RequestError."""
    forced = _meant(given, tools) if isinstance(given, Mapping) else []
    match given:
        case "auto" | "none":
            return Choice(str(given))
        case "required" if tools.specs or tools.built_in:
            return Choice("required")
        case {"type": "allowed_tools", "mode": ("auto" | "required") as mode, "tools": list(allowed)}:
            left = [name for tool in allowed if isinstance(tool, Mapping) for name in _meant(tool, tools)]
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


def _meant(tool: Mapping[str, Any], tools: ToolSet) -> list[str]:
    """What may be called of it, by flat names and recipients, the one to begin with first."""
    kind = str(tool.get("type"))
    if kind in CLIENT_TOOLS:
        return [spec.flat for spec in tools.specs if spec.kind == kind]
    if kind == "mcp":
        mine = [spec for spec in tools.specs if spec.server is not None and spec.server == tool.get("server_label")]
        return [spec.flat for spec in mine if tool.get("name") in (None, spec.name)]
    first = recipient_of(kind)
    if first is not None:
        same = [each for each in tools.recipients if each.split(".")[0] == first.split(".")[0]]
        return [first, *(each for each in same if each != first)] if first in same else []
    wanted = (tool.get("namespace"), tool.get("name"))
    return [spec.flat for spec in tools.specs if (spec.namespace, spec.name) == wanted]
