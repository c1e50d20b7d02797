"""What a Response says of its own request: every field, also those that have no effect. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpt_oss.server.apis.responses.read import ResponsesRequest
from gpt_oss.server.core.body import Json
from gpt_oss.server.core.hosted import without_secrets


def echo_of(request: ResponsesRequest, conversation: str | None, store: bool) -> Json:
    """The fields of a Response that are known before anything is computed."""
    reasoning, text = request.reasoning, request.text
    return {
        "object": "response",
        "background": bool(request.background),
        "conversation": {"id": conversation} if conversation else None,
        "frequency_penalty": 0.0,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": request.max_tool_calls,
        "metadata": request.metadata or {},
        "parallel_tool_calls": False,  # the models make one call at a time
        "presence_penalty": 0.0,
        "previous_response_id": request.previous_response_id,
        "prompt_cache_key": request.prompt_cache_key,
        "prompt_cache_retention": request.prompt_cache_retention,
        "reasoning": {
            "effort": (reasoning.effort if reasoning else None) or "medium",
            "summary": reasoning.summary if reasoning else None,
        },
        "safety_identifier": request.safety_identifier,
        "service_tier": "default",
        "store": store,
        "temperature": 1.0 if request.temperature is None else request.temperature,
        "text": {
            "format": (text.format if text else None) or {"type": "text"},
            "verbosity": (text.verbosity if text else None) or "medium",
        },
        "tool_choice": request.tool_choice,
        "tools": _tools(request.tools),
        "top_logprobs": request.top_logprobs or 0,
        "top_p": 1.0 if request.top_p is None else request.top_p,
        "truncation": request.truncation or "disabled",
        "user": request.user,
    }


def _tools(tools: Sequence[Mapping[str, Any]]) -> list[Json]:
    """Functions with every field, for some clients insist on them; MCP servers without what lets us in there."""
    absent = {"description": None, "parameters": None, "strict": None}
    return [{**absent, **tool} if tool.get("type") == "function" else without_secrets(tool) for tool in tools]
