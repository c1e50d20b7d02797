"""`gpt-oss serve` as a process: it says where it listens, answers, and ends in order."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from gpt_oss.cli import main
from gpt_oss.model.config import ModelConfig
from gpt_oss.model.factory import write_random_checkpoint

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "command",
    [
        ["gpt_oss.cli", "serve", "{path}", "--port", "{port}", "--threads", "1"],
        ["gpt_oss.responses_api.serve", "--checkpoint", "{path}", "--port", "{port}", "--inference-backend", "cpu"],
    ],
)
def test_it_serves_until_it_is_told_to_end(command: list[str], tmp_path: Path) -> None:
    shape = ModelConfig(
        num_hidden_layers=2, num_experts=4, experts_per_token=2, hidden_size=32, intermediate_size=32, head_dim=8,
        num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    path = write_random_checkpoint(tmp_path / "babbler", shape)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [word.format(path=path, port=port) for word in command]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "XDG_STATE_HOME": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-m", *words], stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "Serving" in line)
        assert re.search(rf"babbler on http://127\.0\.0\.1:{port}/v1", line)
        transport = httpx.HTTPTransport(retries=5)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", transport=transport, timeout=60) as client:
            answer = client.post("/v1/responses", json={"input": "Hi", "max_output_tokens": 5})
            assert answer.status_code == 200
            assert answer.json()["model"] == "babbler"
            assert client.get("/openapi.json").status_code == 200
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=20)
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()


def test_it_is_not_open_to_others_by_accident(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--host", "0.0.0.0"]) == 2
    assert "--api-key" in capsys.readouterr().err
    assert main(["serve", "--port", "70000"]) == 2
