"""Records what clients send, and makes of it what may be committed: `python -m tests.clients.table --record FOLDER`.

A capture keeps everything that a server reads: fields, types, schemas, ids and their order. It loses what is of this
machine (paths, names, addresses) and what others wrote (prompts, descriptions of tools, grammars).
"""

from __future__ import annotations

import base64
import getpass
import gzip
import json
import re
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from tests.clients.agents import png
from tests.clients.model import SUMMARY

Message = MutableMapping[str, Any]
App = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]

HEADERS = ("accept", "anthropic-beta", "anthropic-version", "content-type", "openai-beta")
LONGEST_TEXT = 12  # of prompts and results; a longer one is a placeholder, with what is ours in it
LONGEST_OTHER = 120  # of any other value
TEXTS = {
    "text",
    "content",
    "output",
    "prompt",
    "input",
    "instructions",
    "thinking",
    "reasoning",
    "reasoning_content",
    "system",
}
DESCRIPTIONS = {"description", "title"}
KEPT = {"encrypted_content", "signature", "path", "arguments", *HEADERS}
PLACEHOLDER = "A text of the client."
DESCRIPTION = "A description."
GRAMMAR = 'start: line+\nline: /[^\\n]*/ "\\n"\n'
OURS = (
    re.compile(r"Please repair \S+/main\.py, then run \S+/test\.py\."),
    re.compile(r"Please look at \S+/picture\.png, then say so\."),
    re.compile(r"Please read what \S+/part\.py prints for 1 and all that follow, one at a time\."),
    re.compile(re.escape(SUMMARY)),
    re.compile(r"This is part \d+\."),
    re.compile(r"print\('(?:old|new)'\)|all is well|The test passes\.|All parts were read\.|I looked\."),
    re.compile(r"Say hello|What is the weather in Oslo\?|It rains in Oslo\.|A report, please"),
    re.compile(r"Please (?:edit main\.py: old becomes new|patch main\.py|run a command)"),
    re.compile(r"Be friendly\.|I ask\.|I edit\.|I patch\.|I read it first\.|Weather in a city\."),
    re.compile(r"\*\*\* Begin Patch\n[\s\S]*\*\*\* End Patch"),
)
UUID = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b")
DIGITS = re.compile(r"\b[0-9a-f]{32,}\b")
ANSWERED = (re.compile(r'"id":\s*"((?:resp|conv)_[^"]+)"'), re.compile(r'"id":\s*"((?:rs|msg|fc|ctc)_[^"]+)"'))


def ids_in(answer: str) -> list[str]:
    """The ids in an answer that a later request can refer to: the response's, then those of its items."""
    return list(dict.fromkeys(found for pattern in ANSWERED for found in pattern.findall(answer)))


def placeholders(number: int, ids: list[str]) -> dict[str, str]:
    """What stands in a capture for each of these ids of an answer, whose request has this number."""
    return {name: f"{{answer {number}.{place}}}" for place, name in enumerate(ids)}


class Recorder:
    """Holds the requests to the applications that it wraps, by `capture`, the name of what is being run.

    Frames of a WebSocket count as requests of the method WEBSOCKET."""

    def __init__(self) -> None:
        self.capture = ""
        self.requests: dict[str, list[dict[str, Any]]] = {}

    def wrap(self, app: App) -> App:
        async def recording(scope: Message, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                await self._http(app, scope, receive, send)
            elif scope["type"] == "websocket":
                await self._websocket(app, scope, receive, send)
            else:
                await app(scope, receive, send)

        return recording

    def save(self, folder: Path) -> None:
        """Writes a file for each capture that has requests: one JSON line a request, packed by gzip."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, requests in self.requests.items():
            lines = "".join(json.dumps(request) + "\n" for request in scrubbed(requests))
            (folder / f"{name}.jsonl.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))

    async def _http(self, app: App, scope: Message, receive: Any, send: Any) -> None:
        record = self._record(scope, scope["method"])
        asked, answered = bytearray(), bytearray()

        async def receiving() -> Message:
            message: Message = await receive()
            asked.extend(message.get("body", b""))
            return message

        async def sending(message: Message) -> None:
            if len(answered) < 200_000:
                answered.extend(message.get("body", b""))
            await send(message)

        try:
            await app(scope, receiving, sending)
        finally:
            record["body"] = json.loads(asked) if asked else None
            record["answer"] = ids_in(answered.decode("utf-8", errors="replace"))

    async def _websocket(self, app: App, scope: Message, receive: Any, send: Any) -> None:
        record: dict[str, Any] = {}

        async def receiving() -> Message:
            nonlocal record
            message: Message = await receive()
            if message["type"] == "websocket.receive":
                record = self._record(scope, "WEBSOCKET")
                record["body"] = json.loads(message.get("text") or message["bytes"])
            return message

        async def sending(message: Message) -> None:
            if message["type"] == "websocket.send":
                record["answer"] = list(dict.fromkeys([*record.get("answer", []), *ids_in(message.get("text") or "")]))
            await send(message)

        await app(scope, receiving, sending)

    def _record(self, scope: Message, method: str) -> dict[str, Any]:
        headers = {key.decode(): value.decode() for key, value in scope["headers"]}
        query = scope["query_string"].decode()
        record = {
            "method": method,
            "path": scope["path"] + (f"?{query}" if query else ""),
            "headers": {name: headers[name] for name in HEADERS if name in headers},
        }
        self.requests.setdefault(self.capture, []).append(record)
        return record


def scrubbed(requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same, without what is of this machine and what others wrote.

    An id of an earlier answer becomes a placeholder: a replay gets ids of its own."""
    scrub = _Scrub()
    result = []
    for number, request in enumerate(requests):
        result.append({key: scrub.value(value, "") for key, value in request.items() if key != "answer"})
        scrub.answers |= placeholders(number, request.get("answer", []))
    return result


class _Scrub:
    def __init__(self) -> None:
        self.answers: dict[str, str] = {}
        self._uuids: dict[str, str] = {}
        self._names = [re.escape(name) for name in {socket.gethostname(), getpass.getuser()} if len(name) > 2]

    def value(self, value: Any, key: str) -> Any:
        if isinstance(value, dict):
            return {name: self.value(item, name) for name, item in value.items()}
        if isinstance(value, list):
            return [self.value(item, key) for item in value]
        return self._text(value, key) if isinstance(value, str) else value

    def _text(self, text: str, key: str) -> str:
        if key in ("data", "image_url", "url") and len(text) > LONGEST_OTHER:
            return text[: text.find(",") + 1] + base64.b64encode(png()).decode()
        if key == "definition":
            return GRAMMAR
        if key in DESCRIPTIONS and text:
            return DESCRIPTION
        longest = LONGEST_TEXT if key in TEXTS else LONGEST_OTHER
        if len(text) > longest and key not in KEPT:
            ours = [match[0] for pattern in OURS for match in pattern.finditer(text)]
            text = text if text in ours else " ".join([PLACEHOLDER, *dict.fromkeys(ours)])
        return self._here(text)

    def _here(self, text: str) -> str:
        """Without paths, names and addresses of this machine, and with ids that name no installation."""
        text = re.sub(r"(?<![\w.])/(?:root|home|tmp|work|private)/[^\s\"'`,:;<>()]*/(?=[\w.-]+)", "/project/", text)
        text = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:8000", text)
        if self._names:
            text = re.sub(rf"\b(?:{'|'.join(self._names)})\b", "someone", text)
        for name, known in self.answers.items():
            text = text.replace(name, known)
        text = DIGITS.sub(lambda match: "0" * len(match[0]), text)
        return UUID.sub(lambda match: self._uuids.setdefault(match[0], _uuid(len(self._uuids))), text)


def _uuid(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012x}"
