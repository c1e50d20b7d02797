"""Ollama's API beyond what every API has: generate, options, local origins."""

from __future__ import annotations

from typing import Any

import httpx
import ollama
import pytest

from gpt_oss.server.gate import ServerOptions
from gpt_oss.vocabulary import decode
from tests.server.conftest import Scripted
from tests.server.test_chat_completions import ANSWER, CALL, PREAMBLE, WEATHER
from tests.server.test_kinds import allows

WITH_OLLAMA = ServerOptions(ollama=True)


@pytest.mark.parametrize("stream", [False, True])
def test_generate_calls_tools(scripted: Scripted, stream: bool) -> None:
    live = scripted(PREAMBLE + CALL, options=WITH_OLLAMA)
    body = {"model": "x", "prompt": "Weather?", "tools": [WEATHER], "stream": stream}
    answer = httpx.post(f"{live.url}/api/generate", json=body)
    lines = [httpx.Response(200, text=line).json() for line in answer.text.splitlines()]
    calls = [call for line in lines for call in line.get("tool_calls", [])]
    assert [call["function"] for call in calls] == [{"name": "get_weather", "arguments": {"city": "Oslo"}}]
    assert "".join(line["response"] for line in lines) == "I look."
    assert lines[-1]["done"]


def test_its_options_reach_the_sampler(scripted: Scripted) -> None:
    live = scripted(ANSWER, ANSWER, options=WITH_OLLAMA)
    options: Any = {
        "temperature": 9, "top_p": 0.5, "top_k": 0, "min_p": 0.25, "presence_penalty": 0.5, "frequency_penalty": 0.75,
        "seed": 3, "stop": [""], "num_predict": -2,
    }  # fmt: skip
    for raw in (False, True):
        answer = ollama.Client(live.url).generate("x", "Hi", options=options, raw=raw)
        assert "It rains." in answer.response
        params = live.generator.calls[-1].params
        assert (params.temperature, params.top_p, params.top_k, params.min_p) == (2, 0.5, 0, 0.25)
        assert (params.presence_penalty, params.frequency_penalty, params.seed) == (0.5, 0.75, 3)
        assert params.max_tokens is None


def test_a_format_of_generate_is_held_to(scripted: Scripted) -> None:
    live = scripted(ANSWER, options=WITH_OLLAMA)
    schema = {"type": "object", "properties": {"a": {"enum": [1]}}, "required": ["a"], "additionalProperties": False}
    ollama.Client(live.url).generate("x", "Hi", format=schema)
    grammar = live.generator.calls[-1].params.grammar
    assert allows(grammar, '<|channel|>final<|message|>{"a": 1}<|return|>')
    assert not allows(grammar, "<|channel|>final<|message|>Hi<|return|>")
    refused = httpx.post(f"{live.url}/api/generate", json={"model": "x", "prompt": "Hi", "raw": True, "format": schema})
    assert refused.status_code == 400
    assert "raw" in refused.json()["error"]


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities(scripted: Scripted, stream: bool) -> None:
    live = scripted(ANSWER, options=WITH_OLLAMA)
    body = {
        "model": "x", "messages": [{"role": "user", "content": "Hi"}], "logprobs": True, "top_logprobs": 1,
        "stream": stream,
    }  # fmt: skip
    answer = httpx.post(f"{live.url}/api/chat", json=body)
    lines = [httpx.Response(200, text=line).json() for line in answer.text.splitlines()]
    listed = [entry for line in lines for entry in line.get("logprobs", [])]
    assert "".join(entry["token"] for entry in listed) == "It rains."
    assert all(len(entry["top_logprobs"]) == 1 for entry in listed)


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://localhost:3000", True),
        ("https://localhost", True),
        ("http://127.0.0.1:5173", True),
        ("app://obsidian.md", True),
        ("tauri://localhost", True),
        ("vscode-webview://abc", True),
        ("http://example.org", False),
        ("http://localhost.example.org", False),
        ("http://[::1", False),
        ("null", False),
    ],
)
def test_programs_of_this_machine_may_ask(scripted: Scripted, origin: str, allowed: bool) -> None:
    live = scripted(ANSWER, options=WITH_OLLAMA)
    answer = httpx.get(f"{live.url}/api/version", headers={"origin": origin})
    assert answer.status_code == (200 if allowed else 403)
    assert (answer.headers.get("access-control-allow-origin") == origin) == allowed
    asked = {"origin": origin, "access-control-request-method": "POST"}
    assert (httpx.options(f"{live.url}/api/chat", headers=asked).status_code == 200) == allowed
    plain = scripted(ANSWER)
    if origin != "http://[::1":
        assert httpx.get(f"{plain.url}/health", headers={"origin": origin}).status_code == 403


def test_thinking_comes_back_to_the_call_that_it_led_to(scripted: Scripted) -> None:
    thought = "<|channel|>analysis<|message|>A thought of mine.<|end|><|start|>assistant"
    live = scripted(thought + CALL, ANSWER, options=WITH_OLLAMA)
    client = ollama.Client(live.url)
    messages: list[Any] = [{"role": "user", "content": "Weather?"}]
    answer = client.chat("x", messages, tools=[WEATHER])
    assert answer.message.thinking == "A thought of mine."
    messages += [answer.message, {"role": "tool", "tool_name": "get_weather", "content": "rain"}]
    client.chat("x", messages, tools=[WEATHER])
    assert "A thought of mine." in decode(live.generator.prompts[-1])
