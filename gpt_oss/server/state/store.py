"""Responses and conversations in a database: SQLite by default, PostgreSQL by its URL.

A response is one row from its beginning on. What it adds (output, events, the conversation's new items, its trace) is
written in one transaction when it ends: a reader sees all of it or none. Knows nothing of models, and of HTTP only the
objects.

Whatever adds to a response or a conversation locks its row first, and whatever deletes one deletes that row first: so
one waits for the other, and nothing is left of what is gone. A conversation is locked before its responses.
"""

from __future__ import annotations

import copy
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sql

from gpt_oss.server.core.body import Json
from gpt_oss.server.state.database import PATIENCE_S, Database, StoreError, database_url
from gpt_oss.server.state.schema import (
    UNDER_WAY,
    completions,
    conversations,
    events,
    interrupt,
    items,
    responses,
    traces,
    turns,
)

__all__ = ["UNDER_WAY", "Store", "StoreError", "Stored", "database_url"]
DAY_S = 86_400
AT_A_TIME = 500  # rows that go in one statement


@dataclass(frozen=True)
class Stored:
    """A response as it was sent last, and the items that its request brought."""

    body: Json
    input_items: list[Json]
    previous: str | None
    conversation: str | None


class Store:
    """What is kept. Every method may raise StoreError. Work is done in threads, never in the event loop's.

    url: see database_url.
    owner: this server among those that share a database.
    retention_days: how long things are kept; 0 is for ever.
    is_gone: whether a server of that name has ended; None where that is only known of earlier ones of this name.
    patience_s: how long a write waits for those of others before it fails.
    """

    def __init__(
        self,
        url: str,
        *,
        owner: str = "",
        retention_days: float = 30,
        is_gone: Callable[[str], bool] | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._owner = owner
        self._retention_s = retention_days * DAY_S
        self._maker = ""
        self._sees_all = True
        self.is_gone = is_gone
        database = Database(url, patience_s=patience_s)
        self.close, self.read, self.write = database.close, database.read, database.write

    def seen_by(self, maker: str, *, sees_all: bool) -> Store:
        """The store for the holder of a key.

        maker: whose what it makes is. sees_all: also what others have made; else that does not exist.
        """
        view = copy.copy(self)
        view._maker, view._sees_all = maker, sees_all
        return view

    @property
    def maker(self) -> str:
        """Whose new rows are."""
        return self._maker

    def seen(self, table: sql.Table) -> sql.ColumnElement[bool]:
        """Which rows of a table exist for whoever asks."""
        return sql.true() if self._sees_all else table.c.made_by == self._maker

    # Responses

    async def begin(
        self, body: Json, input_items: Sequence[Json], conversation: str | None = None, turn_of: str | None = None
    ) -> None:
        """A response is under way. turn_of: a conversation of the page's that it belongs to."""
        row = {
            "id": body["id"],
            "owner": self._owner,
            "status": body["status"],
            "created": body["created_at"],
            "previous": body["previous_response_id"],
            "conversation": conversation,
            "body": text_of(body),
            "input": text_of(input_items),
            "made_by": self._maker,
        }

        def work(connection: sql.Connection) -> None:
            there = turn_of is not None and self.lock_conversation(connection, turn_of)
            connection.execute(responses.insert().values(row))
            if there:
                connection.execute(turns.insert().values(conversation=turn_of, response=body["id"]))

        await self.write(work)

    async def finish(
        self,
        body: Json,
        sent: Iterable[Json] = (),
        input_items: Sequence[Json] = (),
        trace: Json | None = None,
    ) -> None:
        """A response has ended, well or not. One that was deleted meanwhile stays so, and one that has ended as well.

        sent: its events, where they may be asked for again.
        input_items: with the output, what its conversation is longer by.
        trace: see server/trace.py.
        """
        pieces = [{"response": body["id"], "number": e["sequence_number"], "body": text_of(e)} for e in sent]

        def work(connection: sql.Connection) -> None:
            mine = responses.c.id == body["id"]
            within = connection.execute(sql.select(responses.c.conversation).where(mine)).scalar()
            grows = within is not None and self.lock_conversation(connection, within)
            status = connection.execute(sql.select(responses.c.status).where(mine).with_for_update()).scalar()
            if status not in UNDER_WAY:
                return
            connection.execute(responses.update().where(mine).values(status=body["status"], body=text_of(body)))
            if pieces:
                connection.execute(events.insert(), pieces)
            if trace is not None:
                connection.execute(traces.insert().values(response=body["id"], body=text_of(trace)))
            _append(connection, body["id"], body["output"])  # for references to items
            if within is not None and grows:
                _append(connection, within, [*input_items, *body["output"]])

        await self.write(work)

    async def response(self, identity: str) -> Stored | None:
        row = await self.read(lambda c: c.execute(self._response(identity)).first())
        return None if row is None else stored_of(row)

    def _response(self, identity: str) -> sql.Select[Any]:
        return sql.select(responses).where(responses.c.id == identity, self.seen(responses))

    async def chain(self, identity: str) -> list[Stored] | None:
        """A response and those before it, the oldest first; None where one of them is gone."""

        def work(connection: sql.Connection) -> list[Stored] | None:
            found: list[Stored] = []
            wanted: str | None = identity
            while wanted is not None:
                row = connection.execute(self._response(wanted)).first()
                if row is None:
                    return None
                found.append(stored_of(row))
                wanted = found[-1].previous
            return found[::-1]

        return await self.read(work)

    async def delete(self, identity: str) -> bool:
        """Whether there was such a response, which is gone now with all that belongs to it."""

        def work(connection: sql.Connection) -> bool:
            mine = sql.select(responses.c.id).where(responses.c.id == identity, self.seen(responses))
            return _delete_responses(connection, connection.execute(mine).scalars().all()) > 0

        return await self.write(work)

    async def events_after(self, identity: str, number: int) -> list[Json]:
        """Those with a sequence number above it."""
        wanted = (
            sql.select(events.c.body)
            .join(responses, responses.c.id == events.c.response)
            .where(events.c.response == identity, events.c.number > number, self.seen(responses))
        )
        rows = await self.read(lambda c: c.execute(wanted.order_by(events.c.number)).all())
        return [json.loads(row.body) for row in rows]

    async def owner(self, identity: str) -> str | None:
        """Which server computed a response, among those that share a database; None where there is none."""
        wanted = sql.select(responses.c.owner).where(responses.c.id == identity)
        return await self.read(lambda c: c.execute(wanted).scalar())

    async def owners_under_way(self) -> list[str]:
        """The servers that have, or had when they stopped, something under way."""
        wanted = sql.select(responses.c.owner).where(responses.c.status.in_(UNDER_WAY)).distinct()
        return [row.owner for row in await self.read(lambda c: c.execute(wanted).all())]

    async def mark_interrupted(self, owner: str | None = None) -> int:
        """What a server had under way when it stopped is incomplete. How many there were.

        owner: that server; None for all that have ended, see `is_gone`.
        """
        owners = [self._owner if owner is None else owner]
        if owner is None and self.is_gone is not None:
            owners = [each for each in await self.owners_under_way() if self.is_gone(each)]
        if not owners:
            return 0
        theirs = sql.and_(responses.c.owner.in_(owners), responses.c.status.in_(UNDER_WAY))
        return await self.write(lambda c: interrupt(c, theirs))

    async def forget_old(self) -> Counter[str]:
        """Delete what is past its time: how many of what there were, by the name of the table."""
        gone: Counter[str] = Counter()
        if not self._retention_s:
            return gone
        before = int(time.time() - self._retention_s)
        used = sql.select(turns.c.response).join(conversations, conversations.c.id == turns.c.conversation)
        in_use = responses.c.id.in_(used.where(conversations.c.used >= before))
        steps: list[tuple[sql.Table, sql.ColumnElement[bool], Callable[[sql.Connection, Sequence[str]], int]]] = [
            (responses, sql.and_(responses.c.created < before, sql.not_(in_use)), _delete_responses),
            (conversations, conversations.c.used < before, _delete_conversations),
            (completions, completions.c.created < before, _delete_completions),
        ]
        for table, old, delete in steps:
            wanted = sql.select(table.c.id).where(old).limit(AT_A_TIME).with_for_update()

            def work(connection: sql.Connection, wanted: Any = wanted, delete: Any = delete) -> int:
                count: int = delete(connection, connection.execute(wanted).scalars().all())
                return count

            while count := await self.write(work):  # others write between them
                gone[table.name] += count
        return gone

    # Conversations

    async def create_conversation(self, identity: str, metadata: Json, first: Sequence[Json]) -> Json:
        now = int(time.time())
        row = {"id": identity, "created": now, "used": now, "metadata": text_of(metadata), "made_by": self._maker}

        def work(connection: sql.Connection) -> None:
            connection.execute(conversations.insert().values(row))
            _append(connection, identity, first)

        await self.write(work)
        return _conversation(identity, now, metadata)

    async def conversation(self, identity: str) -> Json | None:
        wanted = sql.select(conversations).where(conversations.c.id == identity, self.seen(conversations))
        row = await self.read(lambda c: c.execute(wanted).first())
        return None if row is None else _conversation(row.id, row.created, json.loads(row.metadata))

    async def conversations(self, limit: int) -> list[Json]:
        """The ones used last."""
        latest = sql.select(conversations).where(self.seen(conversations))
        wanted = latest.order_by(conversations.c.used.desc(), conversations.c.id).limit(limit)
        rows = await self.read(lambda c: c.execute(wanted).all())
        return [_conversation(row.id, row.created, json.loads(row.metadata)) for row in rows]

    async def update_conversation(self, identity: str, metadata: Json) -> Json | None:
        mine = sql.and_(conversations.c.id == identity, self.seen(conversations))
        changed = conversations.update().where(mine).values(metadata=text_of(metadata))
        await self.write(lambda c: c.execute(changed))
        return await self.conversation(identity)

    async def delete_conversation(self, identity: str) -> bool:
        """With the responses that are turns of it and of no other."""

        def work(connection: sql.Connection) -> bool:
            mine = sql.select(conversations.c.id).where(conversations.c.id == identity, self.seen(conversations))
            found = connection.execute(mine.with_for_update()).scalars().all()
            if found:
                _delete_turns(connection, identity)
            return _delete_conversations(connection, found) > 0

        return await self.write(work)

    def lock_conversation(self, connection: sql.Connection, identity: str) -> bool:
        """Whether there is such a conversation, which stays until the transaction ends and was used just now."""
        mine = sql.and_(conversations.c.id == identity, self.seen(conversations))
        return connection.execute(conversations.update().where(mine).values(used=int(time.time()))).rowcount > 0

    async def add_items(self, conversation: str, added: Sequence[Json]) -> bool:
        """Whether there is such a conversation, to which they were added then."""

        def work(connection: sql.Connection) -> bool:
            there = self.lock_conversation(connection, conversation)
            if there:
                _append(connection, conversation, added)
            return there

        return await self.write(work)

    def _container(self) -> sql.ColumnElement[bool]:
        """Whether an item belongs to what exists for whoever asks."""
        if self._sees_all:
            return sql.true()
        of_response = sql.exists().where(responses.c.id == items.c.conversation, self.seen(responses))
        return sql.or_(
            of_response, sql.exists().where(conversations.c.id == items.c.conversation, self.seen(conversations))
        )

    async def items(
        self, conversation: str, *, after: str | None = None, limit: int | None = None, newest_first: bool = False
    ) -> list[Json]:
        """In the order of the conversation, or from its end. after: an item's id, which must be one of them."""

        def work(connection: sql.Connection) -> list[Json]:
            wanted = sql.select(items.c.body).where(items.c.conversation == conversation, self._container())
            if after is not None:
                place = sql.select(items.c.place).where(items.c.conversation == conversation, items.c.id == after)
                start = connection.execute(place).scalar()
                wanted = wanted.where(items.c.place < start if newest_first else items.c.place > start)
            order = items.c.place.desc() if newest_first else items.c.place
            return [json.loads(row.body) for row in connection.execute(wanted.order_by(order).limit(limit))]

        return await self.read(work)

    async def items_by_id(self, identities: Sequence[str]) -> dict[str, Json]:
        """The items of responses and conversations; those that are not there are missing."""
        wanted = sql.select(items.c.id, items.c.body).where(items.c.id.in_(identities), self._container())
        rows = await self.read(lambda c: c.execute(wanted.order_by(items.c.place)).all())
        return {row.id: json.loads(row.body) for row in rows}

    async def item(self, conversation: str, identity: str) -> Json | None:
        mine = sql.and_(items.c.conversation == conversation, items.c.id == identity, self._container())
        body = await self.read(lambda c: c.execute(sql.select(items.c.body).where(mine)).scalar())
        return None if body is None else json.loads(body)

    async def delete_item(self, conversation: str, identity: str) -> bool:
        gone = items.delete().where(items.c.conversation == conversation, items.c.id == identity, self._container())
        return await self.write(lambda c: c.execute(gone).rowcount > 0)


def _append(connection: sql.Connection, container: str, added: Sequence[Json]) -> None:
    """Items of a response or a conversation, whose row the transaction has made or locked."""
    rows = [{"conversation": container, "id": item["id"], "body": text_of(item)} for item in added]
    if rows:
        connection.execute(items.insert(), rows)


def _pieces(identities: Sequence[str]) -> Iterable[Sequence[str]]:
    """As many as one statement takes."""
    return (identities[first : first + AT_A_TIME] for first in range(0, len(identities), AT_A_TIME))


def _delete_responses(connection: sql.Connection, identities: Sequence[str]) -> int:
    gone = 0
    for some in _pieces(identities):
        gone += connection.execute(responses.delete().where(responses.c.id.in_(some))).rowcount
        for table in (events, traces, turns):
            connection.execute(table.delete().where(table.c.response.in_(some)))
        connection.execute(items.delete().where(items.c.conversation.in_(some)))
    return gone


def _delete_conversations(connection: sql.Connection, identities: Sequence[str]) -> int:
    gone = 0
    for some in _pieces(identities):
        gone += connection.execute(conversations.delete().where(conversations.c.id.in_(some))).rowcount
        for column in (items.c.conversation, turns.c.conversation):
            connection.execute(sql.delete(column.table).where(column.in_(some)))
    return gone


def _delete_completions(connection: sql.Connection, identities: Sequence[str]) -> int:
    return sum(
        connection.execute(completions.delete().where(completions.c.id.in_(some))).rowcount
        for some in _pieces(identities)
    )


def _delete_turns(connection: sql.Connection, conversation: str) -> None:
    """The responses that are turns of a conversation and of no other."""
    mine = sql.select(turns.c.response).where(turns.c.conversation == conversation)
    shared = sql.select(turns.c.response).where(turns.c.conversation != conversation)
    _delete_responses(connection, connection.execute(mine.where(turns.c.response.not_in(shared))).scalars().all())


def stored_of(row: Any) -> Stored:
    return Stored(json.loads(row.body), json.loads(row.input), row.previous, row.conversation)


def _conversation(identity: str, created: int, metadata: Json) -> Json:
    return {"id": identity, "object": "conversation", "created_at": created, "metadata": metadata}


def text_of(value: Mapping[str, Any] | Sequence[Any]) -> str:
    """JSON as it is kept."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
