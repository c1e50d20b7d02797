"""A Responses request as a plan, and how its tools map back. What is not supported is refused by its field's name."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pydantic

from gpt_oss.errors import HarmonyError, ParameterError
from gpt_oss.harmony.convert import Aliases, from_responses
from gpt_oss.harmony.grammar import FunctionSchema, answer_grammar
from gpt_oss.params import SamplingParams
from gpt_oss.server.errors import RequestError
from gpt_oss.server.hosted import NOTHING_HOSTED, Hosted, McpTools, is_hosted, recipient_of
from gpt_oss.server.plan import Plan
from gpt_oss.tools.functions import FunctionTool, declared_function
from gpt_oss.tools.toolbox import Toolbox
from gpt_oss.turn import TurnLimits

EFFORTS = {
    "none": "low",
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
    "max": "high",
}
SUMMARY = "What was said before this, in short:"
NO_IMAGE = "[an image; this model reads text only]"
FREE_TEXT = {"type": "string"}


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
    safety_identifier: str | None = None
    user: str | None = None


@dataclass(frozen=True)
class ToolName:
    """What a function of the prompt is to the client. custom: its content is free text, not JSON. mcp: the label of the
    MCP server that runs it."""

    name: str
    namespace: str | None = None
    custom: bool = False
    mcp: str | None = None


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
    try:
        return ResponsesRequest.model_validate(body)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part not in ("str", "list[dict[str,any]]"))
        raise RequestError(f"{where or 'the body'}: {first['msg']}", param=where or None) from None


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
    declared = _with_mcp(_declared(request.tools), mcp)
    built_in = hosted.tools([tool.get("type") for tool in request.tools])
    recipients = Toolbox(tuple(built_in)).recipients
    choice = _choice(request, declared, recipients)
    try:
        prompt = from_responses(
            _items(request.input if items is None else items),
            instructions=request.instructions,
            tools=[tool.declaration for tool in declared],
            reasoning_effort=_effort(request),
            text_format=request.text.format if request.text else None,
            current_date=today or datetime.date.today().isoformat(),
            built_in=[tool.tool_config for tool in built_in],
        )
        formats = tuple(prompt.conversation.response_formats)
        params = SamplingParams(
            temperature=1.0 if request.temperature is None else request.temperature,
            top_p=1.0 if request.top_p is None else request.top_p,
            max_tokens=request.max_output_tokens,
            logprobs=request.top_logprobs if _wants_logprobs(request) else None,
            grammar=None
            if not declared and not built_in and not formats
            else answer_grammar(
                functions=[tool.schema(prompt.aliases) for tool in declared],
                builtin=recipients,
                tool_choice=choice if choice in recipients else prompt.aliases.in_prompt(choice),
                response_schema=formats[0].schema if formats else None,
                strict=frozenset(prompt.aliases.in_prompt(tool.flat) for tool in declared if tool.strict),
            ),
        )
        functions = [tool.runs or declared_function(tool.flat, tool.description, tool.parameters) for tool in declared]
        toolbox = Toolbox.of([*built_in, *functions])
    except (HarmonyError, ParameterError) as error:
        word = str(error).split(" ", 1)[0].rstrip(":")
        known = word.split(".")[0].split("[")[0] in ResponsesRequest.model_fields
        raise RequestError(str(error), param=word if known else None) from None
    limits = TurnLimits(drop_oldest=request.truncation == "auto")
    if request.max_tool_calls is not None:
        limits = replace(limits, rounds=request.max_tool_calls + 1)
    plan = Plan(
        tuple(prompt.conversation.messages), toolbox, params, limits, response_formats=formats, aliases=prompt.aliases
    )
    return Inbound(request, plan, {tool.flat: tool.name for tool in declared}, conversation, tuple(mcp))


def _wants_logprobs(request: ResponsesRequest) -> bool:
    return request.top_logprobs is not None or "message.output_text.logprobs" in (request.include or [])


def _effort(request: ResponsesRequest) -> str:
    effort = request.reasoning.effort if request.reasoning else None
    if effort is None:
        return "medium"
    if effort not in EFFORTS:
        raise RequestError(f"reasoning.effort is one of {', '.join(EFFORTS)}, not {effort!r}", param="reasoning.effort")
    return EFFORTS[effort]


# ---- tools ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Declared:
    """flat: the name in the prompt, before aliases."""

    flat: str
    name: ToolName
    description: str
    parameters: Mapping[str, Any] | None
    strict: bool = False
    syntax: Literal["json", "text", "lark", "regex"] = "json"
    definition: str = ""
    runs: FunctionTool | None = None  # a tool of an MCP server

    @property
    def declaration(self) -> dict[str, Any]:
        described = {"type": "function", "name": self.flat, "description": self.description}
        return described | ({"parameters": dict(self.parameters)} if self.parameters else {})

    def schema(self, aliases: Aliases) -> FunctionSchema:
        name = aliases.in_prompt(self.flat)
        if self.syntax == "json":
            return FunctionSchema(name, self.parameters)
        return FunctionSchema(name, None, self.syntax, self.definition)


def _with_mcp(declared: list[_Declared], mcp: Sequence[McpTools]) -> list[_Declared]:
    taken = {tool.flat for tool in declared}
    for server in mcp:
        for tool in server.tools:
            if tool.name in taken:
                raise RequestError(f"{tool.name!r} of the MCP server {server.label!r} is declared twice", param="tools")
            own = ToolName(tool.name, mcp=server.label)
            declared.append(_Declared(tool.name, own, tool.description, tool.parameters, runs=tool))
    return declared


def _declared(tools: Sequence[Mapping[str, Any]]) -> list[_Declared]:
    """Functions and custom tools, those inside namespaces too. Raises RequestError for a tool of no known type."""
    found: list[_Declared] = []

    def add(tool: Mapping[str, Any], where: str, namespace: str | None = None) -> None:
        kind = tool.get("type", "function")
        if kind == "namespace" and namespace is None:
            for number, inner in enumerate(tool.get("tools") or []):
                add(inner, f"{where}.tools[{number}]", str(tool.get("name")))
            return
        if kind not in ("function", "custom"):
            if not is_hosted(kind):
                raise RequestError(f"{where}.type {kind!r} is not known", param=f"{where}.type")
            return
        name = tool.get("name")
        if not isinstance(name, str) or not name:
            raise RequestError(f"{where}.name is missing", param=f"{where}.name")
        taken = {each.flat for each in found}
        flat = name if name not in taken else f"{namespace or kind}_{name}"
        if flat in taken:
            raise RequestError(f"{where}.name {name!r} is declared twice", param=f"{where}.name")
        description = tool.get("description") or ""
        if kind == "function":
            parameters = tool.get("parameters") or None
            strict = bool(tool.get("strict"))
            found.append(_Declared(flat, ToolName(name, namespace), description, parameters, strict))
            return
        form = tool.get("format") or {}
        syntaxes: dict[object, Literal["text", "lark", "regex"]] = {"text": "text", "lark": "lark", "regex": "regex"}
        syntax = syntaxes.get(form.get("syntax") if form.get("type") == "grammar" else "text")
        if syntax is None:
            raise RequestError(f"{where}.format.syntax is lark or regex", param=f"{where}.format.syntax")
        own = ToolName(name, namespace, custom=True)
        found.append(_Declared(flat, own, description, FREE_TEXT, False, syntax, form.get("definition") or ""))

    for number, tool in enumerate(tools):
        add(tool, f"tools[{number}]")
    return found


def _choice(request: ResponsesRequest, declared: Sequence[_Declared], recipients: Sequence[str]) -> str:
    """As harmony.grammar has it."""
    flat: dict[tuple[object, object], str] = {(t.name.namespace, t.name.name): t.flat for t in declared}
    match request.tool_choice:
        case "auto" | "none":
            return str(request.tool_choice)
        case "required" if declared or recipients:
            return "required"
        case {"type": "allowed_tools", "mode": ("auto" | "required") as mode, "tools": list(allowed)}:
            named = [t for t in allowed if isinstance(t, dict)]
            names = [flat.get((t.get("namespace"), t.get("name"))) or recipient_of(str(t.get("type"))) for t in named]
            left = [name for name in names if name]
            if left:
                return str(mode) if len(left) > 1 or mode == "auto" else left[0]
        case {"type": "function" | "custom", "name": str(name)}:
            namespace = request.tool_choice.get("namespace") if isinstance(request.tool_choice, dict) else None
            if (namespace, name) in flat:
                return flat[namespace, name]
        case {"type": "mcp", "server_label": str(label), **rest}:
            fitting = [t.flat for t in declared if t.name.mcp == label and rest.get("name") in (None, t.flat)]
            if len(fitting) == 1:
                return fitting[0]
        case {"type": str(kind)} if recipient_of(kind) in recipients:
            return str(recipient_of(kind))
    raise RequestError(
        "tool_choice is auto, none, required (with tools), or names a tool that is declared and that this server has",
        param="tool_choice",
    )


# ---- items ----------------------------------------------------------------------------------------------------------


def _items(given: str | Sequence[Mapping[str, Any]]) -> str | list[Mapping[str, Any]]:
    """Items as harmony.convert reads them: custom calls as calls, outputs as text, none of hosted tools."""
    if isinstance(given, str):
        return given
    items: list[Mapping[str, Any]] = []
    for number, item in enumerate(given):
        kind = item.get("type", "message")
        if kind == "custom_tool_call":
            items.append({**item, "type": "function_call", "arguments": item.get("input") or ""})
        elif kind in ("function_call_output", "custom_tool_call_output"):
            items.append({**item, "type": "function_call_output", "output": _output(item.get("output"))})
        elif kind == "item_reference":
            raise RequestError(
                f"input[{number}] refers to an item that this server does not have", param=f"input[{number}]"
            )
        elif kind == "reasoning" or kind in ("message", "function_call"):
            items.append(item)
        elif kind == "mcp_call":
            called = {"call_id": str(item.get("id")), "name": item.get("name"), "arguments": item.get("arguments")}
            items.append({**called, "type": "function_call"})
            answer = item.get("output") or json.dumps(item.get("error"))
            items.append({"type": "function_call_output", "call_id": called["call_id"], "output": answer})
        elif kind == "compaction" and item.get("text"):
            items.append({"type": "message", "role": "user", "content": f"{SUMMARY}\n\n{item['text']}"})
        elif not is_hosted(kind):
            raise RequestError(f"input[{number}].type {kind!r} is not known", param=f"input[{number}].type")
    return items


def _output(output: Any) -> str:
    """A call's output, which is a string or a list of parts; an image cannot be read, and says so."""
    if not isinstance(output, list):
        return output if isinstance(output, str) else ""
    texts = [part.get("text", NO_IMAGE) if isinstance(part, dict) else str(part) for part in output]
    return "\n".join(str(text) for text in texts)
