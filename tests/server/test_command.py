"""`gpt-oss serve` as a process: it says where it listens, answers, and ends in order."""

from __future__ import annotations

import json
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
from gpt_oss.vocabulary import encode_with_special

REPOSITORY = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


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
    port = free_port()
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


def test_a_script_answers_in_a_models_place(tmp_path: Path) -> None:
    call = '<|channel|>commentary to=functions.look <|constrain|>json<|message|>{"at": "sky"}<|call|>'
    thought = "<|channel|>analysis<|message|>Greet.<|end|><|start|>assistant"
    answers = [
        {"text": thought + "<|channel|>final<|message|>Hello<|return|>"},
        {"text": call},
        {"tokens": encode_with_special("<|channel|>final<|message|>Blue<|return|>"), "delay_s": 0.001},
    ]
    script, log = tmp_path / "script.jsonl", tmp_path / "prompts.jsonl"
    script.write_text("\n".join(json.dumps(answer) for answer in answers))
    port = free_port()
    words = ["--script", script, "--script-log", log, "--context", "300", "--port", port, "--no-code-interpreter"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "XDG_STATE_HOME": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-m", "gpt_oss.cli", "serve", *map(str, words)],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "Serving" in line)
        assert f"Serving script on http://127.0.0.1:{port}/v1 (script)" in line
        transport = httpx.HTTPTransport(retries=5)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", transport=transport, timeout=60) as client:
            assert client.get("/v1/models").json()["data"][0]["id"] == "script"
            said = client.post("/v1/responses", json={"input": "Hi"}).json()
            assert [item["type"] for item in said["output"]] == ["reasoning", "message"]
            assert said["output"][1]["content"][0]["text"] == "Hello"
            tool = {"name": "look", "parameters": {"type": "object", "properties": {"at": {"type": "string"}}}}
            asked = {"messages": [{"role": "user", "content": "Look up"}]}
            chat = {**asked, "model": "m", "tools": [{"type": "function", "function": tool}]}
            message = client.post("/v1/chat/completions", json=chat).json()["choices"][0]["message"]
            assert message["tool_calls"][0]["function"] == {"name": "look", "arguments": '{"at": "sky"}'}
            for _ in range(2):  # the last answer is given for ever
                anthropic = client.post("/v1/messages", json={**asked, "model": "m", "max_tokens": 50}).json()
                assert anthropic["content"] == [{"type": "text", "text": "Blue"}]
            too_long = client.post("/v1/responses", json={"input": "word " * 300})
            assert (too_long.status_code, too_long.json()["error"]["code"]) == (400, "context_length_exceeded")
        prompts = [json.loads(line) for line in log.read_text().splitlines()]
        assert len(prompts) == 4
        assert all(encode_with_special(prompt["text"]) == prompt["tokens"] for prompt in prompts)
        assert prompts[0]["text"].endswith("<|start|>user<|message|>Hi<|end|><|start|>assistant")
        assert "type look = " in prompts[1]["text"]
    finally:
        process.kill()
        process.wait()


def test_a_script_that_cannot_be_used_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "script.jsonl"
    script.write_text('{"text": "Hello"}\n{"tokens": [-1]}\n')
    usual = ["serve", "--no-store", "--no-code-interpreter"]
    for words, complaint in (
        (["--script", str(script)], "line 2: a token id is a number from 0 to 201087"),
        (["--script", str(script), "org/name"], "give it no checkpoint"),
        (["--script", str(script), "--url", "http://localhost:1"], "give it no checkpoint, --url"),
        (["--script", str(script), "--context", "0"], "--context must be 1 or more"),
        (["--script-log", str(script)], "--script-log needs --script"),
    ):
        assert main([*usual, *words]) == 2
        assert complaint in capsys.readouterr().err
