"""A live server on a free port, on played-back tokens or on a tiny random checkpoint, and OpenAI's own client."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sql
from openai import OpenAI

from gpt_oss.backends.base import TokenGenerator
from gpt_oss.backends.scripted import ScriptedGenerator
from gpt_oss.load import LoadOptions, load
from gpt_oss.model.config import ModelConfig
from gpt_oss.model.factory import write_random_checkpoint
from gpt_oss.server.app import create_app
from gpt_oss.server.core.hosted import NOTHING_HOSTED, Hosted
from gpt_oss.server.gate import ServerOptions
from gpt_oss.server.keys import Keys
from gpt_oss.server.listen import USUAL_LIMITS, Limits, make_server
from gpt_oss.server.runner import Runner
from gpt_oss.server.service import Service
from gpt_oss.server.state import schema
from gpt_oss.server.state.store import Store, database_url
from gpt_oss.vocabulary import encode_with_special
from tests.server.postgres import binaries, postgres

WITH_POSTGRES = pytest.mark.skipif(binaries() is None, reason="PostgreSQL is not installed")


@dataclass(frozen=True)
class Live:
    url: str
    runner: Runner
    generator: Any
    service: Service

    def client(self, **options: Any) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, **options)

    def any_client(self, **options: Any) -> Any:
        """The same, for requests and answers that the SDK's types make a burden of."""
        return self.client(**options)


USUAL = ServerOptions()


@contextmanager
def serving(
    generator: TokenGenerator,
    options: ServerOptions = USUAL,
    keys: frozenset[str] = frozenset(),
    store: Store | None = None,
    hosted: Hosted = NOTHING_HOSTED,
    wrap: Callable[[Any], Any] = lambda app: app,
    connections: Limits = USUAL_LIMITS,
    share: bool = False,
    **limits: Any,
) -> Iterator[Live]:
    """A server until the block ends. wrap: makes of the application the one that is served, to watch its requests."""
    runner = Runner(generator, **limits)
    service = Service(runner, "tiny", Keys(keys), store, hosted=hosted, share=share)
    app = wrap(create_app(service, options))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = make_server(app, service, drain_s=options.drain_s, limits=connections)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield Live(f"http://127.0.0.1:{listener.getsockname()[1]}", runner, generator, service)
        finally:
            server.should_exit = True
            thread.join(timeout=20)
            assert not thread.is_alive(), "the server did not end"


Scripted = Callable[..., Live]


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    """A server that says these answers, in Harmony's notation, one a round."""
    with ExitStack() as stack:

        def start(*answers: str, **options: Any) -> Live:
            script = [encode_with_special(answer) for answer in answers]
            return stack.enter_context(serving(ScriptedGenerator(script), **options))

        yield start


@pytest.fixture(scope="session")
def babbling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server on random weights: whatever is asked for must be right by construction."""
    shape = ModelConfig(
        num_hidden_layers=2, num_experts=4, experts_per_token=2, hidden_size=32, intermediate_size=32, head_dim=8,
        num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    path = write_random_checkpoint(tmp_path_factory.mktemp("server") / "babbler", shape)
    generator = load(path, LoadOptions(context_tokens=4096, threads=1))
    with serving(generator) as live:
        yield live
    generator.close()


def emptied(url: str) -> str:
    """The URL, of a database in which there are none of our tables."""
    engine = sql.create_engine(database_url(url))
    with engine.begin() as connection:
        connection.execute(sql.text("SET lock_timeout = 20000"))
        for table in schema.tables.tables:
            connection.execute(sql.text(f"DROP TABLE IF EXISTS {table} CASCADE"))
    engine.dispose()
    return url


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    with postgres() as url:
        yield url


@pytest.fixture(params=["SQLite", pytest.param("PostgreSQL", marks=WITH_POSTGRES)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of an empty database."""
    if request.param == "SQLite":
        return str(tmp_path / "deep" / "server.db")
    return emptied(request.getfixturevalue("postgres_server"))
