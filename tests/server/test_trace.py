"""What the page asks beyond OpenAI's API: turns, branches, traces, the server's facts."""

from __future__ import annotations

import math
from typing import Any

import httpx
import pytest

from gpt_oss.backends.base import SampledToken
from gpt_oss.backends.scripted import Reply
from gpt_oss.events import MessageStarted, RoundStarted, Sampled
from gpt_oss.harmony.events import Header
from gpt_oss.server.core.hosted import Hosted
from gpt_oss.server.trace import Trace, readable, timing
from gpt_oss.tools.python_docker.docker_tool import PythonTool
from gpt_oss.tools.simple_browser import SimpleBrowserTool
from gpt_oss.tools.simple_browser.backend import choose_backend
from gpt_oss.vocabulary import decode, encode_with_special
from tests.server.conftest import Live
from tests.server.test_responses_state import CITED, OPEN, PYTHON, SEARCH, keeping

__all__ = ["keeping"]
CODE = Hosted(code_interpreter=lambda: PythonTool("dangerously-unsandboxed", stateful=True))
INTERPRETER = [{"type": "code_interpreter", "container": {"type": "auto"}}]
FINAL = "<|channel|>final<|message|>It is 42 🐍.<|return|>"


def turn(live: Live, conversation: str, question: str, previous: str | None = None, **more: Any) -> str:
    """Ask as the page does; the response's id."""
    given = {"model": "tiny", "input": question, "metadata": {"gpt_oss_conversation": conversation}, **more}
    answer = httpx.post(f"{live.url}/v1/responses", json={**given, "previous_response_id": previous}, timeout=60)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def get(live: Live, path: str) -> Any:
    return httpx.get(f"{live.url}{path}").json()


def test_a_trace_holds_every_token_of_every_round(keeping: Any) -> None:
    tokens = encode_with_special(FINAL)
    live = keeping(PYTHON, Reply(tokens, logprobs=[-0.5] * len(tokens)), hosted=CODE)
    conversation = live.any_client().conversations.create().id
    response = turn(live, conversation, "6 * 7?", tools=INTERPRETER, top_logprobs=2)
    trace = get(live, f"/v1/responses/{response}/trace")
    first, second = trace["rounds"]
    before = [token for message in first["messages"][: second["known"]] for token in message["tokens"]]
    for known, each, call in zip(([], before), (first, second), live.generator.calls, strict=True):
        shown = [*known, *(token for message in each["messages"] for token in message["tokens"])]
        assert [token[1] for token in shown] == [*call.prompt, *call.delivered]
        assert "".join(str(token[0]) for token in shown) == decode([*call.prompt, *call.delivered])
    assert [message["channel"] for message in second["messages"] if message["sampled"]] == ["final"]
    answer = second["messages"][-1]["tokens"]
    assert [token[2] for token in answer[2:]] == [-0.5] * len(answer[2:])
    assert math.isclose(answer[-1][3][0][1], -0.5)
    assert [span["kind"] for span in trace["spans"]] == ["call", "tool", "message"]
    assert all(span["to"] >= span["from"] for span in trace["spans"])
    assert trace["context_tokens"] == len(live.generator.prompts[1]) + len(live.generator.calls[1].delivered)
    assert trace["output_tokens"] == sum(len(call.delivered) for call in live.generator.calls)


def test_the_turns_of_a_conversation(keeping: Any) -> None:
    live = keeping(*[FINAL] * 4)
    client = live.any_client()
    conversation = client.conversations.create(metadata={"title": "Tree"}).id
    root = turn(live, conversation, "One")
    left = turn(live, conversation, "Left", root)
    right = turn(live, conversation, "Right", root)
    listed = get(live, f"/v1/conversations/{conversation}/turns")
    assert listed["conversation"]["metadata"] == {"title": "Tree"}
    assert [each["response"]["id"] for each in listed["data"]] == [root, left, right]
    assert [each["response"]["previous_response_id"] for each in listed["data"]] == [None, root, root]
    assert [each["input"][0]["content"][0]["text"] for each in listed["data"]] == ["One", "Left", "Right"]
    assert all(each["timing"]["output_tokens"] == len(encode_with_special(FINAL)) for each in listed["data"])

    branch = client.conversations.create().id
    made = httpx.post(f"{live.url}/v1/conversations/{branch}/turns", json={"response": right})
    assert made.json()["data"] == [root, right]
    client.conversations.delete(conversation)
    assert [each["response"]["id"] for each in get(live, f"/v1/conversations/{branch}/turns")["data"]] == [root, right]
    assert httpx.get(f"{live.url}/v1/responses/{left}").status_code == 404
    for path, body in ((branch, {"response": "resp_nowhere"}), (branch, {}), ("conv_nowhere", {"response": right})):
        wrong = httpx.post(f"{live.url}/v1/conversations/{path}/turns", json=body)
        assert wrong.status_code in (400, 404)
        assert "error" in wrong.json()


def test_what_is_no_turn_has_no_trace(keeping: Any) -> None:
    live = keeping(FINAL)
    answer = live.any_client().responses.create(model="tiny", input="Hi")
    found = httpx.get(f"{live.url}/v1/responses/{answer.id}/trace")
    assert found.status_code == 404
    assert "not kept" in found.json()["error"]["message"]


def test_what_the_browser_showed_is_told_where_it_is_asked_for(keeping: Any) -> None:
    web = Hosted(web_search=lambda: SimpleBrowserTool(choose_backend("demo")))
    live = keeping(SEARCH, OPEN, CITED, SEARCH, OPEN, CITED, hosted=web)
    ask = {"model": "tiny", "input": "How high?", "tools": [{"type": "web_search"}]}
    plain = live.any_client().responses.create(**ask)
    assert all(not hasattr(item, "results") for item in plain.output if item.type == "web_search_call")
    told = live.any_client().responses.create(**ask, include=["web_search_call.results"])
    shown = [item.results[0]["text"] for item in told.output if item.type == "web_search_call"]
    assert [text.split("\n")[0] for text in shown] == [
        "[0] Mount Everest",
        "[1] Mount Everest (local:///mount-everest.md)",
    ]


def test_the_servers_facts(babbling: Live) -> None:
    facts = get(babbling, "/v1/server")
    assert facts["model"] == {"id": "tiny", "shape": facts["model"]["shape"]}
    assert facts["model"]["shape"]["num_hidden_layers"] == 2
    assert facts["backend"].startswith("cpu")
    assert facts["context_tokens"] == 4096
    assert facts["tools"] == {"web_search": False, "code_interpreter": False, "mcp": []}
    assert not facts["stores"]
    now = facts["now"]
    assert 0 < now["memory"]["process_bytes"] < now["memory"]["total_bytes"]
    assert 0 <= now["cache"]["used_tokens"] <= now["cache"]["total_tokens"]
    httpx.post(f"{babbling.url}/v1/completions", json={"model": "tiny", "prompt": "Hi", "max_tokens": 3})
    assert get(babbling, "/v1/server")["now"]["output_tokens"] == now["output_tokens"] + 3


def test_a_trace_tells_the_time_without_tools_and_prompts() -> None:
    clock = iter(range(100))
    trace = Trace(clock=lambda: next(clock))
    trace.push(RoundStarted(0, (1, 2, 3)))
    for token in (4, 5, 6):
        trace.push(Sampled(SampledToken(token)))
    trace.push(MessageStarted(Header("assistant", channel="analysis")))
    trace.push(RoundStarted(1, (1, 2, 3, 4, 5, 9)))
    trace.push(Sampled(SampledToken(7)))
    body = trace.body()
    assert [(each["known"], each["prompt"], each["tokens"]) for each in body["rounds"]] == [
        (0, [1, 2, 3], [4, 5, 6]),
        (5, [9], [7]),
    ]
    told = timing(body)
    seconds = body["rounds"][0]["last"] - body["rounds"][0]["first"]
    assert told["tokens_per_second"] == pytest.approx(2 / seconds)
    assert told["context_tokens"] == 7
    assert [len(each["messages"]) for each in readable(body)["rounds"]] == [1, 1]


def test_an_empty_trace() -> None:
    body = Trace().body()
    assert timing(body)["tokens_per_second"] is None
    assert readable(body)["rounds"] == []
