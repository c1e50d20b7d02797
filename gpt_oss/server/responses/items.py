"""A request's items as harmony.convert reads them: calls of every kind as those of functions, outputs as text. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from gpt_oss.server.errors import RequestError
from gpt_oss.server.hosted import is_hosted
from gpt_oss.server.responses.client_tools import CALLS, OUTPUTS, ClientTool, answer_of, content_of
from gpt_oss.server.responses.tools import Declared

Json = dict[str, Any]
SUMMARY = "What was said before this, in short:"
NO_IMAGE = "[an image; this model reads text only]"
NO_FILE = "[a file; this model reads text only]"
MEANINGLESS = ("additional_tools", "compaction_trigger", "configuration_update", "mcp_approval_response", "program")


def found_tools(items: Sequence[Mapping[str, Any]]) -> list[Json]:
    """Tools that the client found or added while the conversation went on."""
    lists = [item.get("tools") for item in items if item.get("type") in ("tool_search_output", "additional_tools")]
    return [tool for tools in lists if isinstance(tools, list) for tool in tools if isinstance(tool, dict)]


def harmony_items(given: Sequence[Mapping[str, Any]], declared: Sequence[Declared]) -> list[Json]:
    """declared: under what names the prompt has the client's tools. Raises RequestError."""
    reader = _Names(declared)
    return [each for number, item in enumerate(given) for each in _read(item, f"input[{number}]", reader)]


class _Names:
    """A call's name in the prompt, before aliases."""

    def __init__(self, declared: Sequence[Declared]) -> None:
        self._functions = {
            (each.name.namespace, each.name.name): each.flat for each in declared if not each.name.client
        }
        self._client = {each.name.client.type: each.flat for each in declared if each.name.client}

    def of(self, item: Mapping[str, Any]) -> Any:
        name = item.get("name")
        return self._functions.get((item.get("namespace"), name), name) if isinstance(name, str) else name

    def of_client(self, tool: ClientTool) -> str:
        return self._client.get(tool.type, tool.name)


def _read(item: Mapping[str, Any], where: str, names: _Names) -> list[Json]:
    kind = item.get("type", "message")
    if kind in ("message", "reasoning", "built_in_call"):
        return [dict(item)]
    if kind in ("function_call", "custom_tool_call"):
        return [{**item, "name": names.of(item)}]
    if kind in ("function_call_output", "custom_tool_call_output"):
        return [{**item, "output": text_of(item.get("output"))}]
    if kind in CALLS:
        tool, content = CALLS[kind], content_of(CALLS[kind], item)
        call: Json = {"call_id": _id(item.get("call_id"), item.get("id")), "name": names.of_client(tool)}
        if tool.parameters is None:
            return [call | {"type": "custom_tool_call", "input": content}]
        return [call | {"type": "function_call", "arguments": content}]
    if kind in OUTPUTS:
        tool = OUTPUTS[kind]
        call_id = _id(*(item.get(name) for name in tool.call_id_in))
        return [{"type": "function_call_output", "call_id": call_id, "output": answer_of(tool, item)}]
    if kind == "mcp_call":
        called = {"call_id": str(item.get("id")), "name": item.get("name"), "arguments": item.get("arguments")}
        answer = item.get("output") or json.dumps(item.get("error"))
        output = {"type": "function_call_output", "call_id": called["call_id"], "output": answer}
        return [{**called, "type": "function_call"}, output]
    if kind == "code_interpreter_call" and item.get("outputs"):
        logs = [str(each.get("logs", "")) for each in item["outputs"] if isinstance(each, Mapping)]
        call = {"type": "built_in_call", "recipient": "python", "content": str(item.get("code") or "")}
        return [call | {"answer": "\n".join(logs)}]
    if kind == "compaction" and item.get("text"):
        return [{"type": "message", "role": "user", "content": f"{SUMMARY}\n\n{item['text']}"}]
    if kind == "item_reference":
        raise RequestError(f"{where} refers to an item that this server does not have", param=where)
    if is_hosted(kind) or str(kind).startswith(MEANINGLESS):
        return []
    raise RequestError(f"{where}.type {kind!r} is not known", param=f"{where}.type")


def _id(*candidates: object) -> str:
    return next((each for each in candidates if isinstance(each, str) and each), "")


def text_of(output: Any) -> str:
    """A call's output, which is a string or a list of parts; what cannot be read says so."""
    if not isinstance(output, list):
        return output if isinstance(output, str) else "" if output is None else json.dumps(output, ensure_ascii=False)
    return "\n".join(_part(part) for part in output)


def _part(part: Any) -> str:
    match part:
        case {"text": str(text)}:
            return text
        case {"type": "input_file" | "output_file" | "file"}:
            return NO_FILE
        case {}:
            return NO_IMAGE
    return str(part)
