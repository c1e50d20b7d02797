"""/v1/responses over a WebSocket: one request after the other on a connection, the same events as frames of JSON.

A connection remembers its last response, also one that is not stored, so that a client can go on from it and send
only what is new. With `generate: false` nothing is said: the prompt is read into the cache, for the request to come.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing

from fastapi import APIRouter
from starlette.websockets import WebSocket, WebSocketDisconnect

from gpt_oss.events import Usage
from gpt_oss.params import SamplingParams
from gpt_oss.server.apis.responses.live import numbered
from gpt_oss.server.apis.responses.read import ResponsesRequest, read_request
from gpt_oss.server.apis.responses.routes import begin
from gpt_oss.server.apis.responses.transcript import Transcript, transcript_of
from gpt_oss.server.apis.responses.write import ResponseWriter
from gpt_oss.server.core import stream
from gpt_oss.server.core.aside import aside
from gpt_oss.server.core.body import Json, parsed
from gpt_oss.server.core.errors import ENDS, RequestError, as_response
from gpt_oss.server.openapi import read_as
from gpt_oss.server.service import service_of

MOST_WAITING_FRAMES = 16  # after those a client has to wait
router = APIRouter()
log = logging.getLogger("gpt_oss.server")


@router.websocket("/v1/responses")
async def connection(socket: WebSocket) -> None:
    await socket.accept()
    frames: asyncio.Queue[str] = asyncio.Queue(MOST_WAITING_FRAMES)
    answering = asyncio.ensure_future(_Answers(socket).to(frames))
    try:
        while True:
            await frames.put(await socket.receive_text())
    except (WebSocketDisconnect, KeyError):  # KeyError: a frame of bytes, which nobody sends
        pass
    finally:  # also in the middle of an answer, which ends with its reader
        answering.cancel()
        await asyncio.gather(answering, return_exceptions=True)


class _Answers:
    """What one connection is told. Its memory is the last response and all the items that led to it."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._service = service_of(socket)
        self._last: dict[str, list[Json]] = {}

    async def to(self, frames: asyncio.Queue[str]) -> None:
        while True:
            text = await frames.get()
            try:
                await self._answer(await _body(text))
            except ENDS:
                raise
            except BaseException as error:
                status, body, _ = as_response(error)
                if status >= 500:
                    log.error("a request on a WebSocket failed", exc_info=error)
                await self._send({"type": "error", "status": status, **body})

    async def _answer(self, body: Json) -> None:
        given = {name: value for name, value in body.items() if name not in ("type", "stream")}
        wanted = await aside(lambda: read_as(ResponsesRequest, given))
        if wanted.background:
            raise RequestError("a WebSocket has no background; ask over HTTP", param="background")
        last = self._last
        if wanted.previous_response_id in last:
            self._last = {}  # what a turn that fails went on from cannot be gone on from again
        transcript = await transcript_of(wanted, self._service, last)
        if body.get("generate") is False:
            await self._warm_up(wanted, transcript)
        else:
            await self._generate(wanted, transcript)

    async def _generate(self, wanted: ResponsesRequest, transcript: Transcript) -> None:
        live = await begin(self._service, wanted, transcript)
        try:
            async with aclosing(live.after(-1)) as events:
                pending = asyncio.ensure_future(anext(events, None))
                while True:
                    if not (await asyncio.wait({pending}, timeout=stream.KEEP_ALIVE_S))[0]:
                        live.keep_alive()
                        continue
                    event = pending.result()
                    if event is None:
                        break
                    await self._send(event)
                    pending = asyncio.ensure_future(anext(events, None))
        finally:
            await live.stop()
        if not live.events:  # it could not even begin
            raise live.failure or RuntimeError("the response failed")
        if live.writer.status in ("completed", "incomplete"):
            self._last = {live.writer.id: [*transcript.items, *live.writer.output]}

    async def _warm_up(self, wanted: ResponsesRequest, transcript: Transcript) -> None:
        service = self._service
        ask = await aside(
            lambda: read_request(
                wanted,
                transcript.items,
                service.hosted,
                conversation=transcript.conversation,
                recall=service.memory.recall,
            )
        )
        writer = ResponseWriter(ask, service.model)
        prompt = await aside(ask.ask.prompt)
        async with aclosing(self._service.asker.tokens(prompt, SamplingParams(max_tokens=1))) as tokens:
            async for _ in tokens:
                pass
        events = [*writer.start(), *writer.done_with_nothing(Usage(prompt_tokens=len(prompt)))]
        for event in numbered(events, 0):
            await self._send(event)
        self._last = {writer.id: list(transcript.items)}

    async def _send(self, event: Json) -> None:
        await self._socket.send_text(stream.json_text(event))


async def _body(text: str) -> Json:
    body = await parsed(text)
    if not isinstance(body, dict) or body.get("type") != "response.create":
        raise RequestError("a frame is an object of type response.create", param="type")
    return body
