"""The tables, and how a database of an older version becomes one of this. JSON is kept as text: both databases have it,
and it comes back as it went in.

Rows have a `made_by` where somebody can ask for them: the name of the key that made them, "" where none was needed.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import sqlalchemy as sql

from gpt_oss.errors import GptOssError

tables = sql.MetaData()
version = sql.Table("gpt_oss_version", tables, sql.Column("number", sql.Integer, nullable=False))

UNDER_WAY = ("queued", "in_progress")
INTERRUPTED = {"code": "server_error", "message": "the server stopped before this response was finished"}
LOCK = 7_205_759_403  # of PostgreSQL's advisory locks, the one for changes of the tables


def _made_by() -> sql.Column[str]:
    return sql.Column("made_by", sql.Text, nullable=False, server_default="")


def _responses(of: sql.MetaData, *later: sql.Column[str]) -> sql.Table:
    return sql.Table(
        "responses",
        of,
        sql.Column("id", sql.String(80), primary_key=True),
        sql.Column("owner", sql.String(200), nullable=False),  # the server that computes it
        sql.Column("status", sql.String(20), nullable=False),
        sql.Column("created", sql.Integer, nullable=False, index=True),
        sql.Column("previous", sql.String(80)),
        sql.Column("conversation", sql.String(80)),
        sql.Column("body", sql.Text, nullable=False),
        sql.Column("input", sql.Text, nullable=False),
        *later,
    )


def _conversations(of: sql.MetaData, *later: sql.Column[str]) -> sql.Table:
    return sql.Table(
        "conversations",
        of,
        sql.Column("id", sql.String(80), primary_key=True),
        sql.Column("created", sql.Integer, nullable=False),
        sql.Column("used", sql.Integer, nullable=False, index=True),
        sql.Column("metadata", sql.Text, nullable=False),
        *later,
    )


def _completions(of: sql.MetaData, *later: sql.Column[str]) -> sql.Table:
    return sql.Table(
        "chat_completions",
        of,
        sql.Column("id", sql.String(80), primary_key=True),
        sql.Column("created", sql.Integer, nullable=False, index=True),
        sql.Column("body", sql.Text, nullable=False),
        sql.Column("messages", sql.Text, nullable=False),
        *later,
    )


responses = _responses(tables, _made_by())
events = sql.Table(
    "events",
    tables,
    sql.Column("response", sql.String(80), primary_key=True),
    sql.Column("number", sql.Integer, primary_key=True),
    sql.Column("body", sql.Text, nullable=False),
)
conversations = _conversations(tables, _made_by())
items = sql.Table(
    "items",
    tables,
    sql.Column("place", sql.Integer, primary_key=True, autoincrement=True),
    sql.Column("conversation", sql.String(80), nullable=False, index=True),  # or the response that it is output of
    sql.Column("id", sql.String(200), nullable=False, index=True),
    sql.Column("body", sql.Text, nullable=False),
)
# What the page keeps beyond the API: which responses a conversation's branches are made of (a response may be in
# several), and how each came about (server/trace.py).
turns = sql.Table(
    "turns",
    tables,
    sql.Column("place", sql.Integer, primary_key=True, autoincrement=True),
    sql.Column("conversation", sql.String(80), nullable=False, index=True),
    sql.Column("response", sql.String(80), nullable=False, index=True),
)
traces = sql.Table(
    "traces",
    tables,
    sql.Column("response", sql.String(80), primary_key=True),
    sql.Column("body", sql.Text, nullable=False),
)

completions = _completions(tables, _made_by())


def _first(connection: sql.Connection) -> None:
    for table in (_responses(sql.MetaData()), events, _conversations(sql.MetaData()), items):
        table.create(connection)


def _trees(connection: sql.Connection) -> None:
    for table in (turns, traces):
        table.create(connection)


def _chats(connection: sql.Connection) -> None:
    _completions(sql.MetaData()).create(connection)


def _makers(connection: sql.Connection) -> None:
    """Rows belong to whoever made them. What servers of the version before had under way has ended with them."""
    for table in (responses, conversations, completions):
        connection.execute(sql.text(f"ALTER TABLE {table.name} ADD COLUMN made_by TEXT NOT NULL DEFAULT ''"))
    interrupt(connection, responses.c.status.in_(UNDER_WAY))


# MIGRATIONS[n] makes a database of version n one of version n + 1. Append; never change one that was released.
MIGRATIONS: tuple[Callable[[sql.Connection], None], ...] = (_first, _trees, _chats, _makers)


def interrupt(connection: sql.Connection, which: sql.ColumnElement[bool]) -> int:
    """Responses that a server will not finish become incomplete. How many there were."""
    wanted = sql.select(responses.c.id, responses.c.body).where(which).with_for_update()
    rows = connection.execute(wanted).all()
    for row in rows:
        body = json.loads(row.body) | {"status": "incomplete", "error": INTERRUPTED}
        text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
        changed = responses.update().where(responses.c.id == row.id)
        connection.execute(changed.values(status="incomplete", body=text))
    return len(rows)


class NewerDatabaseError(GptOssError):
    """The database was made by a later version of this package."""


def migrate(connection: sql.Connection) -> None:
    """Bring a database, new or old, to this version, in the transaction under way. Raises NewerDatabaseError.

    Servers that start at once do it one after the other: a write on SQLite holds the only lock there is.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sql.select(sql.func.pg_advisory_xact_lock(LOCK)))
    version.create(connection, checkfirst=True)
    there = connection.execute(sql.select(version.c.number)).scalar()
    number = there or 0
    if number > len(MIGRATIONS):
        raise NewerDatabaseError(
            f"the database has version {number}, and this gpt-oss knows {len(MIGRATIONS)}",
            hint="Update gpt-oss, or name another file with --store.",
        )
    for step in MIGRATIONS[number:]:
        step(connection)
    if there is None:
        connection.execute(version.insert().values(number=len(MIGRATIONS)))
    elif number < len(MIGRATIONS):
        connection.execute(version.update().values(number=len(MIGRATIONS)))
