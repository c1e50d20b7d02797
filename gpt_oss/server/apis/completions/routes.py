"""The route of /v1/completions: computes what is wanted, at once or in pieces."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from gpt_oss.params import SamplingParams
from gpt_oss.server.apis.completions.read import CompletionRequest, Wanted, read
from gpt_oss.server.apis.completions.write import Choice, usage
from gpt_oss.server.core.aside import aside
from gpt_oss.server.core.body import Json, read_json
from gpt_oss.server.core.continuation import Continuation
from gpt_oss.server.core.errors import as_response
from gpt_oss.server.core.stream import event, merged, streamed, whole
from gpt_oss.server.openapi import body_of
from gpt_oss.server.runner import Asker
from gpt_oss.server.service import service_of

router = APIRouter()


@router.post("/v1/completions", openapi_extra=body_of(CompletionRequest))
async def create(request: Request) -> Response:
    """A text for each prompt and each of `n`, or with `stream` its pieces."""
    service = service_of(request)
    body = await read_json(request)
    wanted = await aside(lambda: read(body))
    prompts = [prompt for prompt in wanted.prompts for _ in range(wanted.n)]
    choices = [Choice(index, Continuation(prompt, wanted.stops)) for index, prompt in enumerate(prompts)]
    identity = service.identity("cmpl-") | {"object": "text_completion"}
    pieces = _pieces(service.asker, wanted, choices)
    if wanted.stream:
        sent = _sent(pieces, wanted, choices, identity)
        return await streamed(request, sent, lambda error: event(as_response(error)[1]))

    def written() -> Json:
        listed = [choice.piece(wanted, choice.continuation.text) for choice in choices]
        return {**identity, "choices": listed, "usage": usage(choices)}

    return await whole(request, pieces, written)


async def _sent(
    pieces: AsyncGenerator[Json, None], wanted: Wanted, choices: Sequence[Choice], identity: Mapping[str, Any]
) -> AsyncGenerator[bytes, None]:
    async for piece in pieces:
        yield event({**identity, "choices": [piece]})
    if wanted.with_usage:
        yield event({**identity, "choices": [], "usage": usage(choices)})
    yield event("[DONE]")


async def _pieces(asker: Asker, wanted: Wanted, choices: Sequence[Choice]) -> AsyncGenerator[Json, None]:
    """The texts of all choices, in the order in which they come."""
    groups = [choices[first : first + wanted.n] for first in range(0, len(choices), wanted.n)]
    async for _, piece in merged([_of_prompt(asker, wanted, group) for group in groups]):
        yield piece


async def _of_prompt(asker: Asker, wanted: Wanted, choices: Sequence[Choice]) -> AsyncGenerator[Json, None]:
    """The texts of the choices of one prompt, which is scored once, before its continuations."""
    if wanted.scored is not None:
        found = await asker.scores(choices[0].continuation.prompt, wanted.scored)
        for choice in choices:
            choice.scores = found
    async for _, piece in merged([_continue(asker, wanted, choice) for choice in choices]):
        yield piece


async def _continue(asker: Asker, wanted: Wanted, choice: Choice) -> AsyncGenerator[Json, None]:
    """The pieces of one choice, written as soon as they are there: the next one may be there before they are sent."""
    async for text in _texts(asker, wanted, choice):
        if wanted.stream:
            yield choice.piece(wanted, text)


async def _texts(asker: Asker, wanted: Wanted, choice: Choice) -> AsyncGenerator[str, None]:
    continuation = choice.continuation
    opening = continuation.echo() if wanted.echo else ""
    if wanted.params is None:
        yield opening + continuation.end()
        return
    if wanted.echo:
        yield opening
    async for text in continuation.run(asker, _numbered(wanted.params, choice.index)):
        if text or continuation.finish_reason or wanted.with_ids:
            yield text


def _numbered(params: SamplingParams, number: int) -> SamplingParams:
    """Params of one of several texts: they differ also where the request has a seed."""
    return params if params.seed is None else replace(params, seed=params.seed + number)
