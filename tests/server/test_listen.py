"""The socket: who says nothing is turned away, and the server ends in order."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gpt_oss.backends.scripted import Reply, ScriptedGenerator
from gpt_oss.server.gate import ServerOptions
from gpt_oss.server.listen import Limits
from gpt_oss.vocabulary import encode_with_special
from tests.server.conftest import Live, Scripted, serving
from tests.server.test_chat_completions import ANSWER, ASK, slow, wait_until
from tests.server.test_pressure import STREAMS

REPOSITORY = Path(__file__).parents[2]
SMALL = Limits(head_s=0.5, head_bytes=8 << 10, silent=12, silent_by_address=8, connections=20)


def connected(live: Live, first: bytes = b"") -> socket.socket:
    host, port = live.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=10)
    connection.sendall(first)
    return connection


def test_silent_connections_lock_nobody_out() -> None:
    with (
        serving(ScriptedGenerator([]), connections=Limits(silent=12, silent_by_address=8, connections=20)) as live,
        ExitStack() as stack,
    ):
        for _ in range(60):
            stack.enter_context(connected(live, b"GET / HT"))
        for _ in range(3):
            assert httpx.get(f"{live.url}/health", timeout=10).status_code == 200


def test_the_head_of_a_request_has_a_deadline_and_a_size() -> None:
    with serving(ScriptedGenerator([]), connections=SMALL) as live:
        with connected(live, b"GET /health HTTP/1.1\r\nHost: a\r\n") as slowly:
            assert slowly.recv(1000).startswith(b"HTTP/1.1 408")
            assert slowly.recv(1000) == b""
        with connected(live) as silent:
            assert silent.recv(1000).startswith(b"HTTP/1.1 408")
        long = b"GET /health HTTP/1.1\r\nHost: a\r\n" + b"".join(b"x-%d: %s\r\n" % (n, b"y" * 100) for n in range(200))
        with connected(live) as large:
            large.sendall(long)
            assert large.recv(1000)[:12] in (b"HTTP/1.1 431", b"HTTP/1.1 400")


def test_a_connection_that_asks_again_and_again_is_none_that_is_silent() -> None:
    with serving(ScriptedGenerator([]), connections=SMALL) as live, httpx.Client() as client:
        for _ in range(6):
            assert client.get(f"{live.url}/health").status_code == 200
            time.sleep(0.15)


def test_a_long_answer_is_not_cut_by_the_deadline_of_the_head() -> None:
    tokens = encode_with_special("<|channel|>final<|message|>" + "word " * 10 + "<|return|>")
    with serving(ScriptedGenerator([Reply(tokens, delay_s=0.1)]), connections=SMALL) as live:
        body = {"messages": ASK, "stream": True}
        text = httpx.post(f"{live.url}/v1/chat/completions", json=body, timeout=30).text
    assert text.rstrip().endswith("data: [DONE]")


def test_a_full_queue_refuses_background_too(tmp_path: Path) -> None:
    from gpt_oss.server.state.store import Store

    store = Store(str(tmp_path / "server.db"))
    with serving(slow(), store=store, max_concurrent=1, max_queue=1) as live:
        body = {"input": "Hi", "background": True}
        ids = [httpx.post(f"{live.url}/v1/responses", json=body).json()["id"]]
        wait_until(lambda: live.runner.running == 1)
        ids.append(httpx.post(f"{live.url}/v1/responses", json=body).json()["id"])
        wait_until(lambda: live.runner.waiting == 1)
        answer = httpx.post(f"{live.url}/v1/responses", json=body)
        assert answer.status_code == 429
        assert answer.headers["retry-after"]
        for each in ids:
            httpx.post(f"{live.url}/v1/responses/{each}/cancel")
    store.close()


@pytest.mark.parametrize("path", STREAMS)
def test_the_longest_time_holds_for_every_api(path: str) -> None:
    tokens = encode_with_special("<|channel|>final<|message|>" + "word " * 200)
    with serving(
        ScriptedGenerator(lambda _: Reply(tokens, delay_s=0.1)), ServerOptions(ollama=True), longest_s=0.8
    ) as live:
        started = time.monotonic()
        answer = httpx.post(f"{live.url}{path}", json={**STREAMS[path], "stream": False}, timeout=60)
        assert answer.status_code == 200
        assert time.monotonic() - started < 15  # and not twenty seconds of tokens
        assert "length" in answer.text or "max_messages" in answer.text or "max_tokens" in answer.text


@pytest.mark.parametrize("path", STREAMS)
def test_what_is_cut_off_at_the_end_gets_its_last_event(path: str) -> None:
    generator = slow(4000, 0.05)
    texts: list[str] = []
    with serving(generator, ServerOptions(ollama=True, drain_s=0.5)) as live:

        def ask() -> None:
            with httpx.stream("POST", f"{live.url}{path}", json={**STREAMS[path], "stream": True}, timeout=60) as got:
                texts.append(got.read().decode())

        asking = threading.Thread(target=ask)
        asking.start()
        wait_until(lambda: bool(generator.calls) and len(generator.calls[0].delivered) > 2, 20)
    asking.join(30)
    lines = [line.removeprefix("data: ") for line in texts[0].splitlines() if "{" in line]
    last = json.loads(lines[-1])
    assert "shutting down" in json.dumps(last)
    if path == "/v1/responses":
        assert last["type"] == "response.failed"


@contextmanager
def a_server(tmp_path: Path, *flags: str) -> Iterator[tuple[Any, str]]:
    script = tmp_path / "script.jsonl"
    words = "word " * 3000
    script.write_text(json.dumps({"text": f"<|channel|>final<|message|>{words}<|return|>", "delay_s": 0.05}) + "\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "gpt_oss.cli", "serve", "--script", str(script), "--port", str(port), *flags]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "XDG_STATE_HOME": str(tmp_path)}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stderr is not None
        next(line for line in process.stderr if "Serving" in line)
        threading.Thread(target=process.stderr.read, daemon=True).start()
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(transport=httpx.HTTPTransport(retries=5)) as client:
            client.get(f"{url}/health")
        yield process, url
    finally:
        process.kill()
        process.wait()


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="there is no SIGHUP here")
@pytest.mark.parametrize("first", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_signals_end_it_in_order_and_a_second_one_at_once(tmp_path: Path, first: str) -> None:
    with a_server(tmp_path, "--drain", "60", "--no-code-interpreter") as (process, url):
        body = {"messages": ASK, "stream": True}
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60) as got:
            lines = got.iter_lines()
            next(lines)
            process.send_signal(getattr(signal, first))
            time.sleep(0.5)
            assert process.poll() is None  # it waits for the answer under way
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)


def test_the_drain_is_a_bound(tmp_path: Path) -> None:
    with a_server(tmp_path, "--drain", "1", "--no-code-interpreter") as (process, url):
        body = {"messages": ASK, "stream": True}
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60) as got:
            lines = got.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            text = "\n".join(lines)
        process.wait(timeout=40)  # far less than the three minutes that the answer would take
        assert "shutting down" in text


def test_a_client_that_hangs_up_is_not_told_that_the_server_ends(scripted: Scripted) -> None:
    live = scripted(ANSWER)
    assert httpx.post(f"{live.url}/v1/chat/completions", json={"messages": ASK}).status_code == 200
    assert live.runner.idle
