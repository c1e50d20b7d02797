"""Chat completions that clients asked to be kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sql

from gpt_oss.server.core.body import Json
from gpt_oss.server.state.schema import completions
from gpt_oss.server.state.store import Store, text_of


@dataclass(frozen=True)
class KeptCompletion:
    """body: as it was sent, with its metadata. messages: those of the request."""

    body: Json
    messages: list[Json]


async def keep_completion(
    store: Store, body: Json, messages: Sequence[Mapping[str, Any]], metadata: Mapping[str, str]
) -> None:
    row = {
        "id": body["id"],
        "created": body["created"],
        "body": text_of({**body, "metadata": dict(metadata)}),
        "messages": text_of(messages),
        "made_by": store.maker,
    }
    await store.write(lambda c: c.execute(completions.insert().values(row)))


async def completion_of(store: Store, identity: str) -> KeptCompletion | None:
    wanted = sql.select(completions).where(_mine(store, identity))
    row = await store.read(lambda c: c.execute(wanted).first())
    return None if row is None else KeptCompletion(json.loads(row.body), json.loads(row.messages))


async def completions_of(store: Store) -> list[Json]:
    """The bodies of all, the oldest first."""
    wanted = sql.select(completions.c.body).where(store.seen(completions))
    oldest_first = wanted.order_by(completions.c.created, completions.c.id)
    rows = await store.read(lambda c: c.execute(oldest_first).all())
    return [json.loads(row.body) for row in rows]


async def relabel(store: Store, identity: str, metadata: Mapping[str, str]) -> Json | None:
    """The body with other metadata; None where there is no such completion."""
    mine = _mine(store, identity)

    def work(connection: sql.Connection) -> Json | None:
        row = connection.execute(sql.select(completions.c.body).where(mine).with_for_update()).first()
        if row is None:
            return None
        body: Json = {**json.loads(row.body), "metadata": dict(metadata)}
        connection.execute(completions.update().where(mine).values(body=text_of(body)))
        return body

    return await store.write(work)


async def delete_completion(store: Store, identity: str) -> bool:
    gone = completions.delete().where(_mine(store, identity))
    return await store.write(lambda c: c.execute(gone).rowcount > 0)


def _mine(store: Store, identity: str) -> sql.ColumnElement[bool]:
    """Which row it is, where it exists for whoever asks."""
    return sql.and_(completions.c.id == identity, store.seen(completions))
