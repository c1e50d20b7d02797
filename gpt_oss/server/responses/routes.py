"""POST /v1/responses: from a request to a plan, run, to a Response or a stream of its events."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from gpt_oss.events import Event
from gpt_oss.server.errors import as_response
from gpt_oss.server.responses.inbound import inbound, parse_request
from gpt_oss.server.responses.outbound import ResponseFold
from gpt_oss.server.service import service_of
from gpt_oss.server.sse import EventStream, event, unless_gone

router = APIRouter()


@router.post("/v1/responses")
async def create(request: Request) -> Response:
    """A Response, or with `stream` its events."""
    service = service_of(request)
    wanted = inbound(parse_request(await request.json()))
    fold = ResponseFold(wanted, service.model)
    events = service.runner.events(wanted.plan)
    if not wanted.request.stream:
        return JSONResponse(await unless_gone(request, _whole(fold, events)))
    # The first event tells whether the request can be served at all: until then an error is an error with its status.
    first = await unless_gone(request, anext(events))
    return EventStream(_stream(fold, first, events), keep_alive=lambda: _sent(fold.keep_alive()))


async def _whole(fold: ResponseFold, events: AsyncGenerator[Event, None]) -> dict[str, object]:
    async with aclosing(events):
        async for each in events:
            fold.push(each)
    return fold.response()


async def _stream(fold: ResponseFold, first: Event, events: AsyncGenerator[Event, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(events):
        for start in fold.start():
            yield _sent(start)
        try:
            for done in fold.push(first):
                yield _sent(done)
            async for each in events:
                for done in fold.push(each):
                    yield _sent(done)
        except Exception as error:
            for done in fold.fail("server_error", as_response(error)[1]["error"]["message"]):
                yield _sent(done)


def _sent(data: dict[str, object]) -> bytes:
    return event(json.dumps(data, ensure_ascii=False, separators=(",", ":")), str(data["type"]))
