"""Requests of Ollama's API as Asks. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pydantic

from gpt_oss.errors import HarmonyError
from gpt_oss.harmony.content import newest_question, note_of, text_of
from gpt_oss.harmony.history import History, arguments_of, formats_of
from gpt_oss.harmony.json_types import not_too_deep
from gpt_oss.harmony.render import ResponseFormat
from gpt_oss.server.core.ask import Ask, ask_of, effort_of
from gpt_oss.server.core.body import Fields, Items, Tools
from gpt_oss.server.core.errors import RequestError
from gpt_oss.server.core.sampling import SamplingFields, stop_texts
from gpt_oss.server.core.tools import ToolSet, ToolSpec, function_spec

HOTTEST = 2.0  # what the other APIs allow; Ollama takes any temperature


class OllamaRequest(pydantic.BaseModel):
    """The fields of /api/chat (messages) and /api/generate (prompt, system, raw)."""

    model_config = pydantic.ConfigDict(extra="ignore")

    model: str = ""
    messages: Items | None = None
    prompt: str = ""
    system: str | None = None
    raw: bool = False
    suffix: str | None = None
    images: list[Any] | None = None
    tools: Tools | None = None
    format: str | dict[str, Any] | None = None
    options: dict[str, Any] | None = None
    stream: bool = True
    think: bool | str | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = pydantic.Field(None, ge=0, le=20)


class OllamaOptions(SamplingFields):
    """The options that mean something here, under Ollama's names."""

    temperature: float | None = pydantic.Field(None, ge=0, allow_inf_nan=False)
    top_p: float | None = pydantic.Field(None, ge=0)
    top_k: int | None = None
    min_p: float | None = pydantic.Field(None, ge=0, le=1)
    num_predict: int | None = None

    @property
    def max_tokens(self) -> int | None:
        """The most tokens of an answer; what is not positive is no limit."""
        return self.num_predict if (self.num_predict or 0) > 0 else None

    def as_fields(self) -> SamplingFields:
        """These options within the bounds of the other APIs."""
        given = self.model_dump(exclude={"num_predict"}, exclude_none=True)
        if self.temperature is not None:
            given["temperature"] = min(HOTTEST, self.temperature)
        if self.top_p is not None and not 0 < self.top_p <= 1:
            given["top_p"] = 1.0
        if self.top_k is not None:
            given["top_k"] = max(0, self.top_k)
        return SamplingFields(**given)


def read_conversation(
    request: OllamaRequest,
    options: OllamaOptions,
    messages: Sequence[Mapping[str, Any]],
    recall: Callable[[str], str | None] = lambda _: None,
) -> Ask:
    """recall: see History. Raises RequestError."""
    tools = ToolSet.of(_specs(request.tools or []))
    history = History(lambda name: tools.in_prompt(tools.flat_name(name)), recall)
    listed = [Fields(message, f"messages[{number}]") for number, message in enumerate(messages)]
    newest = newest_question([message.word("role") for message in listed])
    try:
        not_too_deep(messages, "messages")
        for number, message in enumerate(listed):
            _read(history, message, newest=number == newest)
        formats = _formats(request.format)
    except HarmonyError as error:
        raise RequestError(str(error), param=error.field) from None
    wants_logprobs = bool(request.logprobs or request.top_logprobs)
    return ask_of(
        history,
        tools,
        options.as_fields(),
        formats=formats,
        effort=_effort(request.think),
        max_tokens=options.max_tokens,
        logprobs=(request.top_logprobs or 0) if wants_logprobs else None,
        stop_texts=stop_texts(options, "options.stop"),
    )


def _effort(think: bool | str | None) -> str:
    if think is False:
        return "low"
    return effort_of(think, "think") if isinstance(think, str) else "medium"


def _formats(given: str | Mapping[str, Any] | None) -> list[ResponseFormat]:
    if isinstance(given, Mapping):
        return formats_of({"type": "json_schema", "name": "answer", "schema": given}, "format")
    if given in (None, ""):
        return []
    if given != "json":
        raise RequestError("format is json or a JSON schema", param="format")
    return formats_of({"type": "json_object"}, "format")


def _specs(tools: Sequence[Mapping[str, Any]]) -> list[ToolSpec]:
    specs = []
    for number, given in enumerate(tools):
        tool = Fields(given, f"tools[{number}]")
        function = tool.object("function")
        if function is None:
            raise tool.refuse("function", "needs a name")
        specs.append(function_spec(function))
    return specs


def _read(history: History, message: Fields, *, newest: bool) -> None:
    """Writes one message: thinking, calls with objects for arguments, answers named by their tool."""
    text = _text(message, newest=newest)
    match message["role"]:
        case "system" | "developer":
            history.instruct(text)
        case "user":
            history.user(text)
        case "assistant":
            _read_assistant(history, message, text)
        case "tool":
            call_id = message.word("tool_call_id", "id")
            history.result(text, call_id=call_id, name=message.word("tool_name", "name"))
        case role:
            raise message.refuse("role", f"must be system, user, assistant or tool, not {role!r:.40}")


def _read_assistant(history: History, message: Fields, text: str) -> None:
    thought = text_of(message["thinking"], message.at("thinking"))
    history.think(thought)
    calls = message.objects("tool_calls")
    if text or not (calls or thought):
        history.say(text, "commentary" if calls else "final")
    for call in calls:
        function = call.object("function")
        if function is None or not function.word("name"):
            raise call.refuse("function", "needs a name")
        history.call(function.word("name"), arguments_of(function["arguments"] or {}), call_id=call.word("id"))


def _text(message: Fields, *, newest: bool) -> str:
    text = text_of(message["content"], message.at("content"), newest=newest)
    images = message["images"]
    if not images:
        return text
    if newest:
        raise message.refuse(
            "images", "cannot be read: gpt-oss reads text, not images; say in words what they show, or leave them out"
        )
    count = len(images) if isinstance(images, list) else 1
    return "\n".join([*([text] if text else []), *[note_of("image")] * count])
