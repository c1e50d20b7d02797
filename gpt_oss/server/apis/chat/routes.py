"""/v1/chat/completions: answers, streams, and answers that are kept."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

import pydantic
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from gpt_oss.server.apis.chat.read import ChatAsk, ChatRequest, read_request
from gpt_oss.server.apis.chat.write import ChoiceWriter, chunk, completion, usage_of
from gpt_oss.server.core.answer import Answer, Begun, Part, Piece, parts_of
from gpt_oss.server.core.aside import aside
from gpt_oss.server.core.body import Json, read_json
from gpt_oss.server.core.errors import RequestError, as_response
from gpt_oss.server.core.pages import page_of
from gpt_oss.server.core.stream import event, merged, streamed, warning_headers, whole
from gpt_oss.server.openapi import body_of, read_as
from gpt_oss.server.service import Service, service_of
from gpt_oss.server.state.completions import completion_of, completions_of, delete_completion, keep_completion, relabel
from gpt_oss.server.state.store import Store

router = APIRouter()
PATH = "/v1/chat/completions"


@router.post(PATH, openapi_extra=body_of(ChatRequest))
async def create(request: Request) -> Response:
    """An answer, or with `stream` a stream of its parts."""
    service = service_of(request)
    given = await read_json(request)
    wanted = await aside(lambda: read_request(read_as(ChatRequest, given), service.memory.recall))
    identity = service.identity("chatcmpl-")
    writers = [
        ChoiceWriter(shows_reasoning=wanted.shows_reasoning, as_functions=wanted.as_functions)
        for _ in range(wanted.request.n)
    ]

    def body() -> Json:
        return completion(identity, writers, logprobs=wanted.logprobs)

    chunks = _chunks(service, wanted, writers, identity)
    headers = warning_headers(wanted.ask.warnings)
    if not wanted.request.stream:
        return await whole(request, chunks, body, headers)
    return await streamed(request, _sent(chunks), lambda error: event(as_response(error)[1]), headers=headers)


async def _chunks(
    service: Service, wanted: ChatAsk, writers: Sequence[ChoiceWriter], identity: Mapping[str, Any]
) -> AsyncGenerator[Json, None]:
    """The chunks of all choices, in the order in which they come."""
    answers = [Answer(wanted.ask.tools, wanted.ask.stop_texts) for _ in writers]
    runs = [parts_of(service.asker, wanted.ask.numbered(i), answer) for i, answer in enumerate(answers)]
    begun: set[int] = set()
    async for index, part in merged(runs):
        if isinstance(part, Begun) and index not in begun:
            begun.add(index)
            yield chunk(identity, index, {"role": "assistant", "content": ""})
        writer = writers[index]
        for delta in writer.push(part):
            yield chunk(identity, index, delta, logprobs=_logprobs(wanted, part, delta))
        if writer.finish_reason is not None:
            yield chunk(identity, index, {}, writer.finish_reason)
    await _keep(service, wanted, writers, identity)
    options = wanted.request.stream_options
    if options is not None and options.include_usage:
        yield {**identity, "object": "chat.completion.chunk", "choices": [], "usage": usage_of(writers)}


async def _keep(
    service: Service, wanted: ChatAsk, writers: Sequence[ChoiceWriter], identity: Mapping[str, Any]
) -> None:
    """Remembers the thoughts that led to calls, and stores the completion where the client asked for that."""
    for writer in writers:
        service.memory.remember([call["id"] for call in writer.calls], writer.reasoning)
    request = wanted.request
    if request.store and service.store is not None:
        body = completion(identity, writers, logprobs=wanted.logprobs)
        await keep_completion(service.store, body, request.messages, request.metadata or {})


def _logprobs(wanted: ChatAsk, part: Part, delta: Json) -> Sequence[Json] | None:
    if not wanted.logprobs or "content" not in delta or not isinstance(part, Piece):
        return None
    return part.logprobs


async def _sent(chunks: AsyncGenerator[Json, None]) -> AsyncGenerator[bytes, None]:
    async for each in chunks:
        yield event(each)
    yield event("[DONE]")


# ---- answers that are kept -----------------------------------------------------------------------------------------


class _Metadata(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="ignore")
    metadata: dict[str, str] = pydantic.Field(default_factory=dict)


def _store(request: Request) -> Store:
    store = service_of(request).store
    if store is None:
        raise RequestError("this server keeps no chat completions", status=405)
    return store


def _missing(identity: str) -> RequestError:
    return RequestError(f"there is no chat completion {identity!r}", param="completion_id", status=404)


@router.get(PATH)
async def recent(
    request: Request,
    after: str | None = None,
    limit: int = Query(20, ge=1, le=100),
    order: str = "asc",
    model: str | None = None,
) -> Json:
    """The chat completions that were made with `store`, the oldest first unless `order` is desc."""
    found = [body for body in await completions_of(_store(request)) if model in (None, body["model"])]
    return page_of(found, after=after, limit=limit, order=order)


@router.get(PATH + "/{identity}")
async def retrieve(request: Request, identity: str) -> Json:
    found = await completion_of(_store(request), identity)
    if found is None:
        raise _missing(identity)
    return found.body


@router.post(PATH + "/{identity}", openapi_extra=body_of(_Metadata))
async def update(request: Request, identity: str) -> Json:
    """Give it other metadata."""
    wanted = read_as(_Metadata, await read_json(request))
    body = await relabel(_store(request), identity, wanted.metadata)
    if body is None:
        raise _missing(identity)
    return body


@router.delete(PATH + "/{identity}")
async def delete(request: Request, identity: str) -> Json:
    if not await delete_completion(_store(request), identity):
        raise _missing(identity)
    return {"object": "chat.completion.deleted", "id": identity, "deleted": True}


@router.get(PATH + "/{identity}/messages")
async def messages(
    request: Request,
    identity: str,
    after: str | None = None,
    limit: int = Query(20, ge=1, le=100),
    order: str = "asc",
) -> Json:
    """The messages that its request brought."""
    found = await completion_of(_store(request), identity)
    if found is None:
        raise _missing(identity)
    listed = [{"id": f"{identity}-{number}", **message} for number, message in enumerate(found.messages)]
    return page_of(listed, after=after, limit=limit, order=order)
