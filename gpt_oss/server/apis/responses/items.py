"""A request's items, of every type that there is, into a history: straight to messages. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from gpt_oss.harmony.from_responses import newest_user_item, output_text, read_item
from gpt_oss.harmony.history import History, arguments_of
from gpt_oss.harmony.json_types import not_too_deep
from gpt_oss.server.apis.responses.client_tools import CALLS, OUTPUTS, answer_of, content_of
from gpt_oss.server.core.body import Fields, Json
from gpt_oss.server.core.errors import RequestError
from gpt_oss.server.core.hosted import is_hosted
from gpt_oss.server.core.tools import ToolSet

SUMMARY = "What was said before this, in short:"
BUILT_IN = "built_in_call"  # our own form of what a hosted tool did: recipient, content, answer
MEANINGLESS = ("additional_tools", "compaction_trigger", "configuration_update", "mcp_approval_response", "program")


def found_tools(items: Sequence[Mapping[str, Any]]) -> list[Json]:
    """Tools that the client found or added while the conversation went on."""
    found = [Fields(item, "input") for item in items]
    later = [item for item in found if item.kind in ("tool_search_output", "additional_tools")]
    return [dict(tool.value) for item in later for tool in item.inners("tools")]


def read_items(history: History, items: Sequence[Mapping[str, Any]], tools: ToolSet) -> None:
    """Writes items into a history, with calls under their names in the prompt. Raises HarmonyError and RequestError."""
    not_too_deep(items, "input")
    newest = newest_user_item(items)
    for number, item in enumerate(items):
        _read(history, Fields(item, f"input[{number}]"), tools, newest=number == newest)


def _read(history: History, item: Fields, tools: ToolSet, *, newest: bool) -> None:
    kind = item.kind or ("message" if item["type"] is None else "")
    if kind in ("message", "reasoning", "function_call_output", "custom_tool_call_output"):
        read_item(history, item.value, item.where, newest=newest)
    elif kind in ("function_call", "custom_tool_call"):
        read_item(history, {**item.value, "name": _flat(item, tools)}, item.where)
    elif kind == BUILT_IN:
        history.built_in(item.word("recipient"), item.word("content"), item.word("answer"))
    elif kind in CALLS:
        tool = CALLS[kind]
        flat = next((spec.flat for spec in tools.specs if spec.kind == tool.type), tool.name)
        is_json = tool.parameters is not None
        history.call(flat, content_of(tool, item), call_id=item.word("call_id", "id"), is_json=is_json)
    elif kind in OUTPUTS:
        tool = OUTPUTS[kind]
        history.result(answer_of(tool, item), call_id=item.word(*tool.call_id_in))
    elif not _read_hosted(history, item):
        raise _unknown(item)


def _flat(item: Fields, tools: ToolSet) -> Any:
    """The name of a call in the tool set; what is no name is for `read_item` to refuse."""
    name = item["name"]
    return tools.flat_name(name, item.word("namespace") or None) if isinstance(name, str) else name


def _read_hosted(history: History, item: Fields) -> bool:
    """Whether it is an item of what a server did, and then what there is to read in it."""
    kind = item.kind
    if kind == "mcp_call":
        failed = item["error"] is not None
        answer = json.dumps(item["error"]) if failed else output_text(item["output"], item.at("output"))
        history.call(item.word("name"), arguments_of(item["arguments"]), call_id=item.word("id"))
        history.result(answer, call_id=item.word("id"), failed=failed)
        return True
    if kind == "code_interpreter_call" and item["outputs"]:
        logs = [each.word("logs") for each in item.inners("outputs")]
        history.built_in("python", item.word("code"), "\n".join(logs))
        return True
    if kind == "compaction" and item.word("text"):
        history.user(f"{SUMMARY}\n\n{item.word('text')}")
        return True
    return is_hosted(kind) or kind.startswith(MEANINGLESS)


def _unknown(item: Fields) -> RequestError:
    if item.kind == "item_reference":
        return RequestError(f"{item.where} refers to an item that this server does not have", param=item.where)
    return item.refuse("type", f"{item['type']!r:.60} is not known")
