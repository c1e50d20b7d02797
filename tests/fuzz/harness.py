"""Sends requests to the application in this process, and says what is wrong with an answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from gpt_oss.backends.scripted import ScriptedGenerator
from gpt_oss.server.app import create_app
from gpt_oss.server.core.errors import Shape, shape_of
from gpt_oss.server.core.hosted import Hosted
from gpt_oss.server.gate import ServerOptions
from gpt_oss.server.runner import Runner
from gpt_oss.server.service import Service
from gpt_oss.server.state.store import Store
from gpt_oss.vocabulary import encode_with_special
from tests.fuzz.mutate import Sent

ANSWERS = (
    "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Hi there.<|return|>",
    '<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"city": "Rome"}<|call|>',
    "<|channel|>final<|message|>Hi",
)
MOST_SECONDS = 30.0  # of an answer, on a busy machine; the usual one takes some milliseconds
FAILED = "the server has failed"


class Harness:
    """The application, and a response, a conversation and a chat completion that it has."""

    def __init__(self, app: Any, generator: ScriptedGenerator) -> None:
        self._app = app
        self._generator = generator
        self._names: dict[str, str] = {}

    async def prepare(self) -> None:
        asked = {"input": "Hi", "store": True}
        for name, path, body in (
            ("RESPONSE", "/v1/responses", asked),
            ("CONVERSATION", "/v1/conversations", {}),
            ("COMPLETION", "/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}], "store": True}),
        ):
            status, _, answer = await self._http(Sent("POST", path, (), json.dumps(body).encode()))
            assert status == 200, answer
            self._names[name] = json.loads(answer)["id"]

    async def fault(self, sent: Sent) -> str | None:
        """What is wrong with the answer to a request; None where nothing is."""
        self._generator.calls.clear()
        self._generator.scored.clear()
        try:
            async with asyncio.timeout(MOST_SECONDS):
                if sent.method == "WS":
                    return await self._frame_fault(sent)
                return wrong(sent, *await self._http(sent))
        except TimeoutError:
            return f"no answer within {MOST_SECONDS:.0f} s"
        except Exception as error:
            return f"{type(error).__name__} came out of the application: {error}"

    def _scope(self, sent: Sent) -> dict[str, Any]:
        path, _, query = sent.path.partition("?")
        for name, identity in self._names.items():
            path = path.replace(name, identity)
        headers = {"host": "127.0.0.1:8000", **dict(sent.headers)}
        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": sent.method,
            "scheme": "http",
            "path": unquote_to_bytes(path).decode("utf-8", "replace"),
            "raw_path": path.encode("utf-8", "replace"),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8000),
            "state": {},
        }

    async def _http(self, sent: Sent) -> tuple[int, dict[str, str], bytes]:
        parts = [{"type": "http.request", "body": sent.body, "more_body": False}]
        status, headers, body = 0, {}, bytearray()

        async def receive() -> dict[str, Any]:
            if not parts:
                await asyncio.Event().wait()  # the client stays
            return parts.pop()

        async def send(message: dict[str, Any]) -> None:
            nonlocal status, headers
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = {name.decode("latin-1").lower(): v.decode("latin-1") for name, v in message["headers"]}
            else:
                body.extend(message.get("body", b""))

        await self._app(self._scope(sent), receive, send)
        return status, headers, bytes(body)

    async def _frame_fault(self, sent: Sent) -> str | None:
        """Of a frame on a WebSocket: it is answered by events, up to the last one or an error."""
        text = sent.body.decode("utf-8", "replace")
        frames: list[dict[str, Any]] = [{"type": "websocket.connect"}, {"type": "websocket.receive", "text": text}]
        over = asyncio.Event()
        events: list[dict[str, Any]] = []
        closed: list[int] = []

        async def receive() -> dict[str, Any]:
            if frames:
                return frames.pop(0)
            await over.wait()
            return {"type": "websocket.disconnect", "code": 1000}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "websocket.send":
                events.append(strict(message["text"]))
                if events[-1]["type"] == "error" or events[-1]["type"] in ENDS:
                    over.set()
            elif message["type"] == "websocket.close":
                closed.append(message["code"])
                over.set()

        scope = {**self._scope(sent), "type": "websocket", "subprotocols": []}
        await self._app(scope, receive, send)
        if closed:  # the gate's refusal, or an unknown path
            return None
        last = events[-1]
        if last["type"] == "error":
            return error_fault(last["status"], {"error": last["error"]}, Shape.OPENAI)
        return FAILED if FAILED in json.dumps(events) else None


ENDS = ("response.completed", "response.failed", "response.incomplete")


def strict(text: str) -> Any:
    """The value of JSON that any reader takes: no NaN, no half of a surrogate pair."""
    text.encode()
    return json.loads(text, parse_constant=lambda name: 1 / 0)


def wrong(sent: Sent, status: int, headers: dict[str, str], body: bytes) -> str | None:
    """What is wrong with an answer of HTTP; None where nothing is."""
    if not 200 <= status < 500:
        return f"status {status}: {body[:300]!r}"
    if any("\n" in value or "\r" in value for value in headers.values()):
        return "a header holds the end of a line"
    if sent.method == "HEAD" or status in (204, 304, 307):
        return None
    kind = headers.get("content-type", "")
    try:
        if status >= 400:
            if sent.method == "OPTIONS" and kind.startswith("text/plain"):  # CORS's own answer
                return None
            path = unquote_to_bytes(sent.path.partition("?")[0]).decode("utf-8", "replace")
            return error_fault(status, strict(body.decode()), shape_of(path, dict(sent.headers)))
        if kind.startswith("application/json"):
            strict(body.decode())
        elif kind.startswith("text/event-stream"):
            return stream_fault(body.decode())
        elif kind.startswith("application/x-ndjson"):
            lines = [strict(line) for line in body.decode().split("\n") if line]
            return None if lines and (lines[-1].get("done") or "status" in lines[-1]) else "the lines have no end"
    except (ValueError, ZeroDivisionError, KeyError, IndexError, TypeError) as error:
        return f"unreadable ({type(error).__name__}: {error}): {body[:300]!r}"
    return None


def error_fault(status: int, body: Any, shape: Shape) -> str | None:
    """What is wrong with the body of an error."""
    if status >= 500:
        return f"status {status}: {body}"
    match shape:
        case Shape.ANTHROPIC:
            fine = set(body) == {"type", "error"} and set(body["error"]) == {"type", "message"}
            message = body["error"]["message"]
        case Shape.OLLAMA:
            fine, message = set(body) == {"error"}, body["error"]
        case _:
            fine = set(body) == {"error"} and set(body["error"]) == {"message", "type", "param", "code"}
            message = body["error"]["message"]
    return None if fine and isinstance(message, str) and message else f"not the shape of {shape.value}: {body}"


def stream_fault(text: str) -> str | None:
    """What is wrong with server-sent events."""
    events = []
    for block in text.split("\n\n"):
        data = [line.removeprefix("data: ") for line in block.split("\n") if line.startswith("data: ")]
        if len(data) > 1:
            return f"two lines of data in one event: {block[:200]!r}"
        if data and data[0] != "[DONE]":
            events.append(strict(data[0]))
    if not events:
        return "a stream without an event"
    return f"{FAILED} in the stream" if FAILED in text else None


@asynccontextmanager
async def harness(folder: Path) -> AsyncIterator[Harness]:
    """The application on the scripted generator, with a store in a folder."""
    said = [encode_with_special(answer) for answer in ANSWERS]
    count = iter(range(10**12))
    generator = ScriptedGenerator(lambda _: said[next(count) % len(said)])
    store = Store(str(folder / "fuzz.db"))
    hosted = Hosted(mcp=("http://127.0.0.1:9/",))
    service = Service(Runner(generator), "tiny", store=store, hosted=hosted)
    app = create_app(service, ServerOptions(ollama=True))
    made = Harness(app, generator)
    await made.prepare()
    try:
        yield made
    finally:
        for live in list(service.live.values()):
            await live.stop()
        store.close()
