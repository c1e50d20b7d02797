"""The tables, and how a database of an older version becomes one of this. JSON is kept as text: both databases have it,
and it comes back as it went in."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sql

from gpt_oss.errors import GptOssError

tables = sql.MetaData()
version = sql.Table("gpt_oss_version", tables, sql.Column("number", sql.Integer, nullable=False))

responses = sql.Table(
    "responses",
    tables,
    sql.Column("id", sql.String(80), primary_key=True),
    sql.Column("owner", sql.String(200), nullable=False),
    sql.Column("status", sql.String(20), nullable=False),
    sql.Column("created", sql.Integer, nullable=False, index=True),
    sql.Column("previous", sql.String(80)),
    sql.Column("conversation", sql.String(80)),
    sql.Column("body", sql.Text, nullable=False),
    sql.Column("input", sql.Text, nullable=False),
)
events = sql.Table(
    "events",
    tables,
    sql.Column("response", sql.String(80), primary_key=True),
    sql.Column("number", sql.Integer, primary_key=True),
    sql.Column("body", sql.Text, nullable=False),
)
conversations = sql.Table(
    "conversations",
    tables,
    sql.Column("id", sql.String(80), primary_key=True),
    sql.Column("created", sql.Integer, nullable=False),
    sql.Column("used", sql.Integer, nullable=False, index=True),
    sql.Column("metadata", sql.Text, nullable=False),
)
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

completions = sql.Table(
    "chat_completions",
    tables,
    sql.Column("id", sql.String(80), primary_key=True),
    sql.Column("created", sql.Integer, nullable=False, index=True),
    sql.Column("body", sql.Text, nullable=False),
    sql.Column("messages", sql.Text, nullable=False),
)


def _first(connection: sql.Connection) -> None:
    for table in (responses, events, conversations, items):
        table.create(connection)


def _turns(connection: sql.Connection) -> None:
    for table in (turns, traces):
        table.create(connection)


def _completions(connection: sql.Connection) -> None:
    completions.create(connection)


# MIGRATIONS[n] makes a database of version n one of version n + 1. Append; never change one that was released.
MIGRATIONS: tuple[Callable[[sql.Connection], None], ...] = (_first, _turns, _completions)


class NewerDatabaseError(GptOssError):
    """The database was made by a later version of this package."""


def migrate(connection: sql.Connection) -> None:
    """Bring a database, new or old, to this version. Raises NewerDatabaseError."""
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
