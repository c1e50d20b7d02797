"""A server that is killed in the middle: what was finished can be read, what was not is marked incomplete."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from gpt_oss.model.config import ModelConfig
from gpt_oss.model.factory import write_random_checkpoint

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = ModelConfig(
        num_hidden_layers=2, num_experts=4, experts_per_token=2, hidden_size=32, intermediate_size=32, head_dim=8,
        num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    return write_random_checkpoint(tmp_path_factory.mktemp("killed") / "babbler", shape)


@contextmanager
def process(checkpoint: Path, home: Path, port: int) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "XDG_STATE_HOME": str(home)}
    words = ["gpt_oss.cli", "serve", str(checkpoint), "--port", str(port), "--threads", "1", "--no-code-interpreter"]
    started = subprocess.Popen([sys.executable, "-m", *words], stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert started.stderr is not None
        assert any("Serving" in line for line in started.stderr)
        transport = httpx.HTTPTransport(retries=8)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/v1", transport=transport, timeout=60) as client:
            yield started, client
    finally:
        started.kill()
        started.wait()


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
