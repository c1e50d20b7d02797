"""Who comes in: keys, names of hosts, origins, and whoever guesses."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from gpt_oss.backends.scripted import ScriptedGenerator
from gpt_oss.cli import main
from gpt_oss.errors import ParameterError
from gpt_oss.server.command import KEY_VARIABLE, _keys
from gpt_oss.server.core.hosted import Hosted, _is_below
from gpt_oss.server.gate import Guesses, ServerOptions, known_hosts, name_of, one_line, shown_keys
from gpt_oss.server.keys import Keys, new_key, read_keys
from tests.server.conftest import Scripted, serving
from tests.server.test_chat_completions import ANSWER, ASK

NOBODY = ServerOptions(hosts=known_hosts("127.0.0.1"))


def flags(**given: Any) -> argparse.Namespace:
    return argparse.Namespace(**{"api_key": [], "key_file": None, **given})


@pytest.mark.parametrize("key", ["", "  ", "short"])
def test_an_empty_key_lets_nobody_in_and_is_refused(
    key: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--api-key", key]) == 2
    assert "--api-key" in capsys.readouterr().err
    monkeypatch.setenv(KEY_VARIABLE, key)
    with pytest.raises(ParameterError, match=KEY_VARIABLE):
        _keys(flags())


def test_a_key_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "a long enough key")
    keys = _keys(flags())
    assert keys
    assert keys.allow("a long enough key")
    assert not keys.allow("")


def test_a_file_without_keys_is_refused_and_one_that_loses_its_last_key_lets_nobody_in(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# nobody\n")
    with pytest.raises(ParameterError, match="has no key"):
        read_keys(path)
    path.unlink()
    key = new_key(path, "laptop")
    keys = Keys(hashed=read_keys(path), path=path)
    assert keys.owner(key) == "laptop"
    for content in ("# taken away\n", None):
        if content is None:
            path.unlink()
        else:
            path.write_text(content)
        assert keys
        assert not keys.allow(key)
    another = new_key(path, "phone")
    assert keys.owner(another) == "phone"


def test_checking_a_key_is_quick(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    keys = [new_key(path, f"key{number}") for number in range(20)]
    known = Keys(hashed=read_keys(path))
    started = time.process_time()
    for number in range(2000):
        assert not known.allow(f"sk-guess{number}")
    assert time.process_time() - started < 5  # it was 50 ms a guess and key with a hash that is slow on purpose
    assert known.owner(keys[7]) == "key7"


def test_every_way_to_show_a_key(scripted: Scripted) -> None:
    live = scripted(*[ANSWER] * 9, keys=frozenset({"the right key"}))
    url = f"{live.url}/v1/models"
    for headers in (
        {"Authorization": "Bearer the right key"},
        {"Authorization": "bearer the right key"},
        {"Authorization": "BEARER  the right key"},
        {"x-api-key": "the right key"},
        {"x-api-key": "the right key", "Authorization": "Bearer of another service"},
        {"x-api-key": "another one", "Authorization": "Bearer the right key"},
        {"x-api-key": "the right key", "Authorization": "Basic dTpw"},
    ):
        assert httpx.get(url, headers=headers).status_code == 200, headers
    for headers in ({"Authorization": "the right key"}, {"Authorization": "Basic the right key"}, {}):
        assert httpx.get(url, headers=headers).status_code == 401
    assert shown_keys({"authorization": "Bearer"}) == []


def test_names_that_lead_here_are_none_of_ours(scripted: Scripted) -> None:
    """As a page does whose name is made to lead to this machine (DNS rebinding)."""
    live = scripted(ANSWER, options=NOBODY)
    port = live.url.rsplit(":", 1)[1]
    for host in (
        f"evil.example:{port}",
        "evil.example",
        "",
        "127.0.0.1.evil.example",
        "[::1",
        "localhost.evil.example",
    ):
        for path in ("/", "/health", "/v1/models", "/v1/responses", "/page/index.js", "/docs"):
            answer = httpx.get(live.url + path, headers={"Host": host})
            assert answer.status_code == 403, (host, path)
    for host in (f"localhost:{port}", "LOCALHOST", f"127.0.0.1:{port}", f"[::1]:{port}"):
        assert httpx.get(f"{live.url}/health", headers={"Host": host}).status_code == 200
    named = serving(ScriptedGenerator([]), ServerOptions(hosts=known_hosts("127.0.0.1", ["My.Name"])))
    with named as other:
        assert httpx.get(f"{other.url}/health", headers={"Host": "my.name:80"}).status_code == 200
    assert known_hosts("0.0.0.0", ["*"]) is None
    assert name_of("[::1") == ""


def test_a_key_is_as_good_as_a_name(scripted: Scripted) -> None:
    """A page of a foreign name cannot show it; a proxy's clients, who ask by the proxy's name, do."""
    live = scripted(ANSWER, options=NOBODY, keys=frozenset({"the right key"}))
    headers = {"Host": "behind.a.proxy", "Authorization": "Bearer the right key"}
    assert httpx.get(f"{live.url}/v1/models", headers=headers).status_code == 200
    assert httpx.get(f"{live.url}/v1/models", headers={"Host": "behind.a.proxy"}).status_code == 401


@pytest.mark.parametrize("origin", ["http://[::1", "http://a b", "null", "://", "javascript:alert(1)"])
def test_an_odd_origin_is_refused_and_nothing_else(scripted: Scripted, origin: str) -> None:
    for options in (ServerOptions(), ServerOptions(ollama=True), ServerOptions(origins=("http://a",))):
        assert httpx.get(f"{scripted(options=options).url}/health", headers={"origin": origin}).status_code == 403


def test_guesses_are_slowed_by_address() -> None:
    now = 0.0
    guesses = Guesses(lambda: now)
    waits = [guesses.wait_s("one", f"guess {number}") for number in range(20)]
    assert waits[:3] == [0.05, 0.1, 0.2]
    assert waits[-1] == Guesses.LONGEST_S
    assert guesses.wait_s("one", "guess 19") == 0  # a client that asks with the same key again guesses nothing
    assert guesses.wait_s("another", "guess 0") == 0.05
    now = Guesses.FORGOTTEN_S + 1
    assert guesses.wait_s("one", "guess 0") == 0.05
    for number in range(2 * Guesses.MOST):
        guesses.wait_s(str(number), "guess")
    assert len(guesses._wrong) <= Guesses.MOST


def test_a_right_key_never_waits_for_guesses(scripted: Scripted) -> None:
    live = scripted(ANSWER, keys=frozenset({"the right key"}))
    for number in range(4):
        httpx.get(f"{live.url}/v1/models", headers={"x-api-key": f"guess {number}"})
    body = {"messages": ASK}
    answer = httpx.post(f"{live.url}/v1/chat/completions", json=body, headers={"x-api-key": "the right key"})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("url", "allowed", "below"),
    [
        ("https://a.example/mcp", "https://a.example/mcp", True),
        ("https://A.example:443/mcp/x", "https://a.example/mcp", True),
        ("https://a.example/mcp/", "https://a.example/mcp", True),
        ("https://a.example/mcp?x=1", "https://a.example/mcp", True),
        ("https://a.example/mcp2", "https://a.example/mcp", False),
        ("https://a.example/mcp/../secret", "https://a.example/mcp", False),
        ("https://a.example/mcp/%2e%2e/secret", "https://a.example/mcp", False),
        ("https://a.example/mcp/%252e%252e/secret", "https://a.example/mcp", False),
        ("https://a.example/mcp\\..\\secret", "https://a.example/mcp", False),
        ("https://a.example@evil.example/mcp", "https://a.example/mcp", False),
        ("https://a.example.evil.example/mcp", "https://a.example", False),
        ("http://a.example/mcp", "https://a.example/mcp", False),
        ("https://a.example:8443/mcp", "https://a.example/mcp", False),
        ("python server.py", "python server.py", True),
        ("python server.py/../../other", "python server.py", False),
        ("python server.py --more", "python server.py", False),
    ],
)
def test_what_lies_below_an_allowed_server(url: str, allowed: str, below: bool) -> None:
    assert _is_below(url, allowed) == below


def test_a_command_is_never_what_a_client_adds(scripted: Scripted) -> None:
    live = scripted(ANSWER, hosted=Hosted(mcp=("python server.py",)))
    tool = {"type": "mcp", "server_label": "x", "server_url": "python server.py/x", "require_approval": "never"}
    answer = httpx.post(f"{live.url}/v1/responses", json={"input": "Hi", "tools": [tool]})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "tools[0].server_url")


def test_the_page_of_the_api_is_in_no_frame(scripted: Scripted) -> None:
    headers = httpx.get(f"{scripted(ANSWER).url}/docs").headers
    assert headers["x-frame-options"] == "DENY"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]


def test_a_log_has_one_line_for_a_request(scripted: Scripted, caplog: pytest.LogCaptureFixture) -> None:
    live = scripted(ANSWER, options=NOBODY)
    with caplog.at_level("INFO", "gpt_oss.server"):
        httpx.get(f"{live.url}/v1/%0Afake%20line%1b[31m")
        time.sleep(0.05)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1
    assert "\n" not in lines[0]
    assert "\x1b" not in lines[0]
    assert one_line("a\nb\u2028") == "a\\nb\\u2028"
