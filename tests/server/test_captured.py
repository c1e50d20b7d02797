"""What real clients have sent, sent once more: every request is answered, in the form of its API.

captured/ holds a file for each client and each session of a coding agent, as tests/clients/recording.py describes it;
`python -m tests.clients.table --record tests/server/captured` writes them. The scripted model of those runs answers
here, too.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import anthropic.types
import httpx
import ollama
import pytest
from openai.types import Model as ListedModel
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import Field, TypeAdapter
from websockets.sync.client import ClientConnection, connect

from gpt_oss.backends.scripted import ScriptedGenerator
from gpt_oss.server.gate import ServerOptions
from gpt_oss.server.state.store import Store
from gpt_oss.vocabulary import decode
from tests.clients.model import Model
from tests.clients.recording import ids_in, placeholders
from tests.server.conftest import Live, serving

CAPTURED = Path(__file__).parent / "captured"
CAPTURES = sorted(path.name.removesuffix(".jsonl.gz") for path in CAPTURED.glob("*.jsonl.gz"))
RESPONSES_EVENT: TypeAdapter[Any] = TypeAdapter(Annotated[ResponseStreamEvent, Field(discriminator="type")])
MESSAGES_EVENT: TypeAdapter[Any] = TypeAdapter(
    Annotated[anthropic.types.RawMessageStreamEvent, Field(discriminator="type")]
)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    store = Store(str(tmp_path_factory.mktemp("captured") / "server.db"))
    with serving(ScriptedGenerator(Model()), ServerOptions(ollama=True), store=store) as live:
        yield live
    store.close()


def captured(name: str) -> list[dict[str, Any]]:
    lines = gzip.decompress((CAPTURED / f"{name}.jsonl.gz").read_bytes()).decode().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("name", CAPTURES)
def test_every_request_of_a_client_is_answered(name: str, live: Live) -> None:
    answers: dict[str, str] = {}
    connection: ClientConnection | None = None
    with httpx.Client(base_url=live.url, timeout=60) as client:
        for number, request in enumerate(captured(name)):
            text = json.dumps(request)
            for placeholder, identity in answers.items():
                text = text.replace(placeholder, identity)
            assert "{answer" not in text, f"request {number} needs the id of an answer that never came"
            request = json.loads(text)
            where = f"request {number} of {name}: {request['method']} {request['path']}"
            if request["method"] == "WEBSOCKET":
                connection = connection or connect(live.url.replace("http", "ws", 1) + request["path"])
                events = frames(connection, request["body"])
                check_responses_events(events)
                answer = json.dumps(events)
            else:
                got = client.request(
                    request["method"], request["path"], headers=request["headers"], json=request["body"]
                )
                if (request["body"] or {}).get("thread"):  # Anthropic's SDK asks whether threads are kept, then goes on
                    assert got.json()["error"]["details"]["error_code"] == "thread_unsupported_request", where
                    continue
                assert got.status_code == 200, f"{where}: {got.status_code} {got.text[:500]}"
                check(request, got)
                answer = got.text
            answers |= {known: name for name, known in placeholders(number, ids_in(answer)).items()}
    if connection is not None:
        connection.close()


def test_claude_code_is_told_in_its_words_that_a_prompt_is_too_long() -> None:
    """Only a message of this form makes it ask for a summary and go on; any other ends its session."""
    asked = next(request for request in captured("claude-code-compaction") if request["body"])
    with serving(ScriptedGenerator(Model(), context_tokens=100)) as small:
        got = httpx.post(small.url + asked["path"], headers=asked["headers"], json=asked["body"], timeout=60)
    assert got.status_code == 400
    assert got.json()["error"]["type"] == "invalid_request_error"
    found = re.match(r"prompt is too long: (\d+) tokens > (\d+) maximum", got.json()["error"]["message"])
    assert found is not None
    assert int(found[1]) > int(found[2]) == 100


def test_the_model_reads_of_the_custom_tool_with_which_copilot_edits(live: Live) -> None:
    asked = next(r for r in captured("copilot-cli-chat-completions-edits-and-tests") if r["method"] == "POST")
    assert "apply_patch" in [tool["custom"]["name"] for tool in asked["body"]["tools"] if tool["type"] == "custom"]
    httpx.post(live.url + asked["path"], json=asked["body"], timeout=60).raise_for_status()
    assert "type apply_patch = " in decode(live.generator.prompts[-1])


def test_no_capture_tells_of_the_machine_that_made_it() -> None:
    for name in CAPTURES:
        text = json.dumps(captured(name))
        assert not re.search(r"/(root|home|tmp|work|Users)/|localhost|registry|sk-[a-zA-Z0-9]{8}", text), name
        addresses = set(re.findall(r"\b\d+\.\d+\.\d+\.\d+(?::\d+)?\b", text)) - {"127.0.0.1:8000"}
        assert not addresses, (name, addresses)


# ---- the forms of the APIs ------------------------------------------------------------------------------------------


def check(request: dict[str, Any], got: httpx.Response) -> None:
    """Raises AssertionError or ValidationError where an answer does not have the form of its API."""
    path, body = request["path"].split("?")[0], request["body"] or {}
    if request["method"] == "HEAD":
        assert not got.content
    elif path == "/v1/responses" and body.get("stream"):
        check_responses_events([json.loads(data) for data in stream(got)])
    elif path.startswith("/v1/responses"):
        assert Response.model_validate(got.json()).status == "completed"
    elif path == "/v1/chat/completions" and body.get("stream"):
        *chunks, done = stream(got)
        assert done == "[DONE]"
        parsed = [ChatCompletionChunk.model_validate(known(json.loads(chunk))) for chunk in chunks]
        assert [choice.finish_reason for chunk in parsed for choice in chunk.choices][-1] in ("stop", "tool_calls")
        wants_usage = (body.get("stream_options") or {}).get("include_usage", False)
        assert (parsed[-1].usage is not None) == wants_usage
    elif path == "/v1/chat/completions":
        assert ChatCompletion.model_validate(got.json()).choices[0].finish_reason in ("stop", "tool_calls")
    elif path == "/v1/messages" and body.get("stream"):
        check_messages_events([json.loads(data) for data in stream(got)])
    elif path == "/v1/messages":
        assert anthropic.types.Message.model_validate(got.json()).stop_reason in ("end_turn", "tool_use")
    elif path == "/v1/messages/count_tokens":
        assert got.json()["input_tokens"] > 0
    elif path.startswith("/v1/models"):
        assert all(ListedModel.model_validate(model) for model in got.json().get("data", [got.json()]))
    elif path in ("/api/chat", "/api/generate"):
        kind = ollama.ChatResponse if path == "/api/chat" else ollama.GenerateResponse
        parts = [kind.model_validate_json(line) for line in got.text.splitlines()]
        assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    else:
        assert path in ("/api/tags", "/api/version", "/api/show", "/"), f"no form is known for {path}"
        assert isinstance(got.json(), dict)


def known(chunk: dict[str, Any]) -> dict[str, Any]:
    """The chunk without calls of custom tools, which the SDK's types of streams do not know yet."""
    for choice in chunk["choices"]:
        calls = choice["delta"].get("tool_calls", [])
        for call in calls:
            assert (
                set(call) == {"index", "id", "type", "custom"} or set(call) == {"index", "custom"} or "function" in call
            )
        kept = [call for call in calls if "custom" not in call]
        choice["delta"] = {**choice["delta"], "tool_calls": kept} if calls else choice["delta"]
    return chunk


def stream(got: httpx.Response) -> list[str]:
    """The data of server-sent events, each of which may have a name that must be its type's."""
    assert got.headers["content-type"].startswith("text/event-stream")
    found = []
    for block in got.text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "data" in fields:
            assert "event" not in fields or json.loads(fields["data"])["type"] == fields["event"]
            found.append(fields["data"])
    return found


def frames(connection: ClientConnection, body: dict[str, Any]) -> list[dict[str, Any]]:
    connection.send(json.dumps(body))
    events: list[dict[str, Any]] = []
    while not events or events[-1]["type"] not in ("response.completed", "response.incomplete", "error"):
        events.append(json.loads(connection.recv(timeout=60)))
    return events


def check_responses_events(events: list[dict[str, Any]]) -> None:
    for event in events:
        assert event["type"] != "error", event
        RESPONSES_EVENT.validate_python(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert (events[0]["type"], events[-1]["type"]) == ("response.created", "response.completed")
    added = [event["item"]["id"] for event in events if event["type"] == "response.output_item.added"]
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert added == [item["id"] for item in done]
    assert done == events[-1]["response"]["output"]


def check_messages_events(events: list[dict[str, Any]]) -> None:
    for event in events:
        if event["type"] != "ping":
            MESSAGES_EVENT.validate_python(event)
    kinds = [event["type"] for event in events if event["type"] != "ping"]
    assert (kinds[0], kinds[-2:]) == ("message_start", ["message_delta", "message_stop"])
    opened = [event["index"] for event in events if event["type"] == "content_block_start"]
    closed = [event["index"] for event in events if event["type"] == "content_block_stop"]
    assert opened == closed == list(range(len(opened)))
