"""Completions with token ids, Ollama's and Anthropic's APIs as their own clients read them, and figures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import ollama
import pytest
from openai.types import Completion

from gpt_oss.backends.scripted import ScriptedGenerator
from gpt_oss.server.gate import ServerOptions
from gpt_oss.vocabulary import decode, encode_with_special
from tests.server.conftest import Live, Scripted, serving
from tests.server.test_chat_completions import ANSWER, ASK, CALL, PREAMBLE, WEATHER

THOUGHT = "<|channel|>analysis<|message|>Think.<|end|><|start|>assistant"
WITH_OLLAMA = ServerOptions(ollama=True)


# ---- completions ----------------------------------------------------------------------------------------------------


def test_ids_in_and_out(scripted: Scripted) -> None:
    live = scripted("Hello ☃ there<|return|>")
    body = {"prompt": [200006, 1428], "return_token_ids": True, "logprobs": 0, "max_tokens": 50}
    answer = httpx.post(f"{live.url}/v1/completions", json=body).json()
    Completion.model_validate(answer)
    choice = answer["choices"][0]
    assert live.generator.prompts == [[200006, 1428]]
    assert choice["prompt_token_ids"] == [200006, 1428]
    assert choice["token_ids"] == encode_with_special("Hello ☃ there<|return|>")
    assert (choice["text"], choice["finish_reason"]) == ("Hello ☃ there", "stop")
    assert len(choice["logprobs"]["tokens"]) == len(choice["token_ids"])
    assert answer["usage"]["completion_tokens"] == len(choice["token_ids"])


def test_special_tokens_may_be_written_out_and_are_shown(scripted: Scripted) -> None:
    live = scripted("<|channel|>final<|message|>Hi<|end|>")
    answer = live.client().completions.create(model="tiny", prompt="<|start|>assistant", max_tokens=5)
    assert live.generator.prompts == [encode_with_special("<|start|>assistant")]
    assert answer.choices[0].text == "<|channel|>final<|message|>Hi<|end|>"
    assert answer.choices[0].finish_reason == "length"


def test_several_prompts_streamed_with_a_stop(scripted: Scripted) -> None:
    live = scripted("one STOP two", "one ST", "one ST", "one STOP two")
    parts = list(
        live.client().completions.create(model="tiny", prompt=["a", "b"], n=2, stop=["STOP"], stream=True, echo=True)
    )
    texts = ["".join(c.text for p in parts for c in p.choices if c.index == i) for i in range(4)]
    assert sorted(texts) == sorted(["aone ", "aone ST", "bone ST", "bone "])
    whole = [[c.finish_reason for p in parts for c in p.choices if c.index == i and c.finish_reason] for i in range(4)]
    assert all(len(reasons) == 1 for reasons in whole)


@pytest.mark.parametrize(
    "body", [{"prompt": []}, {"prompt": [999_999]}, {"prompt": [-1]}, {"prompt": "a", "suffix": "b"}, {"prompt": {}}]
)
def test_prompts_that_are_none(scripted: Scripted, body: dict[str, Any]) -> None:
    response = httpx.post(f"{scripted('x').url}/v1/completions", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] in ("prompt", "suffix")


# ---- Ollama ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def as_ollama() -> Iterator[Any]:
    with serving(ScriptedGenerator(lambda prompt: encode_with_special(_reply(prompt))), WITH_OLLAMA) as live:
        yield live


def _reply(prompt: list[int]) -> str:
    text = decode(prompt)
    return THOUGHT + PREAMBLE + CALL if "get_weather" in text and "rain<|end|>" not in text else ANSWER


def test_ollama_chat(as_ollama: Live) -> None:
    client = ollama.Client(as_ollama.url)
    answer = client.chat("gpt-oss:20b", [{"role": "user", "content": "Hi"}], think="high")
    assert (answer.message.content, answer.message.thinking) == ("It rains.", "Think.")
    assert answer.done
    assert answer.done_reason == "stop"
    assert answer.eval_count
    assert answer.prompt_eval_count
    assert "Reasoning: high" in decode(as_ollama.generator.prompts[-1])
    parts = list(client.chat("gpt-oss:20b", [{"role": "user", "content": "Hi"}], stream=True))
    assert "".join(part.message.content or "" for part in parts) == "It rains."
    assert "".join(part.message.thinking or "" for part in parts) == "Think."
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]


@pytest.mark.parametrize("stream", [False, True])
def test_ollama_tools(as_ollama: Live, stream: bool) -> None:
    client = ollama.Client(as_ollama.url)
    messages: list[Any] = [{"role": "user", "content": "Weather in Oslo?"}]
    answer: Any = client.chat("x", messages, tools=[WEATHER], stream=stream)
    message = next(part.message for part in answer if part.message.tool_calls) if stream else answer.message
    call = message.tool_calls[0].function
    assert (call.name, call.arguments) == ("get_weather", {"city": "Oslo"})
    messages += [message, {"role": "tool", "tool_name": "get_weather", "content": "rain"}]
    assert client.chat("x", messages, tools=[WEATHER]).message.content == "It rains."
    assert "functions.get_weather to=assistant" in decode(as_ollama.generator.prompts[-1])


def test_ollama_generate_and_formats(babbling: Live) -> None:
    with serving(babbling.generator, WITH_OLLAMA) as live:
        client = ollama.Client(live.url)
        schema = {
            "type": "object",
            "properties": {"a": {"enum": [1, 2]}},
            "required": ["a"],
            "additionalProperties": False,
        }
        answer = client.generate("x", "Give me JSON", format=schema, options={"num_predict": 2000, "seed": 1})
        if answer.done_reason == "stop":
            assert json.loads(answer.response)["a"] in (1, 2)
        raw = client.generate("x", "<|start|>", raw=True, options={"num_predict": 5, "temperature": 0})
        assert raw.eval_count == 5
        parts = list(
            client.generate("x", "<|start|>", raw=True, stream=True, options={"num_predict": 5, "temperature": 0})
        )
        assert "".join(part.response for part in parts) == raw.response


def test_what_ollama_clients_ask_first(as_ollama: Live) -> None:
    client = ollama.Client(as_ollama.url)
    assert [model.model for model in client.list().models] == ["tiny", "gpt-oss:20b"]
    assert client.show("gpt-oss:20b").capabilities == ["completion", "tools", "thinking"]
    assert client.pull("gpt-oss:20b").status == "success"
    assert client.ps().models[0].model == "tiny"
    assert httpx.get(f"{as_ollama.url}/api/version").json()["version"] >= "0.13.4"
    assert httpx.head(as_ollama.url).status_code == 200
    with pytest.raises(ollama.ResponseError, match="images"):
        client.chat("x", [{"role": "user", "content": "Hi", "images": [b"abc"]}])


def test_ollama_is_there_only_on_request(scripted: Scripted) -> None:
    assert httpx.get(f"{scripted('x').url}/api/tags").status_code == 404


# ---- Anthropic ------------------------------------------------------------------------------------------------------


TOOL: Any = {"name": "get_weather", "description": "Weather.", "input_schema": WEATHER["function"]["parameters"]}


def messages_of(live: Live) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=live.url, api_key="none", max_retries=0)


def test_a_message_and_the_answer_of_a_tool(scripted: Scripted) -> None:
    live = scripted(THOUGHT + PREAMBLE + CALL, ANSWER)
    client = messages_of(live)
    asked: Any = [{"role": "user", "content": "Weather in Oslo?"}]
    first = client.messages.create(model="x", max_tokens=500, system="Be brief.", messages=asked, tools=[TOOL])
    assert [block.type for block in first.content] == ["thinking", "text", "tool_use"]
    assert first.stop_reason == "tool_use"
    call = first.content[-1]
    assert call.type == "tool_use"
    assert call.input == {"city": "Oslo"}
    result: Any = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "rain"}]}
    more: Any = [*asked, {"role": "assistant", "content": [b.model_dump() for b in first.content]}]
    second = client.messages.create(
        model="x", max_tokens=500, messages=[*more, {"role": "user", "content": [result]}], tools=[TOOL]
    )
    assert second.content[-1].type == "text"
    assert second.content[-1].text == "It rains."
    assert second.stop_reason == "end_turn"
    prompt = decode(live.generator.prompts[1])
    assert "Think." in prompt
    assert prompt.index("Think.") < prompt.index("functions.get_weather to=assistant")


def test_its_stream_adds_up(scripted: Scripted) -> None:
    client = messages_of(scripted(THOUGHT + PREAMBLE + CALL))
    asked: Any = [{"role": "user", "content": "Weather in Oslo?"}]
    with client.messages.stream(model="x", max_tokens=500, messages=asked, tools=[TOOL]) as stream:
        kinds = [event.type for event in stream]
        message = stream.get_final_message()
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use"]
    assert message.content[-1].input == {"city": "Oslo"}  # type: ignore[union-attr]
    assert message.usage.output_tokens > 0


def test_a_stop_sequence_and_tokens_counted(scripted: Scripted) -> None:
    client = messages_of(scripted(ANSWER))
    asked: Any = [{"role": "user", "content": "Hi"}]
    answer = client.messages.create(model="x", max_tokens=500, messages=asked, stop_sequences=["rain"])
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", "rain")
    assert 20 < client.messages.count_tokens(model="x", messages=asked).input_tokens < 200


def test_its_errors_have_its_shape(scripted: Scripted) -> None:
    live = scripted("x")
    image: Any = {"type": "image", "source": {"type": "url", "url": "http://x"}}
    with pytest.raises(anthropic.BadRequestError, match="text only") as wrong:
        messages_of(live).messages.create(model="x", max_tokens=5, messages=[{"role": "user", "content": [image]}])
    body: Any = wrong.value.body
    assert body["type"] == "error"
    assert body["error"]["type"] == "invalid_request_error"
    assert httpx.post(f"{live.url}/v1/messages", content=b"{").json()["type"] == "error"


# ---- figures --------------------------------------------------------------------------------------------------------


def test_metrics(babbling: Live) -> None:
    babbling.client().chat.completions.create(model="x", messages=ASK, max_tokens=4)
    text = httpx.get(f"{babbling.url}/metrics").text
    figures = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(figures["gpt_oss_output_tokens_total"]) >= 4
    assert float(figures["gpt_oss_time_to_first_token_seconds_count"]) >= 1
    assert float(figures["gpt_oss_inter_token_seconds_count"]) >= 3
    assert float(figures["gpt_oss_engine_free_blocks"]) > 0
    assert float(figures['gpt_oss_requests_total{path="/v1/chat/completions",status="200"}']) >= 1
    httpx.get(f"{babbling.url}/some/path/that/is/new")
    assert "some/path" not in httpx.get(f"{babbling.url}/metrics").text
