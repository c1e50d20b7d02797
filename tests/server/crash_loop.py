"""`python -m tests.server.crash_loop --kills 200 [--store postgres://…]`: a real server that is killed again and again.

Clients ask it meanwhile, with and without background, and in conversations. After every kill it is started again, on
another port, and asked for everything that any client has been told of so far: what was finished must be there as it
was told, nothing may be under way, and nothing half written. Prints the figures as JSON on the last line.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx

from gpt_oss.model.config import ModelConfig
from gpt_oss.model.factory import write_random_checkpoint
from tests.server.postgres import postgres

REPOSITORY = Path(__file__).parents[2]
CLIENTS = 4


def babbler(folder: Path) -> Path:
    """A tiny checkpoint of random weights."""
    shape = ModelConfig(
        num_hidden_layers=2, num_experts=4, experts_per_token=2, hidden_size=32, intermediate_size=32, head_dim=8,
        num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    return write_random_checkpoint(folder / "babbler", shape)


@contextmanager
def process(
    checkpoint: Path, home: Path, port: int, *more: str
) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "XDG_STATE_HOME": str(home)}
    words = ["gpt_oss.cli", "serve", str(checkpoint), "--port", str(port), "--threads", "1", "--no-code-interpreter"]
    started = subprocess.Popen(
        [sys.executable, "-m", *words, *more], stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert started.stderr is not None
        assert any("Serving" in line for line in started.stderr)
        threading.Thread(target=started.stderr.read, daemon=True).start()  # or it would wait for a reader
        transport = httpx.HTTPTransport(retries=8)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/v1", transport=transport, timeout=60) as client:
            yield started, client
    finally:
        started.kill()
        started.wait()


@dataclass
class Figures:
    """What came of it.

    finished: responses whose end a client was told before the kill.
    begun: those that a client knew of and that had no end yet.
    lost: finished ones that were not there afterwards as they had been told.
    under_way: those that still were afterwards.
    half_written: those of which only a part was there.
    """

    kills: int = 0
    finished: int = 0
    begun: int = 0
    lost: list[str] = field(default_factory=list)
    under_way: list[str] = field(default_factory=list)
    half_written: list[str] = field(default_factory=list)


class Told:
    """What clients know: by id, the last that they were told of a response."""

    def __init__(self) -> None:
        self.bodies: dict[str, Any] = {}
        self.talks: dict[str, str] = {}  # conversations of responses
        self._lock = threading.Lock()

    def hear(self, body: Any, talk: str | None = None) -> None:
        with self._lock:
            self.bodies[body["id"]] = body
            if talk:
                self.talks[body["id"]] = talk


def ask_on_and_on(client: httpx.Client, told: Told, ending: threading.Event) -> None:
    """Asks until the server is gone."""
    while not ending.is_set():
        try:
            _ask(client, told)
        except (httpx.HTTPError, ValueError, KeyError):
            return


def _ask(client: httpx.Client, told: Told) -> None:
    body: dict[str, Any] = {"input": "Hi", "max_output_tokens": random.randrange(1, 60)}
    match random.choice(["whole", "stream", "background", "conversation"]):
        case "whole":
            told.hear(client.post("/responses", json=body).raise_for_status().json())
        case "background":
            made = client.post("/responses", json={**body, "background": True}).raise_for_status().json()
            told.hear(made)
            told.hear(client.get(f"/responses/{made['id']}").raise_for_status().json())
        case "conversation":
            talk = client.post("/conversations", json={}).raise_for_status().json()["id"]
            body |= {"conversation": talk}
            told.hear(client.post("/responses", json=body).raise_for_status().json(), talk)
        case "stream":
            with client.stream("POST", "/responses", json={**body, "stream": True}) as response:
                for line in response.iter_lines():
                    if line.startswith("data: ") and "response" in (event := json.loads(line[6:])):
                        told.hear(event["response"])


def check(client: httpx.Client, told: Told, figures: Figures) -> None:
    for identity, known in told.bodies.items():
        ended = known["status"] not in ("queued", "in_progress")
        figures.finished += ended
        figures.begun += not ended
        answer = client.get(f"/responses/{identity}")
        if answer.status_code != 200 or (ended and answer.json() != known):
            figures.lost.append(identity)
            continue
        found = answer.json()
        if found["status"] in ("queued", "in_progress"):
            figures.under_way.append(identity)
        talk = told.talks.get(identity)
        if talk is not None:
            items = [item["id"] for item in client.get(f"/conversations/{talk}/items?limit=100").json()["data"]]
            if not {item["id"] for item in found["output"]} <= set(items):
                figures.half_written.append(identity)
        if found["background"] and found["status"] == "completed":
            events = client.get(f"/responses/{identity}?stream=true").text
            if "response.completed" not in events or "response.created" not in events:
                figures.half_written.append(identity)


def crash_loop(checkpoint: Path, home: Path, port: int, *, kills: int, store: str | None = None) -> Figures:
    figures = Figures()
    told = Told()
    more = ["--store", store] if store else []
    for number in range(kills + 1):
        with process(checkpoint, home, port + number % 2, *more) as (server, client):
            check(client, told, figures)
            told = Told()
            if number == kills:
                break
            ending = threading.Event()
            clients = [threading.Thread(target=ask_on_and_on, args=(client, told, ending)) for _ in range(CLIENTS)]
            for each in clients:
                each.start()
            enough, latest = random.randrange(1, 12), time.monotonic() + 20
            while len(told.bodies) < enough and time.monotonic() < latest:
                time.sleep(0.01)
            time.sleep(random.uniform(0, 0.3))
            server.send_signal(signal.SIGKILL)
            server.wait()
            ending.set()
            for each in clients:
                each.join()
            figures.kills += 1
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--store", metavar="URL", help="a database's; own: a PostgreSQL server that ends with this")
    args = parser.parse_args()
    with ExitStack() as stack, tempfile.TemporaryDirectory() as name, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = min(free.getsockname()[1], 65_000)
        free.close()
        store = stack.enter_context(postgres()) if args.store == "own" else args.store
        figures = crash_loop(babbler(Path(name)), Path(name) / "state", port, kills=args.kills, store=store)
    print(json.dumps(asdict(figures)))
    return int(bool(figures.lost or figures.under_way or figures.half_written))


if __name__ == "__main__":
    sys.exit(main())
