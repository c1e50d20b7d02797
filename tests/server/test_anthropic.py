"""Anthropic's Messages API beyond what every API has: formats, signatures, searches, models, counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anthropic
import httpx
import pytest

from gpt_oss.server.core.hosted import Hosted
from gpt_oss.tools.simple_browser import SimpleBrowserTool
from gpt_oss.tools.simple_browser.local import LocalBackend
from gpt_oss.vocabulary import decode
from tests.server.apis import ANTHROPIC, PNG
from tests.server.conftest import Live, Scripted
from tests.server.test_kinds import allows

THOUGHT = "<|channel|>analysis<|message|>Think.<|end|><|start|>assistant"
FINAL = "<|channel|>final<|message|>It rains.<|return|>"
CALL = '<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"city": "Oslo"}<|call|>'
SEARCH = '<|channel|>analysis to=browser.search code<|message|>{"query": "weather"}<|call|>'
ASK: Any = [{"role": "user", "content": "Weather in Oslo?"}]
TOOL: Any = {"name": "get_weather", "description": "Weather.", "input_schema": {"type": "object"}}
SCHEMA = {"type": "object", "properties": {"a": {"enum": [1]}}, "required": ["a"], "additionalProperties": False}


def client_of(live: Live) -> Any:
    return anthropic.Anthropic(base_url=live.url, api_key="none", max_retries=0)


@pytest.mark.parametrize(
    "field",
    [
        {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
        {"output_format": {"type": "json_schema", "schema": SCHEMA}},
    ],
)
def test_formats_hold_the_answer(scripted: Scripted, field: Any) -> None:
    live = scripted(FINAL)
    assert ANTHROPIC.post(live.url, {"model": "x", "max_tokens": 9, "messages": ASK, **field}).status == 200
    grammar = live.generator.calls[0].params.grammar
    assert allows(grammar, '<|channel|>final<|message|>{"a": 1}<|return|>')
    assert not allows(grammar, "<|channel|>final<|message|>It rains.<|return|>")


@pytest.mark.parametrize("stream", [False, True])
def test_a_thought_has_a_signature_by_which_it_comes_back(scripted: Scripted, stream: bool) -> None:
    live = scripted(THOUGHT + CALL, FINAL)
    client = client_of(live)
    if stream:
        with client.messages.stream(model="x", max_tokens=99, messages=ASK, tools=[TOOL]) as events:
            kinds = [event.delta.type for event in events if event.type == "content_block_delta"]
            message = events.get_final_message()
        assert "signature_delta" in kinds
    else:
        message = client.messages.create(model="x", max_tokens=99, messages=ASK, tools=[TOOL])
    thought, call = message.content
    assert thought.type == "thinking"
    assert thought.signature
    hidden = {"type": "thinking", "thinking": "", "signature": thought.signature}  # as clients keep it that show none
    result = {"type": "tool_result", "tool_use_id": "another id, so that nothing is remembered", "content": "rain"}
    more = [
        *ASK,
        {"role": "assistant", "content": [hidden, {**call.model_dump(), "id": result["tool_use_id"]}]},
        {"role": "user", "content": [result]},
    ]
    client.messages.create(model="x", max_tokens=99, messages=more, tools=[TOOL])
    assert "<|channel|>analysis<|message|>Think.<|end|>" in decode(live.generator.prompts[-1])


def searching(folder: Path) -> Hosted:
    (folder / "oslo.html").write_text("<title>Oslo</title><p>The weather in Oslo is fine.</p>")
    return Hosted(web_search=lambda: SimpleBrowserTool(LocalBackend(folder)))


@pytest.mark.parametrize("choice", [None, {"type": "tool", "name": "web_search"}])
def test_the_web_is_searched_here(scripted: Scripted, tmp_path: Path, choice: Any) -> None:
    live = scripted(SEARCH, FINAL, FINAL, hosted=searching(tmp_path))
    client = client_of(live)
    tools: Any = [{"type": "web_search_20250305", "name": "web_search", "max_uses": 3}]
    chosen = {"tool_choice": choice} if choice else {}
    message = client.messages.create(model="x", max_tokens=99, messages=ASK, tools=tools, **chosen)
    assert [block.type for block in message.content] == ["server_tool_use", "web_search_tool_result", "text"]
    assert message.content[0].input == {"query": "weather"}
    assert message.content[1].tool_use_id == message.content[0].id
    assert message.usage.server_tool_use.web_search_requests == 1
    assert message.stop_reason == "end_turn"
    more = [*ASK, {"role": "assistant", "content": [b.model_dump() for b in message.content]}]
    client.messages.create(model="x", max_tokens=99, tools=tools, messages=[*more, {"role": "user", "content": "And?"}])
    shown = decode(live.generator.prompts[-1])
    assert "It rains." in shown  # what led to an answer is left out once it is given, as Harmony has it
    if choice:
        grammar = live.generator.calls[0].params.grammar
        assert not allows(grammar, FINAL)


def test_its_stream_with_a_search_adds_up(scripted: Scripted, tmp_path: Path) -> None:
    live = scripted(SEARCH, FINAL, hosted=searching(tmp_path))
    tools: Any = [{"type": "web_search_20250305", "name": "web_search"}]
    with client_of(live).messages.stream(model="x", max_tokens=99, messages=ASK, tools=tools) as events:
        message = events.get_final_message()
    assert [block.type for block in message.content] == ["server_tool_use", "web_search_tool_result", "text"]


def test_models_in_its_shape(scripted: Scripted) -> None:
    client = client_of(scripted(FINAL))
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("claude-x").type == "model"


def test_everything_that_can_be_sent_can_be_counted(scripted: Scripted) -> None:
    client = client_of(scripted(FINAL))
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    pdf = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}}
    messages = [{"role": "user", "content": [image, pdf, {"type": "text", "text": "What is it?"}]}]
    tools = [TOOL, {"type": "bash_20250124", "name": "bash"}, {"type": "web_search_20250305", "name": "web_search"}]
    few = client.messages.count_tokens(model="x", messages=ASK).input_tokens
    many = client.messages.count_tokens(
        model="x",
        messages=messages,
        tools=tools,
        system="Be brief.",
        thinking={"type": "enabled", "budget_tokens": 2000},
    ).input_tokens
    assert 20 < few < many


def test_who_is_billed_is_no_part_of_the_prompt(scripted: Scripted) -> None:
    live = scripted(FINAL, FINAL)
    for number in (1, 2):
        billing = {"type": "text", "text": f"x-anthropic-billing-header: cc_version={number}; cch={number}abc;"}
        system = [billing, {"type": "text", "text": "You help with code."}]
        body = {"model": "x", "max_tokens": 9, "messages": ASK, "system": system}
        assert httpx.post(f"{live.url}/v1/messages", json=body).status_code == 200
    assert live.generator.prompts[0] == live.generator.prompts[1]
    assert "You help with code." in decode(live.generator.prompts[0])
    assert "billing" not in decode(live.generator.prompts[0])


def test_its_own_tools_that_the_client_runs(scripted: Scripted) -> None:
    call = '<|channel|>commentary to=functions.user_bash <|constrain|>json<|message|>{"command": "ls"}<|call|>'
    live = scripted(call, FINAL)
    client = client_of(live)
    tools: Any = [
        {"type": "bash_20250124", "name": "bash"},
        {"type": "text_editor_20250728", "name": "str_replace_based_edit_tool"},
    ]
    message = client.messages.create(model="x", max_tokens=99, messages=ASK, tools=tools)
    (block,) = message.content
    assert (block.type, block.name, block.input) == ("tool_use", "bash", {"command": "ls"})
    prompt = decode(live.generator.prompts[0])
    assert "type user_bash = (_: {" in prompt
    assert "str_replace_based_edit_tool" in prompt


@pytest.mark.parametrize("thread", [{"type": "create"}, {"type": "continue", "previous_message_id": "msg_1"}])
@pytest.mark.parametrize("stream", [False, True])
def test_a_thread_is_refused_so_that_the_sdk_sends_the_whole_conversation(
    scripted: Scripted, thread: dict[str, str], stream: bool
) -> None:
    """Its tool runner sends what came last only, unless it reads this code."""
    live = scripted(FINAL)
    answer = ANTHROPIC.post(
        live.url, {"model": "x", "max_tokens": 9, "messages": ASK, "thread": thread, "stream": stream}
    )
    assert answer.status == 400
    assert answer.body["error"]["details"]["error_code"] == "thread_unsupported_request"
    assert live.generator.prompts == []


def test_what_other_servers_did_can_still_be_read(scripted: Scripted) -> None:
    live = scripted(FINAL)
    blocks = [
        {"type": "compaction", "content": "They spoke of rain."},
        {"type": "mcp_tool_use", "id": "m", "name": "look_up", "server_name": "s", "input": {"word": "rain"}},
        {
            "type": "mcp_tool_result",
            "tool_use_id": "m",
            "is_error": False,
            "content": [{"type": "text", "text": "wet"}],
        },
    ]
    messages = [*ASK, {"role": "assistant", "content": blocks}, {"role": "user", "content": "And?"}]
    assert ANTHROPIC.post(live.url, {"model": "x", "max_tokens": 9, "messages": messages}).status == 200
    prompt = decode(live.generator.prompts[0])
    assert "They spoke of rain.<|end|>" in prompt
    assert '[look_up {"word": "rain"} gave:]\nwet<|end|>' in prompt
    assert "reads text only" not in prompt


def test_what_another_server_searched_can_still_be_read(scripted: Scripted) -> None:
    live = scripted(FINAL)
    used = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "q"}}
    found = {
        "type": "web_search_result",
        "url": "http://a",
        "title": "A title",
        "encrypted_content": "sealed elsewhere",
    }
    result = {"type": "web_search_tool_result", "tool_use_id": "s", "content": [found]}
    body = {"model": "x", "max_tokens": 9, "messages": [*ASK, {"role": "assistant", "content": [used, result]}]}
    assert ANTHROPIC.post(live.url, body).status == 200
    prompt = decode(live.generator.prompts[0])
    assert "A title" in prompt
    assert json.dumps({"query": "q"}) in prompt
