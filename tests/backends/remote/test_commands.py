"""The commands as a user types them, on servers of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from openai import OpenAI

from gpt_oss import cli
from gpt_oss.backends.base import TokenGenerator
from gpt_oss.backends.scripted import ScriptedGenerator
from gpt_oss.load import LoadOptions, available_backends, load
from gpt_oss.params import SamplingParams
from gpt_oss.responses_api import serve as reference_serve
from gpt_oss.vocabulary import START, encode_with_special
from tests.backends.remote.live import free_port, serving
from tests.backends.remote.servers import Engine, ollama_server, text_server, vllm_server
from tests.backends.vllm import fake

ANSWER = (
    "<|channel|>analysis<|message|>A greeting.<|end|><|start|>assistant<|channel|>final<|message|>Good day!<|return|>"
)


def engine(model: str = "gpt-oss-20b") -> Engine:
    return Engine(scripted(), model)


def scripted() -> TokenGenerator:
    def reply(prompt: list[int]) -> list[int]:
        assert prompt[-2:] == [START, *encode_with_special("assistant")], "what comes is a conversation"
        return encode_with_special(ANSWER)

    return ScriptedGenerator(reply)


def test_chat_on_ollama(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(ollama_server(engine("gpt-oss:20b"))) as url:
        assert cli.main(["chat", "--backend", "ollama", "gpt-oss:20b", "--url", url, "-m", "Hello"]) == 0
    out = capsys.readouterr()
    assert "Good day!" in out.out
    assert "demo model" not in out.err


def test_chat_on_ollama_without_a_name(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The chat's own default is the demo model, which no Ollama has."""
    with serving(ollama_server(engine("gpt-oss:20b"))) as url:
        monkeypatch.setenv("OLLAMA_HOST", url)
        assert cli.main(["chat", "--backend", "ollama", "-m", "Hello"]) == 0
    out = capsys.readouterr()
    assert "Good day!" in out.out
    assert "demo model" not in out.err


def test_chat_on_a_url_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(text_server(engine(), hides=True)) as url:
        assert cli.main(["chat", "--url", url, "-m", "Hello"]) == 0
    assert "Good day!" in capsys.readouterr().out


def test_chat_on_vllm_serve(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(vllm_server(engine())) as url:
        assert cli.main(["chat", "--backend", "vllm", "--url", url, "gpt-oss-20b", "-m", "Hello"]) == 0
    assert "Good day!" in capsys.readouterr().out


def test_chat_on_vllm_in_process(tiny_checkpoints: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    with fake.installed(scripted()) as made:
        assert cli.main(["chat", "--backend", "vllm", str(tiny_checkpoints["huggingface"]), "-m", "Hello"]) == 2
        assert "vocabulary" in capsys.readouterr().err  # a conversation does not fit this checkpoint's 512 tokens
        assert made[0].is_shut_down


def test_generate_on_a_url(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(vllm_server(engine())) as url:
        assert cli.main(["generate", "", "--url", url, "--chat", "-p", "Hello", "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(encode_with_special(ANSWER))


def test_a_server_that_is_not_there_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    assert cli.main(["chat", "--url", url, "-m", "Hello"]) == 2
    err = capsys.readouterr().err
    assert f"nothing answers at {url}" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--backend", "cpu", "--url", "http://x"], "the cpu backend computes here and has no URL"),
        (["--backend", "openai_http"], "needs the URL of a server"),
        (["--backend", "ollama", "--precision", "bf16"], "the precision is the server's choice"),
        (["--backend", "ollama", "--adapter", "x"], "give it to the server that computes instead"),
        (["--backend", "transformers", "--kv", "int8"], "int8 keys and values need the cpu backend"),
        (["--backend", "cpu", "--wire", "ids"], "a wire is chosen for the openai_http backend only"),
        (["--backend", "torch", "--gpus", "2"], "the number of GPUs is chosen for vllm"),
    ],
)
def test_flags_that_would_be_ignored_are_refused(
    flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["chat", *flags, "-m", "Hello"]) == 2
    assert said in capsys.readouterr().err


def test_serve_in_front_of_another_server(tmp_path: Path) -> None:
    """Our Responses API on somebody else's engine, as a process; it goes by that server's name for the model."""
    port = free_port()
    with serving(vllm_server(engine())) as url:
        command = [sys.executable, "-m", "gpt_oss.cli", "serve", "--backend", "openai_http", "--url", url]
        command += ["--port", str(port), "--no-store", "--no-code-interpreter"]
        environment = os.environ | {"XDG_STATE_HOME": str(tmp_path)}
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        try:
            wait_until_it_answers(f"http://127.0.0.1:{port}/v1/models", process)
            client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
            assert [model.id for model in client.models.list()] == ["gpt-oss-20b"]
            response = client.responses.create(model="gpt-oss-20b", input="Hello")
            assert response.output_text == "Good day!"
        finally:
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
    assert "openai_http (vLLM, ids) gpt-oss-20b" in said


def wait_until_it_answers(url: str, process: subprocess.Popen[str]) -> None:
    for _ in range(1200):
        assert process.poll() is None, process.communicate()[1]
        try:
            if httpx.get(url, timeout=2, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError("the server never came up")


def test_the_reference_servers_flags_know_the_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[LoadOptions] = []
    monkeypatch.setattr("gpt_oss.server.command.run", lambda args: seen.append(args) or 0)
    arguments = [
        "--inference-backend",
        "ollama",
        "--checkpoint",
        "gpt-oss:20b",
        "--url",
        "http://a",
        "--url",
        "http://b",
    ]
    assert reference_serve.main(arguments) == 0
    (args,) = seen
    assert (args.backend, args.checkpoint, args.url) == ("ollama", "gpt-oss:20b", ["http://a", "http://b"])


def test_doctor_lists_them_with_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{free_port()}")
    monkeypatch.setattr("gpt_oss.load.BACKENDS", {})  # the others are slow to import
    found = available_backends()
    assert list(found) == ["transformers", "vllm", "ollama", "openai_http"]
    assert found["openai_http"] is None
    assert "no Ollama answers" in str(found["ollama"])


def test_several_urls_share_the_work_and_keep_conversations_together() -> None:
    engines = [engine(), engine()]
    prompts = [
        encode_with_special(f"<|start|>user<|message|>{'word ' * 100}{n}<|end|><|start|>assistant") for n in range(24)
    ]
    prompts = [[*encode_with_special(f"<|start|>user {n}"), *prompt] for n, prompt in enumerate(prompts)]
    params = SamplingParams(temperature=0, max_tokens=3)
    with serving(vllm_server(engines[0])) as one, serving(vllm_server(engines[1])) as two:
        generator = load("gpt-oss-20b", LoadOptions(backend="vllm", urls=(one, two)))
        try:
            for _ in range(2):
                for prompt in prompts:
                    list(generator.generate_sync(prompt, params))
        finally:
            generator.close()
    asked = [[tuple(body["prompt"]) for body in each.seen.requests] for each in engines]
    assert all(asked), "one of them did nothing"
    assert not set(asked[0]) & set(asked[1])  # each conversation on one of them
