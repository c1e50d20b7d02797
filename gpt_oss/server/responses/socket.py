"""/v1/responses over a WebSocket: one request after the other on a connection, the same events as frames of JSON.

A connection remembers its last response, also one that is not stored, so that a client can go on from it and send
only what is new. With `generate: false` nothing is said: the prompt is read into the cache, for the request to come.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter
from starlette.websockets import WebSocket, WebSocketDisconnect

from gpt_oss.errors import GptOssError
from gpt_oss.events import Usage
from gpt_oss.harmony.render import Conversation, render_prompt
from gpt_oss.params import SamplingParams
from gpt_oss.server.errors import RequestError, as_response
from gpt_oss.server.responses.history import History, history_of
from gpt_oss.server.responses.inbound import ResponsesRequest, inbound, parse_request
from gpt_oss.server.responses.outbound import ResponseFold
from gpt_oss.server.responses.routes import begin
from gpt_oss.server.service import Service
from gpt_oss.server.sse import KEEP_ALIVE_S

Json = dict[str, Any]
router = APIRouter()


@router.websocket("/v1/responses")
async def connection(socket: WebSocket) -> None:
    await socket.accept()
    frames: asyncio.Queue[str] = asyncio.Queue()
    answering = asyncio.ensure_future(_Answers(socket).to(frames))
    try:
        while True:
            frames.put_nowait(await socket.receive_text())
    except (WebSocketDisconnect, KeyError):  # KeyError: a frame of bytes, which nobody sends
        pass
    finally:  # also in the middle of an answer, which ends with its reader
        answering.cancel()
        await asyncio.gather(answering, return_exceptions=True)


class _Answers:
    """What one connection is told. Its memory is the last response and all the items that led to it."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._service: Service = socket.app.state.service
        self._last: dict[str, list[Json]] = {}

    async def to(self, frames: asyncio.Queue[str]) -> None:
        while True:
            text = await frames.get()
            try:
                await self._answer(_body(text))
            except Exception as error:
                status, body, _ = as_response(error if isinstance(error, GptOssError) else RuntimeError())
                await self._send({"type": "error", "status": status, **body})

    async def _answer(self, body: Json) -> None:
        wanted = parse_request({name: value for name, value in body.items() if name not in ("type", "stream")})
        if wanted.background:
            raise RequestError("a WebSocket has no background; ask over HTTP", param="background")
        last = self._last
        if wanted.previous_response_id in last:
            self._last = {}  # what a turn that fails went on from cannot be gone on from again
        history = await history_of(wanted, self._service, last)
        if body.get("generate") is False:
            await self._warm_up(wanted, history)
        else:
            await self._generate(wanted, history)

    async def _generate(self, wanted: ResponsesRequest, history: History) -> None:
        live = await begin(self._service, wanted, history)
        try:
            async with aclosing(live.after(-1)) as events:
                pending = asyncio.ensure_future(anext(events, None))
                while True:
                    if not (await asyncio.wait({pending}, timeout=KEEP_ALIVE_S))[0]:
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
        if live.fold.status in ("completed", "incomplete"):
            self._last = {live.fold.id: [*history.items, *live.fold.output]}

    async def _warm_up(self, wanted: ResponsesRequest, history: History) -> None:
        plan = inbound(wanted, history.items, self._service.hosted, conversation=history.conversation)
        fold = ResponseFold(plan, self._service.model)
        prompt = render_prompt(Conversation(list(plan.plan.history), plan.plan.response_formats))
        async with aclosing(self._service.runner.tokens(prompt, SamplingParams(max_tokens=1))) as tokens:
            async for _ in tokens:
                pass
        for event in [*fold.start(), *fold.done_with_nothing(Usage(prompt_tokens=len(prompt)))]:
            await self._send(event)
        self._last = {fold.id: list(history.items)}

    async def _send(self, event: Json) -> None:
        await self._socket.send_text(json.dumps(event, ensure_ascii=False, separators=(",", ":")))


def _body(text: str) -> Json:
    try:
        body = json.loads(text)
    except ValueError as error:
        raise RequestError(f"the frame is not valid JSON: {error}") from None
    if not isinstance(body, dict) or body.get("type") != "response.create":
        raise RequestError("a frame is an object of type response.create", param="type")
    return body
