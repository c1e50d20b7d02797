"""Conversations as trees of responses: shared beginnings, and what goes when a conversation does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sql

from gpt_oss.server.state import schema
from gpt_oss.server.state.store import Store, database_url
from gpt_oss.server.state.turns import add_turns, trace_of, turns_of


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "server.db")


@pytest.fixture
def store(path: str) -> Iterator[Store]:
    store = Store(path)
    yield store
    store.close()


async def begun(store: Store, identity: str, previous: str | None = None, age_s: float = 0, **ending: Any) -> None:
    body: dict[str, Any] = {"id": identity, "status": "in_progress", "previous_response_id": previous, "output": []}
    await store.begin(body | {"created_at": int(time.time() - age_s)}, [])
    await store.finish(body | {"status": "completed"}, **ending)


async def ids(store: Store, conversation: str) -> list[str]:
    return [stored.body["id"] for stored, _ in await turns_of(store, conversation)]


async def test_a_branch_shares_its_beginning(store: Store) -> None:
    for conversation in ("first", "branch"):
        await store.create_conversation(conversation, {}, [])
    await begun(store, "a")
    await begun(store, "b", "a")
    await begun(store, "c", "a")
    assert await add_turns(store, "first", ["a", "b"])
    assert await add_turns(store, "branch", ["a"])
    assert await add_turns(store, "branch", ["a", "c"]), "what is there already is not there twice"
    assert (await ids(store, "first"), await ids(store, "branch")) == (["a", "b"], ["a", "c"])
    assert not await add_turns(store, "nowhere", ["a"])

    await store.delete_conversation("first")
    assert await store.response("b") is None
    assert await ids(store, "branch") == ["a", "c"]
    await store.delete_conversation("branch")
    assert await store.response("a") is None


async def test_traces_go_with_their_responses(store: Store, path: str) -> None:
    await store.create_conversation("first", {}, [])
    for identity in ("a", "b"):
        await begun(store, identity, trace={"rounds": [identity]})
        await add_turns(store, "first", [identity, "gone"])
    assert [trace for _, trace in await turns_of(store, "first")] == [{"rounds": ["a"]}, {"rounds": ["b"]}]
    await store.delete("a")
    assert await trace_of(store, "a") is None
    await store.delete_conversation("first")
    with sql.create_engine(database_url(path)).connect() as connection:
        for table in (schema.traces, schema.turns, schema.responses):
            assert connection.execute(sql.select(sql.func.count()).select_from(table)).scalar() == 0, table.name


async def test_a_conversation_in_use_loses_no_old_turn(path: str) -> None:
    store = Store(path, retention_days=1)
    await store.create_conversation("in use", {}, [])
    for identity in ("old turn", "old"):
        await begun(store, identity, age_s=90_000)
    await add_turns(store, "in use", ["old turn"])
    assert await store.forget_old() == {"responses": 1}
    assert await store.response("old") is None
    assert await ids(store, "in use") == ["old turn"]
    store.close()


async def test_a_database_from_before_there_were_turns(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as before:
        before.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:1])
        Store(path).close()
    store = Store(path)
    await store.create_conversation("new", {}, [])
    await begun(store, "a")
    assert await add_turns(store, "new", ["a"])
    assert await ids(store, "new") == ["a"]
    store.close()
