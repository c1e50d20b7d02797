"""The Responses API as OpenAI's own client and types read it: items, events in order, tools, formats, errors."""

from __future__ import annotations

import json
from typing import Any

import httpx
import jsonschema
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from gpt_oss.backends.scripted import Reply, ScriptedGenerator
from gpt_oss.errors import BackendError
from gpt_oss.vocabulary import decode, encode_with_special
from tests.server.conftest import Live, Scripted, serving
from tests.server.test_chat_completions import ANSWER, CALL, PREAMBLE, WEATHER

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
TOOL: Any = {"type": "function", **WEATHER["function"]}
PATCH = "*** Begin Patch\n*** Delete File: a\n*** End Patch"


def test_a_response_has_every_field(scripted: Scripted) -> None:
    answer = scripted(ANSWER).client().responses.create(
        model="tiny", input="Weather?", instructions="Be brief.", metadata={"a": "b"}, reasoning={"effort": "minimal"}
    )  # fmt: skip
    assert set(answer.model_dump(exclude_unset=True)) >= {
        name for name, field in Response.model_fields.items() if field.is_required()
    }
    assert answer.output_text == "It rains."
    assert [item.type for item in answer.output] == ["reasoning", "message"]
    assert answer.output[0].content[0].text == "Think."  # type: ignore[union-attr,index]
    assert (answer.status, answer.metadata) == ("completed", {"a": "b"})
    assert answer.usage is not None
    assert answer.usage.output_tokens_details.reasoning_tokens > 0


def events_of(live: Live, **body: Any) -> list[dict[str, Any]]:
    """Every event as it was sent, checked against its type; sequence numbers have no gap."""
    with httpx.stream(
        "POST", f"{live.url}/v1/responses", json={"input": "Hi", "stream": True, **body}, timeout=60
    ) as response:
        assert response.status_code == 200
        lines = [line for line in response.iter_lines() if line]
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    assert [line.removeprefix("event: ") for line in lines if line.startswith("event: ")] == [e["type"] for e in events]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    for event in events:
        EVENT.validate_python(event)
    return events


def test_the_events_of_an_answer_in_order(scripted: Scripted) -> None:
    events = events_of(scripted(ANSWER))
    kinds = [event["type"].removeprefix("response.") for event in events]
    assert kinds[:2] == ["created", "in_progress"]
    once = [kind for i, kind in enumerate(kinds[2:]) if kinds[2:][i - 1] != kind or i == 0]
    item = ["output_item.added", "content_part.added", "{}.delta", "{}.done", "content_part.done", "output_item.done"]
    assert once == [
        *(kind.format("reasoning_text") for kind in item), *(kind.format("output_text") for kind in item), "completed"
    ]  # fmt: skip
    text = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    assert text == events[-1]["response"]["output"][1]["content"][0]["text"] == "It rains."


@pytest.mark.parametrize("namespace", [None, "weather_v1"])
def test_a_call_and_its_replay(scripted: Scripted, namespace: str | None) -> None:
    live = scripted(PREAMBLE + CALL, ANSWER)
    tools = (
        [TOOL] if namespace is None else [{"type": "namespace", "name": namespace, "description": "", "tools": [TOOL]}]
    )
    tools.append({"type": "web_search", "external_web_access": False})
    events = events_of(live, tools=tools)
    output = events[-1]["response"]["output"]
    assert [item["type"] for item in output] == ["message", "function_call"]
    call = output[1]
    assert (call["name"], call.get("namespace"), json.loads(call["arguments"])) == (
        "get_weather", namespace, {"city": "Oslo"},
    )  # fmt: skip
    done = next(event for event in events if event["type"] == "response.function_call_arguments.done")
    assert done["arguments"] == call["arguments"]
    result = {
        "type": "function_call_output",
        "call_id": call["call_id"],
        "output": [{"type": "input_text", "text": "rain"}],
    }
    events_of(live, tools=tools, input=[{"role": "user", "content": "Hi"}, *output, result])
    prompt = decode(live.generator.calls[1].prompt)
    assert "I look.<|end|>" in prompt
    assert "<|start|>functions.get_weather to=assistant<|channel|>commentary<|message|>rain<|end|>" in prompt
    assert "web_search" not in prompt


def test_a_custom_tool_gets_its_text_as_it_is(scripted: Scripted) -> None:
    answer = f"<|channel|>commentary to=functions.apply_patch<|message|>{PATCH}<|call|>"
    live = scripted(answer, ANSWER)
    tool = {"type": "custom", "name": "apply_patch", "description": "Edits files."}
    events = events_of(live, tools=[tool])
    call = events[-1]["response"]["output"][0]
    assert (call["type"], call["name"], call["input"]) == ("custom_tool_call", "apply_patch", PATCH)
    kinds = {event["type"] for event in events}
    assert {"response.custom_tool_call_input.delta", "response.custom_tool_call_input.done"} <= kinds
    result = {"type": "custom_tool_call_output", "call_id": call["call_id"], "output": "Done"}
    events_of(live, tools=[tool], input=[{"role": "user", "content": "Hi"}, call, result])
    assert PATCH in decode(live.generator.calls[1].prompt)


def test_a_format_and_a_limit(babbling: Live) -> None:
    schema = WEATHER["function"]["parameters"]
    text = {"format": {"type": "json_schema", "name": "place", "schema": schema, "strict": True}}
    response = events_of(babbling, text=text, max_output_tokens=40)[-1]["response"]
    assert response["text"]["format"] == text["format"]
    if response["status"] == "incomplete":
        assert response["incomplete_details"] == {"reason": "max_output_tokens"}
        assert all(item.get("status", "completed") in ("completed", "incomplete") for item in response["output"])
    else:
        jsonschema.validate(json.loads(response["output"][-1]["content"][0]["text"]), schema)


def test_the_sdk_streams_it(scripted: Scripted) -> None:
    with scripted(PREAMBLE + CALL).client().responses.stream(model="tiny", input="Hi", tools=[TOOL]) as stream:
        assert [event.type for event in stream][-1] == "response.completed"
        final = stream.get_final_response()
    assert final.output[1].type == "function_call"


def test_a_backend_that_fails_ends_the_stream_in_an_event() -> None:
    tokens = encode_with_special("<|channel|>final<|message|>It ")
    with serving(ScriptedGenerator([Reply(tokens, error=BackendError("the GPU is on fire"))])) as live:
        events = events_of(live)
    assert events[-1]["type"] == "response.failed"
    assert "on fire" in events[-1]["response"]["error"]["message"]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"input": 7}, "input"),
        ({"input": [{"type": "spell"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, None),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [{"type": "telescope"}]}, "tools[0].type"),
        ({"tools": [TOOL, TOOL]}, "tools[1].name"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"input": "word " * 5000}, None),
    ],
)
def test_errors_name_the_field(babbling: Live, change: dict[str, Any], param: str | None) -> None:
    for stream in (False, True):
        body = {"input": "Hi", "max_output_tokens": 4, "stream": stream, **change}
        response = httpx.post(f"{babbling.url}/v1/responses", json=body, timeout=60)
        assert response.status_code == (404 if param == "conversation" else 400), response.text
        assert response.json()["error"]["message"]
        if param is not None:
            assert response.json()["error"]["param"] == param


def test_what_clients_send_beside_is_accepted(babbling: Live) -> None:
    """A probe with nothing in it, and Codex's fields."""
    for extra in (
        {"input": ""},
        {"store": False, "include": ["reasoning.encrypted_content"], "client_metadata": {"x": "y"}},
        {"prompt_cache_key": "k", "text": {"verbosity": "low"}, "reasoning": {"summary": "auto", "effort": "xhigh"}},
    ):
        body = {"model": "gpt-oss:20b", "input": "Hi", "max_output_tokens": 1, **extra}
        response = httpx.post(f"{babbling.url}/v1/responses", json=body, timeout=60)
        assert response.status_code == 200, response.text
        Response.model_validate(response.json())
