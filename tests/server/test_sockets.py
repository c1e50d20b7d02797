"""The Responses API over a WebSocket, as OpenAI's own client speaks it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from gpt_oss.backends.scripted import Reply, ScriptedGenerator
from gpt_oss.server.gate import ServerOptions
from gpt_oss.vocabulary import decode, encode_with_special
from tests.server.conftest import Live, Scripted, serving
from tests.server.test_chat_completions import ANSWER, wait_until

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
HELLO = [{"role": "user", "content": "Hello"}]


def url_of(live: Live) -> str:
    return live.url.replace("http://", "ws://") + "/v1/responses"


def asked(socket: Any, **body: Any) -> list[dict[str, Any]]:
    """The events of one request, to its last."""
    socket.send(json.dumps({"type": "response.create", "model": "tiny", **body}))
    events: list[dict[str, Any]] = []
    while not events or events[-1]["type"] not in ("response.completed", "response.incomplete", "error"):
        events.append(json.loads(socket.recv(timeout=60)))
    if events[-1]["type"] != "error":
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        for event in events:
            EVENT.validate_python(event)
    return events


def test_the_sdk_connects(scripted: Scripted) -> None:
    live = scripted(ANSWER)
    with live.any_client().responses.connect() as connection:
        connection.response.create(model="tiny", input="Hello", store=False)
        text = ""
        for event in connection:
            text += event.delta if event.type == "response.output_text.delta" else ""
            if event.type == "response.completed":
                break
    assert text == event.response.output_text == "It rains."


def test_one_request_after_the_other_and_from_the_last_on(scripted: Scripted) -> None:
    live = scripted(ANSWER, ANSWER, ANSWER)
    with connect(url_of(live)) as socket:
        first = asked(socket, input=HELLO, store=False)[-1]["response"]
        more = [{"role": "user", "content": "And then?"}]
        second = asked(socket, input=more, store=False, previous_response_id=first["id"])[-1]["response"]
        assert second["previous_response_id"] == first["id"]
        prompt = decode(live.generator.prompts[1])
        assert prompt.index("Hello") < prompt.index("It rains.") < prompt.index("And then?")
    with connect(url_of(live)) as socket:  # another connection knows nothing of what is not stored
        error = asked(socket, input=more, store=False, previous_response_id=second["id"])[-1]
        assert (error["type"], error["status"]) == ("error", 400)
        assert error["error"]["code"] == "previous_response_not_found"
        assert asked(socket, input=HELLO, store=False)[-1]["type"] == "response.completed"


def test_a_turn_that_fails_is_not_gone_on_from(scripted: Scripted) -> None:
    with connect(url_of(scripted(ANSWER))) as socket:
        first = asked(socket, input=HELLO, store=False)[-1]["response"]
        wrong = asked(socket, input=[{"type": "spell"}], store=False, previous_response_id=first["id"])[-1]
        assert wrong["error"]["param"] == "input[3].type"
        gone = asked(socket, input=HELLO, store=False, previous_response_id=first["id"])[-1]
        assert gone["error"]["code"] == "previous_response_not_found"


def test_an_answer_to_no_call_is_such_a_turn(scripted: Scripted) -> None:
    with connect(url_of(scripted(ANSWER, ANSWER))) as socket:
        first = asked(socket, input=HELLO, store=False)[-1]["response"]
        output = [{"type": "function_call_output", "call_id": "call_of_nobody", "output": "rain"}]
        for code in (None, "previous_response_not_found"):
            error = asked(socket, input=output, store=False, previous_response_id=first["id"])[-1]
            assert error["error"]["code"] == code
        assert asked(socket, input=HELLO, store=False)[-1]["type"] == "response.completed"


def test_only_made_ready(scripted: Scripted) -> None:
    live = scripted("x", ANSWER)
    with connect(url_of(live)) as socket:
        ready = asked(socket, input=HELLO, generate=False, store=False)[-1]["response"]
        assert (ready["status"], ready["output"]) == ("completed", [])
        answer = asked(socket, input=[], store=False, previous_response_id=ready["id"])[-1]["response"]
        assert answer["output"][-1]["content"][0]["text"] == "It rains."
    assert live.generator.prompts[0] == live.generator.prompts[1]


@pytest.mark.parametrize("frame", ["{", "[]", '{"type": "response.steer"}', '{"type": "response.create", "input": 7}'])
def test_frames_that_are_none(scripted: Scripted, frame: str) -> None:
    with connect(url_of(scripted(ANSWER))) as socket:
        socket.send(frame)
        error = json.loads(socket.recv(timeout=60))
        assert (error["type"], error["status"], error["error"]["type"]) == ("error", 400, "invalid_request_error")
        assert asked(socket, input=HELLO)[-1]["type"] == "response.completed"


def test_who_hangs_up_ends_the_answer() -> None:
    generator = ScriptedGenerator(
        [Reply(encode_with_special("<|channel|>final<|message|>" + "word " * 400), delay_s=0.05)]
    )
    with serving(generator) as live:
        with connect(url_of(live)) as socket:
            socket.send(json.dumps({"type": "response.create", "input": "Hi"}))
            socket.recv(timeout=60)
        wait_until(lambda: live.runner.running == 0 and generator.calls[0].closed)


def test_keys_and_pages_of_others() -> None:
    with serving(ScriptedGenerator([encode_with_special(ANSWER)]), ServerOptions(), frozenset({"right"})) as live:
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "Bearer right", "Origin": "http://x.example"},
        ):
            with pytest.raises(InvalidStatus), connect(url_of(live), additional_headers=headers):
                pass
        with connect(url_of(live), additional_headers={"Authorization": "Bearer right"}) as socket:
            assert asked(socket, input=HELLO)[-1]["type"] == "response.completed"
