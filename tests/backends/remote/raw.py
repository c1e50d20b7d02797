"""A server that sends what it is told, byte for byte: for everything that goes wrong between two machines."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from gpt_oss.vocabulary import token_bytes

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
Play = Callable[["Line"], Awaitable[None]]


@dataclass
class Line:
    """One request's connection. gone: set when the client has left it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    body: dict[str, Any]
    gone: threading.Event

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def chunk(self, data: bytes) -> None:
        await self.send(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    async def token(self, token: int, reason: str | None = None) -> None:
        """An event of vLLM's completions."""
        choice = {"index": 0, "text": token_bytes(token).decode(), "finish_reason": reason, "token_ids": [token]}
        await self.chunk(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n")

    async def end(self) -> None:
        await self.chunk(b"data: [DONE]\n\n")
        await self.send(b"0\r\n\r\n")

    async def refuse(self, status: int, body: bytes = b"", headers: str = "") -> None:
        await self.send(f"HTTP/1.1 {status} No\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body)

    async def until_gone(self) -> None:
        while await self.reader.read(1024):
            pass
        self.gone.set()


@dataclass
class Raw:
    """plays: what to do with each request in turn; the last one also with all that follow. requests: their bodies."""

    url: str
    plays: list[Play]
    requests: list[dict[str, Any]] = field(default_factory=list)
    gone: threading.Event = field(default_factory=threading.Event)


@contextmanager
def raw_server(*plays: Play) -> Iterator[Raw]:
    raw = Raw("", list(plays))
    loop = asyncio.new_event_loop()
    started = threading.Event()
    connections: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(
                    (int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if b"content-length" in line), 0
                )
                body = json.loads(await reader.readexactly(length)) if length else {}
                raw.requests.append(body)
                play = raw.plays[min(len(raw.requests), len(raw.plays)) - 1]
                await play(Line(reader, writer, body, raw.gone))
        except (asyncio.IncompleteReadError, ConnectionError):
            raw.gone.set()
        except asyncio.CancelledError:
            pass  # the test is over
        finally:
            writer.close()
            connections.discard(task)

    async def serve() -> None:
        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        raw.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        started.set()
        async with server:
            await server.serve_forever()

    async def end() -> None:
        for task in [serving, *connections]:
            task.cancel()
        await asyncio.gather(serving, *connections, return_exceptions=True)
        loop.stop()

    serving = loop.create_task(serve())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield raw
    finally:
        asyncio.run_coroutine_threadsafe(end(), loop)
        thread.join(10)
        loop.close()
