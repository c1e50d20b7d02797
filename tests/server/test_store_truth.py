"""The store tells the truth: full disks, locks, killed writers, clients that hang up, and deleting meanwhile."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import sqlalchemy as sql

from gpt_oss.backends.scripted import Reply, ScriptedGenerator
from gpt_oss.server.state import schema
from gpt_oss.server.state.instance import Instance
from gpt_oss.server.state.owed import Owed
from gpt_oss.server.state.store import Store, StoreError, database_url
from gpt_oss.server.state.turns import add_turns
from gpt_oss.vocabulary import encode_with_special
from tests.server.conftest import Live, serving
from tests.server.test_chat_completions import wait_until
from tests.server.test_state import body

PATIENCE_S = 0.4
LONG = encode_with_special("<|channel|>final<|message|>" + "word " * 600 + "<|return|>")


def slow(delay_s: float = 0.0) -> ScriptedGenerator:
    return ScriptedGenerator(lambda _: Reply(LONG, delay_s=delay_s))


@contextmanager
def locked(url: str) -> Iterator[None]:
    """Somebody else is writing."""
    engine = sql.create_engine(database_url(url))
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            connection.connection.driver_connection.isolation_level = None  # type: ignore[union-attr]
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.execute(sql.text("LOCK TABLE responses, conversations IN SHARE ROW EXCLUSIVE MODE"))
        yield
        connection.rollback()
    engine.dispose()


def rows(url: str, wanted: sql.Select[Any]) -> list[Any]:
    engine = sql.create_engine(database_url(url))
    with engine.connect() as connection:
        found = list(connection.execute(wanted))
    engine.dispose()
    return found


def statuses(url: str) -> dict[str, str]:
    wanted = sql.select(schema.responses.c.id, schema.responses.c.status)
    return {row.id: row.status for row in rows(url, wanted)}


@contextmanager
def keeping(url: str, generator: ScriptedGenerator) -> Iterator[Live]:
    store = Store(url, patience_s=PATIENCE_S)
    with serving(generator, store=store) as live:
        yield live
    store.close()


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is owed is tried again soon."""
    monkeypatch.setattr(Owed, "FIRST_S", 0.1)


def ask(live: Live, **more: Any) -> httpx.Response:
    return httpx.post(f"{live.url}/v1/responses", json={"input": "Hi", **more}, timeout=60)


def streamed(live: Live, at: Callable[[int], None], **more: Any) -> list[Any]:
    """The events of a response; at: is called with each one's number."""
    events = []
    request = {"input": "Hi", "stream": True, **more}
    with httpx.stream("POST", f"{live.url}/v1/responses", json=request, timeout=60) as response:
        assert response.status_code == 200
        for line in response.iter_lines():
            if line.startswith("data: "):
                events.append(json.loads(line.removeprefix("data: ")))
                at(len(events))
    return events


# ---- locks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [{}, {"background": True}, {"stream": True}, {"background": True, "stream": True}])
def test_what_cannot_be_written_is_refused(url: str, more: dict[str, bool]) -> None:
    with keeping(url, slow()) as live:
        before = ask(live).json()
        with locked(url):
            refused = ask(live, **more)
            assert refused.status_code == 503, refused.text
            assert refused.json()["error"]["type"] == "server_error"
            assert httpx.get(f"{live.url}/v1/responses/{before['id']}").json() == before  # a read waits for nobody
        assert ask(live, **more).status_code == 200
        wait_until(lambda: set(statuses(url).values()) == {"completed"}, 10)
        assert not live.service.live


@pytest.mark.parametrize("background", [False, True])
def test_an_end_that_cannot_be_written_is_a_failure_and_is_written_later(url: str, background: bool) -> None:
    with keeping(url, slow(0.001)) as live, ExitStack() as lock:
        at = {50: lambda: lock.enter_context(locked(url))}
        events = streamed(live, lambda number: at.get(number, lambda: None)(), background=background)
        last, identity = events[-1], events[-1]["response"]["id"]
        assert last["type"] == "response.failed"
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert [event["type"] for event in events].count("response.completed") == 0
        assert statuses(url)[identity] in schema.UNDER_WAY
        asked = httpx.get(f"{live.url}/v1/responses/{identity}").json()
        assert asked == last["response"], "the server knows better than its database"
        lock.close()
        wait_until(lambda: statuses(url) == {identity: "failed"}, 30)
        wait_until(lambda: not live.service.live)
        assert httpx.get(f"{live.url}/v1/responses/{identity}").json() == asked
        if background:
            again = httpx.get(f"{live.url}/v1/responses/{identity}?stream=true").text
            assert again.count("data: ") == len(events)


def test_an_end_waits_for_a_short_lock(url: str) -> None:
    """Until the row is written nobody is told of the end, nor shown it."""
    store = Store(url, patience_s=60)
    with serving(slow(0.001), store=store) as live:
        with ThreadPoolExecutor(1) as pool, ExitStack() as lock:
            at = {50: lambda: lock.enter_context(locked(url))}
            reading = pool.submit(streamed, live, lambda number: at.get(number, lambda: None)())
            wait_until(lambda: len(statuses(url)) == 1, 30)
            identity = next(iter(statuses(url)))
            wait_until(lambda: live.runner.running == 0, 30)
            shown = httpx.get(f"{live.url}/v1/responses/{identity}").json()
            assert (shown["status"], shown["usage"], statuses(url)) == ("in_progress", None, {identity: "in_progress"})
            assert not reading.done()
            lock.close()
            seen = reading.result()
        assert seen[-1]["type"] == "response.completed"
        assert statuses(url) == {identity: "completed"}
    store.close()


async def test_reads_do_not_wait_for_writers(url: str) -> None:
    store = Store(url, patience_s=3)
    await store.begin(body("there"), [])
    with locked(url):
        writes = [asyncio.ensure_future(store.begin(body(f"new{number}"), [])) for number in range(40)]
        found = await asyncio.gather(*[store.response("there") for _ in range(40)])
        assert all(found)
        assert not any(write.done() for write in writes)
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        assert all(isinstance(each, StoreError) for each in outcomes)
    assert set(statuses(url)) == {"there"}
    await store.begin(body("new0"), [])
    store.close()


async def test_a_write_that_is_cancelled_is_whole_or_not_there(url: str) -> None:
    store = Store(url)
    for number in range(60):
        task = asyncio.ensure_future(store.begin(body(f"r{number}"), []))
        await asyncio.sleep(random.random() * 0.01)
        task.cancel()
        await asyncio.wait({task})
        there = f"r{number}" in statuses(url)
        await store.finish(body(f"r{number}", "cancelled", output=[]))
        assert statuses(url).get(f"r{number}") == ("cancelled" if there else None)
    store.close()


# ---- disks and processes --------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> None:
    with (folder / "filling").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 4096)


def test_a_full_disk(small_disk: Path) -> None:
    url = str(small_disk / "server.db")
    with keeping(url, slow(0.001)) as live:
        whole = ask(live).json()
        events = streamed(live, lambda number: fill(small_disk) if number == 50 else None, background=True)
        identity = events[-1]["response"]["id"]
        assert events[-1]["type"] == "response.failed"
        assert httpx.get(f"{live.url}/v1/responses/{identity}").json()["status"] == "failed"
        large = "word " * 100_000
        for more in ({"background": True}, {"stream": True}, {}):
            refused = ask(live, input=large, **more)
            assert refused.status_code == 503, refused.text[:300]
        assert httpx.get(f"{live.url}/v1/responses/{whole['id']}").json() == whole
        assert set(statuses(url)) == {whole["id"], identity}
        (small_disk / "filling").unlink()
        wait_until(lambda: statuses(url) == {whole["id"]: "completed", identity: "failed"}, 30)
        assert ask(live, input=large).status_code == 200


async def test_a_database_that_may_not_grow(tmp_path: Path) -> None:
    """As a full disk, where none can be mounted."""
    store = Store(str(tmp_path / "server.db"))
    pages = await store.read(lambda c: c.exec_driver_sql("PRAGMA page_count").scalar_one())
    await store.begin(body("r"), [])
    await store.write(lambda c: c.exec_driver_sql(f"PRAGMA max_page_count={pages + 2}"))
    with pytest.raises(StoreError, match="full"):
        await store.finish(body("r", "completed", output=[{"id": "x", "text": "word " * 10_000}]))
    found = await store.response("r")
    assert found is not None
    assert found.body["status"] == "in_progress"
    assert await store.items_by_id(["x"]) == {}
    await store.write(lambda c: c.exec_driver_sql("PRAGMA max_page_count=1000000"))
    await store.finish(body("r", "completed", output=[{"id": "x", "text": "word " * 10_000}]))
    assert set(await store.items_by_id(["x"])) == {"x"}
    store.close()


WRITER = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
connection.execute("UPDATE responses SET status = 'half written'")
print("writing", flush=True)
time.sleep(600)
"""


async def test_a_writer_that_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "server.db"
    store = Store(str(path), patience_s=60)
    await store.begin(body("r"), [])
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"writing\n"
    ending = asyncio.ensure_future(store.finish(body("r", "completed", output=[])))
    found = await store.response("r")
    assert found is not None
    assert (found.body["status"], ending.done()) == ("in_progress", False)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    await ending
    assert statuses(str(path)) == {"r": "completed"}
    store.close()


def test_files_are_their_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        path = tmp_path / "deep" / "server.db"
        for _ in range(2):
            store = Store(str(path))
            asyncio.run(store.begin(body(f"r{time.monotonic_ns()}"), []))
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
            assert modes == dict.fromkeys(("server.db", "server.db-wal", "server.db-shm"), 0o600)
            store.close()
            path.chmod(0o644)  # as it was made before
    finally:
        os.umask(before)


async def test_errors_tell_nothing_of_what_was_said(url: str) -> None:
    store = Store(url)
    said = "-".join(["nobody", "may", "read", "this"])  # not in the lines of this test, which a traceback quotes
    await store.begin(body("r", said=said), [])
    with pytest.raises(StoreError) as twice:
        await store.begin(body("r", said=said), [])
    told = "".join(traceback.format_exception(twice.value))
    assert "INSERT" in told
    assert said not in told
    store.close()


# ---- who is gone ----------------------------------------------------------------------------------------------------


def test_servers_that_share_a_folder_know_who_is_gone(tmp_path: Path) -> None:
    first, second = (Instance(tmp_path, alone=True) for _ in range(2))
    assert not any(one.is_gone(other.name) for one in (first, second) for other in (first, second))
    assert first.is_gone("a host:8000")
    assert not Instance(tmp_path, alone=False).is_gone("a host:8000")
    second.close()
    assert first.is_gone(second.name)
    third = Instance(tmp_path, alone=True)
    assert third.name.split("/")[0] in {each.name for each in (tmp_path / "instances").iterdir()}
    assert third.name != second.name
    assert third.is_gone(second.name)
    assert not first.is_gone(third.name)


async def test_only_what_servers_that_are_gone_had_under_way_is_marked(url: str, tmp_path: Path) -> None:
    here, gone = Instance(tmp_path, alone=False), Instance(tmp_path, alone=False)
    stores = [Store(url, owner=each.name, is_gone=here.is_gone) for each in (here, gone)]
    for number, store in enumerate(stores):
        await store.begin(body(f"r{number}"), [])
    assert await stores[0].mark_interrupted() == 0
    gone.close()
    assert await stores[0].mark_interrupted() == 1
    assert statuses(url) == {"r0": "in_progress", "r1": "incomplete"}
    for store in stores:
        store.close()
    here.close()


# ---- clients that hang up -------------------------------------------------------------------------------------------


def hang_up(live: Live, number: int) -> None:
    """Sends a request, and is gone within 30 ms."""
    request = {"input": "Hi", "stream": number % 2 == 0}
    sent = json.dumps(request).encode()
    parts = urlsplit(live.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=30) as client:
        head = f"POST /v1/responses HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: {len(sent)}\r\n\r\n"
        client.sendall(head.encode() + sent)
        time.sleep(random.random() * 0.03)


def test_clients_that_hang_up_at_once_leave_nothing_under_way(url: str) -> None:
    store = Store(url)
    with serving(slow(0.001), store=store) as live:
        with ThreadPoolExecutor(10) as pool:
            list(pool.map(lambda number: hang_up(live, number), range(300)))
        wait_until(lambda: not live.service.live and live.runner.running == 0, 60)
        assert ask(live, max_output_tokens=5).status_code == 200
    store.close()
    under_way = [identity for identity, status in statuses(url).items() if status in schema.UNDER_WAY]
    assert (len(statuses(url)) > 0, under_way) == (True, [])


# ---- deleting meanwhile ---------------------------------------------------------------------------------------------


def orphans(url: str) -> list[tuple[str, str]]:
    """What is left of responses and conversations that are gone."""
    kept = sql.select(schema.responses.c.id)
    containers = kept.union_all(sql.select(schema.conversations.c.id))
    found = []
    for table in (schema.events, schema.traces, schema.turns):
        found += [
            (table.name, row[0]) for row in rows(url, sql.select(table.c.response).where(table.c.response.not_in(kept)))
        ]
    of_gone = sql.select(schema.items.c.conversation).where(schema.items.c.conversation.not_in(containers))
    found += [("items", row[0]) for row in rows(url, of_gone)]
    talks = sql.select(schema.conversations.c.id)
    lost = sql.select(schema.turns.c.conversation).where(schema.turns.c.conversation.not_in(talks))
    return found + [("turns", row[0]) for row in rows(url, lost)]


async def test_deleting_while_others_append_leaves_no_orphans(url: str) -> None:
    one, two = Store(url), Store(url)

    async def round_of(number: int) -> None:
        talk, name = f"conv{number}", f"r{number}"
        await one.create_conversation(talk, {}, [{"id": "first"}])
        await one.begin(body(name), [], talk, talk)
        ended = body(name, "completed", output=[{"id": "answer"}])
        later = [
            one.finish(ended, [{"sequence_number": 0}], [{"id": "question"}], {"rounds": []}),
            add_turns(one, talk, [name]),
            one.add_items(talk, [{"id": "more"}]),
            two.delete(name) if number % 2 else two.delete_conversation(talk),
            two.delete_conversation(talk),
        ]
        random.shuffle(later)
        outcomes = await asyncio.gather(*later, return_exceptions=True)
        assert not [each for each in outcomes if isinstance(each, BaseException)]

    for first in range(0, 60, 6):
        await asyncio.gather(*map(round_of, range(first, first + 6)))
    assert orphans(url) == []
    for store in (one, two):
        store.close()


async def test_what_is_past_its_time_goes_with_all_that_belongs_to_it(url: str) -> None:
    store = Store(url, retention_days=1)
    old = int(time.time()) - 90_000
    for number in range(3):
        await store.begin(body(f"old{number}", created_at=old), [])
        ended = body(f"old{number}", "completed", output=[{"id": "x"}])
        await store.finish(ended, [{"sequence_number": 0}], trace={"rounds": []})
    await store.create_conversation("conv", {}, [{"id": "y"}])
    await store.write(lambda c: c.execute(schema.conversations.update().values(used=old)))
    row = {"id": "chat", "created": old, "body": "{}", "messages": "[]"}
    await store.write(lambda c: c.execute(schema.completions.insert().values(row)))
    await store.begin(body("new"), [])
    assert await store.forget_old() == {"responses": 3, "conversations": 1, "chat_completions": 1}
    assert (orphans(url), set(statuses(url))) == ([], {"new"})
    store.close()


def test_a_database_file_can_be_read_by_others_meanwhile(tmp_path: Path) -> None:
    """A backup, for one."""
    store = Store(str(tmp_path / "server.db"))
    asyncio.run(store.begin(body("r"), []))
    with sqlite3.connect(tmp_path / "server.db") as source, sqlite3.connect(tmp_path / "copy.db") as copy:
        source.backup(copy)
    store.close()
    assert statuses(str(tmp_path / "copy.db")) == {"r": "in_progress"}
