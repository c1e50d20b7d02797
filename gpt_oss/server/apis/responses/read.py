"""A Responses request as an Ask. What is not supported is refused by its field's name. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pydantic

from gpt_oss.errors import HarmonyError
from gpt_oss.harmony.history import History, formats_of
from gpt_oss.server.apis.responses.items import found_tools, read_items
from gpt_oss.server.apis.responses.tools import choice_of, specs_of
from gpt_oss.server.core.ask import Ask, ask_of, effort_of
from gpt_oss.server.core.body import Items, Json, Tools
from gpt_oss.server.core.errors import RequestError
from gpt_oss.server.core.hosted import NOTHING_HOSTED, Hosted, McpTools
from gpt_oss.server.core.sampling import SamplingFields, TokenLimit
from gpt_oss.server.core.tools import ToolSet, ToolSpec


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
    input: str | Items = ""
    instructions: str | None = None
    tools: Tools = []
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
    max_output_tokens: TokenLimit = None
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
class ResponseAsk:
    """What a request comes to.

    conversation: the id of the one that it goes on.
    mcp: the servers that it may use.
    """

    request: ResponsesRequest
    ask: Ask
    conversation: str | None = None
    mcp: tuple[McpTools, ...] = ()


def read_request(
    request: ResponsesRequest,
    items: Sequence[Mapping[str, Any]] | None = None,
    hosted: Hosted = NOTHING_HOSTED,
    *,
    conversation: str | None = None,
    mcp: Sequence[McpTools] = (),
    recall: Callable[[str], str | None] = lambda _: None,
) -> ResponseAsk:
    """items: everything said so far, the request's input at its end, where that is not all (see transcript.py).

    recall: see History. Raises RequestError.
    """
    if request.prompt:
        raise RequestError("prompt templates are not kept by this server", param="prompt")
    given = as_items(request.input) if items is None else items
    formats_given = request.text.format if request.text else None
    try:
        tools = ToolSet.of(
            [*specs_of(request.tools, "tools"), *_of_servers(mcp)],
            again=specs_of(found_tools(given), "input: tools"),
            built_in=hosted.tools([tool.get("type") for tool in request.tools]),
        )
        history = History(tools.in_prompt, recall)
        history.instruct(request.instructions or "")
        read_items(history, given, tools)
        formats = formats_of(formats_given, "text.format")
    except HarmonyError as error:
        raise RequestError(str(error), param=error.field) from None
    ask = ask_of(
        history,
        tools,
        SamplingFields(temperature=request.temperature, top_p=request.top_p),
        choice=choice_of(request.tool_choice, tools),
        formats=formats,
        effort=effort_of(request.reasoning.effort if request.reasoning else None, "reasoning.effort"),
        max_tokens=request.max_output_tokens,
        logprobs=(request.top_logprobs or 0) if _wants_logprobs(request) else None,
        drop_oldest=request.truncation == "auto",
        most_calls=request.max_tool_calls,
    )
    return ResponseAsk(request, ask, conversation, tuple(mcp))


def as_items(given: str | Sequence[Mapping[str, Any]]) -> list[Json]:
    """A request's input as items."""
    if not isinstance(given, str):
        return [dict(item) for item in given]
    return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": given}]}]


def _of_servers(mcp: Sequence[McpTools]) -> list[ToolSpec]:
    return [
        ToolSpec(
            each.name,
            "mcp",
            each.description,
            each.parameters,
            server=server.label,
            runs=each,
        )
        for server in mcp
        for each in server.tools
    ]


def _wants_logprobs(request: ResponsesRequest) -> bool:
    return request.top_logprobs is not None or "message.output_text.logprobs" in (request.include or [])
