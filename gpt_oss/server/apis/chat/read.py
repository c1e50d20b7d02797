"""A Chat Completions request as an Ask. What is not supported is refused by its field's name. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import pydantic

from gpt_oss.errors import HarmonyError
from gpt_oss.harmony.from_chat import read_chat
from gpt_oss.harmony.history import History, formats_of
from gpt_oss.server.core.ask import Ask, ask_of, effort_of
from gpt_oss.server.core.body import Fields, Items, Tools
from gpt_oss.server.core.errors import RequestError
from gpt_oss.server.core.sampling import SamplingFields, TokenLimit, stop_texts
from gpt_oss.server.core.tools import Choice, ToolSet, ToolSpec, custom_spec, function_spec

MOST_CHOICES = 16
MOST_TOP_LOGPROBS = 20
Recall = Callable[[str], str | None]


class StreamOptions(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="ignore")
    include_usage: bool | None = False


class Reasoning(pydantic.BaseModel):
    """exclude: think, but do not tell."""

    model_config = pydantic.ConfigDict(extra="ignore")
    effort: str | None = None
    exclude: bool | None = None


class ChatRequest(SamplingFields):
    """The fields that mean something here. Others are accepted and have no effect, as in other servers."""

    model: str = ""
    messages: Items = pydantic.Field(min_length=1)
    tools: Tools | None = None
    tool_choice: str | dict[str, Any] | None = None
    functions: Tools | None = None
    function_call: str | dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    reasoning: Reasoning | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: TokenLimit = None
    max_completion_tokens: TokenLimit = None
    logprobs: bool | None = None
    top_logprobs: int | None = pydantic.Field(None, ge=0, le=MOST_TOP_LOGPROBS)
    n: int = pydantic.Field(1, ge=1, le=MOST_CHOICES)
    modalities: list[Literal["text", "audio"]] | None = None
    audio: dict[str, Any] | None = None
    web_search_options: dict[str, Any] | None = None
    store: bool | None = None
    metadata: dict[str, str] | None = None


@dataclass(frozen=True)
class ChatAsk:
    """What a request comes to.

    logprobs: whether they are sent.
    shows_reasoning: whether thoughts are.
    as_functions: calls are sent in the form that was used before `tools`.
    """

    request: ChatRequest
    ask: Ask
    logprobs: bool
    shows_reasoning: bool
    as_functions: bool


def read_request(request: ChatRequest, recall: Recall = lambda _: None) -> ChatAsk:
    """recall: see History. Raises RequestError."""
    _check(request)
    specs = _specs(request)
    tools = ToolSet.of(specs)
    history = History(lambda name: tools.in_prompt(tools.flat_name(name)), recall)
    wants_logprobs = bool(request.logprobs or request.top_logprobs is not None)
    try:
        read_chat(history, request.messages)
        formats = formats_of(request.response_format, "response_format")
    except HarmonyError as error:
        raise RequestError(str(error), param=error.field) from None
    ask = ask_of(
        history,
        tools,
        request,
        choice=_choice(request, tools),
        formats=formats,
        effort=_effort(request),
        max_tokens=request.max_completion_tokens or request.max_tokens,
        logprobs=(request.top_logprobs or 0) if wants_logprobs else None,
        stop_texts=stop_texts(request),
    )
    shows = not (request.reasoning and request.reasoning.exclude)
    return ChatAsk(request, ask, wants_logprobs, shows, as_functions=bool(request.functions and not request.tools))


def _check(request: ChatRequest) -> None:
    if request.audio is not None or "audio" in (request.modalities or []):
        raise RequestError("gpt-oss writes text, not audio", param="modalities" if request.modalities else "audio")
    if request.web_search_options is not None:
        raise RequestError("the web is searched for /v1/responses, with a web_search tool", param="web_search_options")


def _effort(request: ChatRequest) -> str:
    if request.reasoning_effort is None and request.reasoning is not None:
        return effort_of(request.reasoning.effort, "reasoning.effort")
    return effort_of(request.reasoning_effort, "reasoning_effort")


def _specs(request: ChatRequest) -> list[ToolSpec]:
    """The declared tools; also in the form that was used before `tools`. Kinds that mean nothing here are left out."""
    specs: list[ToolSpec] = []
    for number, given in enumerate(request.tools or []):
        tool = Fields(given, f"tools[{number}]")
        if "type" not in tool or tool.kind == "function":
            specs.append(function_spec(_inner(tool, "function")))
        elif tool.kind == "custom":
            specs.append(custom_spec(_inner(tool, "custom")))
    for number, given in enumerate(request.functions or []):
        specs.append(function_spec(Fields(given, f"functions[{number}]")))
    return specs


def _inner(tool: Fields, name: str) -> Fields:
    found = tool.object(name)
    if found is None or not found.word("name"):
        raise tool.refuse(name, "needs a name")
    return found


def _choice(request: ChatRequest, tools: ToolSet) -> Choice:
    given = request.tool_choice if request.tool_choice is not None else request.function_call
    match given:
        case None | "auto" | "none":
            return Choice(given or "auto")
        case "required" | "any" if tools.specs:
            return Choice("required")
        case {"type": "allowed_tools"}:
            return _allowed(Fields(given, "tool_choice"), tools)
        case {"function": {"name": str(name)}} | {"custom": {"name": str(name)}} | {"name": str(name)}:
            if any(spec.name == name for spec in tools.specs):
                return Choice(tools.flat_name(name))
            raise RequestError(f"tool_choice names {name!r}, which is not declared", param="tool_choice")
    raise RequestError(
        "tool_choice is auto, none, required (with tools), or names a declared function", param="tool_choice"
    )


def _allowed(choice: Fields, tools: ToolSet) -> Choice:
    given = choice.object("allowed_tools") or choice
    names = {(tool.object("function") or tool.object("custom") or tool).word("name") for tool in given.objects("tools")}
    left = frozenset(spec.flat for spec in tools.specs if spec.name in names)
    if not left:
        raise RequestError("tool_choice allows no tool that is declared", param="tool_choice")
    return Choice("required" if given["mode"] == "required" else "auto", left)
