"""Items of the Responses API and Harmony's messages, both ways."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from openai_harmony import ToolNamespaceConfig

from gpt_oss.errors import HarmonyError
from gpt_oss.harmony.aliases import NO_ALIASES, Aliases
from gpt_oss.harmony.content import newest_question, text_of, texts_of, thoughts_of
from gpt_oss.harmony.history import History, Prompt, arguments_of, formats_of, function_of, header_and_text
from gpt_oss.harmony.json_types import LIST, OBJECT, STRING, Json, needed, not_too_deep, optional, shown, wanted
from gpt_oss.harmony.render import AnyMessage

PHASES: Mapping[Any, Literal["commentary", "final"]] = {"commentary": "commentary", "final_answer": "final"}


def from_responses(
    items: str | Sequence[Json],
    *,
    instructions: str | None = None,
    tools: Sequence[Json] | None = (),
    reasoning_effort: str | None = None,
    text_format: Json | None = None,
    current_date: str | None = None,
    built_in: Sequence[ToolNamespaceConfig] = (),
) -> Prompt:
    """Responses input items as a conversation: messages, reasoning, calls of functions and custom tools, their outputs.

    text_format: the request's `text.format`. built_in: tools of the system message. Raises HarmonyError, naming item
    and field.
    """
    functions = [function_of(tool, f"tools[{i}]") for i, tool in enumerate(wanted(tools or [], LIST, "tools"))]
    aliases = Aliases.of(function.name for function in functions)
    history = History(aliases.in_prompt)
    if instructions is not None:
        history.instruct(wanted(instructions, STRING, "instructions"))
    if isinstance(items, str):
        items = [{"role": "user", "content": items}]
    not_too_deep(items, "input")
    newest = newest_user_item(wanted(items, LIST, "input"))
    for number, item in enumerate(items):
        read_item(history, item, f"input[{number}]", newest=number == newest)
    conversation = history.conversation(
        [function.model_copy(update={"name": aliases.in_prompt(function.name)}) for function in functions],
        reasoning_effort=reasoning_effort,
        formats=formats_of(text_format, "text.format"),
        current_date=current_date,
        built_in=built_in,
    )
    return Prompt(conversation, aliases)


def newest_user_item(items: Sequence[Any]) -> int | None:
    """The index of the user's message in which what is not text is refused; see `newest_question`."""
    return newest_question([_role(item) for item in items])


def _role(item: Any) -> str:
    kind = item.get("type", "message") if isinstance(item, Mapping) else ""
    if kind == "message":
        return str(item.get("role"))
    return "tool" if str(kind).endswith("_output") else "assistant"


def read_item(history: History, item: Any, where: str, *, newest: bool = False) -> None:
    """Writes one item into a history. newest: see content.text_of. Raises HarmonyError, naming the field."""
    match wanted(item, OBJECT, where).get("type", "message"):
        case "message":
            _read_message(history, item, where, newest)
        case "reasoning":
            history.think(_reasoning(item, where))
        case "function_call" | "custom_tool_call" as kind:
            name = needed(item, "name", STRING, where)
            call_id = optional(item, "call_id", STRING, where) or ""
            if kind == "custom_tool_call":
                written = optional(item, "input", STRING, where) or ""
                history.call(name, written, call_id=call_id, is_json=False)
            else:
                history.call(name, arguments_of(item.get("arguments")), call_id=call_id)
        case "function_call_output" | "custom_tool_call_output":
            text = output_text(item.get("output"), f"{where}.output")
            history.result(text, call_id=optional(item, "call_id", STRING, where) or "")
        case other:
            raise HarmonyError(
                f"{where}: items of type {shown(other)} have no place in a Harmony conversation", field=where
            )


def _read_message(history: History, item: Json, where: str, newest: bool) -> None:
    content = item.get("content")
    match item.get("role"):
        case "system" | "developer":
            history.instruct(text_of(content, f"{where}.content"))
        case "user":
            history.user(text_of(content, f"{where}.content", newest=newest), optional(item, "name", STRING, where))
        case "assistant":
            history.think(thoughts_of(content))
            history.say(text_of(content, f"{where}.content"), PHASES.get(item.get("phase")))
        case role:
            raise HarmonyError(
                f"{where}.role must be system, developer, user, assistant or tool, not {shown(role)}",
                field=f"{where}.role",
            )


def output_text(output: Any, where: str) -> str:
    """A call's output as text: a string, a list of parts, or an object that some clients send."""
    if isinstance(output, Mapping) and "text" not in output and "content" not in output:
        return json.dumps(output, ensure_ascii=False)
    if isinstance(output, Mapping) and "content" in output:
        return text_of(output["content"], where, between="\n")
    return text_of(output, where, between="\n")


def _reasoning(item: Json, where: str) -> str:
    key = "content" if item.get("content") else "summary"
    return texts_of(optional(item, key, LIST, where), f"{where}.{key}")


def to_responses(messages: Sequence[AnyMessage], aliases: Aliases = NO_ALIASES) -> list[dict[str, Any]]:
    """Messages as Responses items; the system message, which is ours, is left out."""
    items: list[dict[str, Any]] = []
    call_ids: list[str] = []
    calls = 0
    for message in messages:
        header, text = header_and_text(message)
        if header.role == "system" or (header.role == "developer" and not text):
            continue
        if header.role == "tool":
            call_id = call_ids.pop(0) if call_ids else ""
            items.append({"type": "function_call_output", "call_id": call_id, "output": text})
        elif header.is_call:
            call_ids.append(f"call_{calls}")
            calls += 1
            name = aliases.of_recipient(header.recipient or "")
            items.append({"type": "function_call", "call_id": call_ids[-1], "name": name, "arguments": text})
        elif header.role == "assistant" and header.channel == "analysis":
            items.append({"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": text}]})
        else:
            items.append(_message_item(header.role, header.channel, text))
    return items


def _message_item(role: str, channel: str | None, text: str) -> dict[str, Any]:
    kind = "output_text" if role == "assistant" else "input_text"
    item = {"type": "message", "role": role, "content": [{"type": kind, "text": text}]}
    if role == "assistant":
        item["phase"] = "commentary" if channel == "commentary" else "final_answer"
    return item
