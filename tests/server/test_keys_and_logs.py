"""Keys of a file, pages of other origins, what the log tells, and how long an answer may take."""

from __future__ import annotations

import logging
import stat
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from gpt_oss.backends.scripted import Reply, ScriptedGenerator
from gpt_oss.cli import main
from gpt_oss.errors import ParameterError
from gpt_oss.server.gate import ServerOptions
from gpt_oss.server.keys import Keys, new_key, read_keys
from gpt_oss.server.runner import Runner
from gpt_oss.vocabulary import encode_with_special
from tests.server.conftest import serving
from tests.server.test_chat_completions import ANSWER, ASK


def test_a_key_file_holds_hashes_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "keys"
    assert main(["serve", "--key-file", str(path), "--new-key", "laptop"]) == 0
    key = capsys.readouterr().out.strip()
    other = new_key(path, "phone")
    assert key not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    keys = Keys(hashed=read_keys(path))
    assert [keys.allow(shown) for shown in (key, other, key[:-1], "", "sk-" + "x" * 40, key)] == [
        True, True, False, False, False, True,
    ]  # fmt: skip
    assert main(["serve", "--key-file", str(path), "--new-key", "laptop"]) == 2
    assert "already" in capsys.readouterr().err
    path.write_text("# comment\n\nlaptop nonsense\n")
    with pytest.raises(ParameterError, match="line 3"):
        read_keys(path)
    with pytest.raises(ParameterError, match="cannot be read"):
        read_keys(tmp_path / "nothing")


def test_pages_of_other_origins_may_ask_only_if_named() -> None:
    headers = {"Origin": "http://page.example", "Access-Control-Request-Method": "POST"}
    for options, allowed in ((ServerOptions(), None), (ServerOptions(origins=(headers["Origin"],)), headers["Origin"])):
        with serving(ScriptedGenerator([]), options, frozenset({"key"})) as live:
            answer = httpx.options(f"{live.url}/v1/models", headers=headers)
            assert answer.headers.get("access-control-allow-origin") == allowed


def test_the_log_tells_of_requests_but_not_what_was_said(caplog: pytest.LogCaptureFixture) -> None:
    said: Any = [{"role": "user", "content": "a secret"}]
    for log_prompts in (False, True):
        caplog.clear()
        with (
            caplog.at_level(logging.INFO, "gpt_oss.server"),
            serving(ScriptedGenerator([encode_with_special(ANSWER)]), ServerOptions(log_prompts=log_prompts)) as live,
        ):
            answer = httpx.post(f"{live.url}/v1/chat/completions", json={"messages": said})
            time.sleep(0.05)
        assert answer.headers["x-request-id"] in caplog.text
        assert "/v1/chat/completions 200" in caplog.text
        assert ("a secret" in caplog.text) == log_prompts


def test_the_most_tokens_of_an_answer() -> None:
    """Whatever the client asks, unless that is less."""
    reply = encode_with_special(ANSWER)
    with serving(ScriptedGenerator([reply] * 5), most_tokens=5) as live:

        def ask(path: str, **more: object) -> Any:
            return httpx.post(f"{live.url}/v1/{path}", json=more).json()

        for given, used in (({}, 5), ({"max_tokens": 1000}, 5), ({"max_tokens": 4}, 4)):
            answer = ask("chat/completions", messages=ASK, **given)
            assert answer["choices"][0]["finish_reason"] == "length"
            assert answer["usage"]["completion_tokens"] == used
        response = ask("responses", input="Hi")
        assert response["incomplete_details"] == {"reason": "max_output_tokens"}
        assert response["usage"]["output_tokens"] == 5
        text = ask("completions", prompt="Hi", max_tokens=1000)
        assert (text["choices"][0]["finish_reason"], text["usage"]["completion_tokens"]) == ("length", 5)


def test_limits_are_positive() -> None:
    with pytest.raises(ParameterError, match="over 0, not -1"):
        Runner(ScriptedGenerator([]), most_tokens=-1)


def test_the_longest_time_of_an_answer() -> None:
    slow = Reply(encode_with_special(ANSWER), delay_s=0.2)
    with serving(ScriptedGenerator([slow]), longest_s=0.7) as live:
        started = time.monotonic()
        answer = httpx.post(f"{live.url}/v1/chat/completions", json={"messages": ASK}).json()
    assert time.monotonic() - started < 5
    assert answer["choices"][0]["finish_reason"] == "length"
