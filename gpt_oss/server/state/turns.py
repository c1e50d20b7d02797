"""A conversation as a tree of responses, which is how the page keeps one: a question that is asked anew, or in other
words, is a sibling of the first, and nothing is lost.

The tree's edges are the responses' own previous_response_id; kept here is which of them belong to a conversation, and
the trace of each (server/trace.py). A response may belong to several conversations: a branch shares its beginning.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sql

from gpt_oss.server.state.schema import conversations, responses, traces, turns
from gpt_oss.server.state.store import Store, Stored, stored_of

Json = dict[str, Any]


async def add_turns(store: Store, conversation: str, added: Sequence[str]) -> bool:
    """Responses by their ids, the oldest first; False where there is no such conversation."""

    def work(connection: sql.Connection) -> bool:
        mine = conversations.c.id == conversation
        if connection.execute(conversations.update().where(mine).values(used=int(time.time()))).rowcount == 0:
            return False
        known = set(
            connection.execute(sql.select(turns.c.response).where(turns.c.conversation == conversation)).scalars()
        )
        rows = [{"conversation": conversation, "response": each} for each in added if each not in known]
        if rows:
            connection.execute(turns.insert(), rows)
        return True

    return await store.do(work)


async def turns_of(store: Store, conversation: str) -> list[tuple[Stored, Json | None]]:
    """Every response of a conversation with its trace, in the order in which they were begun."""
    wanted = (
        sql.select(responses, traces.c.body.label("trace"))
        .join(turns, turns.c.response == responses.c.id)
        .outerjoin(traces, traces.c.response == responses.c.id)
        .where(turns.c.conversation == conversation)
        .order_by(turns.c.place)
    )
    rows = await store.do(lambda c: c.execute(wanted).all())
    return [(stored_of(row), json.loads(row.trace) if row.trace else None) for row in rows]


async def keep_trace(store: Store, response: str, trace: Json) -> None:
    """Of a response that is still there."""

    def work(connection: sql.Connection) -> None:
        if connection.execute(sql.select(responses.c.id).where(responses.c.id == response)).first():
            body = json.dumps(trace, ensure_ascii=False, separators=(",", ":"))
            connection.execute(traces.insert().values(response=response, body=body))

    await store.do(work)


async def trace_of(store: Store, response: str) -> Json | None:
    body = await store.do(lambda c: c.execute(sql.select(traces.c.body).where(traces.c.response == response)).scalar())
    return None if body is None else json.loads(body)
