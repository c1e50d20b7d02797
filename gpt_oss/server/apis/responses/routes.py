"""/v1/responses: from a request to an Ask, run, to a Response or a stream of its events; and what is kept of it."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response

from gpt_oss.server.apis.responses.compaction import compact
from gpt_oss.server.apis.responses.live import LiveResponse
from gpt_oss.server.apis.responses.read import ResponseAsk, ResponsesRequest, read_request
from gpt_oss.server.apis.responses.transcript import CALLS, Transcript, transcript_of
from gpt_oss.server.apis.responses.write import ResponseWriter
from gpt_oss.server.core import stream
from gpt_oss.server.core.aside import aside
from gpt_oss.server.core.body import Json, read_json
from gpt_oss.server.core.errors import RequestError
from gpt_oss.server.core.hosted import McpTools
from gpt_oss.server.core.pages import page_of
from gpt_oss.server.core.stream import COMMENT, EventStream, event, unless_gone, warning_headers
from gpt_oss.server.openapi import body_of, read_as
from gpt_oss.server.service import Service, service_of
from gpt_oss.server.state.store import Store, Stored, StoreError
from gpt_oss.server.trace import Trace

TURN_OF = "gpt_oss_conversation"  # in metadata, the conversation that the page keeps a response as a turn of
router = APIRouter()
log = logging.getLogger("gpt_oss.server")


@router.head("/v1/responses")
async def here() -> Response:
    """Some clients look first."""
    return Response()


@router.post("/v1/responses", openapi_extra=body_of(ResponsesRequest))
async def create(request: Request) -> Response:
    """A Response, or with `stream` its events. With `background` it is computed whether or not anyone waits."""
    service = service_of(request)
    wanted = await _wanted(request)
    live = await begin(service, wanted, await transcript_of(wanted, service))
    headers = warning_headers(live.writer.wanted.ask.warnings)
    if wanted.background:
        body = live.writer.response()
        await live.written.wait()
        if isinstance(live.refusal, Exception):
            raise live.refusal
        if wanted.stream:
            return EventStream(_stream(live), keep_alive=lambda: _keep_alive(live), headers=headers)
        return JSONResponse(body, headers=headers)
    try:
        # The first event tells whether the request can be served at all: until then an error is one with its status.
        await unless_gone(request, live.begun(within_s=stream.KEEP_ALIVE_S if wanted.stream else None))
        if wanted.stream:
            return EventStream(_ended_with(live), keep_alive=lambda: _keep_alive(live), headers=headers)
        await unless_gone(request, _finished(live))
    except BaseException:
        await live.stop()
        raise
    if live.writer.status == "failed":
        raise live.failure or RuntimeError("the response failed")
    return JSONResponse(live.response(), headers=headers)


async def _wanted(request: Request) -> ResponsesRequest:
    given = await read_json(request)
    return await aside(lambda: read_as(ResponsesRequest, given))


async def begin(service: Service, wanted: ResponsesRequest, transcript: Transcript) -> LiveResponse:
    """Compute a response. Raises RequestError."""
    store = service.store if wanted.store is not False else None
    if wanted.background and store is None:
        raise RequestError("background needs store, and a server that stores", param="background")
    if wanted.background:
        service.runner.check_room()
    ask = await _read(service, wanted, transcript)
    seal = service.seal.close if "reasoning.encrypted_content" in (wanted.include or []) else None
    writer = ResponseWriter(ask, service.model, store=store is not None, seal=seal)
    if wanted.background:
        writer.queue()

    keeper = _Keeper(service, store, wanted, transcript, writer)
    watch = keeper.trace.push if keeper.turn_of else lambda _: None

    async def at_end(sent: list[Json]) -> None:
        remember(service, writer)
        await _disconnect(ask.mcp)
        await keeper.finish(sent)

    def at_failure(sent: list[Json]) -> None:
        service.add_live(writer.id, live)
        service.owed.add(writer.id, lambda: keeper.finish(sent), lambda: service.drop_live(writer.id))

    live = LiveResponse(writer, service.asker, keeper.begin, at_end, at_failure, watch)
    service.add_live(writer.id, live)
    return live


class _Keeper:
    """Writes one response down: at its beginning, and at its end. store: None, and nothing of it is kept."""

    def __init__(
        self,
        service: Service,
        store: Store | None,
        wanted: ResponsesRequest,
        transcript: Transcript,
        writer: ResponseWriter,
    ) -> None:
        self.trace = Trace()
        self.turn_of = (wanted.metadata or {}).get(TURN_OF) if store is not None else None
        self._service = service
        self._store = store
        self._transcript = transcript
        self._writer = writer
        self._in_background = bool(wanted.background)
        self._kept = False  # there may be a row of it

    async def begin(self) -> None:
        if self._store is None:
            return
        self._kept = True
        transcript = self._transcript
        try:
            await self._store.begin(self._writer.response(), transcript.added, transcript.conversation, self.turn_of)
        except StoreError as error:
            self._kept = error.unsure
            raise

    async def finish(self, sent: list[Json]) -> None:
        """Raises StoreError where it has to be tried again."""
        if self._store is not None and self._kept:
            trace = self.trace.body() if self.turn_of else None
            events = sent if self._in_background else ()
            await self._store.finish(self._writer.response(), events, self._transcript.added, trace)
        self._service.drop_live(self._writer.id)


async def _read(service: Service, wanted: ResponsesRequest, transcript: Transcript) -> ResponseAsk:
    """The request's ask, with the MCP servers that it names connected. Raises RequestError."""
    mcp = await service.hosted.connect(wanted.tools)
    try:
        return await aside(
            lambda: read_request(
                wanted,
                transcript.items,
                service.hosted,
                conversation=transcript.conversation,
                mcp=mcp,
                recall=service.memory.recall,
            )
        )
    except BaseException:
        await _disconnect(mcp)
        raise


async def _disconnect(mcp: Sequence[McpTools]) -> None:
    for each in mcp:
        try:
            await each.server.close()
        except Exception:
            log.exception("the connection to an MCP server could not be closed")


def remember(service: Service, writer: ResponseWriter) -> None:
    """Reasoning, by its item's id and by the calls that it led to; and what calls that were run here gave."""
    for identity, call in writer.ran.items():
        service.memory.remember([identity], json.dumps(call))
    thoughts: list[str] = []
    for item in writer.output:
        if item["type"] == "reasoning":
            text = "".join(part["text"] for part in item.get("content") or item["summary"])
            service.memory.remember([item["id"]], text)
            thoughts.append(text)
        elif item["type"] in CALLS:
            service.memory.remember([item["call_id"]], "\n".join(thoughts))


async def _finished(live: LiveResponse) -> None:
    await asyncio.shield(live.task)


async def _stream(live: LiveResponse, after: int = -1) -> AsyncGenerator[bytes, None]:
    async with aclosing(live.after(after)) as events:
        async for each in events:
            yield _sent(each)


async def _ended_with(live: LiveResponse) -> AsyncGenerator[bytes, None]:
    """The stream that a response lives as long as."""
    try:
        async with aclosing(_stream(live)) as events:
            async for each in events:
                yield each
    finally:
        await live.stop()


def _keep_alive(live: LiveResponse) -> bytes:
    """An event where there is one to publish, which readers are sent anyway; else a comment."""
    return b"" if live.keep_alive() else COMMENT


def _sent(data: Json) -> bytes:
    return event(data, str(data["type"]))


# ---- what is kept ---------------------------------------------------------------------------------------------------


@router.get("/v1/responses/{identity}")
async def retrieve(request: Request, identity: str, stream: bool = False, starting_after: int = -1) -> Response:
    """A Response as it stands; with `stream` its events after a number, where it was made in the background."""
    service = service_of(request)
    live = service.live_response(identity)
    stored = await _stored(service, identity)
    if not stream:
        return JSONResponse(live.response() if live else stored.body)
    if not stored.body["background"]:
        raise RequestError("only events of background responses are kept", param="stream")
    if live is not None:
        return EventStream(_stream(live, starting_after), keep_alive=lambda: _keep_alive(live))
    assert service.store is not None
    kept = await service.store.events_after(identity, -1)
    if not kept:  # the server stopped before it was finished: this is how it ended
        ending = "response.failed" if stored.body["status"] == "failed" else "response.incomplete"
        kept = [{"type": ending, "sequence_number": starting_after + 1, "response": stored.body}]

    async def again() -> AsyncGenerator[bytes, None]:
        for each in kept:
            if each["sequence_number"] > starting_after:
                yield _sent(each)

    return EventStream(again())


@router.delete("/v1/responses/{identity}")
async def delete(request: Request, identity: str) -> Json:
    service = service_of(request)
    await _stored(service, identity)
    live = service.live_response(identity)
    if live is not None:
        await live.stop()
    assert service.store is not None
    await service.store.delete(identity)
    return {"id": identity, "object": "response", "deleted": True}


@router.post("/v1/responses/{identity}/cancel")
async def cancel(request: Request, identity: str) -> Response:
    """End a background response; one that has ended is given back as it is."""
    service = service_of(request)
    stored = await _stored(service, identity)
    if not stored.body["background"]:
        raise RequestError("only a response with background can be cancelled", param="background")
    live = service.live_response(identity)
    if live is not None:
        await live.cancel()
        return JSONResponse(live.response())
    return JSONResponse(stored.body)


@router.get("/v1/responses/{identity}/input_items")
async def input_items(
    request: Request,
    identity: str,
    after: str | None = None,
    limit: int = Query(20, ge=1, le=100),
    order: str = "desc",
) -> Json:
    """What the request brought, the newest first unless `order` is asc."""
    stored = await _stored(service_of(request), identity)
    return page_of(stored.input_items, after=after, limit=limit, order=order)


async def _stored(service: Service, identity: str) -> Stored:
    found = None if service.store is None else await service.store.response(identity)
    if found is None:
        raise RequestError(f"there is no response {identity!r}", param="response_id", status=404)
    return found


# ---- without an answer ----------------------------------------------------------------------------------------------


@router.post("/v1/responses/input_tokens", openapi_extra=body_of(ResponsesRequest))
async def input_tokens(request: Request) -> Json:
    """How long a request's prompt is."""
    service = service_of(request)
    wanted = await _wanted(request)
    transcript = await transcript_of(wanted, service)
    recall = service.memory.recall
    ask = (await aside(lambda: read_request(wanted, transcript.items, service.hosted, recall=recall))).ask
    await ask.tools.toolbox.close()
    return {"object": "response.input_tokens", "input_tokens": len(await aside(ask.prompt))}


@router.post("/v1/responses/compact", openapi_extra=body_of(ResponsesRequest))
async def compacted(request: Request) -> Response:
    """A long history as a short one: what users said, and a sealed summary by the model of all the rest."""
    service = service_of(request)
    body = await read_json(request)
    if not isinstance(body, dict) or not isinstance(body.get("model"), str):
        raise RequestError("model is missing", param="model")
    wanted = await aside(lambda: read_as(ResponsesRequest, {**body, "tools": []}))
    transcript = await transcript_of(wanted, service)
    output, usage = await unless_gone(request, compact(service, wanted, transcript))
    identity = {"id": f"resp_{uuid.uuid4().hex}", "object": "response.compaction", "created_at": int(time.time())}
    return JSONResponse({**identity, "output": output, "usage": usage})
