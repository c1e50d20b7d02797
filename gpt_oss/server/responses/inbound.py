"""A Responses request as a plan, and how its tools map back. What is not supported is refused by its field's name."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pydantic

from gpt_oss.errors import HarmonyError, ParameterError
from gpt_oss.harmony.convert import Aliases, from_responses
from gpt_oss.harmony.render import ResponseFormat
from gpt_oss.params import Grammar, SamplingParams
from gpt_oss.server.errors import RequestError
from gpt_oss.server.hosted import NOTHING_HOSTED, Hosted, McpTools
from gpt_oss.server.openapi import read_as
from gpt_oss.server.plan import EFFORTS, Choice, Plan, grammar_of
from gpt_oss.server.responses.items import found_tools, harmony_items
from gpt_oss.server.responses.tools import Declared, ToolName, choice_of, declared_tools
from gpt_oss.tools.functions import declared_function
from gpt_oss.tools.toolbox import Toolbox
from gpt_oss.turn import TurnLimits


class Reasoning(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="ignore")
    effort: str | None = None
    summary: str | None = None


class Text(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="ignore")
    format: dict[str, Any] | None = None
    verbosity: str | None = None


class ResponsesRequest(pydantic.BaseModel):
    """The fields that mean something here or are echoed. Others are accepted and have no effect."""

    model_config = pydantic.ConfigDict(extra="ignore")

    model: str = ""
    input: str | list[dict[str, Any]] = ""
    instructions: str | None = None
    tools: list[dict[str, Any]] = []
    tool_choice: str | dict[str, Any] = "auto"
    parallel_tool_calls: bool | None = True
    reasoning: Reasoning | None = None
    text: Text | None = None
    stream: bool | None = False
    store: bool | None = None
    background: bool | None = False
    previous_response_id: str | None = None
    conversation: str | dict[str, Any] | None = None
    prompt: dict[str, Any] | None = None
    include: list[str] | None = None
    max_output_tokens: int | None = pydantic.Field(None, ge=1)
    max_tool_calls: int | None = pydantic.Field(None, ge=1)
    temperature: float | None = pydantic.Field(None, ge=0, le=2)
    top_p: float | None = pydantic.Field(None, gt=0, le=1)
    top_logprobs: int | None = pydantic.Field(None, ge=0, le=20)
    truncation: Literal["auto", "disabled"] | None = None
    metadata: dict[str, str] | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    safety_identifier: str | None = None
    user: str | None = None


@dataclass(frozen=True)
class Inbound:
    """names: by the name in the prompt's tools, before aliases. conversation: the id of the one that it goes on."""

    request: ResponsesRequest
    plan: Plan
    names: Mapping[str, ToolName] = field(default_factory=dict)
    conversation: str | None = None
    mcp: tuple[McpTools, ...] = ()


def parse_request(body: Any) -> ResponsesRequest:
    """Raises RequestError that names the field."""
    return read_as(ResponsesRequest, body)


def inbound(
    request: ResponsesRequest,
    items: Sequence[Mapping[str, Any]] | None = None,
    hosted: Hosted = NOTHING_HOSTED,
    *,
    conversation: str | None = None,
    mcp: Sequence[McpTools] = (),
    today: str | None = None,
) -> Inbound:
    """items: everything said so far, the request's input at its end, where that is not all (see history.py).

    Raises RequestError.
    """
    if request.prompt:
        raise RequestError("prompt templates are not kept by this server", param="prompt")
    given = _as_list(request.input) if items is None else items
    declared = declared_tools(request.tools, found_tools(given), mcp)
    built_in = hosted.tools([tool.get("type") for tool in request.tools])
    recipients = Toolbox(tuple(built_in)).recipients
    choice = choice_of(request.tool_choice, declared, recipients)
    try:
        prompt = from_responses(
            harmony_items(given, declared),
            instructions=request.instructions,
            tools=[tool.declaration for tool in declared],
            reasoning_effort=_effort(request),
            text_format=request.text.format if request.text else None,
            current_date=today or datetime.date.today().isoformat(),
            built_in=[tool.tool_config for tool in built_in],
        )
        formats = tuple(prompt.conversation.response_formats)
        grammars = _Grammars(declared, recipients, choice, prompt.aliases, formats)
        params = SamplingParams(
            temperature=1.0 if request.temperature is None else request.temperature,
            top_p=1.0 if request.top_p is None else request.top_p,
            max_tokens=request.max_output_tokens,
            logprobs=request.top_logprobs if _wants_logprobs(request) else None,
            grammar=grammars.first(),
        )
        functions = [tool.runs or declared_function(tool.flat, tool.description, tool.parameters) for tool in declared]
        toolbox = Toolbox.of([*built_in, *functions])
        later = _later(params, grammars, request.max_tool_calls) if built_in or mcp else ()
    except (HarmonyError, ParameterError) as error:
        raise RequestError(str(error), param=_field(str(error), declared)) from None
    plan = Plan(
        tuple(prompt.conversation.messages),
        toolbox,
        params,
        later,
        TurnLimits(tokens=request.max_output_tokens, drop_oldest=request.truncation == "auto"),
        response_formats=formats,
        aliases=prompt.aliases,
    )
    return Inbound(request, plan, {tool.flat: tool.name for tool in declared}, conversation, tuple(mcp))


def _as_list(given: str | Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    return [{"role": "user", "content": given}] if isinstance(given, str) else given


def _field(message: str, declared: Sequence[Declared]) -> str | None:
    """The field that an error of harmony's begins with: `input[2].content must be …`, `NAME.parameters cannot …`."""
    word = message.split(" ", 1)[0].rstrip(":")
    head = word.split(".")[0].split("[")[0]
    if head == "response_schema":
        return "text.format.schema"
    return word if head in ResponsesRequest.model_fields else "tools" if head in {t.flat for t in declared} else None


@dataclass(frozen=True)
class _Grammars:
    """What the model is held to, round by round."""

    declared: Sequence[Declared]
    recipients: Sequence[str]
    choice: Choice
    aliases: Aliases
    formats: Sequence[ResponseFormat]

    def first(self) -> Callable[[], Grammar] | None:
        chosen = self.choice.of if self.choice.of in self.recipients else self.aliases.in_prompt(self.choice.of)
        return self._of(chosen, self.declared, self.recipients)

    def second(self) -> Callable[[], Grammar] | None:
        """What was required has been called."""
        return self._of("none" if self.choice.of == "none" else "auto", self.declared, self.recipients)

    def last(self) -> Callable[[], Grammar] | None:
        """Nothing that runs here may be called any more."""
        return self._of("auto", [tool for tool in self.declared if tool.runs is None], ())

    def _of(self, choice: str, declared: Sequence[Declared], recipients: Sequence[str]) -> Callable[[], Grammar] | None:
        allowed = self.choice.allowed
        able = [tool for tool in declared if allowed is None or tool.flat in allowed]
        return grammar_of(
            [tool.schema(self.aliases) for tool in able],
            strict=frozenset(self.aliases.in_prompt(tool.flat) for tool in able if tool.is_strict),
            builtin=[name for name in recipients if allowed is None or name in allowed],
            tool_choice=choice,
            formats=self.formats,
        )


def _later(params: SamplingParams, grammars: _Grammars, most_calls: int | None) -> tuple[SamplingParams, ...]:
    """Of the rounds behind the first: calls, until there were too many, and then no more."""
    calling = replace(params, grammar=grammars.second())
    if most_calls is None:
        return (calling,)
    return (calling,) * (min(most_calls, TurnLimits().rounds) - 1) + (replace(params, grammar=grammars.last()),)


def _wants_logprobs(request: ResponsesRequest) -> bool:
    return request.top_logprobs is not None or "message.output_text.logprobs" in (request.include or [])


def _effort(request: ResponsesRequest) -> str:
    effort = request.reasoning.effort if request.reasoning else None
    if effort is None:
        return "medium"
    if effort not in EFFORTS:
        raise RequestError(f"reasoning.effort is one of {', '.join(EFFORTS)}, not {effort!r}", param="reasoning.effort")
    return EFFORTS[effort]
