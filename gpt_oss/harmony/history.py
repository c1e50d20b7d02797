"""A conversation as clients tell it, put into the order in which Harmony has it: each result next to its call.

What every API's reader writes into. Clients send results in any order, before their calls, twice, with ids that repeat
from turn to turn or with none; here each finds the call that it answers, and nothing is lost or appears twice.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

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
from gpt_oss.harmony.aliases import Aliases
from gpt_oss.harmony.events import Header, ParsedMessage
from gpt_oss.harmony.json_types import OBJECT, STRING, needed, optional, shown, wanted
from gpt_oss.harmony.render import CONSTRAIN_MARK, AnyMessage, Conversation, ResponseFormat
from gpt_oss.harmony.schema import check_schema

EFFORTS = {effort.value.lower(): effort for effort in ReasoningEffort}
FAILED = "Error: "


@dataclass(frozen=True)
class Prompt:
    """A conversation ready to render, and how its function names map to the client's."""

    conversation: Conversation
    aliases: Aliases


@dataclass
class _Said:
    """What the assistant said to the user.

    channel: None where it is a preamble if a call follows, else an answer.
    """

    text: str
    channel: Literal["commentary", "final"] | None


@dataclass
class _Result:
    text: str
    id: str
    name: str


@dataclass
class _Call:
    """name: in the prompt, without its namespace. results: those that answer it; mostly one."""

    id: str
    name: str
    content: str
    is_json: bool
    results: list[_Result] = field(default_factory=list)

    @property
    def recipient(self) -> str:
        return f"functions.{self.name}"


_Entry: TypeAlias = Message | _Said | _Call | _Result


class History:
    """Collects what was said, in the order in which the client tells it; `messages` is what the prompt has of it.

    in_prompt: a function's name in the prompt, of its name at the client.
    recall: the thoughts that led to a call, by its id, for clients that do not send them back.
    """

    def __init__(
        self, in_prompt: Callable[[str], str] = str, recall: Callable[[str], str | None] = lambda _: None
    ) -> None:
        self._in_prompt = in_prompt
        self._recall = recall
        self._instructions: list[str] = []
        self._entries: list[_Entry] = []
        self._thought = False  # the next call follows from thoughts that are here, or from another call

    def instruct(self, text: str) -> None:
        if text:
            self._instructions.append(text)

    def user(self, text: str, name: str | None = None) -> None:
        self._entries.append(_message(Role.USER, text, name=name))
        self._thought = False

    def think(self, text: str) -> None:
        if text:
            self._entries.append(_message(Role.ASSISTANT, text, channel="analysis"))
            self._thought = True

    def say(self, text: str, channel: Literal["commentary", "final"] | None = None) -> None:
        """What the assistant said; without a channel it is a preamble where a call follows, else an answer."""
        self._entries.append(_Said(text, channel))

    def call(self, name: str, content: str, *, call_id: str = "", is_json: bool = True) -> None:
        """A call of a function. name: the client's."""
        thought = None if self._thought or not call_id else self._recall(call_id)
        if thought:
            after_preamble = self._entries and isinstance(self._entries[-1], _Said)
            place = len(self._entries) - (1 if after_preamble else 0)
            self._entries.insert(place, _message(Role.ASSISTANT, thought, channel="analysis"))
        self._thought = True
        self._entries.append(_Call(call_id, self._in_prompt(name), content, is_json))

    def result(self, text: str, *, call_id: str = "", name: str = "", failed: bool = False) -> None:
        """What a call gave.

        call_id, name: which call, as far as the client says it.
        failed: the tool could not do it; the model is told so.
        """
        if failed and not text.startswith("Error"):
            text = f"{FAILED}{text}"
        self._entries.append(_Result(text, call_id, self._in_prompt(name) if name else ""))
        self._thought = False

    def built_in(self, recipient: str, content: str, answer: str) -> None:
        """A call of a built-in tool and its answer, both on the channel of thoughts."""
        called = _message(Role.ASSISTANT, content, channel="analysis").with_recipient(recipient)
        self._entries.append(called.with_content_type("code"))
        answered = _message(Role.TOOL, answer, channel="analysis", name=recipient)
        self._entries.append(answered.with_recipient("assistant"))

    @property
    def instructions(self) -> str:
        return "\n\n".join(self._instructions)

    def messages(self) -> list[AnyMessage]:
        entries = _matched(self._entries)
        body: list[AnyMessage] = []
        for number, entry in enumerate(entries):
            match entry:
                case _Said(text, channel):
                    body.append(_message(Role.ASSISTANT, text, channel=channel or _channel_before(entries, number)))
                case _Call():
                    body.append(_called(entry.recipient, entry.content, is_json=entry.is_json))
                    body += [_answer(entry.recipient, result.text) for result in entry.results]
                case _Result(text, _, name):
                    body.append(_answer(f"functions.{name or 'unknown'}", text))
                case _:
                    body.append(entry)
        return body

    def conversation(
        self,
        functions: Sequence[ToolDescription],
        *,
        reasoning_effort: str | None = None,
        formats: Sequence[ResponseFormat] = (),
        current_date: str | None = None,
        built_in: Sequence[ToolNamespaceConfig] = (),
    ) -> Conversation:
        """The conversation with its head. functions: under their names in the prompt. Raises HarmonyError."""
        developer = developer_message(self.instructions, functions)
        head = [system_message(reasoning_effort, current_date, built_in), *([developer] if developer else [])]
        return Conversation([*head, *self.messages()], formats)


def _channel_before(entries: Sequence[_Entry], number: int) -> str:
    """The channel of what was said at `number`: a preamble's where a call follows, with nothing but thoughts before."""
    number += 1
    while number < len(entries) and _is_thought(entries[number]):
        number += 1
    follows = entries[number] if number < len(entries) else None
    if isinstance(follows, Message):
        return "commentary" if follows.recipient not in (None, "assistant") else "final"
    return "commentary" if isinstance(follows, _Call) else "final"


def _is_thought(entry: _Entry) -> bool:
    return isinstance(entry, Message) and entry.channel == "analysis" and entry.recipient is None


# ---- which result belongs to which call -----------------------------------------------------------------------------


def _matched(entries: Sequence[_Entry]) -> list[_Entry]:
    """The entries with each result at its call; results that answer no call stay where they stand.

    First by the id, among the calls before a result that are still open; then by the name, or by order where the client
    tells neither; then a call that comes later; last a call that has been answered once already.
    """
    placed = [_Call(e.id, e.name, e.content, e.is_json) if isinstance(e, _Call) else e for e in entries]
    taken: set[int] = set()
    for step in (_by_id, _by_name_or_order, _by_id_of_later, _by_id_of_answered):
        for result, call in step(placed, taken):
            taken.add(id(result))
            if all(known.text != result.text for known in call.results):
                call.results.append(result)
    return [entry for entry in placed if id(entry) not in taken]


_Pairs = Iterator[tuple[_Result, _Call]]


def _by_id(entries: Sequence[_Entry], taken: set[int]) -> _Pairs:
    """Each result with the first open call before it that has its id, and its name where several do."""
    waiting: dict[str, list[_Call]] = {}
    for entry in entries:
        if isinstance(entry, _Call) and entry.id:
            waiting.setdefault(entry.id, []).append(entry)
        elif isinstance(entry, _Result) and waiting.get(entry.id):
            calls = waiting[entry.id]
            call = next((call for call in calls if call.name == entry.name), calls[0])
            calls.remove(call)
            yield entry, call


def _by_name_or_order(entries: Sequence[_Entry], taken: set[int]) -> _Pairs:
    """Each other result with an open call since the user spoke last: of its name, or the first where it has none."""
    waiting: list[_Call] = []
    for entry in entries:
        if isinstance(entry, Message) and entry.author.role == Role.USER:
            waiting = []
        elif isinstance(entry, _Call) and not entry.results:
            waiting.append(entry)
        elif isinstance(entry, _Result) and id(entry) not in taken and waiting:
            name = entry.name or entry.id  # some give the name as the id
            named = next((call for call in waiting if call.name == name), None)
            call = named or (None if entry.name else waiting[0])
            if call is not None:
                waiting.remove(call)
                yield entry, call


def _by_id_of_later(entries: Sequence[_Entry], taken: set[int]) -> _Pairs:
    """Each result that came before its call."""
    early: dict[str, list[_Result]] = {}
    for entry in entries:
        if isinstance(entry, _Result) and id(entry) not in taken and entry.id:
            early.setdefault(entry.id, []).append(entry)
        elif isinstance(entry, _Call) and not entry.results and early.get(entry.id):
            yield early[entry.id].pop(0), entry


def _by_id_of_answered(entries: Sequence[_Entry], taken: set[int]) -> _Pairs:
    """Each result that is the second one of its call."""
    answered: dict[str, _Call] = {}
    for entry in entries:
        if isinstance(entry, _Call) and entry.id:
            answered[entry.id] = entry
        elif isinstance(entry, _Result) and id(entry) not in taken and entry.id in answered:
            yield entry, answered[entry.id]


# ---- messages -------------------------------------------------------------------------------------------------------


def system_message(
    reasoning_effort: str | None = None,
    current_date: str | None = None,
    built_in: Sequence[ToolNamespaceConfig] = (),
) -> Message:
    """Raises HarmonyError for an effort that is none of low, medium and high."""
    content = SystemContent.new()
    if reasoning_effort is not None:
        if not isinstance(reasoning_effort, str) or reasoning_effort not in EFFORTS:
            raise HarmonyError(
                f"reasoning_effort must be one of {', '.join(EFFORTS)}, not {shown(reasoning_effort)}",
                field="reasoning_effort",
            )
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


def arguments_of(given: Any) -> str:
    """A call's arguments as text; some clients send the object that they mean."""
    if given is None:
        return "{}"
    return given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)


def _message(role: Role, text: str, *, channel: str | None = None, name: str | None = None) -> Message:
    return Message(author=Author(role=role, name=name), content=[TextContent(text=text)], channel=channel)


def _called(recipient: str, arguments: str, *, is_json: bool) -> Message:
    message = _message(Role.ASSISTANT, arguments, channel="commentary").with_recipient(recipient)
    return message.with_content_type(f"{CONSTRAIN_MARK}json") if is_json else message


def _answer(name: str, text: str) -> Message:
    return _message(Role.TOOL, text, channel="commentary", name=name).with_recipient("assistant")


# ---- what else a request declares -----------------------------------------------------------------------------------


def function_of(tool: Any, where: str) -> ToolDescription:
    """A tool as Chat Completions declares it (inside `function`) or as Responses does (flat). Raises HarmonyError."""
    function = wanted(tool, OBJECT, where)
    if "function" in function:
        function, where = needed(function, "function", OBJECT, where), f"{where}.function"
    name = needed(function, "name", STRING, where)
    description = optional(function, "description", STRING, where) or ""
    parameters = optional(function, "parameters", OBJECT, where)
    if parameters:
        check_schema(parameters, f"{where}.parameters")
    return ToolDescription(name=name, description=description, parameters=dict(parameters) if parameters else None)


def formats_of(response_format: Any, where: str) -> list[ResponseFormat]:
    """The formats of a request: a schema stands inside `json_schema` in Chat Completions, flat in Responses.

    Raises HarmonyError.
    """
    if response_format is None:
        return []
    kind = wanted(response_format, OBJECT, where).get("type", "json_schema")
    match kind:
        case "text":
            return []
        case "json_object" if isinstance(response_format.get("schema"), dict):  # as llama.cpp's clients send it
            check_schema(response_format["schema"], f"{where}.schema")
            return [ResponseFormat("json_object", response_format["schema"], where=f"{where}.schema")]
        case "json_object":
            return [ResponseFormat("json_object", {"type": "object"}, "Any JSON object.")]
        case "json_schema":
            if "json_schema" in response_format:
                response_format = needed(response_format, "json_schema", OBJECT, where)
                where += ".json_schema"
            schema = needed(response_format, "schema", OBJECT, where)
            check_schema(schema, f"{where}.schema")
            name = optional(response_format, "name", STRING, where) or "response"
            description = optional(response_format, "description", STRING, where)
            strict = response_format.get("strict") is True
            return [ResponseFormat(name, schema, description, strict, f"{where}.schema")]
    raise HarmonyError(
        f"{where}.type must be text, json_object or json_schema, not {shown(kind)}", field=f"{where}.type"
    )
