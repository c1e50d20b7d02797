"""Every field that OpenAI's SDK can send is one that we know: used, refused, or without effect on purpose."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsBase
from openai.types.responses import Response
from openai.types.responses.response_create_params import ResponseCreateParamsBase

from gpt_oss.server.apis.chat.read import ChatRequest
from gpt_oss.server.apis.responses.read import ResponsesRequest
from gpt_oss.vocabulary import decode
from tests.server.conftest import Scripted
from tests.server.test_chat_completions import ANSWER, ASK, WEATHER
from tests.server.test_responses import TOOL, events_of

WITHOUT_EFFECT = {
    ResponsesRequest: {
        "access_programs", "background_options", "context_management", "image", "moderation", "prompt_cache_options",
        "service_tier", "stream_options",
    },
    ChatRequest: {
        "moderation", "parallel_tool_calls", "prediction", "prompt_cache_key", "prompt_cache_options",
        "prompt_cache_retention", "safety_identifier", "service_tier", "user", "verbosity",
    },
}  # fmt: skip
SDK: Any = [(ResponsesRequest, ResponseCreateParamsBase), (ChatRequest, CompletionCreateParamsBase)]


@pytest.mark.parametrize(("ours", "theirs"), SDK)
def test_no_field_is_overlooked(ours: Any, theirs: Any) -> None:
    unused = set(theirs.__annotations__) - set(ours.model_fields)
    assert unused == WITHOUT_EFFECT[ours]


@pytest.mark.parametrize(("ours", "theirs"), SDK)
def test_null_is_as_if_a_field_were_not_there(scripted: Scripted, ours: Any, theirs: Any) -> None:
    live = scripted(ANSWER)
    nothing = dict.fromkeys({*theirs.__annotations__, *ours.model_fields, "stream"})
    if ours is ChatRequest:
        answer = httpx.post(f"{live.url}/v1/chat/completions", json={**nothing, "messages": ASK})
        assert answer.json()["choices"][0]["message"]["content"] == "It rains."
    else:
        answer = httpx.post(f"{live.url}/v1/responses", json={**nothing, "input": "Hi"})
        assert answer.json()["output"][-1]["content"][0]["text"] == "It rains."


def test_every_field_of_a_response_is_there_from_its_first_event_on(scripted: Scripted) -> None:
    """Those that a peer's conformance suite insists on, and all that OpenAI's type has for a text model."""
    events = events_of(scripted(ANSWER), tools=[{"type": "function", "name": "f"}], reasoning={"summary": "auto"})
    whole = [event["response"] for event in events if "response" in event]
    assert len(whole) == 3
    wanted = set(Response.model_fields) - {
        "access_programs", "image", "input_transformations", "moderation", "prompt", "prompt_cache_diagnostics",
        "prompt_cache_options", "tool_usage",
    }  # fmt: skip
    for response in whole:
        Response.model_validate(response)
        assert set(response) == wanted | {"presence_penalty", "frequency_penalty", "store"}
        assert response["tools"] == [
            {"type": "function", "name": "f", "description": None, "parameters": None, "strict": None}
        ]
    assert [response["completed_at"] is not None for response in whole] == [False, False, True]
    assert [response["usage"] is not None for response in whole] == [False, False, True]


@pytest.mark.parametrize("kind", ["auto", "detailed", "concise"])
def test_a_summary_of_the_thoughts(scripted: Scripted, kind: str) -> None:
    thoughts = "One thing. Then more.\n\nAnother thing! And so on."
    said = f"<|channel|>analysis<|message|>{thoughts}<|end|><|start|>assistant<|channel|>final<|message|>Hi<|return|>"
    live = scripted(said, said)
    events = events_of(live, reasoning={"summary": kind})
    wanted = "One thing.\n\nAnother thing!" if kind == "concise" else thoughts
    kinds = [
        event["type"].removeprefix("response.reasoning_summary_") for event in events if "summary" in event["type"]
    ]
    assert list(dict.fromkeys(kinds)) == ["part.added", "text.delta", "text.done", "part.done"]
    deltas = [event["delta"] for event in events if event["type"] == "response.reasoning_summary_text.delta"]
    assert "".join(deltas) == wanted
    item = events[-1]["response"]["output"][0]
    assert item["summary"] == [{"type": "summary_text", "text": wanted}]
    assert item["content"] == [{"type": "reasoning_text", "text": thoughts}]
    assert events_of(live)[-1]["response"]["output"][0]["summary"] == []


def test_the_phases_of_messages(scripted: Scripted) -> None:
    preamble = "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant"
    output = events_of(scripted(preamble + ANSWER), tools=[TOOL])[-1]["response"]["output"]
    assert [item["phase"] for item in output if item["type"] == "message"] == ["commentary", "final_answer"]


def test_reasoning_as_openrouter_has_it(scripted: Scripted) -> None:
    live = scripted(ANSWER, ANSWER)
    url = f"{live.url}/v1/chat/completions"
    body = {"messages": ASK, "reasoning": {"effort": "high", "exclude": True}}
    message = httpx.post(url, json=body).json()["choices"][0]["message"]
    assert message == {"role": "assistant", "content": "It rains.", "refusal": None}
    assert "reasoning" not in httpx.post(url, json={**body, "stream": True}).text
    assert "Reasoning: high" in decode(live.generator.prompts[0])


def test_a_refusal_and_parts_of_an_earlier_answer_are_read(scripted: Scripted) -> None:
    live = scripted(ANSWER, ANSWER)
    refusal = {"role": "assistant", "content": [{"type": "refusal", "refusal": "I will not."}]}
    asked: Any = [{"role": "user", "content": "Hi"}, refusal, {"role": "user", "content": "Please"}]
    httpx.post(f"{live.url}/v1/responses", json={"input": asked})
    httpx.post(f"{live.url}/v1/chat/completions", json={"messages": asked, "tools": [WEATHER]})
    assert all("final<|message|>I will not.<|end|>" in decode(prompt) for prompt in live.generator.prompts)


def test_the_page_of_the_api_needs_nothing_from_elsewhere(scripted: Scripted) -> None:
    page = httpx.get(f"{scripted(ANSWER).url}/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "openapi.json" in page.text
    assert "//" not in "".join(re.findall(r"""(?:src|href)=["']?([^"'> ]*)""", page.text))


def test_it_is_looked_at_first(scripted: Scripted) -> None:
    live = scripted(ANSWER)
    assert httpx.head(f"{live.url}/v1/responses").status_code == 200
    for name in ("gpt-oss-20b", "gpt-oss:20b", "openai/gpt-oss-120b"):
        assert live.client().models.retrieve(name).id == name
