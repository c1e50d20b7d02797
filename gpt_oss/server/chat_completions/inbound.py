"""A Chat Completions request as a plan. What is not supported is refused by its field's name; the rest is echoed."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pydantic

from gpt_oss.errors import HarmonyError, ParameterError
from gpt_oss.harmony.convert import Aliases, from_chat
from gpt_oss.harmony.grammar import FunctionSchema
from gpt_oss.harmony.render import ResponseFormat
from gpt_oss.params import Grammar, SamplingParams
from gpt_oss.server.errors import RequestError
from gpt_oss.server.openapi import read_as
from gpt_oss.server.plan import EFFORTS, Choice, Plan, grammar_of
from gpt_oss.tools.functions import declared_function
from gpt_oss.tools.toolbox import Toolbox
from gpt_oss.turn import TurnLimits

MOST_CHOICES = 16
MOST_TOP_LOGPROBS = 20


class StreamOptions(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="ignore")
    include_usage: bool | None = False


class Reasoning(pydantic.BaseModel):
    """exclude: think, but do not tell."""

    model_config = pydantic.ConfigDict(extra="ignore")
    effort: str | None = None
    exclude: bool | None = None


class ChatRequest(pydantic.BaseModel):
    """The fields that mean something here. Others are accepted and have no effect, as in other servers."""

    model_config = pydantic.ConfigDict(extra="ignore", strict=False)

    model: str = ""
    messages: list[dict[str, Any]] = pydantic.Field(min_length=1)
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    functions: list[dict[str, Any]] | None = None
    function_call: str | dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    reasoning: Reasoning | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: float | None = pydantic.Field(None, ge=0, le=2)
    top_p: float | None = pydantic.Field(None, gt=0, le=1)
    top_k: int | None = pydantic.Field(None, ge=-1)
    min_p: float | None = pydantic.Field(None, ge=0, le=1)
    max_tokens: int | None = pydantic.Field(None, ge=1)
    max_completion_tokens: int | None = pydantic.Field(None, ge=1)
    presence_penalty: float | None = pydantic.Field(None, ge=-2, le=2)
    frequency_penalty: float | None = pydantic.Field(None, ge=-2, le=2)
    logit_bias: dict[int, float] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = pydantic.Field(None, ge=0, le=MOST_TOP_LOGPROBS)
    n: int = pydantic.Field(1, ge=1, le=MOST_CHOICES)
    seed: int | None = None
    stop: str | list[str] | None = None
    modalities: list[Literal["text", "audio"]] | None = None
    audio: dict[str, Any] | None = None
    web_search_options: dict[str, Any] | None = None


@dataclass(frozen=True)
class Inbound:
    """plans: one for each choice. logprobs: whether they are sent."""

    request: ChatRequest
    plans: tuple[Plan, ...]
    logprobs: bool


def parse_request(body: Any) -> ChatRequest:
    """Raises RequestError that names the field."""
    return read_as(ChatRequest, body)


def inbound(request: ChatRequest, *, today: str | None = None) -> Inbound:
    """Raises RequestError."""
    if request.audio is not None or "audio" in (request.modalities or []):
        raise RequestError("gpt-oss writes text, not audio", param="modalities" if request.modalities else "audio")
    if request.web_search_options is not None:
        raise RequestError("the web is searched for /v1/responses, with a web_search tool", param="web_search_options")
    tools = _tools(request)
    choice = _choice(request, tools)
    given = request.reasoning_effort or (request.reasoning.effort if request.reasoning else None)
    try:
        prompt = from_chat(
            request.messages,
            tools=[{"type": "function", "function": tool} for tool in tools],
            reasoning_effort=EFFORTS.get(given or "medium", given),
            response_format=request.response_format,
            current_date=today or datetime.date.today().isoformat(),
        )
        formats = tuple(prompt.conversation.response_formats)
        grammar = _grammar(tools, choice, prompt.aliases, formats)
        toolbox = Toolbox.of(
            declared_function(tool["name"], tool.get("description") or "", tool.get("parameters")) for tool in tools
        )
        wants_logprobs = bool(request.logprobs or request.top_logprobs is not None)
        params = SamplingParams(
            temperature=1.0 if request.temperature is None else request.temperature,
            top_p=1.0 if request.top_p is None else request.top_p,
            top_k=max(0, request.top_k or 0),
            min_p=request.min_p or 0.0,
            seed=request.seed,
            max_tokens=request.max_completion_tokens or request.max_tokens,
            logprobs=(request.top_logprobs or 0) if wants_logprobs else None,
            logit_bias=request.logit_bias or {},
            presence_penalty=request.presence_penalty or 0.0,
            frequency_penalty=request.frequency_penalty or 0.0,
            grammar=grammar,
        )
    except (HarmonyError, ParameterError) as error:
        raise RequestError(str(error), param=_field(str(error))) from None
    stops = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ())
    plan = Plan(
        tuple(prompt.conversation.messages),
        toolbox,
        params,
        limits=TurnLimits(tokens=params.max_tokens, drop_oldest=False),
        response_formats=formats,
        aliases=prompt.aliases,
        stop_texts=tuple(text for text in stops if text),
    )
    return Inbound(request, tuple(_numbered(plan, number) for number in range(request.n)), wants_logprobs)


def _grammar(
    tools: Sequence[Mapping[str, Any]], choice: Choice, aliases: Aliases, formats: Sequence[ResponseFormat]
) -> Callable[[], Grammar] | None:
    able = [tool for tool in tools if choice.allowed is None or tool["name"] in choice.allowed]
    return grammar_of(
        [FunctionSchema(aliases.in_prompt(tool["name"]), tool.get("parameters") or None) for tool in able],
        strict=frozenset(aliases.in_prompt(tool["name"]) for tool in able if tool.get("strict")),
        tool_choice=aliases.in_prompt(choice.of),
        formats=formats,
    )


def _numbered(plan: Plan, number: int) -> Plan:
    """Choices of one request differ also where it has a seed."""
    if number == 0 or plan.params.seed is None:
        return plan
    return replace(plan, params=replace(plan.params, seed=plan.params.seed + number))


def _field(message: str) -> str | None:
    """The field that an error of harmony's begins with: `messages[2].content must be …`."""
    word = message.split(" ", 1)[0].rstrip(":")
    return word if word.split(".")[0].split("[")[0] in ChatRequest.model_fields else None


def _tools(request: ChatRequest) -> list[dict[str, Any]]:
    """Declared functions, flat; also in the form that was used before `tools`. Other kinds of tools are left out."""
    tools: list[dict[str, Any]] = []
    for number, tool in enumerate(request.tools or []):
        if tool.get("type", "function") != "function":
            continue
        function = tool.get("function")
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise RequestError(f"tools[{number}].function needs a name", param=f"tools[{number}].function")
        tools.append(function)
    for number, function in enumerate(request.functions or []):
        if not isinstance(function.get("name"), str):
            raise RequestError(f"functions[{number}] needs a name", param=f"functions[{number}]")
        tools.append(function)
    return tools


def _choice(request: ChatRequest, tools: Sequence[Mapping[str, Any]]) -> Choice:
    given = request.tool_choice if request.tool_choice is not None else request.function_call
    names = [tool["name"] for tool in tools]
    match given:
        case None | "auto" | "none":
            return Choice(given or "auto")
        case "required" if names:
            return Choice("required")
        case {
            "type": "allowed_tools",
            "allowed_tools": {"mode": ("auto" | "required") as mode, "tools": list(allowed)},
        }:
            listed = {t.get("function", t).get("name") for t in allowed if isinstance(t, dict)}
            left = frozenset(name for name in names if name in listed)
            if not left:
                raise RequestError("tool_choice allows no tool that is declared", param="tool_choice")
            return Choice(str(mode), left)
        case {"function": {"name": str(name)}} | {"name": str(name)}:
            if name not in names:
                raise RequestError(f"tool_choice names {name!r}, which is not declared", param="tool_choice")
            return Choice(name)
        case _:
            raise RequestError(
                "tool_choice is auto, none, required (with tools), or names a declared function", param="tool_choice"
            )
