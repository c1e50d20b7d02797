"""Chat Completions as OpenAI's own client reads it: answers, streams, tools, formats, stops, limits, errors."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from gpt_oss.backends.scripted import Reply, ScriptedGenerator
from gpt_oss.vocabulary import decode, encode_with_special
from tests.server.conftest import Live, Scripted, serving

ASK: Any = [{"role": "user", "content": "What is the weather in Oslo?"}]
ANSWER = "<|channel|>analysis<|message|>Think.<|end|><|start|>assistant<|channel|>final<|message|>It rains.<|return|>"
PREAMBLE = "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant"
CALL = '<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"city": "Oslo"}<|call|>'
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather in a city.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}


def test_an_answer(scripted: Scripted) -> None:
    live = scripted(ANSWER)
    answer = live.client().chat.completions.create(model="tiny", messages=ASK, temperature=0)
    ChatCompletion.model_validate(answer.model_dump())
    message = answer.choices[0].message
    assert message.content == "It rains."
    assert message.model_extra is not None
    assert message.model_extra["reasoning"] == message.model_extra["reasoning_content"] == "Think."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens_details is not None
    assert 0 < (answer.usage.completion_tokens_details.reasoning_tokens or 0) < answer.usage.completion_tokens
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream_says_the_same_piece_by_piece(scripted: Scripted) -> None:
    stream = scripted(ANSWER).client().chat.completions.create(
        model="tiny", messages=ASK, stream=True, stream_options={"include_usage": True}
    )  # fmt: skip
    chunks = list(stream)
    assert all(ChatCompletionChunk.model_validate(each.model_dump()) for each in chunks)
    deltas = [each.choices[0].delta for each in chunks if each.choices]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == "It rains."
    assert "".join((delta.model_extra or {}).get("reasoning", "") for delta in deltas) == "Think."
    assert [each.choices[0].finish_reason for each in chunks if each.choices][-1] == "stop"
    assert chunks[-1].usage is not None
    assert len({each.id for each in chunks}) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_and_its_answer(scripted: Scripted, stream: bool) -> None:
    live = scripted(PREAMBLE + CALL, ANSWER)
    client = live.client()
    if stream:
        with client.chat.completions.stream(model="tiny", messages=ASK, tools=[WEATHER]) as events:
            for _ in events:
                pass
            answer = events.get_final_completion()
    else:
        answer = client.chat.completions.create(model="tiny", messages=ASK, tools=[WEATHER])  # type: ignore[assignment]
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "I look."
    assert choice.message.tool_calls is not None
    call = choice.message.tool_calls[0]
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Oslo"})  # type: ignore[union-attr]
    history = [
        *ASK,
        choice.message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "rain"},
    ]
    last = client.chat.completions.create(model="tiny", messages=history, tools=[WEATHER])
    assert last.choices[0].message.content == "It rains."
    prompt = decode(live.generator.calls[1].prompt)
    assert (
        '{"city": "Oslo"}<|call|><|start|>functions.get_weather to=assistant<|channel|>commentary<|message|>rain'
        in prompt
    )


def test_a_call_of_something_undeclared_is_not_the_clients(scripted: Scripted) -> None:
    wrong = CALL.replace("get_weather", "get_whether")
    answer = scripted(wrong, ANSWER).client().chat.completions.create(model="tiny", messages=ASK, tools=[WEATHER])
    assert answer.choices[0].message.tool_calls is None
    assert answer.choices[0].message.content == "It rains."


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("stop", "left"), [("rai", "It "), (["x", "t r"], "I"), ("s.!", "It rains."), ("It", "")])
def test_stop_texts_are_never_sent_not_even_in_part(
    scripted: Scripted, stream: bool, stop: str | list[str], left: str
) -> None:
    client = scripted(ANSWER).client()
    if stream:
        parts = list(client.chat.completions.create(model="tiny", messages=ASK, stop=stop, stream=True))
        assert "".join(part.choices[0].delta.content or "" for part in parts) == left
        assert parts[-1].choices[0].finish_reason == "stop"
    else:
        answer = client.chat.completions.create(model="tiny", messages=ASK, stop=stop)
        assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (left, "stop")


def test_logprobs_are_of_the_contents_tokens(babbling: Live) -> None:
    answer = babbling.client().chat.completions.create(
        model="tiny", messages=ASK, seed=1, max_tokens=60, logprobs=True, top_logprobs=3
    )  # fmt: skip
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    for token in logprobs.content or []:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 3
        assert bytes(token.bytes or []).decode(errors="replace") == token.token


def test_several_choices(babbling: Live) -> None:
    answer = babbling.client().chat.completions.create(model="tiny", messages=ASK, n=3, seed=1, max_tokens=20)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    again = babbling.client().chat.completions.create(model="tiny", messages=ASK, seed=1, max_tokens=20)
    assert again.choices[0].message == answer.choices[0].message
    assert answer.choices[0].finish_reason == "length"


@pytest.mark.parametrize(
    ("change", "param", "status"),
    [
        ({"messages": []}, "messages", 400),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role", 400),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, None, 400),
        ({"temperature": 3}, "temperature", 400),
        ({"n": 1000}, "n", 400),
        ({"top_logprobs": 50}, "top_logprobs", 400),
        ({"tool_choice": "required"}, "tool_choice", 400),
        ({"tool_choice": {"type": "function", "function": {"name": "nobody"}}}, "tool_choice", 400),
        ({"tools": [{"type": "function"}]}, "tools[0].function", 400),
        ({"reasoning_effort": "enormous"}, "reasoning_effort", 400),
        ({"response_format": {"type": "json_schema"}}, None, 400),
        ({"modalities": ["audio"]}, "modalities", 400),
        ({"messages": [{"role": "user", "content": "word " * 5000}]}, "messages", 400),
    ],
)
def test_errors_name_the_field(babbling: Live, change: dict[str, Any], param: str | None, status: int) -> None:
    for stream in (False, True):
        body = {"model": "tiny", "messages": ASK, "max_tokens": 4, "stream": stream, **change}
        response = httpx.post(f"{babbling.url}/v1/chat/completions", json=body, timeout=60)
        assert response.status_code == status, response.text
        error = response.json()["error"]
        assert error["type"] == "invalid_request_error"
        assert error["message"]
        if param is not None:
            assert error["param"] == param


def test_bodies_that_are_none(babbling: Live) -> None:
    url = f"{babbling.url}/v1/chat/completions"
    for content in (b"", b"{", b"[1]", b"\xff\xfe", b"null"):
        response = httpx.post(url, content=content, headers={"content-type": "application/json"})
        assert response.status_code == 400, (content, response.text)
        assert response.json()["error"]["message"]
    assert httpx.get(url).status_code == 405
    assert httpx.get(f"{babbling.url}/nowhere").json()["error"]["type"] == "invalid_request_error"


def test_harmless_and_unknown_fields_are_accepted(scripted: Scripted) -> None:
    answer = scripted(ANSWER).client().chat.completions.create(
        model="some-other-name", messages=ASK, user="u", store=False, metadata={"a": "b"}, service_tier="auto",
        tools=[{"type": "custom", "custom": {"name": "grep"}}], extra_body={"client_metadata": {"x": 1}},
        reasoning_effort="minimal",
    )  # fmt: skip
    assert answer.choices[0].message.content == "It rains."


def test_reasoning_comes_back_in_under_every_name(scripted: Scripted) -> None:
    for name in ("reasoning", "reasoning_content", "thinking"):
        live = scripted(ANSWER)
        call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
        history = [
            *ASK,
            {"role": "assistant", "content": None, name: "A thought of mine.", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
        ]
        live.client().chat.completions.create(model="tiny", messages=history, tools=[WEATHER])  # type: ignore[arg-type]
        assert "<|channel|>analysis<|message|>A thought of mine.<|end|>" in decode(live.generator.calls[0].prompt)


# ---- under pressure ----


def slow(count: int = 400, delay_s: float = 0.05) -> ScriptedGenerator:
    tokens = encode_with_special("<|channel|>final<|message|>" + "word " * count)
    return ScriptedGenerator(lambda prompt: Reply(tokens, delay_s=delay_s))


def wait_until(what: Any, seconds: float = 3) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hangs_up_ends_its_answer(stream: bool) -> None:
    generator = slow()
    with serving(generator) as live:
        body = {"messages": ASK, "stream": stream}
        if stream:
            with httpx.stream("POST", f"{live.url}/v1/chat/completions", json=body) as response:
                next(response.iter_lines())
        else:
            with pytest.raises(httpx.TimeoutException):
                httpx.post(f"{live.url}/v1/chat/completions", json=body, timeout=0.4)
        wait_until(lambda: live.runner.running == 0 and all(call.closed for call in generator.calls))


def test_too_many_are_told_to_come_back() -> None:
    with serving(slow(), max_concurrent=1, max_queue=1) as live:
        waiting = [
            threading.Thread(target=_ignore_errors, args=(live,), daemon=True)
            for _ in range(2)
        ]  # fmt: skip
        for thread in waiting:
            thread.start()
        wait_until(lambda: live.runner.running == 1 and live.runner.waiting == 1)
        response = httpx.post(f"{live.url}/v1/chat/completions", json={"messages": ASK})
        assert response.status_code == 429
        assert int(response.headers["retry-after"]) > 0
        assert response.json()["error"]["type"] == "rate_limit_error"
        with pytest.raises(openai.RateLimitError):
            live.client().chat.completions.create(model="tiny", messages=ASK)


def _ignore_errors(live: Live) -> None:
    with contextlib.suppress(httpx.HTTPError):
        httpx.post(f"{live.url}/v1/chat/completions", json={"messages": ASK}, timeout=3)


def test_keys_and_sizes(scripted: Scripted) -> None:
    live = scripted(ANSWER, ANSWER, keys=frozenset({"right"}))
    url = f"{live.url}/v1/chat/completions"
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"x-api-key": ""}):
        response = httpx.post(url, json={"messages": ASK}, headers=headers)
        assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")
    assert httpx.get(f"{live.url}/health").status_code == 200
    assert httpx.post(url, json={"messages": ASK}, headers={"Authorization": "Bearer right"}).status_code == 200
    assert httpx.post(url, json={"messages": ASK}, headers={"x-api-key": "right"}).headers["x-request-id"]


def test_models(scripted: Scripted) -> None:
    client = scripted(ANSWER).client()
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    assert client.models.retrieve("gpt-9").id == "gpt-9"  # which requests may name as well
