"""The database under the store: its files, its connections, and who waits for whom.

Writers and readers have threads and connections of their own, so that a read never stands in line with writes. SQLite
has one writer, which takes the lock at its beginning (BEGIN IMMEDIATE); PostgreSQL has several. A write that cannot
begin within the patience fails, however many others stand before it.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sql
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from gpt_oss.errors import GptOssError
from gpt_oss.server.state import schema

T = TypeVar("T")
PATIENCE_S = 10.0
READERS = 4
WRITERS = 4  # of PostgreSQL
WAIT_MS = "gpt_oss_wait_ms"  # an execution option: a write, which waits so long for the lock
DEADLOCK = "40P01"  # PostgreSQL's word for two that wait for each other, of which it ended one
FILE = "sqlite:///"


class StoreError(GptOssError):
    """The database cannot be opened, read or written.

    unsure: whether it was written, which is not known where a connection is lost during a commit.
    """

    def __init__(self, message: str, *, unsure: bool = False) -> None:
        super().__init__(message)
        self.unsure = unsure


def database_url(given: str) -> str:
    """A URL as SQLAlchemy has them, of a URL or a file's path."""
    if "://" not in given:
        return f"{FILE}{Path(given).expanduser().absolute()}"
    scheme, rest = given.split("://", 1)
    return f"postgresql+psycopg://{rest}" if scheme in ("postgres", "postgresql") else given


def database_file(given: str) -> Path | None:
    """The file that a database is in; None for one that is behind a URL."""
    address = database_url(given)
    return Path(address.removeprefix(FILE).partition("?")[0]) if address.startswith(FILE) else None


class Database:
    """A database of this version.

    url: see database_url.
    patience_s: how long a write waits for those of others before it fails.
    Raises StoreError where it cannot be opened.
    """

    def __init__(self, url: str, *, patience_s: float = PATIENCE_S) -> None:
        address = database_url(url)
        self._patience_s = patience_s
        try:
            file = database_file(url)
            if file is not None:
                _make_private(file)
            self._engine = _engine(address, patience_s)
            self.is_file = self._engine.dialect.name == "sqlite"
            self._migrate()
        except (SQLAlchemyError, sqlite3.Error, OSError, ImportError) as error:
            shown = sql.make_url(address).render_as_string(hide_password=True)
            raise StoreError(f"the database {shown} cannot be opened: {_reason(error)}") from error
        self._readers = ThreadPoolExecutor(READERS, "store-read")
        self._writers = ThreadPoolExecutor(1 if self.is_file else WRITERS, "store-write")

    def close(self) -> None:
        self._writers.shutdown()
        self._readers.shutdown()
        self._engine.dispose()

    async def read(self, work: Callable[[sql.Connection], T]) -> T:
        """What `work` gives, which sees the database as it stands at one moment. Raises StoreError."""
        return await _to_its_end(self._readers.submit(self._read, work))

    async def write(self, work: Callable[[sql.Connection], T]) -> T:
        """What `work` gives, in a transaction of its own. Raises StoreError, and then nothing of it is written.

        Where the caller is cancelled it is done whole or not at all before the caller learns of it.
        """
        return await _to_its_end(self._writers.submit(self._write, work, time.monotonic() + self._patience_s))

    def _read(self, work: Callable[[sql.Connection], T]) -> T:
        with _told(), self._engine.begin() as connection:
            return work(connection)

    def _write(self, work: Callable[[sql.Connection], T], deadline: float) -> T:
        left_ms = round(1000 * (deadline - time.monotonic()))
        if left_ms <= 0:
            raise StoreError(f"the database is busy: others have been writing for {self._patience_s:g} s")
        with _told():
            try:
                return self._transaction(work, left_ms)
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) != DEADLOCK:
                    raise
            return self._transaction(work, left_ms)  # the other one has gone on

    def _transaction(self, work: Callable[[sql.Connection], T], wait_ms: int) -> T:
        with self._engine.connect() as connection:
            connection.execution_options(**{WAIT_MS: wait_ms})
            with connection.begin():
                return work(connection)

    def _migrate(self) -> None:
        self._transaction(schema.migrate, round(1000 * max(self._patience_s, PATIENCE_S)))


async def _to_its_end(future: Future[T]) -> T:
    """The future's result. A caller that is cancelled waits nevertheless, unless the work has not begun."""
    waiting = asyncio.wrap_future(future)
    try:
        return await asyncio.shield(waiting)
    except asyncio.CancelledError:
        if not future.cancel():
            while not future.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait({waiting})
        if waiting.done() and not waiting.cancelled():
            waiting.exception()  # nobody asks for it
        raise


@contextmanager
def _told() -> Iterator[None]:
    """Raises what the database raises as a StoreError."""
    try:
        yield
    except SQLAlchemyError as error:
        lost = isinstance(error, DBAPIError) and error.connection_invalidated
        raise StoreError(f"the database failed: {_reason(error)}", unsure=lost) from error


def _reason(error: Exception) -> str:
    cause = getattr(error, "orig", None) or error
    return str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__


# ---- files and connections ------------------------------------------------------------------------------------------


def _make_private(file: Path) -> None:
    """The database's file, for its owner alone; SQLite gives its other files the same mode."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
    for name in (file.name, f"{file.name}-wal", f"{file.name}-shm"):
        with suppress(FileNotFoundError, PermissionError):  # a file of somebody else's stays as it is
            file.with_name(name).chmod(0o600)


def _engine(address: str, patience_s: float) -> sql.Engine:
    """The connections, one for every thread. What users said is in no error of theirs."""
    engine = sql.create_engine(
        address, pool_pre_ping=True, pool_size=READERS + WRITERS, max_overflow=2, hide_parameters=True
    )
    if engine.dialect.name == "sqlite":
        sql.event.listen(engine, "connect", lambda connection, _: _as_files_should_be(connection, patience_s))
        sql.event.listen(engine, "begin", _begin)
    elif engine.dialect.name == "postgresql":
        sql.event.listen(engine, "begin", _begin_on_server)
    return engine


def _as_files_should_be(connection: Any, patience_s: float) -> None:
    """Sets how a file is written: readers next to a writer, and no wait for the disk at every commit but for the log's.

    What is committed survives the process being killed. Transactions are begun by `_begin`, also those that change
    tables, which Python's module would otherwise write statement by statement.
    """
    connection.isolation_level = None
    for pragma in (f"busy_timeout={round(1000 * patience_s)}", "synchronous=NORMAL", "journal_size_limit=67108864"):
        connection.execute(f"PRAGMA {pragma}")
    deadline = time.monotonic() + max(patience_s, PATIENCE_S)
    while True:  # for a change of this kind SQLite itself does not wait for others
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _begin(connection: sql.Connection) -> None:
    wait_ms = connection.get_execution_options().get(WAIT_MS)
    if wait_ms is None:
        connection.exec_driver_sql("BEGIN")
        return
    connection.exec_driver_sql(f"PRAGMA busy_timeout={wait_ms}")
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _begin_on_server(connection: sql.Connection) -> None:
    wait_ms = connection.get_execution_options().get(WAIT_MS, round(1000 * PATIENCE_S))
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = {wait_ms}")
