"""Conversations between the shapes that clients speak and Harmony: Chat Completions, Responses items, both ways.

The system message is ours; what an API calls system, developer or instructions is the developer message's text. A
user's function whose name the models know as a built-in tool is renamed in the prompt and named back in the answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from openai_harmony import (
    Author,
    DeveloperContent,
    Message,
    ReasoningEffort,
    Role,
    SystemContent,
    TextContent,
    ToolDescription,
)

from gpt_oss.errors import HarmonyError
from gpt_oss.harmony.events import Header, ParsedMessage
from gpt_oss.harmony.render import CONSTRAIN_MARK, AnyMessage, Conversation, ResponseFormat

Json = Mapping[str, Any]
EFFORTS = {effort.value.lower(): effort for effort in ReasoningEffort}

# Names under which the models were trained on tools of their own: a function called so would be called as those are.
BUILT_IN_NAMES = frozenset({"python", "browser", "container", "bash", "shell", "functions"})


@dataclass(frozen=True)
class Aliases:
    """Names of functions in the prompt, and back. `declared` are the client's names."""

    declared: tuple[str, ...] = ()
    _to_prompt: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, names: Iterable[str]) -> Aliases:
        declared = tuple(dict.fromkeys(names))
        taken = set(declared)
        to_prompt = {}
        for name in declared:
            if name.split(".")[0] in BUILT_IN_NAMES:
                alias = f"user_{name}"
                while alias in taken:
                    alias += "_"
                taken.add(alias)
                to_prompt[name] = alias
        return cls(declared, to_prompt)

    def in_prompt(self, name: str) -> str:
        return self._to_prompt.get(name, name)

    def of_recipient(self, recipient: str) -> str:
        """The client's name of the function that a recipient means, with or without its namespace."""
        back = {alias: name for name, alias in self._to_prompt.items()}
        bare = recipient.removeprefix("functions.")
        if bare in back:
            return back[bare]
        return recipient if recipient in self.declared and bare not in self.declared else bare


@dataclass(frozen=True)
class Prompt:
    """A conversation ready to render, and how its function names map to the client's."""

    conversation: Conversation
    aliases: Aliases


def system_message(reasoning_effort: str | None = None, current_date: str | None = None) -> Message:
    """Raises HarmonyError for an effort that is none of low, medium and high."""
    content = SystemContent.new()
    if reasoning_effort is not None:
        if reasoning_effort not in EFFORTS:
            raise HarmonyError(f"reasoning effort is one of {', '.join(EFFORTS)}, not {reasoning_effort!r}")
        content = content.with_reasoning_effort(EFFORTS[reasoning_effort])
    if current_date is not None:
        content = content.with_conversation_start_date(current_date)
    return Message.from_role_and_content(Role.SYSTEM, content)


def developer_message(instructions: str, functions: Sequence[ToolDescription]) -> Message | None:
    content = DeveloperContent.new()
    if instructions:
        content = content.with_instructions(instructions)
    if functions:
        content = content.with_function_tools(functions)
    return Message.from_role_and_content(Role.DEVELOPER, content) if instructions or functions else None


def from_chat(
    messages: Sequence[Json],
    *,
    tools: Sequence[Json] = (),
    reasoning_effort: str | None = None,
    response_format: Json | None = None,
    current_date: str | None = None,
) -> Prompt:
    """Chat Completions messages and tools as a conversation. Raises HarmonyError, naming message and field."""
    functions = [_function(tool, f"tools[{i}]") for i, tool in enumerate(tools)]
    aliases = Aliases.of(function["name"] for function in functions)
    instructions: list[str] = []
    body: list[AnyMessage] = []
    calls: dict[str, str] = {}  # call id: recipient
    answers = {str(m["tool_call_id"]): m for m in messages if _is(m, "tool") and "tool_call_id" in m}
    placed: set[str] = set()
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        role = message.get("role") if isinstance(message, Mapping) else None
        match role:
            case "system" | "developer":
                instructions.append(_text(message, where))
            case "user":
                body.append(_said(Role.USER, _text(message, where), name=message.get("name")))
            case "assistant":
                body += _from_assistant(message, where, aliases, calls, answers, placed)
            case "tool" | "function":
                call_id = str(message.get("tool_call_id", ""))
                if call_id in placed:
                    continue
                name = calls.get(call_id) or f"functions.{aliases.in_prompt(str(message.get('name') or 'unknown'))}"
                body.append(_answer(name, _text(message, where)))
            case _:
                raise HarmonyError(f"{where}: role must be system, developer, user, assistant or tool, not {role!r}")
    descriptions = [_description(function, aliases) for function in functions]
    developer = developer_message("\n\n".join(instructions), descriptions)
    head = [system_message(reasoning_effort, current_date), *([developer] if developer else [])]
    return Prompt(Conversation([*head, *body], _formats(response_format)), aliases)


def _is(message: Any, role: str) -> bool:
    return isinstance(message, Mapping) and message.get("role") == role


def _from_assistant(
    message: Json, where: str, aliases: Aliases, calls: dict[str, str], answers: Json, placed: set[str]
) -> list[AnyMessage]:
    """Thought, preamble or answer, then each call with its result: calls come one a turn in Harmony."""
    body: list[AnyMessage] = []
    thought = next((message[key] for key in ("reasoning", "reasoning_content", "thinking") if message.get(key)), None)
    if thought:
        body.append(_said(Role.ASSISTANT, str(thought), channel="analysis"))
    tool_calls = message.get("tool_calls") or []
    text = _text(message, where) if message.get("content") else ""
    if text or not (tool_calls or thought):
        body.append(_said(Role.ASSISTANT, text, channel="commentary" if tool_calls else "final"))
    for number, call in enumerate(tool_calls):
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise HarmonyError(f"{where}.tool_calls[{number}]: needs a function with a name and arguments")
        recipient = f"functions.{aliases.in_prompt(function['name'])}"
        arguments = function.get("arguments", "{}")
        text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        body.append(_called(recipient, text))
        call_id = str(call.get("id", ""))
        calls[call_id] = recipient
        if call_id in answers:
            body.append(_answer(recipient, _text(answers[call_id], f"the answer to {call_id}")))
            placed.add(call_id)
    return body


def to_chat(messages: Sequence[AnyMessage], aliases: Aliases = Aliases()) -> list[dict[str, Any]]:
    """Messages as Chat Completions has them: one assistant message for each run of thought, text and call."""
    chat: list[dict[str, Any]] = []
    call_ids: list[str] = []
    for message in messages:
        header, text = header_and_text(message)
        if header.role == "system":
            continue
        if header.role == "developer":
            if text:
                chat.append({"role": "developer", "content": text})
        elif header.role == "user":
            chat.append({"role": "user", "content": text, **({"name": header.name} if header.name else {})})
        elif header.role == "tool":
            chat.append({"role": "tool", "tool_call_id": call_ids.pop(0) if call_ids else "", "content": text})
        else:
            open_turn = bool(chat) and chat[-1]["role"] == "assistant" and not chat[-1].get("tool_calls")
            if not open_turn or (
                header.channel != "analysis" and not header.is_call and chat[-1]["content"] is not None
            ):
                chat.append({"role": "assistant", "content": None})
            turn = chat[-1]
            if header.is_call:
                call_id = f"call_{sum(len(m.get('tool_calls', [])) for m in chat)}"
                call_ids.append(call_id)
                function = {"name": aliases.of_recipient(header.recipient or ""), "arguments": text}
                turn["tool_calls"] = [{"id": call_id, "type": "function", "function": function}]
            elif header.channel == "analysis":
                turn["reasoning"] = turn.get("reasoning", "") + text
            else:
                turn["content"] = text
    return chat


def from_responses(
    items: str | Sequence[Json],
    *,
    instructions: str | None = None,
    tools: Sequence[Json] = (),
    reasoning_effort: str | None = None,
    text_format: Json | None = None,
    current_date: str | None = None,
) -> Prompt:
    """Responses input items as a conversation: messages, reasoning, function calls and their outputs."""
    if isinstance(items, str):
        items = [{"role": "user", "content": items}]
    chat: list[dict[str, Any]] = [{"role": "developer", "content": instructions}] if instructions else []
    for index, item in enumerate(items):
        where = f"input[{index}]"
        match item.get("type", "message"):
            case "message":
                chat.append({"role": item.get("role"), "content": item.get("content"), "_item": True})
            case "reasoning":
                parts = item.get("content") or item.get("summary") or []
                chat.append({"role": "assistant", "reasoning": "".join(str(p.get("text", "")) for p in parts)})
            case "function_call":
                function = {"name": item.get("name"), "arguments": item.get("arguments", "{}")}
                call = {"id": item.get("call_id"), "function": function}
                chat.append({"role": "assistant", "content": None, "tool_calls": [call]})
            case "function_call_output":
                output = item.get("output", "")
                text = output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)
                chat.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": text})
            case other:
                raise HarmonyError(f"{where}: items of type {other!r} have no place in a Harmony conversation")
    wrapped = [tool if "function" in tool else {"type": "function", "function": tool} for tool in tools]
    format_ = {"type": "json_schema", "json_schema": text_format} if text_format else None
    return from_chat(
        chat,
        tools=wrapped,
        reasoning_effort=reasoning_effort,
        response_format=format_,
        current_date=current_date,
    )


def to_responses(messages: Sequence[AnyMessage], aliases: Aliases = Aliases()) -> list[dict[str, Any]]:
    """Messages as Responses items; the system message, which is ours, is left out."""
    items: list[dict[str, Any]] = []
    call_ids: list[str] = []
    for message in messages:
        header, text = header_and_text(message)
        if header.role == "system" or (header.role == "developer" and not text):
            continue
        if header.role == "tool":
            call_id = call_ids.pop(0) if call_ids else ""
            items.append({"type": "function_call_output", "call_id": call_id, "output": text})
        elif header.is_call:
            call_id = f"call_{sum(item['type'] == 'function_call' for item in items)}"
            call_ids.append(call_id)
            name = aliases.of_recipient(header.recipient or "")
            items.append({"type": "function_call", "call_id": call_id, "name": name, "arguments": text})
        elif header.role == "assistant" and header.channel == "analysis":
            items.append({"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": text}]})
        else:
            kind = "output_text" if header.role == "assistant" else "input_text"
            items.append({"type": "message", "role": header.role, "content": [{"type": kind, "text": text}]})
    return items


def header_and_text(message: AnyMessage) -> tuple[Header, str]:
    """A message's header and its text; of a developer message, the instructions."""
    if isinstance(message, ParsedMessage):
        return message.header, message.content
    texts = []
    for content in message.content:
        if isinstance(content, TextContent):
            texts.append(content.text)
        elif isinstance(content, DeveloperContent):
            texts.append(content.instructions or "")
    role, name = str(message.author.role.value), message.author.name
    return Header(role, name, message.channel, message.recipient, message.content_type), "".join(texts)


def _said(role: Role, text: str, *, channel: str | None = None, name: str | None = None) -> Message:
    return Message(author=Author(role=role, name=name), content=[TextContent(text=text)], channel=channel)


def _called(recipient: str, arguments: str) -> Message:
    message = _said(Role.ASSISTANT, arguments, channel="commentary")
    return message.with_recipient(recipient).with_content_type(f"{CONSTRAIN_MARK}json")


def _answer(name: str, text: str) -> Message:
    return _said(Role.TOOL, text, channel="commentary", name=name).with_recipient("assistant")


def _text(message: Json, where: str) -> str:
    """Content as a string or as a list of text parts."""
    content = message.get("content")
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise HarmonyError(f"{where}.content must be a string or a list of text parts")
    texts = []
    for number, part in enumerate(content):
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, Mapping) and isinstance(part.get("text"), str):
            texts.append(part["text"])
        else:
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise HarmonyError(f"{where}.content[{number}]: gpt-oss reads text, not {kind}")
    return "".join(texts)


def _function(tool: Json, where: str) -> Json:
    function = tool.get("function", tool) if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise HarmonyError(f"{where}: a tool needs a function with a name")
    return function


def _description(function: Json, aliases: Aliases) -> ToolDescription:
    parameters = function.get("parameters")
    name = aliases.in_prompt(function["name"])
    return ToolDescription.new(name, function.get("description") or "", parameters=parameters or None)


def _formats(response_format: Json | None) -> list[ResponseFormat]:
    if response_format is None or response_format.get("type") == "text":
        return []
    if response_format.get("type") == "json_object":
        return [ResponseFormat("json_object", {"type": "object"}, "Any JSON object.")]
    schema = response_format.get("json_schema")
    if not isinstance(schema, Mapping) or not isinstance(schema.get("schema"), Mapping):
        raise HarmonyError("response_format needs a json_schema with a name and a schema")
    return [ResponseFormat(str(schema.get("name", "response")), schema["schema"], schema.get("description"))]
