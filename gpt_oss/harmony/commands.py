"""What `gpt-oss harmony render` and `gpt-oss harmony parse` do: JSON in, plain data out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from gpt_oss.errors import HarmonyError
from gpt_oss.harmony.from_chat import from_chat
from gpt_oss.harmony.parser import parse
from gpt_oss.harmony.render import render_prompt
from gpt_oss.vocabulary import decode, special_name

_FIELDS = ("messages", "tools", "reasoning_effort", "response_format", "current_date")


def render_chat(
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    reasoning_effort: str | None = None,
    current_date: str | None = None,
) -> list[int]:
    """Tokens of OpenAI-style messages, up to the `<|start|>assistant` that asks for an answer."""
    prompt = from_chat(messages, tools=tools, reasoning_effort=reasoning_effort, current_date=current_date)
    return render_prompt(prompt.conversation)


def render_command(text: str) -> dict[str, Any]:
    """{"tokens": […], "text": "…"} of a JSON list of messages, or an object with messages and, optionally, tools,
    reasoning_effort, response_format and current_date. Raises HarmonyError, one sentence."""
    request = _json(text, 'a list of messages, or {"messages": […], "tools": […]}')
    if isinstance(request, list):
        request = {"messages": request}
    if not isinstance(request, dict) or "messages" not in request:
        raise HarmonyError('expected a list of messages, or an object with "messages"')
    unknown = sorted(set(request) - set(_FIELDS))
    if unknown:
        raise HarmonyError(f"unknown field {unknown[0]!r}; known are {', '.join(_FIELDS)}")
    prompt = from_chat(
        request["messages"],
        tools=request.get("tools"),
        reasoning_effort=request.get("reasoning_effort"),
        response_format=request.get("response_format"),
        current_date=request.get("current_date"),
    )
    tokens = render_prompt(prompt.conversation)
    return {"tokens": tokens, "text": decode(tokens)}


def parse_command(text: str) -> dict[str, Any]:
    """{"messages": […], "repairs": […]} of any JSON list of integers whatsoever. Raises HarmonyError for other JSON.

    A list that begins with `<|start|>` is read as whole messages, any other as what a model writes behind
    `<|start|>assistant`.
    """
    tokens = _json(text, "a list of token ids")
    if not isinstance(tokens, list) or not all(isinstance(t, int) and not isinstance(t, bool) for t in tokens):
        raise HarmonyError("expected a list of token ids, all of them integers")
    parser = parse(tokens, None if tokens[:1] == [200_006] else "assistant")
    messages = [
        {
            "role": message.header.role,
            "name": message.header.name,
            "channel": message.header.channel,
            "recipient": message.header.recipient,
            "content_type": message.header.content_type,
            "content": message.content,
            "is_call": message.header.is_call,
            "ended_by": None if message.ended_by is None else special_name(message.ended_by),
            "tokens": list(message.tokens),
            "repairs": list(message.repairs),
        }
        for message in parser.messages
    ]
    return {"messages": messages, "repairs": parser.repairs}


def _json(text: str, wanted: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise HarmonyError(f"standard input is not JSON ({error}); expected {wanted}") from None
    except RecursionError:
        raise HarmonyError(f"standard input is nested too deep; expected {wanted}") from None
