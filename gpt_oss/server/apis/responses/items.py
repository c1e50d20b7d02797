"""A request's items, of every type that there is, into a history: straight to messages. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from gpt_oss.harmony.from_responses import newest_user_item, output_text, read_item
from gpt_oss.harmony.history import History
from gpt_oss.harmony.json_types import not_too_deep
from gpt_oss.server.apis.responses.client_tools import CALLS, OUTPUTS, answer_of, content_of
from gpt_oss.server.core.body import Json
from gpt_oss.server.core.errors import RequestError
from gpt_oss.server.core.hosted import is_hosted
from gpt_oss.server.core.tools import ToolSet

SUMMARY = "What was said before this, in short:"
BUILT_IN = "built_in_call"  # our own form of what a hosted tool did: recipient, content, answer
MEANINGLESS = ("additional_tools", "compaction_trigger", "configuration_update", "mcp_approval_response", "program")


def found_tools(items: Sequence[Mapping[str, Any]]) -> list[Json]:
    """Tools that the client found or added while the conversation went on."""
    lists = [item.get("tools") for item in items if item.get("type") in ("tool_search_output", "additional_tools")]
    return [tool for tools in lists if isinstance(tools, list) for tool in tools if isinstance(tool, dict)]


def read_items(history: History, items: Sequence[Mapping[str, Any]], tools: ToolSet) -> None:
    """Writes items into a history, with calls under their names in the prompt. Raises HarmonyError and RequestError."""
    not_too_deep(items, "input")
    newest = newest_user_item(items)
    for number, item in enumerate(items):
        _read(history, item, f"input[{number}]", tools, newest=number == newest)


def _read(history: History, item: Mapping[str, Any], where: str, tools: ToolSet, *, newest: bool) -> None:
    kind = item.get("type", "message")
    if kind in ("message", "reasoning", "function_call_output", "custom_tool_call_output"):
        read_item(history, item, where, newest=newest)
    elif kind in ("function_call", "custom_tool_call"):
        read_item(history, {**item, "name": _flat(item, tools)}, where)
    elif kind == BUILT_IN:
        history.built_in(str(item["recipient"]), str(item["content"]), str(item["answer"]))
    elif isinstance(kind, str) and kind in CALLS:
        tool = CALLS[kind]
        flat = next((spec.flat for spec in tools.specs if spec.kind == tool.type), tool.name)
        call_id = _id(item.get("call_id"), item.get("id"))
        history.call(flat, content_of(tool, item), call_id=call_id, is_json=tool.parameters is not None)
    elif isinstance(kind, str) and kind in OUTPUTS:
        tool = OUTPUTS[kind]
        history.result(answer_of(tool, item), call_id=_id(*(item.get(name) for name in tool.call_id_in)))
    elif not _read_hosted(history, item, where):
        _refuse(kind, where)


def _flat(item: Mapping[str, Any], tools: ToolSet) -> Any:
    name, namespace = item.get("name"), item.get("namespace")
    if not isinstance(name, str) or not isinstance(namespace, str | None):
        return name
    return tools.flat_name(name, namespace)


def _read_hosted(history: History, item: Mapping[str, Any], where: str) -> bool:
    """Whether it is an item of what a server did, and then what there is to read in it."""
    kind = str(item.get("type"))
    if kind == "mcp_call":
        name, call_id = item.get("name"), str(item.get("id"))
        arguments = item.get("arguments")
        history.call(str(name), arguments if isinstance(arguments, str) else json.dumps(arguments), call_id=call_id)
        failed = item.get("error") is not None
        answer = json.dumps(item["error"]) if failed else output_text(item.get("output"), f"{where}.output")
        history.result(answer, call_id=call_id, failed=failed)
        return True
    if kind == "code_interpreter_call" and isinstance(item.get("outputs"), list):
        logs = [str(each.get("logs", "")) for each in item["outputs"] if isinstance(each, Mapping)]
        history.built_in("python", str(item.get("code") or ""), "\n".join(logs))
        return True
    if kind == "compaction" and item.get("text"):
        history.user(f"{SUMMARY}\n\n{item['text']}")
        return True
    return is_hosted(kind) or kind.startswith(MEANINGLESS)


def _refuse(kind: object, where: str) -> None:
    if kind == "item_reference":
        raise RequestError(f"{where} refers to an item that this server does not have", param=where)
    raise RequestError(f"{where}.type {kind!r:.60} is not known", param=f"{where}.type")


def _id(*candidates: object) -> str:
    return next((each for each in candidates if isinstance(each, str) and each), "")
