"""POST /v1/chat/completions: from a request to a plan for each choice, run side by side, to an answer or a stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from gpt_oss.events import Event
from gpt_oss.server.chat_completions.inbound import ChatRequest, Inbound, inbound, parse_request
from gpt_oss.server.chat_completions.outbound import ChoiceFold, Delta, chunk, completion, usage_of
from gpt_oss.server.errors import as_response
from gpt_oss.server.openapi import body_of
from gpt_oss.server.plan import Plan
from gpt_oss.server.runner import Runner, together
from gpt_oss.server.service import Service, service_of
from gpt_oss.server.sse import EventStream, ahead, begun, event, unless_gone

router = APIRouter()
REASONING_NAMES = ("reasoning", "reasoning_content", "thinking")


@router.post("/v1/chat/completions", openapi_extra=body_of(ChatRequest))
async def create(request: Request) -> Response:
    """An answer, or with `stream` a stream of its parts."""
    service = service_of(request)
    wanted = inbound(with_reasoning(service, parse_request(await request.json())))
    if not wanted.request.stream:
        return JSONResponse(await unless_gone(request, _answer(service, wanted)))
    return EventStream(await begun(request, _stream(service, wanted), _failed))


def with_reasoning(service: Service, wanted: ChatRequest) -> ChatRequest:
    """Most clients send calls back without the reasoning that led to them: it is put back by the call's id."""
    messages = []
    for message in wanted.messages:
        calls = message.get("tool_calls")
        if isinstance(calls, list) and calls and not any(message.get(name) for name in REASONING_NAMES):
            first = calls[0].get("id") if isinstance(calls[0], dict) else None
            text = service.memory.recall(first) if isinstance(first, str) else None
            if text:
                message = {**message, "reasoning": text}
        messages.append(message)
    return wanted.model_copy(update={"messages": messages})


def _remember(service: Service, folds: Sequence[ChoiceFold]) -> None:
    for fold in folds:
        service.memory.remember([call["id"] for call in fold.calls], fold.reasoning)


def _folds(wanted: Inbound) -> list[ChoiceFold]:
    shown = not (wanted.request.reasoning and wanted.request.reasoning.exclude)
    return [ChoiceFold(plan.aliases, plan.stop_texts, shows_reasoning=shown) for plan in wanted.plans]


async def _answer(service: Service, wanted: Inbound) -> dict[str, Any]:
    folds = _folds(wanted)

    async def run(plan: Plan, fold: ChoiceFold) -> None:
        async with aclosing(_events(service.runner, plan, fold)) as events:
            async for each in events:
                fold.push(each)

    await together([run(plan, fold) for plan, fold in zip(wanted.plans, folds, strict=True)])
    _remember(service, folds)
    return completion(service.identity("chatcmpl-"), folds, logprobs=wanted.logprobs)


async def _events(runner: Runner, plan: Plan, fold: ChoiceFold) -> AsyncGenerator[Event, None]:
    """Those of a turn, up to a stop text."""
    async with aclosing(runner.events(plan)) as events:
        async for each in events:
            yield each
            if fold.finish_reason is not None:
                return


def deltas(service: Service, plan: Plan, fold: ChoiceFold) -> AsyncGenerator[Delta, None]:
    """What a turn says, for other APIs than this; an empty one comes first, when it is sure that it can be computed."""
    return ahead(_deltas(service, plan, fold))


async def _deltas(service: Service, plan: Plan, fold: ChoiceFold) -> AsyncGenerator[Delta, None]:
    async with aclosing(_events(service.runner, plan, fold)) as events:
        begun = False
        async for each in events:
            if not begun:
                begun = True
                yield {}
            for delta in fold.push(each):
                yield delta
    _remember(service, [fold])


def _failed(error: Exception) -> bytes:
    return event(as_response(error)[1])


async def _stream(service: Service, wanted: Inbound) -> AsyncGenerator[bytes, None]:
    identity = service.identity("chatcmpl-")
    folds = _folds(wanted)
    parts: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()

    async def run(index: int, plan: Plan, fold: ChoiceFold) -> None:
        sent_logprobs = 0
        begun = False
        async with aclosing(_events(service.runner, plan, fold)) as events:
            async for each in events:
                if not begun:
                    begun = True
                    parts.put_nowait(event(chunk(identity, index, {"role": "assistant", "content": ""})))
                for delta in fold.push(each):
                    logprobs = None
                    if wanted.logprobs and "content" in delta:
                        logprobs = {"content": fold.logprobs[sent_logprobs:], "refusal": None}
                        sent_logprobs = len(fold.logprobs)
                    parts.put_nowait(event(chunk(identity, index, delta, logprobs=logprobs)))
        parts.put_nowait(event(chunk(identity, index, {}, fold.finish_reason or "stop")))

    async def run_all() -> None:
        try:
            await together([run(i, plan, fold) for i, (plan, fold) in enumerate(zip(wanted.plans, folds, strict=True))])
            _remember(service, folds)
            parts.put_nowait(None)
        except Exception as error:
            parts.put_nowait(error)

    pump = asyncio.ensure_future(run_all())
    try:
        while (part := await parts.get()) is not None:
            if isinstance(part, Exception):
                raise part
            yield part
        options = wanted.request.stream_options
        if options is not None and options.include_usage:
            yield event({**identity, "object": "chat.completion.chunk", "choices": [], "usage": usage_of(folds)})
        yield event("[DONE]")
    finally:
        pump.cancel()
        await asyncio.gather(pump, return_exceptions=True)
