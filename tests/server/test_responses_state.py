"""Responses that are kept: chains, conversations, background, cancelling, lost reasoning, and hosted tools."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from gpt_oss.backends.scripted import Reply, ScriptedGenerator
from gpt_oss.server.core.hosted import Hosted
from gpt_oss.server.state.store import Store
from gpt_oss.tools.python_docker.docker_tool import PythonTool
from gpt_oss.tools.simple_browser import SimpleBrowserTool
from gpt_oss.tools.simple_browser.backend import choose_backend
from gpt_oss.vocabulary import decode, encode_with_special
from tests.server.conftest import Live, serving
from tests.server.test_chat_completions import ANSWER, ASK, CALL, WEATHER
from tests.server.test_responses import TOOL

ROOT = Path(__file__).parents[2]
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
THOUGHT_AND_CALL = "<|channel|>analysis<|message|>Oslo it is.<|end|><|start|>assistant" + CALL
PYTHON = "<|channel|>analysis to=python code<|message|>print(6 * 7)<|call|>"
SEARCH = '<|channel|>analysis to=browser.search code<|message|>{"query": "Mount Everest"}<|call|>'
OPEN = '<|channel|>analysis to=browser.open code<|message|>{"cursor": 0, "id": 0}<|call|>'
CITED = "<|channel|>final<|message|>Everest is high【1†L1】.<|return|>"

Keeping = Callable[..., Live]


@pytest.fixture
def keeping(tmp_path: Path) -> Iterator[Keeping]:
    """A server with a store, that says these answers."""
    with ExitStack() as stack:

        def start(*answers: str | Reply, **options: Any) -> Live:
            script = [a if isinstance(a, Reply) else encode_with_special(a) for a in answers]
            store = Store(str(tmp_path / "server.db"))
            stack.callback(store.close)
            return stack.enter_context(serving(ScriptedGenerator(script), store=store, **options))

        yield start


def test_a_chain_of_responses(keeping: Keeping) -> None:
    live = keeping(ANSWER, ANSWER, ANSWER)
    client = live.any_client()
    first = client.responses.create(model="tiny", input="First question")
    second = client.responses.create(model="tiny", input="Second question", previous_response_id=first.id)
    assert second.previous_response_id == first.id
    client.responses.create(model="tiny", input="Third question", previous_response_id=second.id)
    prompt = decode(live.generator.prompts[-1])
    assert [prompt.index(w) for w in ("First question", "It rains.", "Second question", "Third question")] == sorted(
        prompt.index(w) for w in ("First question", "It rains.", "Second question", "Third question")
    )
    assert client.responses.retrieve(second.id) == second
    listed = client.responses.input_items.list(second.id)
    assert [item.content[0].text for item in listed.data] == ["Second question"]
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)
    with pytest.raises(openai.BadRequestError) as wrong:
        client.responses.create(model="tiny", input="Fourth", previous_response_id=second.id)
    assert wrong.value.code == "previous_response_not_found"


def test_an_answer_to_no_call(keeping: Keeping) -> None:
    """A chain is known whole; a client that sends a history of its own may have lost the call."""
    client = keeping(ANSWER, ANSWER).any_client()
    first = client.responses.create(model="tiny", input="Hi")
    answer = [{"type": "function_call_output", "call_id": "call_of_nobody", "output": "rain"}]
    with pytest.raises(openai.BadRequestError) as wrong:
        client.responses.create(model="tiny", input=answer, previous_response_id=first.id)
    assert wrong.value.param == "input[0]"
    client.responses.create(model="tiny", input=[{"role": "user", "content": "Hi"}, *answer])


def test_without_store_nothing_is_kept(keeping: Keeping) -> None:
    client = keeping(ANSWER).any_client()
    answer = client.responses.create(model="tiny", input="Hi", store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(answer.id)


def test_a_conversation(keeping: Keeping) -> None:
    live = keeping(ANSWER, ANSWER)
    client = live.any_client()
    start = [{"role": "user", "content": "I am Ada."}]
    conversation = client.conversations.create(metadata={"a": "b"}, items=start)
    for question in ("One?", "Two?"):
        answer = client.responses.create(model="tiny", input=question, conversation=conversation.id)
        assert answer.conversation is not None
        assert answer.conversation.id == conversation.id
    prompt = decode(live.generator.prompts[-1])
    assert all(words in prompt for words in ("I am Ada.", "One?", "It rains.", "Two?"))
    kinds = [item.type for item in client.conversations.items.list(conversation.id, order="asc", limit=3)]
    assert kinds == ["message", "message", "reasoning", "message", "message", "reasoning", "message"]
    assert client.conversations.update(conversation.id, metadata={"c": "d"}).metadata == {"c": "d"}
    added = [{"role": "user", "content": "More"}]
    more = client.conversations.items.create(conversation.id, items=added)
    assert client.conversations.items.retrieve(more.data[0].id, conversation_id=conversation.id)
    client.conversations.items.delete(more.data[0].id, conversation_id=conversation.id)
    client.conversations.delete(conversation.id)
    with pytest.raises(openai.NotFoundError):
        client.conversations.retrieve(conversation.id)


def test_background_goes_on_alone_and_its_stream_resumes(keeping: Keeping) -> None:
    live = keeping(Reply(encode_with_special(ANSWER), delay_s=0.05))
    client = live.any_client()
    stream = client.responses.create(model="tiny", input="Hi", background=True, stream=True)
    seen = [next(stream) for _ in range(5)]
    assert [event.type for event in seen[:2]] == ["response.created", "response.queued"]
    identity = seen[0].response.id
    stream.close()
    rest = list(client.responses.retrieve(identity, stream=True, starting_after=seen[-1].sequence_number))
    assert [event.sequence_number for event in rest] == list(range(5, 5 + len(rest)))
    assert rest[-1].type == "response.completed"
    assert rest[-1].response.output_text == "It rains."
    again = list(client.responses.retrieve(identity, stream=True))
    assert [e.model_dump() for e in again] == [e.model_dump() for e in [*seen, *rest]]
    for each in again:
        EVENT.validate_python(each.model_dump())
    assert client.responses.retrieve(identity).status == "completed"


def test_background_is_polled_and_cancelled(keeping: Keeping) -> None:
    live = keeping(Reply(encode_with_special(ANSWER), delay_s=0.2))
    client = live.any_client()
    answer = client.responses.create(model="tiny", input="Hi", background=True)
    assert answer.status == "queued"
    while client.responses.retrieve(answer.id).status == "queued":
        time.sleep(0.02)
    assert client.responses.cancel(answer.id).status == "cancelled"
    assert client.responses.retrieve(answer.id).status == "cancelled"
    assert live.generator.calls[0].closed
    assert client.responses.cancel(answer.id).status == "cancelled"


def test_a_background_response_that_cannot_be_computed(keeping: Keeping) -> None:
    client = keeping(ANSWER).any_client()
    answer = client.responses.create(model="tiny", input="word " * 200_000, background=True)
    while (found := client.responses.retrieve(answer.id)).status in ("queued", "in_progress"):
        time.sleep(0.02)
    assert found.status == "failed"
    assert found.error is not None
    assert "context" in found.error.message


def test_reasoning_comes_back_sealed(keeping: Keeping) -> None:
    live = keeping(THOUGHT_AND_CALL, ANSWER)
    client = live.any_client()
    include = ["reasoning.encrypted_content"]
    first = client.responses.create(model="tiny", input="Hi", tools=[TOOL], store=False, include=include)
    reasoning, call = first.output
    assert reasoning.type == "reasoning"
    assert call.type == "function_call"
    assert reasoning.encrypted_content
    assert "Oslo" not in reasoning.encrypted_content
    answer = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
    bare = {"type": "reasoning", "id": "rs_of_theirs", "summary": [], "encrypted_content": reasoning.encrypted_content}
    more = [{"role": "user", "content": "Hi"}, bare, call.model_dump(), answer]
    client.responses.create(model="tiny", input=more, tools=[TOOL], store=False)
    assert "Oslo it is." in decode(live.generator.prompts[1])


@pytest.mark.parametrize("stream", [False, True])
def test_thoughts_that_are_sealed_and_summed_up_are_no_third_time_in_the_content(
    keeping: Keeping, stream: bool
) -> None:
    """Copilot shows what stands there as words to its user, and sends it back as a message."""
    live = keeping(THOUGHT_AND_CALL, ANSWER)
    body = {"model": "tiny", "input": "Hi", "tools": [TOOL], "store": False, "reasoning": {"summary": "auto"}}
    body["include"] = ["reasoning.encrypted_content"]
    answer: Any = live.any_client().responses.create(**body, stream=stream)
    if stream:
        events = list(answer)
        assert not [event.type for event in events if "reasoning_text" in event.type or "content_part" in event.type]
        said = "".join(event.delta for event in events if event.type == "response.reasoning_summary_text.delta")
        assert said == "Oslo it is."
        answer = events[-1].response
    reasoning, call = answer.output
    assert reasoning.content is None
    assert [part.text for part in reasoning.summary] == ["Oslo it is."]
    more = [{"role": "user", "content": "Hi"}, call.model_dump()]
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
    live.any_client().responses.create(model="tiny", input=[*more, result], tools=[TOOL], store=False)
    assert "<|channel|>analysis<|message|>Oslo it is.<|end|>" in decode(live.generator.prompts[1])


@pytest.mark.parametrize("kept", ["nothing", "id", "reference"])
def test_reasoning_that_a_client_lost(keeping: Keeping, kept: str) -> None:
    live = keeping(THOUGHT_AND_CALL, ANSWER)
    client = live.any_client()
    first = client.responses.create(model="tiny", input="Hi", tools=[TOOL], store=kept == "reference")
    reasoning, call = first.output
    assert call.type == "function_call"
    middle: dict[str, list[Any]] = {
        "nothing": [call.model_dump()],
        "id": [{"type": "reasoning", "id": reasoning.id, "summary": []}, call.model_dump()],
        "reference": [{"type": "item_reference", "id": item.id} for item in first.output],
    }
    answer = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
    more = [{"role": "user", "content": "Hi"}, *middle[kept], answer]
    client.responses.create(model="tiny", input=more, tools=[TOOL], store=False)
    prompt = decode(live.generator.prompts[1])
    assert prompt.count("Oslo it is.") == 1
    assert prompt.index("Oslo it is.") < prompt.index("functions.get_weather <|constrain|>json")


@pytest.mark.parametrize("stream", [False, True])
def test_chat_clients_lose_it_too(keeping: Keeping, stream: bool) -> None:
    live = keeping(THOUGHT_AND_CALL, ANSWER)
    body = {"model": "tiny", "messages": ASK, "tools": [WEATHER], "stream": stream}
    response = httpx.post(f"{live.url}/v1/chat/completions", json=body)
    if stream:
        lines = [json.loads(x[6:]) for x in response.text.splitlines() if x.startswith("data: {")]
        call = next(c["delta"]["tool_calls"][0] for x in lines for c in x["choices"] if "tool_calls" in c["delta"])
    else:
        call = response.json()["choices"][0]["message"]["tool_calls"][0]
    function = {"name": "get_weather", "arguments": '{"city": "Oslo"}'}
    said = {"role": "assistant", "content": None, "tool_calls": [{**call, "function": function}]}
    more = [*ASK, said, {"role": "tool", "tool_call_id": call["id"], "content": "rain"}]
    httpx.post(f"{live.url}/v1/chat/completions", json={**body, "messages": more, "stream": False})
    assert "Oslo it is." in decode(live.generator.prompts[1])


def test_code_interpreter(keeping: Keeping) -> None:
    live = keeping(PYTHON, ANSWER, hosted=Hosted(code_interpreter=lambda: PythonTool(stateful=True)))
    tools = [{"type": "code_interpreter", "container": {"type": "auto"}}]
    include = ["code_interpreter_call.outputs"]
    events = list(
        live.any_client().responses.create(model="tiny", input="6 * 7?", tools=tools, include=include, stream=True)
    )
    for event in events:
        EVENT.validate_python(event.model_dump())
    kinds = [event.type.removeprefix("response.") for event in events]
    call = [kind for kind in dict.fromkeys(kinds) if kind.startswith("code_interpreter_call")]
    assert call == [
        "code_interpreter_call.in_progress", "code_interpreter_call_code.delta", "code_interpreter_call_code.done",
        "code_interpreter_call.interpreting", "code_interpreter_call.completed",
    ]  # fmt: skip
    response = events[-1].response
    Response.model_validate(response.model_dump())
    ran = response.output[0]
    assert ran.type == "code_interpreter_call"
    assert ran.code == "print(6 * 7)"
    assert ran.status == "completed"
    assert ran.outputs[0].logs.strip() == "42"
    assert "42" in decode(live.generator.prompts[1])
    assert response.output_text == "It rains."


def test_web_search_with_a_citation(keeping: Keeping) -> None:
    hosted = Hosted(web_search=lambda: SimpleBrowserTool(choose_backend("demo")))
    live = keeping(SEARCH, OPEN, CITED, hosted=hosted)
    tools = [{"type": "web_search"}]
    events = list(live.any_client().responses.create(model="tiny", input="Everest?", tools=tools, stream=True))
    for event in events:
        EVENT.validate_python(event.model_dump())
    response = events[-1].response
    search, opened, message = response.output
    assert search.action.query == "Mount Everest"
    assert opened.action.type == "open_page"
    assert opened.action.url
    assert [search.status, opened.status] == ["completed", "completed"]
    cited = message.content[0].annotations[0]
    assert message.content[0].text[cited.start_index : cited.end_index] == "【1†L1】"
    assert cited.url == opened.action.url
    assert any(event.type == "response.output_text.annotation.added" for event in events)


def test_a_hosted_tool_that_is_not_here(keeping: Keeping) -> None:
    live = keeping(ANSWER, ANSWER)
    tools = [{"type": "web_search"}, {"type": "image_generation"}]
    assert live.any_client().responses.create(model="tiny", input="Hi", tools=tools).output_text == "It rains."
    assert "browser" not in decode(live.generator.prompts[0])
    with pytest.raises(openai.BadRequestError, match="tool_choice"):
        live.any_client().responses.create(model="tiny", input="Hi", tools=tools, tool_choice={"type": "web_search"})


def test_calls_that_are_cut_off_are_incomplete(keeping: Keeping) -> None:
    hosted = Hosted(code_interpreter=lambda: PythonTool(stateful=True))
    tools = [{"type": "code_interpreter", "container": {"type": "auto"}}]
    answer = keeping(PYTHON, hosted=hosted).any_client().responses.create(
        model="tiny", input="6 * 7?", tools=tools, max_output_tokens=9
    )  # fmt: skip
    assert (answer.status, answer.output[0].status) == ("incomplete", "incomplete")


def test_how_long_a_prompt_is(keeping: Keeping) -> None:
    client = keeping().any_client()
    short = client.responses.input_tokens.count(model="tiny", input="Hi")
    long = client.responses.input_tokens.count(model="tiny", input="Hi " * 50)
    assert 20 < short.input_tokens < long.input_tokens < 200


def test_a_history_made_short(keeping: Keeping) -> None:
    live = keeping(ANSWER, ANSWER)
    client = live.any_client()
    history = [{"role": "user", "content": "Say A."}, {"role": "assistant", "content": "A long A."}]
    short = client.responses.compact(model="tiny", input=history)
    assert [item.type for item in short.output] == ["message", "compaction"]
    more = [*(item.model_dump(exclude_none=True) for item in short.output), {"role": "user", "content": "And B?"}]
    client.responses.create(model="tiny", input=more)
    prompt = decode(live.generator.prompts[1])
    assert "Say A." in prompt
    assert "It rains." in prompt
    assert "A long A." not in prompt


@pytest.fixture
def mcp_url(unused_tcp_port: int) -> Iterator[str]:
    """Our own python tool as an MCP server."""
    command = [sys.executable, "-m", "gpt_oss.cli", "mcp", "python", "--http", f"127.0.0.1:{unused_tcp_port}"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        for _ in range(200):
            with contextlib.suppress(httpx.ConnectError):
                httpx.get(f"http://127.0.0.1:{unused_tcp_port}/")
                break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{unused_tcp_port}/mcp"
    finally:
        process.terminate()
        process.wait(20)


def test_tools_of_an_mcp_server(keeping: Keeping, mcp_url: str) -> None:
    name = "user_python"  # in the prompt, where `python` is taken
    call = f'<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{{"code": "print(6 * 7)"}}<|call|>'
    live = keeping(call, ANSWER, ANSWER, hosted=Hosted(mcp=(mcp_url,)))
    client = live.any_client()
    server = {"type": "mcp", "server_label": "calc", "server_url": mcp_url, "require_approval": "never"}
    events = list(client.responses.create(model="tiny", input="6 * 7?", tools=[server], stream=True))
    for event in events:
        EVENT.validate_python(event.model_dump())
    first = events[-1].response
    listed, ran, *_ = first.output
    assert (listed.type, listed.server_label) == ("mcp_list_tools", "calc")
    assert (ran.type, ran.status, ran.output.strip()) == ("mcp_call", "completed", "42")
    assert json.loads(ran.arguments) == {"code": "print(6 * 7)"}
    assert first.output_text == "It rains."
    client.responses.create(model="tiny", input="And now?", tools=[server], previous_response_id=first.id)
    assert "42" in decode(live.generator.prompts[-1])
    for change in ({"server_url": "http://127.0.0.1:1/mcp"}, {"require_approval": "always"}, {"server_label": None}):
        with pytest.raises(openai.BadRequestError) as wrong:
            client.responses.create(model="tiny", input="Hi", tools=[{**server, **change}])
        assert wrong.value.param == f"tools[0].{next(iter(change))}"
