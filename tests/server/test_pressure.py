"""Behaviour under pressure: readers that do not read, queues, ends in order, keys on every route, sizes."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from gpt_oss.backends.scripted import Reply, ScriptedGenerator
from gpt_oss.server.app import create_app
from gpt_oss.server.core import stream
from gpt_oss.server.gate import ServerOptions
from gpt_oss.server.runner import Runner
from gpt_oss.server.service import Service
from gpt_oss.vocabulary import encode_with_special
from tests.server.conftest import Live, Scripted, serving
from tests.server.test_chat_completions import ANSWER, ASK, slow, wait_until

LONG = encode_with_special("<|channel|>final<|message|>" + "a long word and another " * 8_000)
STREAMS: dict[str, dict[str, Any]] = {
    "/v1/responses": {"input": "Hi"},
    "/v1/chat/completions": {"messages": ASK},
    "/v1/completions": {"prompt": "Hi", "max_tokens": 90_000},
    "/v1/messages": {"messages": ASK, "max_tokens": 90_000},
    "/api/chat": {"messages": ASK},
    "/api/generate": {"prompt": "Hi", "raw": True},
}


@contextmanager
def unread(live: Live, path: str, body: dict[str, Any]) -> Iterator[socket.socket]:
    """A connection that asks and reads nothing."""
    content = json.dumps({**body, "stream": True}).encode()
    host, port = live.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        head = f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: {len(content)}\r\n\r\n"
        connection.sendall(head.encode() + content)
        yield connection


@pytest.mark.parametrize("path", STREAMS)
def test_who_does_not_read_holds_up_nobody(path: str) -> None:
    """An answer of a megabyte is computed to its end while nobody reads it, and its place is free again."""
    generator = ScriptedGenerator(lambda _: LONG, context_tokens=131_072)
    with serving(generator, ServerOptions(ollama=True), max_concurrent=1) as live, unread(live, path, STREAMS[path]):
        wait_until(lambda: bool(generator.calls), 20)
        wait_until(lambda: live.runner.running == 0 and generator.calls[0].closed, 60)
        assert len(generator.calls[0].delivered) > 20_000


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/chat/completions", "/v1/messages"])
def test_silence_is_filled(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real events where comments do not count: Codex's clock is not reset by them."""
    monkeypatch.setattr(stream, "KEEP_ALIVE_S", 0.1)
    silent = Reply(encode_with_special("<|channel|>final<|message|>Hi<|return|>"), delay_s=0.5)
    with serving(ScriptedGenerator([silent])) as live:
        text = httpx.post(f"{live.url}{path}", json={**STREAMS[path], "stream": True}, timeout=60).text
    if path == "/v1/responses":
        events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        kinds = [event["type"] for event in events]
        assert kinds[0] == "response.created"
        assert kinds.count("response.in_progress") > 3
        assert kinds[-1] == "response.completed"
    else:
        assert text.count("event: ping" if path == "/v1/messages" else ": keep-alive") > 2


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/chat/completions"])
def test_a_stream_that_waits_for_its_turn_begins_all_the_same(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "KEEP_ALIVE_S", 0.1)
    with serving(slow(40), max_concurrent=1) as live, unread(live, path, STREAMS[path]):
        wait_until(lambda: live.runner.running == 1)
        with httpx.stream("POST", f"{live.url}{path}", json={**STREAMS[path], "stream": True}) as response:
            assert response.status_code == 200
            lines = response.iter_lines()
            assert next(lines).startswith(("event: response.created", ":"))
            assert live.runner.waiting == 1


def test_the_end_waits_for_what_is_under_way(scripted: Scripted) -> None:
    said: list[str] = []
    tokens = encode_with_special("<|channel|>final<|message|>" + "word " * 30 + "<|return|>")
    with serving(ScriptedGenerator([Reply(tokens, delay_s=0.03)])) as live:

        def ask() -> None:
            answer = httpx.post(f"{live.url}/v1/chat/completions", json={"messages": ASK}, timeout=60).json()
            said.append(answer["choices"][0]["message"]["content"])

        asking = threading.Thread(target=ask)
        asking.start()
        wait_until(lambda: live.runner.running == 1)
    asking.join(20)
    assert said == ["word " * 30]


def test_a_server_that_ends_takes_nothing_new() -> None:
    with serving(slow()) as live:
        live.runner.draining = True
        for path in STREAMS.keys() - {"/api/chat", "/api/generate"}:
            response = httpx.post(f"{live.url}{path}", json=STREAMS[path])
            assert response.status_code == 429
            assert response.headers["retry-after"]


def routes() -> list[tuple[str, str]]:
    """Every route of the OpenAPI document, and those beside it."""
    app = create_app(Service(Runner(ScriptedGenerator([])), "tiny"), ServerOptions(ollama=True))
    listed = [(method.upper(), path) for path, methods in app.openapi()["paths"].items() for method in methods]
    return [*listed, ("GET", "/openapi.json"), ("GET", "/docs"), ("GET", "/nowhere")]


def test_no_route_answers_without_a_key() -> None:
    """But whether the server lives, and pages, which hold nothing of anybody's."""
    open_to_all = {"/health", "/", "/docs", "/openapi.json"}
    found = routes()
    assert len(found) > 30
    with (
        serving(ScriptedGenerator([]), ServerOptions(ollama=True), frozenset({"right"})) as live,
        httpx.Client() as client,
    ):
        for method, path in found:
            url = live.url + re.sub(r"\{[^}]*\}", "x", path)
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"x-api-key": "wrong"}):
                response = client.request(method, url, headers=headers)
                assert (response.status_code == 401) != (path in open_to_all), (method, path, response.status_code)


def test_pages_of_other_origins_cannot_even_ask_blindly() -> None:
    """A page may send text/plain anywhere without asking first; JSON in it must not reach the model."""
    generator = ScriptedGenerator([encode_with_special(ANSWER)] * 3)
    with serving(generator, ServerOptions(origins=("http://friend.example",))) as live:
        content = json.dumps({"input": "Hi"})
        for origin, status in (
            ("http://x.example", 403),
            ("null", 403),
            (live.url, 200),
            ("http://friend.example", 200),
        ):
            headers = {"Origin": origin, "Content-Type": "text/plain"}
            response = httpx.post(f"{live.url}/v1/responses", content=content, headers=headers)
            assert response.status_code == status
    assert len(generator.calls) == 2


def test_a_body_that_is_too_large() -> None:
    with serving(ScriptedGenerator([]), ServerOptions(largest_body=1 << 20)) as live:
        response = httpx.post(f"{live.url}/v1/responses", json={"input": "x" * (2 << 20)})
        assert (response.status_code, response.json()["error"]["type"]) == (413, "invalid_request_error")
