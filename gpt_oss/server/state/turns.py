"""A conversation as a tree of responses, which is how the page keeps one: a question that is asked anew, or in other
words, is a sibling of the first, and nothing is lost.

The tree's edges are the responses' own previous_response_id; kept here is which of them belong to a conversation, and
the trace of each (server/trace.py). A response may belong to several conversations: a branch shares its beginning.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import sqlalchemy as sql

from gpt_oss.server.core.body import Json
from gpt_oss.server.state.schema import responses, traces, turns
from gpt_oss.server.state.store import Store, Stored, stored_of


async def add_turns(store: Store, conversation: str, added: Sequence[str]) -> bool:
    """Responses by their ids, the oldest first; False where there is no such conversation."""

    def work(connection: sql.Connection) -> bool:
        if not store.lock_conversation(connection, conversation):
            return False
        there = sql.select(responses.c.id).where(responses.c.id.in_(added), store.seen(responses))
        kept = set(connection.execute(there.with_for_update()).scalars())  # none of them goes meanwhile
        known = sql.select(turns.c.response).where(turns.c.conversation == conversation)
        new = kept - set(connection.execute(known).scalars())
        rows = [{"conversation": conversation, "response": each} for each in added if each in new]
        if rows:
            connection.execute(turns.insert(), rows)
        return True

    return await store.write(work)


async def turns_of(store: Store, conversation: str) -> list[tuple[Stored, Json | None]]:
    """Every response of a conversation with its trace, in the order in which they were begun."""
    wanted = (
        sql.select(responses, traces.c.body.label("trace"))
        .join(turns, turns.c.response == responses.c.id)
        .outerjoin(traces, traces.c.response == responses.c.id)
        .where(turns.c.conversation == conversation, store.seen(responses))
        .order_by(turns.c.place)
    )
    rows = await store.read(lambda c: c.execute(wanted).all())
    return [(stored_of(row), json.loads(row.trace) if row.trace else None) for row in rows]


async def trace_of(store: Store, response: str) -> Json | None:
    wanted = (
        sql.select(traces.c.body)
        .join(responses, responses.c.id == traces.c.response)
        .where(traces.c.response == response, store.seen(responses))
    )
    body = await store.read(lambda c: c.execute(wanted).scalar())
    return None if body is None else json.loads(body)
