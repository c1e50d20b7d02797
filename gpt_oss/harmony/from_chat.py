"""Chat Completions messages and Harmony's, both ways.

The system message is ours; what an API calls system, developer or instructions is the developer message's text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from gpt_oss.errors import HarmonyError
from gpt_oss.harmony.aliases import NO_ALIASES, Aliases
from gpt_oss.harmony.content import newest_question, text_of, thoughts_of
from gpt_oss.harmony.history import History, Prompt, arguments_of, formats_of, function_of, header_and_text
from gpt_oss.harmony.json_types import LIST, OBJECT, STRING, Json, needed, not_too_deep, optional, shown, wanted
from gpt_oss.harmony.render import AnyMessage

THOUGHT_NAMES = ("reasoning", "reasoning_content", "thinking")


def from_chat(
    messages: Sequence[Json],
    *,
    tools: Sequence[Json] | None = (),
    reasoning_effort: str | None = None,
    response_format: Json | None = None,
    current_date: str | None = None,
) -> Prompt:
    """Chat Completions messages and tools as a conversation. Raises HarmonyError, naming message and field."""
    functions = [function_of(tool, f"tools[{i}]") for i, tool in enumerate(wanted(tools or [], LIST, "tools"))]
    aliases = Aliases.of(function.name for function in functions)
    history = History(aliases.in_prompt)
    read_chat(history, messages)
    conversation = history.conversation(
        [function.model_copy(update={"name": aliases.in_prompt(function.name)}) for function in functions],
        reasoning_effort=reasoning_effort,
        formats=formats_of(response_format, "response_format"),
        current_date=current_date,
    )
    return Prompt(conversation, aliases)


def read_chat(history: History, messages: Sequence[Json], where: str = "messages") -> None:
    """Writes Chat Completions messages into a history. Raises HarmonyError, naming message and field."""
    not_too_deep(messages, where)
    listed = [wanted(m, OBJECT, f"{where}[{i}]") for i, m in enumerate(wanted(messages, LIST, where))]
    roles = [str(message.get("role")) for message in listed]
    newest = newest_question(["tool" if role == "function" else role for role in roles])
    for number, message in enumerate(listed):
        _read(history, message, f"{where}[{number}]", newest=number == newest)


def _read(history: History, message: Json, where: str, *, newest: bool) -> None:
    content = message.get("content")
    match message.get("role"):
        case "system" | "developer":
            history.instruct(text_of(content, f"{where}.content"))
        case "user":
            name = optional(message, "name", STRING, where)
            history.user(text_of(content, f"{where}.content", newest=newest), name)
        case "assistant":
            _read_assistant(history, message, where)
        case "tool" | "function":
            history.result(
                text_of(content, f"{where}.content", between="\n"),
                call_id=optional(message, "tool_call_id", STRING, where) or "",
                name=optional(message, "name", STRING, where) or "",
            )
        case role:
            raise HarmonyError(
                f"{where}.role must be system, developer, user, assistant or tool, not {shown(role)}",
                field=f"{where}.role",
            )


def _read_assistant(history: History, message: Json, where: str) -> None:
    """Thought, preamble or answer, then each call: calls come one a turn in Harmony."""
    thought = _thought(message, where)
    history.think(thought)
    calls = list(optional(message, "tool_calls", LIST, where) or [])
    older = optional(message, "function_call", OBJECT, where)
    text = text_of(message.get("content"), f"{where}.content")
    channel: Literal["commentary", "final"] = "final"
    if calls or older or message.get("phase") == "commentary":
        channel = "commentary"
    if text or not (calls or older or thought):
        history.say(text, channel)
    for number, call in enumerate(calls):
        _read_call(history, call, f"{where}.tool_calls[{number}]")
    if older:
        name = needed(older, "name", STRING, f"{where}.function_call")
        history.call(name, arguments_of(older.get("arguments")))


def _read_call(history: History, call: Any, where: str) -> None:
    custom = wanted(call, OBJECT, where).get("type") == "custom"
    kind = "custom" if custom else "function"
    function = needed(call, kind, OBJECT, where)
    name = needed(function, "name", STRING, f"{where}.{kind}")
    call_id = optional(call, "id", STRING, where) or ""
    if custom:
        written = optional(function, "input", STRING, f"{where}.custom") or ""
        history.call(name, written, call_id=call_id, is_json=False)
    else:
        history.call(name, arguments_of(function.get("arguments")), call_id=call_id)


def _thought(message: Json, where: str) -> str:
    """The thoughts of a message, under any of the names that servers and clients have for them."""
    for key in THOUGHT_NAMES:
        value = message.get(key)
        text = optional(message, key, STRING, where) if not isinstance(value, Mapping) else thoughts_of([value])
        if text:
            return str(text)
    details = optional(message, "reasoning_details", LIST, where) or []  # OpenRouter's
    texts = [detail.get("text") or detail.get("summary") for detail in details if isinstance(detail, Mapping)]
    return "".join(text for text in texts if isinstance(text, str)) or thoughts_of(message.get("content"))


def to_chat(messages: Sequence[AnyMessage], aliases: Aliases = NO_ALIASES) -> list[dict[str, Any]]:
    """Messages as Chat Completions has them: one assistant message for each run of thought, text and call."""
    chat: list[dict[str, Any]] = []
    call_ids: list[str] = []
    calls = 0
    for message in messages:
        header, text = header_and_text(message)
        if header.role == "developer" and text:
            chat.append({"role": "developer", "content": text})
        elif header.role == "user":
            chat.append({"role": "user", "content": text, **({"name": header.name} if header.name else {})})
        elif header.role == "tool":
            chat.append({"role": "tool", "tool_call_id": call_ids.pop(0) if call_ids else "", "content": text})
        elif header.role == "assistant":
            speaks = header.channel != "analysis" and not header.is_call
            turn = _open_turn(chat, speaks=speaks)
            if header.is_call:
                call_ids.append(f"call_{calls}")
                calls += 1
                function = {"name": aliases.of_recipient(header.recipient or ""), "arguments": text}
                turn["tool_calls"] = [{"id": call_ids[-1], "type": "function", "function": function}]
            elif header.channel == "analysis":
                turn["reasoning"] = turn.get("reasoning", "") + text
            else:
                turn["content"] = text
    return chat


def _open_turn(chat: list[dict[str, Any]], *, speaks: bool) -> dict[str, Any]:
    """The assistant message that goes on: the last one, or a new one where that has called, or spoken already."""
    goes_on = bool(chat) and chat[-1]["role"] == "assistant" and not chat[-1].get("tool_calls")
    if not goes_on or (speaks and chat[-1]["content"] is not None):
        chat.append({"role": "assistant", "content": None})
    return chat[-1]
