"""/v1/responses: from a request to a plan, run, to a Response or a stream of its events; and what is kept of it."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response

from gpt_oss.harmony.render import Conversation, render_prompt
from gpt_oss.server.errors import RequestError
from gpt_oss.server.hosted import McpTools
from gpt_oss.server.openapi import body_of
from gpt_oss.server.responses.compaction import compact
from gpt_oss.server.responses.history import CALLS, History, history_of
from gpt_oss.server.responses.inbound import Inbound, ResponsesRequest, inbound, parse_request
from gpt_oss.server.responses.live import LiveResponse
from gpt_oss.server.responses.outbound import ResponseFold
from gpt_oss.server.service import Service, service_of
from gpt_oss.server.sse import KEEP_ALIVE_S, EventStream, event, unless_gone
from gpt_oss.server.state.store import Stored
from gpt_oss.server.state.turns import add_turns, keep_trace
from gpt_oss.server.trace import Trace

Json = dict[str, Any]
TURN_OF = "gpt_oss_conversation"  # in metadata, the conversation that the page keeps a response as a turn of
router = APIRouter()


@router.head("/v1/responses")
async def here() -> Response:
    """Some clients look first."""
    return Response()


@router.post("/v1/responses", openapi_extra=body_of(ResponsesRequest))
async def create(request: Request) -> Response:
    """A Response, or with `stream` its events. With `background` it is computed whether or not anyone waits."""
    service = service_of(request)
    wanted = parse_request(await request.json())
    live = await begin(service, wanted, await history_of(wanted, service))
    if wanted.background:
        body = live.fold.response()
        await live.written.wait()
        if wanted.stream:
            return EventStream(_stream(live), keep_alive=lambda: _keep_alive(live))
        return JSONResponse(body)
    try:
        # The first event tells whether the request can be served at all: until then an error is one with its status.
        await unless_gone(request, live.begun(within_s=KEEP_ALIVE_S if wanted.stream else None))
        if wanted.stream:
            return EventStream(_ended_with(live), keep_alive=lambda: _keep_alive(live))
        await unless_gone(request, _finished(live))
    except BaseException:
        await live.stop()
        raise
    if live.fold.status == "failed":
        raise live.failure or RuntimeError("the response failed")
    return JSONResponse(live.fold.response())


async def begin(service: Service, wanted: ResponsesRequest, history: History) -> LiveResponse:
    """Compute a response. Raises RequestError."""
    store = service.store if wanted.store is not False else None
    if wanted.background and store is None:
        raise RequestError("background needs store, and a server that stores", param="background")
    mcp = await service.hosted.connect(wanted.tools)
    try:
        plan = inbound(wanted, history.items, service.hosted, conversation=history.conversation, mcp=mcp)
    except BaseException:
        await _disconnect(mcp)
        raise
    seal = service.seal.close if "reasoning.encrypted_content" in (wanted.include or []) else None
    fold = ResponseFold(plan, service.model, store=store is not None, seal=seal)
    if wanted.background:
        fold.queue()

    trace = Trace()
    turn_of = (wanted.metadata or {}).get(TURN_OF) if store is not None else None

    async def at_start() -> None:
        if store is not None:
            await store.begin(fold.response(), history.added, history.conversation)
            if turn_of:
                await add_turns(store, turn_of, [fold.id])

    async def at_end(sent: list[Json]) -> None:
        try:
            remember(service, fold)
            if store is not None:
                await store.finish(fold.response(), sent if wanted.background else (), history.added)
                if turn_of:
                    await keep_trace(store, fold.id, trace.body())
        finally:
            service.live.pop(fold.id, None)
            await _disconnect(mcp)

    live = LiveResponse(fold, service.runner, at_start, at_end, trace.push if turn_of else lambda _: None)
    service.live[fold.id] = live
    return live


async def _disconnect(mcp: Sequence[McpTools]) -> None:
    for each in mcp:
        await each.server.close()


def remember(service: Service, fold: ResponseFold) -> None:
    """Reasoning, by its item's id and by the calls that it led to; and what calls that were run here gave."""
    for identity, call in fold.ran.items():
        service.memory.remember([identity], json.dumps(call))
    thoughts: list[str] = []
    for item in fold.output:
        if item["type"] == "reasoning":
            text = "".join(part["text"] for part in item["content"])
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
    live.keep_alive()
    return b""


def _sent(data: Json) -> bytes:
    return event(json.dumps(data, ensure_ascii=False, separators=(",", ":")), str(data["type"]))


# ---- what is kept ---------------------------------------------------------------------------------------------------


@router.get("/v1/responses/{identity}")
async def retrieve(request: Request, identity: str, stream: bool = False, starting_after: int = -1) -> Response:
    """A Response as it stands; with `stream` its events behind a number, where it was made in the background."""
    service = service_of(request)
    live = service.live.get(identity)
    stored = await _stored(service, identity)
    if not stream:
        return JSONResponse(live.fold.response() if live else stored.body)
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
    if identity in service.live:
        await service.live[identity].stop()
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
    live = service.live.get(identity)
    if live is not None:
        await live.cancel()
        return JSONResponse(live.fold.response())
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


def page_of(items: Sequence[Json], *, after: str | None, limit: int, order: str) -> Json:
    """A page of a list as OpenAI's API has it. Raises RequestError for an item that is not in it."""
    if order not in ("asc", "desc"):
        raise RequestError("order is asc or desc", param="order")
    ordered = list(items if order == "asc" else reversed(items))
    if after is not None:
        ids = [item["id"] for item in ordered]
        if after not in ids:
            raise RequestError(f"there is no item {after!r} here", param="after")
        ordered = ordered[ids.index(after) + 1 :]
    page = ordered[:limit]
    ends = {"first_id": page[0]["id"] if page else None, "last_id": page[-1]["id"] if page else None}
    return {"object": "list", "data": page, **ends, "has_more": len(ordered) > limit}


# ---- without an answer ----------------------------------------------------------------------------------------------


@router.post("/v1/responses/input_tokens", openapi_extra=body_of(ResponsesRequest))
async def input_tokens(request: Request) -> Json:
    """How long a request's prompt is."""
    service = service_of(request)
    plan = (await _planned(service, await request.json())).plan
    await plan.toolbox.close()
    tokens = render_prompt(Conversation(list(plan.history), plan.response_formats))
    return {"object": "response.input_tokens", "input_tokens": len(tokens)}


@router.post("/v1/responses/compact", openapi_extra=body_of(ResponsesRequest))
async def compacted(request: Request) -> Response:
    """A long history as a short one: what users said, and a sealed summary by the model of all the rest."""
    service = service_of(request)
    body = await request.json()
    if not isinstance(body, dict) or not isinstance(body.get("model"), str):
        raise RequestError("model is missing", param="model")
    wanted = parse_request({**body, "tools": []})
    history = await history_of(wanted, service)
    output, usage = await unless_gone(request, compact(service, wanted, history))
    identity = {"id": f"resp_{uuid.uuid4().hex}", "object": "response.compaction", "created_at": int(time.time())}
    return JSONResponse({**identity, "output": output, "usage": usage})


async def _planned(service: Service, body: Any) -> Inbound:
    wanted = parse_request(body)
    history = await history_of(wanted, service)
    return inbound(wanted, history.items, service.hosted)
