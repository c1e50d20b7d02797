"""The store and the memory: nothing half-written, nothing forgotten before its time, nothing kept after it."""

from __future__ import annotations

import asyncio
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sql

from gpt_oss.errors import ParameterError
from gpt_oss.server.state import schema
from gpt_oss.server.state.memory import Memory, Seal, key_in
from gpt_oss.server.state.store import Store, StoreError, database_url


def body(identity: str, status: str = "in_progress", previous: str | None = None, **more: Any) -> dict[str, Any]:
    created = more.pop("created_at", int(time.time()))
    return {"id": identity, "status": status, "created_at": created, "previous_response_id": previous, **more}


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    store = Store(url, owner="here")
    yield store
    store.close()


async def test_a_response_from_its_beginning_to_its_end(store: Store) -> None:
    asked = [{"id": "msg_1", "type": "message", "content": "Grüße"}]
    await store.begin(body("resp_1"), asked)
    found = await store.response("resp_1")
    assert found is not None
    assert (found.body["status"], found.input_items) == ("in_progress", asked)
    sent = [{"sequence_number": n, "type": "x"} for n in range(5)]
    await store.finish(body("resp_1", "completed", output=[]), sent)
    found = await store.response("resp_1")
    assert found is not None
    assert found.body["status"] == "completed"
    assert [event["sequence_number"] for event in await store.events_after("resp_1", 2)] == [3, 4]
    assert await store.delete("resp_1")
    assert not await store.delete("resp_1")
    assert await store.response("resp_1") is None
    assert await store.events_after("resp_1", -1) == []
    await store.finish(body("resp_1", "completed", output=[]))  # deleted while under way
    assert await store.response("resp_1") is None


async def test_a_chain_is_whole_or_not_there(store: Store) -> None:
    for number in range(3):
        await store.begin(body(f"r{number}", previous=f"r{number - 1}" if number else None), [{"id": f"m{number}"}])
    chain = await store.chain("r2")
    assert chain is not None
    assert [each.input_items[0]["id"] for each in chain] == ["m0", "m1", "m2"]
    await store.delete("r0")
    assert await store.chain("r2") is None


async def test_what_was_under_way_when_the_server_stopped(store: Store, url: str) -> None:
    await store.begin(body("mine"), [])
    await store.begin(body("done"), [])
    await store.finish(body("done", "completed", output=[]))
    other = Store(url, owner="elsewhere")
    await other.begin(body("theirs"), [])
    assert await store.mark_interrupted() == 1
    statuses = {}
    for name in ("mine", "done", "theirs"):
        found = await store.response(name)
        assert found is not None
        statuses[name] = found.body["status"]
    assert statuses == {"mine": "incomplete", "done": "completed", "theirs": "in_progress"}


async def test_conversations_grow_by_whole_answers(store: Store) -> None:
    await store.create_conversation("conv_1", {"a": "b"}, [{"id": "first"}])
    await store.begin(body("r"), [{"id": "question"}], "conv_1")
    assert [item["id"] for item in await store.items("conv_1")] == ["first"]
    await store.finish(body("r", "completed", output=[{"id": "answer"}]), input_items=[{"id": "question"}])
    assert [item["id"] for item in await store.items("conv_1")] == ["first", "question", "answer"]
    assert [item["id"] for item in await store.items("conv_1", newest_first=True, limit=2)] == ["answer", "question"]
    assert [item["id"] for item in await store.items("conv_1", after="first")] == ["question", "answer"]
    assert await store.delete_item("conv_1", "first")
    assert await store.item("conv_1", "first") is None
    assert await store.update_conversation("conv_1", {"c": "d"}) == {
        "id": "conv_1", "object": "conversation", "metadata": {"c": "d"},
        "created_at": (await store.conversations(1))[0]["created_at"],
    }  # fmt: skip
    assert await store.delete_conversation("conv_1")
    assert await store.items("conv_1") == []
    await store.begin(body("late"), [], "conv_1")
    await store.finish(body("late", "completed", output=[{"id": "x"}]))
    assert await store.items("conv_1") == []


async def test_nothing_is_half_written(store: Store) -> None:
    """The database fails in the middle of an end: a reader sees what was before, whole."""
    await store.create_conversation("conv_1", {}, [{"id": "first"}])
    await store.begin(body("r"), [{"id": "question"}], "conv_1")
    twice = [{"sequence_number": 0}, {"sequence_number": 0}]
    ended = body("r", "completed", output=[{"id": "answer"}])
    with pytest.raises(StoreError):
        await store.finish(ended, twice, [{"id": "question"}])
    found = await store.response("r")
    assert found is not None
    assert found.body["status"] == "in_progress"
    assert [item["id"] for item in await store.items("conv_1")] == ["first"]
    assert await store.items_by_id(["answer"]) == {}
    await store.finish(ended, twice[:1], [{"id": "question"}])
    assert [item["id"] for item in await store.items("conv_1")] == ["first", "question", "answer"]


async def test_many_at_a_time(store: Store) -> None:
    async def one(number: int) -> None:
        await store.begin(body(f"r{number}"), [])
        await store.finish(body(f"r{number}", "completed", output=[]), [{"sequence_number": 0}])

    await asyncio.gather(*map(one, range(40)))
    assert [(await store.response(f"r{n}")) is not None for n in range(40)] == [True] * 40


async def test_retention(url: str) -> None:
    store = Store(url, retention_days=1)
    await store.begin(body("old", created_at=int(time.time()) - 90_000), [])
    await store.finish(body("old", "completed", output=[]), [{"sequence_number": 0}])
    await store.begin(body("new"), [])
    assert await store.forget_old() == {"responses": 1}
    assert await store.response("old") is None
    assert await store.response("new") is not None


def test_databases_of_other_versions(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Store(url).close()

    def add_column(connection: sql.Connection) -> None:
        connection.execute(sql.text("ALTER TABLE responses ADD COLUMN remark TEXT"))

    with monkeypatch.context() as later:
        later.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, add_column))
        for _ in range(2):
            Store(url).close()
        columns = sql.inspect(sql.create_engine(database_url(url))).get_columns("responses")
        assert "remark" in [column["name"] for column in columns]
    with pytest.raises(schema.NewerDatabaseError, match=f"version {len(schema.MIGRATIONS) + 1}"):
        Store(url)


def test_databases_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database, " * 100)
    with pytest.raises(StoreError, match="cannot be opened"):
        Store(str(tmp_path / "text.db"))
    with pytest.raises(StoreError, match=r"\*\*\*") as wrong:
        Store("postgres://someone:secret@127.0.0.1:1/nothing")
    assert "secret" not in str(wrong.value)


def test_memory_forgets_the_oldest_first() -> None:
    memory = Memory(most=10)
    memory.remember(["a"], "12345")
    memory.remember(["b"], "12345")
    assert memory.recall("a") == "12345"
    memory.remember(["c"], "123")
    assert [memory.recall(key) for key in "abc"] == ["12345", None, "123"]
    memory.remember(["d"], "")
    assert memory.recall("d") is None


def test_sealed_reasoning_opens_with_the_same_key_only(tmp_path: Path) -> None:
    path = tmp_path / "state" / "key"
    sealed = Seal(key_in(path)).close("Think. ☃")
    assert "Think" not in sealed
    assert Seal(key_in(path)).open(sealed) == "Think. ☃"
    assert Seal().open(sealed) is None
    assert Seal().open("nonsense ☃") is None
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_text("short")
    with pytest.raises(ParameterError, match="does not hold a key"):
        key_in(path)
