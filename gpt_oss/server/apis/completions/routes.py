"""The route of /v1/completions: computes what is wanted, at once or in pieces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from gpt_oss.params import SamplingParams
from gpt_oss.server.apis.completions.read import CompletionRequest, Wanted, read
from gpt_oss.server.apis.completions.write import Choice, usage
from gpt_oss.server.core.continuation import Continuation
from gpt_oss.server.core.scoring import scores
from gpt_oss.server.core.tokenising import tokenised
from gpt_oss.server.errors import as_response
from gpt_oss.server.openapi import body_of
from gpt_oss.server.runner import Runner, together
from gpt_oss.server.service import service_of
from gpt_oss.server.sse import EventStream, begun, event, unless_gone

Json = dict[str, Any]
Give = Callable[[str, Choice], None]  # takes a text as soon as it is there, and whose it is
router = APIRouter()


@router.post("/v1/completions", openapi_extra=body_of(CompletionRequest))
async def create(request: Request) -> Response:
    """A text for each prompt and each of `n`, or with `stream` its pieces."""
    service = service_of(request)
    body = await request.json()
    wanted = await tokenised(lambda: read(body), len(await request.body()))
    prompts = [prompt for prompt in wanted.prompts for _ in range(wanted.n)]
    choices = [Choice(index, Continuation(prompt, wanted.stops)) for index, prompt in enumerate(prompts)]
    identity = service.identity("cmpl-") | {"object": "text_completion"}
    if wanted.stream:
        pieces = _stream(service.runner, wanted, choices, identity)
        return EventStream(await begun(request, pieces, lambda error: event(as_response(error)[1])))
    await unless_gone(request, _compute(service.runner, wanted, choices, lambda text, choice: None))
    written = [choice.piece(wanted, choice.continuation.text) for choice in choices]
    return JSONResponse({**identity, "choices": written, "usage": usage(choices)})


async def _stream(
    runner: Runner, wanted: Wanted, choices: Sequence[Choice], identity: Json
) -> AsyncGenerator[bytes, None]:
    pieces: asyncio.Queue[Json | Exception | None] = asyncio.Queue()

    def give(text: str, choice: Choice) -> None:
        pieces.put_nowait(choice.piece(wanted, text))

    async def pump() -> None:
        try:
            await _compute(runner, wanted, choices, give)
            pieces.put_nowait(None)
        except Exception as error:
            pieces.put_nowait(error)

    task = asyncio.ensure_future(pump())
    try:
        while (piece := await pieces.get()) is not None:
            if isinstance(piece, Exception):
                raise piece
            yield event({**identity, "choices": [piece]})
        if wanted.with_usage:
            yield event({**identity, "choices": [], "usage": usage(choices)})
        yield event("[DONE]")
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _compute(runner: Runner, wanted: Wanted, choices: Sequence[Choice], give: Give) -> None:
    """All choices; `give` gets their texts. A prompt is scored once, before its continuations."""

    async def of_prompt(mine: Sequence[Choice]) -> None:
        if wanted.scored is not None:
            found = await scores(runner, mine[0].continuation.prompt, wanted.scored)
            for choice in mine:
                choice.scores = found
        await together(_continue(runner, wanted, choice, give) for choice in mine)

    n = wanted.n
    await together(of_prompt(choices[first : first + n]) for first in range(0, len(choices), n))


async def _continue(runner: Runner, wanted: Wanted, choice: Choice, give: Give) -> None:
    continuation = choice.continuation
    opening = continuation.echo() if wanted.echo else ""
    if wanted.params is None:
        give(opening + continuation.end(), choice)
        return
    if wanted.echo:
        give(opening, choice)
    async for text in continuation.run(runner, _numbered(wanted.params, choice.index)):
        if text or continuation.finish_reason or wanted.with_ids:
            give(text, choice)


def _numbered(params: SamplingParams, number: int) -> SamplingParams:
    """Params of one of several texts: they differ also where the request has a seed."""
    return params if params.seed is None else replace(params, seed=params.seed + number)
