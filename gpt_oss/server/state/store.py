"""Responses and conversations in a database: SQLite by default, PostgreSQL by its URL.

A response is one row from its beginning on. What it adds (output, events, the conversation's new items) is written in
one transaction when it ends: a reader sees all of it or none. Knows nothing of models, and of HTTP only the objects.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sql
from sqlalchemy.exc import SQLAlchemyError

from gpt_oss.errors import GptOssError
from gpt_oss.server.state import schema
from gpt_oss.server.state.schema import conversations, events, items, responses, traces, turns

T = TypeVar("T")
Json = dict[str, Any]
UNDER_WAY = ("queued", "in_progress")
INTERRUPTED = {"code": "server_error", "message": "the server stopped before this response was finished"}
DAY_S = 86_400


class StoreError(GptOssError):
    """The database cannot be opened, read or written."""


@dataclass(frozen=True)
class Stored:
    """A response as it was sent last, and the items that its request brought."""

    body: Json
    input_items: list[Json]
    previous: str | None
    conversation: str | None


def database_url(given: str) -> str:
    """A URL as SQLAlchemy has them, of a URL or a file's path."""
    if "://" not in given:
        return f"sqlite:///{Path(given).expanduser().absolute()}"
    scheme, rest = given.split("://", 1)
    return f"postgresql+psycopg://{rest}" if scheme in ("postgres", "postgresql") else given


class Store:
    """url: see database_url. owner: this server among those that share a database. retention_days: how long a response
    is kept; 0 is for ever. Every method may raise StoreError. Work is done in threads, never in the event loop's."""

    def __init__(self, url: str, *, owner: str = "", retention_days: float = 30) -> None:
        address = database_url(url)
        if address.startswith("sqlite:///"):
            Path(address.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._owner = owner
        self._retention_s = retention_days * DAY_S
        try:
            self._engine = sql.create_engine(address, pool_pre_ping=True)
            if self._engine.dialect.name == "sqlite":
                sql.event.listen(self._engine, "connect", _as_files_should_be)
            with self._engine.begin() as connection:
                schema.migrate(connection)
        except (SQLAlchemyError, OSError, ImportError) as error:
            shown = sql.make_url(address).render_as_string(hide_password=True)
            raise StoreError(f"the database {shown} cannot be opened: {_reason(error)}") from error

    def close(self) -> None:
        self._engine.dispose()

    async def do(self, work: Callable[[sql.Connection], T]) -> T:
        """`work` in a transaction of its own."""

        def transaction() -> T:
            try:
                with self._engine.begin() as connection:
                    return work(connection)
            except SQLAlchemyError as error:
                raise StoreError(f"the database failed: {_reason(error)}") from error

        return await asyncio.to_thread(transaction)

    # Responses

    async def begin(self, body: Json, input_items: Sequence[Json], conversation: str | None = None) -> None:
        """A response is under way."""
        row = {
            "id": body["id"],
            "owner": self._owner,
            "status": body["status"],
            "created": body["created_at"],
            "previous": body["previous_response_id"],
            "conversation": conversation,
            "body": _text(body),
            "input": _text(input_items),
        }
        await self.do(lambda c: c.execute(responses.insert().values(row)))

    async def finish(self, body: Json, sent: Iterable[Json] = (), input_items: Sequence[Json] = ()) -> None:
        """A response has ended, well or not. sent: its events, where they may be asked for again. input_items: with
        the output, what its conversation is longer by. A response that was deleted meanwhile stays so."""
        pieces = [{"response": body["id"], "number": e["sequence_number"], "body": _text(e)} for e in sent]

        def work(connection: sql.Connection) -> None:
            mine = responses.c.id == body["id"]
            found = connection.execute(sql.select(responses.c.conversation).where(mine)).first()
            if found is None:
                return
            connection.execute(responses.update().where(mine).values(status=body["status"], body=_text(body)))
            if pieces:
                connection.execute(events.insert(), pieces)
            _append(connection, body["id"], body["output"])  # for references to items
            kept = conversations.c.id == found.conversation
            if found.conversation and connection.execute(sql.select(conversations.c.id).where(kept)).first():
                _append(connection, found.conversation, [*input_items, *body["output"]])

        await self.do(work)

    async def response(self, identity: str) -> Stored | None:
        def work(connection: sql.Connection) -> Stored | None:
            row = connection.execute(sql.select(responses).where(responses.c.id == identity)).first()
            return None if row is None else stored_of(row)

        return await self.do(work)

    async def chain(self, identity: str) -> list[Stored] | None:
        """A response and those before it, the oldest first; None where one of them is gone."""

        def work(connection: sql.Connection) -> list[Stored] | None:
            found: list[Stored] = []
            wanted: str | None = identity
            while wanted is not None:
                row = connection.execute(sql.select(responses).where(responses.c.id == wanted)).first()
                if row is None:
                    return None
                found.append(stored_of(row))
                wanted = found[-1].previous
            return found[::-1]

        return await self.do(work)

    async def delete(self, identity: str) -> bool:
        def work(connection: sql.Connection) -> bool:
            connection.execute(events.delete().where(events.c.response == identity))
            connection.execute(items.delete().where(items.c.conversation == identity))
            connection.execute(traces.delete().where(traces.c.response == identity))
            connection.execute(turns.delete().where(turns.c.response == identity))
            return connection.execute(responses.delete().where(responses.c.id == identity)).rowcount > 0

        return await self.do(work)

    async def events_after(self, identity: str, number: int) -> list[Json]:
        """Those with a sequence number above it."""
        wanted = sql.select(events.c.body).where(events.c.response == identity, events.c.number > number)
        rows = await self.do(lambda c: c.execute(wanted.order_by(events.c.number)).all())
        return [json.loads(row.body) for row in rows]

    async def owner(self, identity: str) -> str | None:
        """Which server computed a response, among those that share a database; None where there is none."""
        wanted = sql.select(responses.c.owner).where(responses.c.id == identity)
        return await self.do(lambda c: c.execute(wanted).scalar())

    async def owners_under_way(self) -> list[str]:
        """The servers that have, or had when they stopped, something under way."""
        wanted = sql.select(responses.c.owner).where(responses.c.status.in_(UNDER_WAY)).distinct()
        return [row.owner for row in await self.do(lambda c: c.execute(wanted).all())]

    async def mark_interrupted(self, owner: str | None = None) -> int:
        """What this server had under way when it stopped is incomplete, or what another one had that is gone. How many
        were."""

        def work(connection: sql.Connection) -> int:
            theirs = responses.c.owner == (self._owner if owner is None else owner)
            mine = sql.and_(theirs, responses.c.status.in_(UNDER_WAY))
            rows = connection.execute(sql.select(responses).where(mine)).all()
            for row in rows:
                body = json.loads(row.body) | {"status": "incomplete", "error": INTERRUPTED}
                changed = responses.update().where(responses.c.id == row.id)
                connection.execute(changed.values(status="incomplete", body=_text(body)))
            return len(rows)

        return await self.do(work)

    async def forget_old(self) -> int:
        """Delete responses and conversations past their time. How many there were."""
        if not self._retention_s:
            return 0
        before = int(time.time() - self._retention_s)

        def work(connection: sql.Connection) -> int:
            used = sql.select(turns.c.response).join(conversations, conversations.c.id == turns.c.conversation)
            in_use = responses.c.id.in_(used.where(conversations.c.used >= before))
            old = sql.select(responses.c.id).where(responses.c.created < before, sql.not_(in_use))
            for table in (events, traces, turns):
                connection.execute(table.delete().where(table.c.response.in_(old)))
            connection.execute(items.delete().where(items.c.conversation.in_(old)))
            gone = connection.execute(responses.delete().where(responses.c.created < before, sql.not_(in_use))).rowcount
            unused = sql.select(conversations.c.id).where(conversations.c.used < before)
            connection.execute(items.delete().where(items.c.conversation.in_(unused)))
            return gone + connection.execute(conversations.delete().where(conversations.c.used < before)).rowcount

        return await self.do(work)

    # Conversations

    async def create_conversation(self, identity: str, metadata: Json, first: Sequence[Json]) -> Json:
        now = int(time.time())
        row = {"id": identity, "created": now, "used": now, "metadata": _text(metadata)}

        def work(connection: sql.Connection) -> None:
            connection.execute(conversations.insert().values(row))
            _append(connection, identity, first)

        await self.do(work)
        return _conversation(identity, now, metadata)

    async def conversation(self, identity: str) -> Json | None:
        row = await self.do(
            lambda c: c.execute(sql.select(conversations).where(conversations.c.id == identity)).first()
        )
        return None if row is None else _conversation(row.id, row.created, json.loads(row.metadata))

    async def conversations(self, limit: int) -> list[Json]:
        """The ones used last."""
        wanted = sql.select(conversations).order_by(conversations.c.used.desc(), conversations.c.id).limit(limit)
        rows = await self.do(lambda c: c.execute(wanted).all())
        return [_conversation(row.id, row.created, json.loads(row.metadata)) for row in rows]

    async def update_conversation(self, identity: str, metadata: Json) -> Json | None:
        changed = conversations.update().where(conversations.c.id == identity).values(metadata=_text(metadata))
        await self.do(lambda c: c.execute(changed))
        return await self.conversation(identity)

    async def delete_conversation(self, identity: str) -> bool:
        """With the responses that are turns of it and of no other."""

        def work(connection: sql.Connection) -> bool:
            _delete_turns(connection, identity)
            connection.execute(items.delete().where(items.c.conversation == identity))
            return connection.execute(conversations.delete().where(conversations.c.id == identity)).rowcount > 0

        return await self.do(work)

    async def add_items(self, conversation: str, added: Sequence[Json]) -> None:
        """The conversation must exist."""
        await self.do(lambda c: _append(c, conversation, added))

    async def items(
        self, conversation: str, *, after: str | None = None, limit: int | None = None, newest_first: bool = False
    ) -> list[Json]:
        """In the order of the conversation, or from its end. after: an item's id, which must be one of them."""

        def work(connection: sql.Connection) -> list[Json]:
            wanted = sql.select(items.c.body).where(items.c.conversation == conversation)
            if after is not None:
                place = sql.select(items.c.place).where(items.c.conversation == conversation, items.c.id == after)
                start = connection.execute(place).scalar()
                wanted = wanted.where(items.c.place < start if newest_first else items.c.place > start)
            order = items.c.place.desc() if newest_first else items.c.place
            return [json.loads(row.body) for row in connection.execute(wanted.order_by(order).limit(limit))]

        return await self.do(work)

    async def items_by_id(self, identities: Sequence[str]) -> dict[str, Json]:
        """Of responses and conversations; those that are not there are missing."""
        wanted = sql.select(items.c.id, items.c.body).where(items.c.id.in_(identities))
        rows = await self.do(lambda c: c.execute(wanted).all())
        return {row.id: json.loads(row.body) for row in rows}

    async def item(self, conversation: str, identity: str) -> Json | None:
        wanted = sql.select(items.c.body).where(items.c.conversation == conversation, items.c.id == identity)
        body = await self.do(lambda c: c.execute(wanted).scalar())
        return None if body is None else json.loads(body)

    async def delete_item(self, conversation: str, identity: str) -> bool:
        gone = items.delete().where(items.c.conversation == conversation, items.c.id == identity)
        return await self.do(lambda c: c.execute(gone).rowcount > 0)


def _append(connection: sql.Connection, conversation: str, added: Sequence[Json]) -> None:
    rows = [{"conversation": conversation, "id": item["id"], "body": _text(item)} for item in added]
    if rows:
        connection.execute(items.insert(), rows)
    used = conversations.update().where(conversations.c.id == conversation)
    connection.execute(used.values(used=int(time.time())))


def _delete_turns(connection: sql.Connection, conversation: str) -> None:
    mine = sql.select(turns.c.response).where(turns.c.conversation == conversation)
    shared = sql.select(turns.c.response).where(turns.c.conversation != conversation)
    only = connection.execute(mine.where(turns.c.response.not_in(shared))).scalars().all()
    for first in range(0, len(only), 500):  # a statement takes so many values
        some = only[first : first + 500]
        for table in (events, traces):
            connection.execute(table.delete().where(table.c.response.in_(some)))
        connection.execute(items.delete().where(items.c.conversation.in_(some)))
        connection.execute(responses.delete().where(responses.c.id.in_(some)))
    connection.execute(turns.delete().where(turns.c.conversation == conversation))


def stored_of(row: Any) -> Stored:
    return Stored(json.loads(row.body), json.loads(row.input), row.previous, row.conversation)


def _conversation(identity: str, created: int, metadata: Json) -> Json:
    return {"id": identity, "object": "conversation", "created_at": created, "metadata": metadata}


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _reason(error: Exception) -> str:
    cause = getattr(error, "orig", None) or error
    return str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__


def _as_files_should_be(connection: Any, _: Any) -> None:
    """Readers beside a writer, and no wait for the disk at every commit but for the log's: what is committed survives
    the process being killed."""
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=10000"):
        connection.execute(f"PRAGMA {pragma}")
