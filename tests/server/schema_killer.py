"""`python -m tests.server.schema_killer URL VERSION`: opens a database, new or of an older version, in processes that
end in the middle, after every statement of it; then as usual. Prints how many processes there were.

`python -m tests.server.schema_killer URL together`: opens new databases in three processes at once, again and again.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from pathlib import Path
from typing import Any

import sqlalchemy as sql

from gpt_oss.server.state import schema
from gpt_oss.server.state.store import Store, database_url
from tests.server.conftest import emptied

KILLED = 9
ROUNDS = 8
ROW: dict[str, Any] = {
    "id": "old", "owner": "host:8000", "status": "in_progress", "created": 2_000_000_000, "body": '{"id": "old"}',
    "input": "[]",
}  # fmt: skip


def prepare(url: str, version: int) -> None:
    """Makes it a database of that version with a response under way; 0 is an empty one."""
    if "://" in url:
        emptied(url)
    else:
        for name in (url, f"{url}-wal", f"{url}-shm"):
            Path(name).unlink(missing_ok=True)
    if version:
        engine = sql.create_engine(database_url(url))
        with engine.begin() as connection:
            schema.version.create(connection)
            connection.execute(schema.version.insert().values(number=version))
            for step in schema.MIGRATIONS[:version]:
                step(connection)
            names = ", ".join(ROW)
            values = ", ".join(f":{name}" for name in ROW)
            connection.execute(sql.text(f"INSERT INTO responses ({names}) VALUES ({values})"), ROW)
        engine.dispose()


def open_until(url: str, number: int) -> None:
    """Opens it and ends the process after so many statements, each transaction's commit being one."""
    left = number

    def count(*_: object, **__: object) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os._exit(KILLED)

    sql.event.listen(sql.Engine, "after_cursor_execute", count)
    sql.event.listen(sql.Engine, "commit", count)
    Store(url)


async def check(url: str, version: int) -> None:
    """It can be used, and holds what it held."""
    store = Store(url)
    body = {"id": "new", "status": "in_progress", "created_at": 1, "previous_response_id": None, "output": []}
    await store.begin(body, [])
    await store.finish({**body, "status": "completed"})
    found = [await store.response(name) for name in ("old", "new")]
    statuses = [each.body["status"] if each else None for each in found]
    assert statuses == ["incomplete" if version else None, "completed"], statuses
    numbers = await store.read(lambda c: c.execute(sql.select(schema.version.c.number)).scalars().all())
    assert numbers == [len(schema.MIGRATIONS)], numbers
    store.close()


def in_child(work: Any, *arguments: Any) -> int:
    """The exit status of a process that does this."""
    child = os.fork()
    if not child:
        try:
            work(*arguments)
        except BaseException as error:
            print(error, file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return child


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_everywhere(url: str, version: int) -> int:
    for number in itertools.count(1):
        prepare(url, version)
        status = ended(in_child(open_until, url, number))
        assert status in (0, KILLED), f"after statement {number}: {status}"
        asyncio.run(check(url, version))
        if status == 0:
            return number
    raise AssertionError


def open_together(url: str) -> None:
    for number in range(ROUNDS):
        prepare(url, 0)
        statuses = [ended(child) for child in [in_child(Store, url) for _ in range(3)]]
        assert statuses == [0, 0, 0], f"round {number}: {statuses}"
        asyncio.run(check(url, 0))


if __name__ == "__main__":
    if sys.argv[2] == "together":
        open_together(sys.argv[1])
    else:
        print(kill_everywhere(sys.argv[1], int(sys.argv[2])))
