"""A server that is killed in the middle: what was finished can be read, what was not is marked incomplete."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest

from tests.server.conftest import WITH_POSTGRES, emptied
from tests.server.crash_loop import babbler, crash_loop, process


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return babbler(tmp_path_factory.mktemp("killed"))


def test_kill_while_streaming(checkpoint: Path, tmp_path: Path, unused_tcp_port: int) -> None:
    with process(checkpoint, tmp_path, unused_tcp_port) as (server, client):
        first = {"input": "Hi", "max_output_tokens": 5, "include": ["reasoning.encrypted_content"]}
        finished = client.post("/responses", json=first).json()
        long = {"input": "Hi", "stream": True, "previous_response_id": finished["id"]}
        with client.stream("POST", "/responses", json=long) as response:
            lines = response.iter_lines()
            started = re.search(r'"id":"(resp_\w+)"', next(line for line in lines if "resp_" in line))
            assert started is not None
            for _ in range(50):
                next(lines)
            server.send_signal(signal.SIGKILL)
            server.wait()
    with process(checkpoint, tmp_path, unused_tcp_port) as (_, client):
        assert client.get(f"/responses/{finished['id']}").json() == finished
        cut = client.get(f"/responses/{started[1]}").json()
        assert cut["status"] == "incomplete"
        assert "stopped" in json.dumps(cut["error"])
        after = {"input": "More", "max_output_tokens": 5, "previous_response_id": started[1]}
        assert client.post("/responses", json=after).status_code == 200


def test_kills_at_any_moment(checkpoint: Path, tmp_path: Path, unused_tcp_port: int) -> None:
    """The loop that `python -m tests.server.crash_loop` runs for longer."""
    figures = crash_loop(checkpoint, tmp_path, unused_tcp_port, kills=3)
    assert figures.lost == figures.under_way == figures.half_written == []
    assert figures.finished > 0


@pytest.mark.slow
@WITH_POSTGRES
def test_kills_at_any_moment_of_servers_on_postgresql(
    checkpoint: Path, tmp_path: Path, unused_tcp_port: int, postgres_server: str
) -> None:
    figures = crash_loop(checkpoint, tmp_path, unused_tcp_port, kills=2, store=emptied(postgres_server))
    assert figures.lost == figures.under_way == figures.half_written == []
