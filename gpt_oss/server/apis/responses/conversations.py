"""/v1/conversations: conversations that responses go on, and their items."""

from __future__ import annotations

import uuid
from typing import Any

import pydantic
from fastapi import APIRouter, Query, Request

from gpt_oss.server.apis.responses.read import as_items
from gpt_oss.server.apis.responses.transcript import with_ids
from gpt_oss.server.core.body import Json, read_object
from gpt_oss.server.core.errors import RequestError
from gpt_oss.server.core.pages import page_of
from gpt_oss.server.openapi import body_of, read_as
from gpt_oss.server.service import service_of
from gpt_oss.server.state.store import Store

MOST_ITEMS = 20
router = APIRouter(prefix="/v1/conversations")


class _Body(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="ignore")
    items: list[dict[str, Any]] | None = None
    metadata: dict[str, str] | None = None


async def _body(request: Request) -> _Body:
    body = read_as(_Body, await read_object(request))
    if len(body.items or []) > MOST_ITEMS:
        raise RequestError(f"items are at most {MOST_ITEMS} at a time", param="items")
    return body


def _store(request: Request) -> Store:
    store = service_of(request).store
    if store is None:
        raise RequestError("this server keeps no conversations", status=501)
    return store


async def _known(request: Request, identity: str) -> tuple[Store, Json]:
    store = _store(request)
    found = await store.conversation(identity)
    if found is None:
        raise RequestError(f"there is no conversation {identity!r}", param="conversation_id", status=404)
    return store, found


@router.post("", openapi_extra=body_of(_Body, required=False))
async def create(request: Request) -> Json:
    body = await _body(request)
    items = with_ids(as_items(body.items or []))
    return await _store(request).create_conversation(f"conv_{uuid.uuid4().hex}", body.metadata or {}, items)


@router.get("")
async def recent(request: Request, limit: int = Query(20, ge=1, le=100)) -> Json:
    """The conversations used last; OpenAI's API has no such list."""
    return {"object": "list", "data": await _store(request).conversations(limit)}


@router.get("/{identity}")
async def retrieve(request: Request, identity: str) -> Json:
    return (await _known(request, identity))[1]


@router.post("/{identity}", openapi_extra=body_of(_Body, required=False))
async def update(request: Request, identity: str) -> Json:
    body = await _body(request)
    store, _ = await _known(request, identity)
    changed = await store.update_conversation(identity, body.metadata or {})
    if changed is None:
        raise RequestError(f"there is no conversation {identity!r}", param="conversation_id", status=404)
    return changed


@router.delete("/{identity}")
async def delete(request: Request, identity: str) -> Json:
    store, _ = await _known(request, identity)
    await store.delete_conversation(identity)
    return {"id": identity, "object": "conversation.deleted", "deleted": True}


@router.post("/{identity}/items", openapi_extra=body_of(_Body, required=False))
async def add_items(request: Request, identity: str) -> Json:
    body = await _body(request)
    store, _ = await _known(request, identity)
    items = with_ids(as_items(body.items or []))
    if not await store.add_items(identity, items):
        raise RequestError(f"there is no conversation {identity!r}", param="conversation_id", status=404)
    return page_of(items, after=None, limit=MOST_ITEMS, order="asc")


@router.get("/{identity}/items")
async def items(
    request: Request, identity: str, after: str | None = None, limit: int = Query(20, ge=1, le=100), order: str = "desc"
) -> Json:
    store, _ = await _known(request, identity)
    return page_of(await store.items(identity), after=after, limit=limit, order=order)


@router.get("/{identity}/items/{item}")
async def item(request: Request, identity: str, item: str) -> Json:
    store, _ = await _known(request, identity)
    found = await store.item(identity, item)
    if found is None:
        raise RequestError(f"there is no item {item!r} in {identity!r}", param="item_id", status=404)
    return found


@router.delete("/{identity}/items/{item}")
async def delete_item(request: Request, identity: str, item: str) -> Json:
    store, conversation = await _known(request, identity)
    if not await store.delete_item(identity, item):
        raise RequestError(f"there is no item {item!r} in {identity!r}", param="item_id", status=404)
    return conversation
