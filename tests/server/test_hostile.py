"""Fifty requests at a time that are made to hold up a server, while others ask whether it lives and read an answer."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from benchmarks.hostile import AT_A_TIME, Watch, attacks, percentile, send_all, server
from gpt_oss.server.core.body import MOST_CONTAINERS, parse_json
from gpt_oss.server.core.errors import RequestError


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 5])
def test_nobody_waits_for_what_is_hostile(every: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Each gets an answer, none is a failure of the server, and /health answers all the while."""
    needed = ("30 MB of lists: /v1/chat/completions", "a chain of rules: /v1/chat/completions")
    listed = attacks()
    given = [each for number, each in enumerate(listed) if number % every == 0 or each[0] in needed]
    with server() as url:
        with Watch(url) as watch:
            found = asyncio.run(send_all(url, given, AT_A_TIME))
        assert httpx.get(f"{url}/health", timeout=60).json()["status"] == "ok"
    with capsys.disabled():
        print(f"\n/health: p99 {percentile(watch.waits, 0.99)} ms, {len(watch.waits)} answers")
    assert len(found) == len(given)
    assert {name: status for name, (status, _) in found.items() if status not in (200, 400, 413)} == {}
    assert found["30 MB of lists: /v1/chat/completions"][0] == 413
    assert found["a chain of rules: /v1/chat/completions"][0] == 400
    assert len(watch.waits) > 10
    assert watch.gaps


@pytest.mark.parametrize("text", ['"' + "[{," * 200_000 + '"', '"\\"' + '[\\\\\\",' * 200_000 + '"'])
def test_what_stands_in_a_string_is_no_value(text: str) -> None:
    assert parse_json(text.encode()) == parse_json(text) == json.loads(text)


@pytest.mark.parametrize("text", ["[" + "[]," * MOST_CONTAINERS + "1]", "[" + "1," * 1_000_001 + "1]"])
def test_too_many_values_are_refused_before_they_are_parsed(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json, "loads", lambda *_, **__: pytest.fail("it was parsed"))
    for raw in (text, text.encode(), b'{"a": "x\\\\", "b": ' + text.encode() + b"}"):
        with pytest.raises(RequestError, match="more than 100,000 objects and lists") as caught:
            parse_json(raw)
        assert caught.value.status == 413
