"""POST /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from gpt_oss.server.apis.anthropic.read import Known, MessagesRequest, read_request
from gpt_oss.server.apis.anthropic.write import MessageWriter
from gpt_oss.server.core.answer import Answer, parts_of
from gpt_oss.server.core.aside import aside
from gpt_oss.server.core.ask import Ask
from gpt_oss.server.core.body import Json, read_json
from gpt_oss.server.core.errors import Shape, as_response
from gpt_oss.server.core.stream import event, merged, streamed, warning_headers, whole
from gpt_oss.server.openapi import body_of, read_as
from gpt_oss.server.service import Service, service_of

router = APIRouter()


@router.post("/v1/messages", openapi_extra=body_of(MessagesRequest))
async def create(request: Request) -> Response:
    """A message, or with `stream` its events."""
    service = service_of(request)
    given = await read_json(request)
    wanted, ask = await aside(lambda: _read(given, service))
    writer = MessageWriter(service.model, service.seal.close)
    events = _events(service, ask, writer)
    headers = warning_headers(ask.warnings)
    if not wanted.stream:
        return await whole(request, events, writer.message, headers)
    return await streamed(
        request,
        _sent(events),
        lambda error: _written(as_response(error, Shape.ANTHROPIC)[1]),
        keep_alive=lambda: _written({"type": "ping"}),
        headers=headers,
    )


@router.post("/v1/messages/count_tokens", openapi_extra=body_of(MessagesRequest))
async def count_tokens(request: Request) -> Response:
    """How long a request's prompt is."""
    service = service_of(request)
    given = await read_json(request)
    _, ask = await aside(lambda: _read(given, service, counts_only=True))
    await ask.tools.toolbox.close()
    return JSONResponse({"input_tokens": len(await aside(ask.prompt))})


def _read(given: object, service: Service, *, counts_only: bool = False) -> tuple[MessagesRequest, Ask]:
    wanted = read_as(MessagesRequest, given)
    return wanted, read_request(wanted, _known(service), counts_only=counts_only)


def _known(service: Service) -> Known:
    return Known(service.hosted, service.memory.recall, service.seal.open)


async def _events(service: Service, ask: Ask, writer: MessageWriter) -> AsyncGenerator[Json, None]:
    async for _, part in merged([parts_of(service.asker, ask, Answer(ask.tools, ask.stop_texts))]):
        for each in writer.push(part):
            yield each
    service.memory.remember(writer.calls, writer.reasoning)


async def _sent(events: AsyncGenerator[Json, None]) -> AsyncGenerator[bytes, None]:
    async for each in events:
        yield _written(each)


def _written(data: Json) -> bytes:
    return event(data, str(data["type"]))
