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
    ToolNamespaceConfig,
)

from gpt_oss.errors import HarmonyError
from gpt_oss.harmony.events import Header, ParsedMessage
from gpt_oss.harmony.json_types import LIST, OBJECT, STRING, kind_of, needed, not_too_deep, optional, shown, wanted
from gpt_oss.harmony.render import CONSTRAIN_MARK, AnyMessage, Conversation, ResponseFormat
from gpt_oss.harmony.schema import check_schema

Json = Mapping[str, Any]
EFFORTS = {effort.value.lower(): effort for effort in ReasoningEffort}

CALL_ITEMS = ("function_call", "custom_tool_call", "built_in_call")  # of Responses; the last is ours

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


def system_message(
    reasoning_effort: str | None = None,
    current_date: str | None = None,
    built_in: Sequence[ToolNamespaceConfig] = (),
) -> Message:
    """Raises HarmonyError for an effort that is none of low, medium and high."""
    content = SystemContent.new()
    if reasoning_effort is not None:
        if not isinstance(reasoning_effort, str) or reasoning_effort not in EFFORTS:
            raise HarmonyError(f"reasoning_effort must be one of {', '.join(EFFORTS)}, not {shown(reasoning_effort)}")
        content = content.with_reasoning_effort(EFFORTS[reasoning_effort])
    if current_date is not None:
        content = content.with_conversation_start_date(wanted(current_date, STRING, "current_date"))
    for namespace in built_in:
        content = content.with_tools(namespace)
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
    tools: Sequence[Json] | None = (),
    reasoning_effort: str | None = None,
    response_format: Json | None = None,
    current_date: str | None = None,
) -> Prompt:
    """Chat Completions messages and tools as a conversation. Raises HarmonyError, naming message and field."""
    not_too_deep(messages, "messages")
    entries = [(f"messages[{i}]", wanted(m, OBJECT, f"messages[{i}]")) for i, m in _items(messages, "messages")]
    return _prompt(entries, tools, reasoning_effort, _formats(response_format, "response_format"), current_date)


def _prompt(
    entries: Sequence[tuple[str, Json | list[Message]]],
    tools: Sequence[Json] | None,
    reasoning_effort: str | None,
    formats: Sequence[ResponseFormat],
    current_date: str | None,
    built_in: Sequence[ToolNamespaceConfig] = (),
) -> Prompt:
    """A conversation of Chat Completions messages, each with the name that it goes by in an error; what Chat
    Completions has no form for stands there as Harmony's messages."""
    functions = [_function(tool, f"tools[{i}]") for i, tool in _items([] if tools is None else tools, "tools")]
    aliases = Aliases.of(function.name for function in functions)
    instructions: list[str] = []
    body: list[AnyMessage] = []
    calls: dict[str, str] = {}  # call id: recipient
    answers = {
        _call_id(m, where): (m, where) for where, m in entries if not isinstance(m, list) and m.get("role") == "tool"
    }
    placed: set[str] = set()
    for where, message in entries:
        if isinstance(message, list):
            body += message
            continue
        match message.get("role"):
            case "system" | "developer":
                instructions.append(_text(message, where))
            case "user":
                body.append(_said(Role.USER, _text(message, where), name=optional(message, "name", STRING, where)))
            case "assistant":
                body += _from_assistant(message, where, aliases, calls, answers, placed)
            case "tool" | "function":
                call_id = _call_id(message, where)
                if call_id in placed:
                    continue
                name = optional(message, "name", STRING, where) or "unknown"
                recipient = calls.get(call_id) or f"functions.{aliases.in_prompt(name)}"
                body.append(_answer(recipient, _text(message, where)))
            case role:
                raise HarmonyError(
                    f"{where}.role must be system, developer, user, assistant or tool, not {shown(role)}"
                )
    descriptions = [function.model_copy(update={"name": aliases.in_prompt(function.name)}) for function in functions]
    developer = developer_message("\n\n".join(instructions), descriptions)
    head = [system_message(reasoning_effort, current_date, built_in), *([developer] if developer else [])]
    return Prompt(Conversation([*head, *body], formats), aliases)


def _call_id(message: Json, where: str) -> str:
    return optional(message, "tool_call_id", STRING, where) or ""


def _from_assistant(
    message: Json,
    where: str,
    aliases: Aliases,
    calls: dict[str, str],
    answers: Mapping[str, tuple[Json, str]],
    placed: set[str],
) -> list[AnyMessage]:
    """Thought, preamble or answer, then each call with its result: calls come one a turn in Harmony."""
    body: list[AnyMessage] = []
    thoughts = [optional(message, key, STRING, where) for key in ("reasoning", "reasoning_content", "thinking")]
    thought = next(filter(None, thoughts), None)
    if thought:
        body.append(_said(Role.ASSISTANT, thought, channel="analysis"))
    tool_calls = optional(message, "tool_calls", LIST, where) or []
    text = _text(message, where)
    is_preamble = bool(tool_calls) or message.get("phase") == "commentary"
    if text or not (tool_calls or thought):
        body.append(_said(Role.ASSISTANT, text, channel="commentary" if is_preamble else "final"))
    for number, call in enumerate(tool_calls):
        here = f"{where}.tool_calls[{number}]"
        kind = "custom" if wanted(call, OBJECT, here).get("type") == "custom" else "function"
        function = needed(call, kind, OBJECT, here)
        recipient = f"functions.{aliases.in_prompt(needed(function, 'name', STRING, f'{here}.{kind}'))}"
        if kind == "custom":
            body.append(_called(recipient, optional(function, "input", STRING, f"{here}.custom") or "", json=False))
        else:
            body.append(_called(recipient, _arguments(function)))
        call_id = optional(call, "id", STRING, here) or ""
        calls[call_id] = recipient
        if call_id in answers:
            body.append(_answer(recipient, _text(*answers[call_id])))
            placed.add(call_id)
    return body


def _arguments(call: Json) -> str:
    """A call's arguments, which some clients send as the object that they mean."""
    arguments = call.get("arguments")
    if arguments is None:
        return "{}"
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


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
    tools: Sequence[Json] | None = (),
    reasoning_effort: str | None = None,
    text_format: Json | None = None,
    current_date: str | None = None,
    built_in: Sequence[ToolNamespaceConfig] = (),
) -> Prompt:
    """Responses input items as a conversation: messages, reasoning, calls of functions and custom tools, their outputs,
    and `built_in_call` (recipient, content, answer), which is our own form of what a hosted tool did.

    text_format: the request's `text.format`. built_in: tools of the system message. Raises HarmonyError, naming item
    and field.
    """
    if isinstance(items, str):
        items = [{"role": "user", "content": items}]
    not_too_deep(items, "input")
    chat: list[tuple[str, Json | list[Message]]] = []
    if instructions is not None and wanted(instructions, STRING, "instructions"):
        chat.append(("instructions", {"role": "developer", "content": instructions}))
    for index, item in _items(items, "input"):
        where = f"input[{index}]"
        message = _from_item(wanted(item, OBJECT, where), where, before_call=_calls_next(items, index))
        if message is not None:
            chat.append((where, message))
    formats = _formats(text_format, "text.format")
    return _prompt(chat, tools, reasoning_effort, formats, current_date, built_in)


def _calls_next(items: Sequence[Json], index: int) -> bool:
    """Whether an item is followed by a call, with nothing but thoughts in between."""
    rest = (item.get("type", "message") for item in items[index + 1 :] if isinstance(item, Mapping))
    return next((kind for kind in rest if kind != "reasoning"), None) in CALL_ITEMS


def _from_item(item: Json, where: str, *, before_call: bool) -> Json | list[Message] | None:
    """One Responses item as the Chat Completions message that says the same; None where it says nothing."""
    match item.get("type", "message"):
        case "message":
            phase = item.get("phase") or ("commentary" if before_call else None)
            return {"role": item.get("role"), "content": item.get("content"), "phase": phase}
        case "reasoning":
            text = _reasoning(item, where)
            return {"role": "assistant", "reasoning": text} if text else None
        case "function_call":
            function = {"name": needed(item, "name", STRING, where), "arguments": item.get("arguments")}
            call = {"id": optional(item, "call_id", STRING, where), "function": function}
            return {"role": "assistant", "content": None, "tool_calls": [call]}
        case "custom_tool_call":
            custom = {"name": needed(item, "name", STRING, where), "input": item.get("input")}
            call = {"id": optional(item, "call_id", STRING, where), "type": "custom", "custom": custom}
            return {"role": "assistant", "content": None, "tool_calls": [call]}
        case "built_in_call":
            return _built_in(needed(item, "recipient", STRING, where), str(item["content"]), str(item["answer"]))
        case "function_call_output" | "custom_tool_call_output":
            output = item.get("output")
            content = json.dumps(output, ensure_ascii=False) if isinstance(output, Mapping) else output
            return {"role": "tool", "tool_call_id": optional(item, "call_id", STRING, where), "content": content}
        case other:
            raise HarmonyError(f"{where}: items of type {shown(other)} have no place in a Harmony conversation")


def _built_in(recipient: str, content: str, answer: str) -> list[Message]:
    """A call of a built-in tool and its answer, both on the channel of thoughts."""
    called = _said(Role.ASSISTANT, content, channel="analysis").with_recipient(recipient).with_content_type("code")
    return [called, _said(Role.TOOL, answer, channel="analysis", name=recipient).with_recipient("assistant")]


def _reasoning(item: Json, where: str) -> str:
    key = "content" if item.get("content") else "summary"
    texts = []
    for number, part in enumerate(optional(item, key, LIST, where) or []):
        here = f"{where}.{key}[{number}]"
        texts.append(needed(wanted(part, OBJECT, here), "text", STRING, here))
    return "".join(texts)


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
            item = {"type": "message", "role": header.role, "content": [{"type": kind, "text": text}]}
            if header.role == "assistant":
                item["phase"] = "commentary" if header.channel == "commentary" else "final_answer"
            items.append(item)
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


def _called(recipient: str, arguments: str, *, json: bool = True) -> Message:
    message = _said(Role.ASSISTANT, arguments, channel="commentary").with_recipient(recipient)
    return message.with_content_type(f"{CONSTRAIN_MARK}json") if json else message


def _answer(name: str, text: str) -> Message:
    return _said(Role.TOOL, text, channel="commentary", name=name).with_recipient("assistant")


def _items(value: Sequence[Any], where: str) -> enumerate[Any]:
    return enumerate(wanted(value, LIST, where))


def _text(message: Json, where: str) -> str:
    """Content as a string or as a list of text parts."""
    content = message.get("content")
    if content is None or isinstance(content, str):
        return content or ""
    if not LIST.holds(content):
        raise HarmonyError(f"{where}.content must be a string or a list of text parts, not {kind_of(content)}")
    texts = []
    for number, part in enumerate(content):
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, Mapping) and isinstance(text := part.get("text", part.get("refusal")), str):
            texts.append(text)
        else:
            kind = shown(part["type"]) if isinstance(part, Mapping) and "type" in part else kind_of(part)
            raise HarmonyError(f"{where}.content[{number}]: gpt-oss reads text, not {kind}")
    return "".join(texts)


def _function(tool: Any, where: str) -> ToolDescription:
    """A tool as Chat Completions declares it (inside `function`) or as Responses does (flat)."""
    function = wanted(tool, OBJECT, where)
    if "function" in function:
        function, where = needed(function, "function", OBJECT, where), f"{where}.function"
    name = needed(function, "name", STRING, where)
    description = optional(function, "description", STRING, where) or ""
    parameters = optional(function, "parameters", OBJECT, where)
    if parameters:
        check_schema(parameters, f"{where}.parameters")
    return ToolDescription(name=name, description=description, parameters=dict(parameters) if parameters else None)


def _formats(response_format: Json | None, where: str) -> list[ResponseFormat]:
    """A schema stands inside `json_schema` in Chat Completions, flat in Responses."""
    if response_format is None:
        return []
    kind = wanted(response_format, OBJECT, where).get("type", "json_schema")
    match kind:
        case "text":
            return []
        case "json_object":
            return [ResponseFormat("json_object", {"type": "object"}, "Any JSON object.")]
        case "json_schema":
            if "json_schema" in response_format:
                response_format = needed(response_format, "json_schema", OBJECT, where)
                where += ".json_schema"
            schema = needed(response_format, "schema", OBJECT, where)
            check_schema(schema, f"{where}.schema")
            name = optional(response_format, "name", STRING, where) or "response"
            return [ResponseFormat(name, schema, optional(response_format, "description", STRING, where))]
        case _:
            raise HarmonyError(f"{where}.type must be text, json_object or json_schema, not {shown(kind)}")
