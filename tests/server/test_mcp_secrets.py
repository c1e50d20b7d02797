"""What lets a client in at an MCP server goes there, and nowhere else."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from gpt_oss.backends.scripted import ScriptedGenerator
from gpt_oss.server.core.hosted import Hosted, public_url, without_secrets
from gpt_oss.server.state.store import Store
from gpt_oss.vocabulary import encode_with_special
from tests.server.conftest import serving
from tests.server.test_chat_completions import ANSWER

TOKEN, HEADER, PASSWORD = "token-of-a-client", "header-of-a-client", "password-of-ours"
SECRETS = (TOKEN, HEADER, PASSWORD)


class _Mcp(BaseHTTPRequestHandler):
    """As little of an MCP server as a client needs to list no tools."""

    seen: list[dict[str, str]]

    def do_POST(self) -> None:
        self.seen.append({name.lower(): value for name, value in self.headers.items()})
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        results: dict[str, Any] = {
            "initialize": {
                "protocolVersion": asked.get("params", {}).get("protocolVersion"),
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "calc", "version": "1"},
            },
            "tools/list": {"tools": []},
        }
        known = asked["method"] in results
        answer = {"jsonrpc": "2.0", "id": asked.get("id"), "result": results.get(asked["method"], {})}
        body = json.dumps(answer).encode() if known else b""
        self.send_response(200 if known else 202)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.send_error(405)

    do_DELETE = do_GET  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


@pytest.fixture
def mcp() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A server's address, and the headers of every request to it."""
    seen: list[dict[str, str]] = []
    handler = type("Handler", (_Mcp,), {"seen": seen})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}", seen
        server.shutdown()


def test_secrets_of_mcp_servers_are_neither_shown_nor_kept(mcp: Any, tmp_path: Path) -> None:
    address, seen = mcp
    path = tmp_path / "server.db"
    store = Store(str(path))
    ours = f"http://user:{PASSWORD}@{address}/mcp"
    hosted = Hosted(mcp=(f"http://{address}/open", ours))
    generator = ScriptedGenerator([encode_with_special(ANSWER)] * 6)
    told = ""
    with serving(generator, store=store, hosted=hosted) as live:
        for url, lets_in in ((f"http://{address}/open", TOKEN), (ours, "Basic "), (public_url(ours), "Basic ")):
            tool = {
                "type": "mcp", "server_label": "calc", "server_url": url, "require_approval": "never",
                "authorization": TOKEN, "headers": {"X-Secret": HEADER},
            }  # fmt: skip
            listed = {"type": "additional_tools", "tools": [tool]}
            body = {"input": [{"role": "user", "content": "Hi"}, listed], "tools": [tool]}
            seen.clear()
            whole = httpx.post(f"{live.url}/v1/responses", json=body, timeout=60)
            assert whole.status_code == 200, whole.text
            assert seen
            assert all(each["x-secret"] == HEADER for each in seen)
            assert all(lets_in in each["authorization"] for each in seen)
            shown = whole.json()["tools"][0]
            assert (shown["server_label"], shown["server_url"]) == ("calc", public_url(url))
            identity = whole.json()["id"]
            more = {**body, "stream": True, "background": True}
            told += whole.text + httpx.post(f"{live.url}/v1/responses", json=more, timeout=60).text
            for rest in ("", "/input_items"):
                told += httpx.get(f"{live.url}/v1/responses/{identity}{rest}").text
        told += httpx.get(f"{live.url}/v1/server").text
    store.close()
    kept = b"".join(file.read_bytes() for file in tmp_path.iterdir() if file.is_file())
    assert b"127.0.0.1" in kept
    assert [secret for secret in SECRETS if secret in told] == []
    assert [secret for secret in SECRETS if secret.encode() in kept] == []


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://a:b@host.example/mcp?x=@y", "https://host.example/mcp?x=@y"),
        ("https://a:b@c@host.example", "https://host.example"),
        ("https://token@host.example:81", "https://host.example:81"),
        ("https://host.example/@me", "https://host.example/@me"),
        ("uvx some-server", "uvx some-server"),
    ],
)
def test_urls_without_names_and_passwords(url: str, shown: str) -> None:
    assert public_url(url) == shown


def test_other_tools_are_shown_as_they_are() -> None:
    tool = {"type": "function", "name": "f", "headers": {"a": "b"}}
    assert without_secrets(tool) == tool
