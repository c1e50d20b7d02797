"""Server-sent events that end when the client does: also while nothing is sent, as during a long prompt."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

T = TypeVar("T")
KEEP_ALIVE_S = 10.0
COMMENT = b": keep-alive\n\n"


def event(data: object, name: str | None = None) -> bytes:
    """One event: a JSON object, or a string as it is."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()


class GoneError(Exception):
    """The client has hung up."""


async def gone(receive: Receive) -> None:
    """Returns when the client has hung up."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client hangs up. Raises GoneError then."""
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(gone(request.receive))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise GoneError
        return task.result()
    finally:
        for each in (task, watch):
            each.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await each


async def ahead(items: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """The same, made at their own pace: a client that reads slowly holds up nothing but its own reading."""
    made: asyncio.Queue[tuple[T] | Exception | None] = asyncio.Queue()

    async def make() -> None:
        try:
            async with aclosing(items):
                async for item in items:
                    made.put_nowait((item,))
            made.put_nowait(None)
        except Exception as error:
            made.put_nowait(error)

    task = asyncio.ensure_future(make())
    try:
        while (found := await made.get()) is not None:
            if isinstance(found, Exception):
                raise found
            yield found[0]
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def begun(
    request: Request, parts: AsyncGenerator[T, None], failed: Callable[[Exception], T]
) -> AsyncGenerator[T, None]:
    """The same, once the first of them is there, or has kept the client waiting for long.

    Until then an error is raised, and can have its status; behind that it becomes a part, by `failed`. Raises
    GoneError.
    """
    first = asyncio.ensure_future(anext(parts))

    async def patience() -> None:
        if (await asyncio.wait({first}, timeout=KEEP_ALIVE_S))[0]:
            first.result()

    async def end() -> None:
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await parts.aclose()

    async def rest() -> AsyncGenerator[T, None]:
        try:
            yield await first
            async for part in parts:
                yield part
        except Exception as error:
            yield failed(error)
        finally:
            await end()

    try:
        await unless_gone(request, patience())
    except BaseException:
        await end()
        raise
    return rest()


class EventStream(Response):
    """Sends what the generator gives. When it gives nothing for a while, `keep_alive` makes something to send."""

    media_type = "text/event-stream"

    def __init__(self, body: AsyncGenerator[bytes, None], *, keep_alive: Callable[[], bytes] = lambda: COMMENT) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._generator = body
        self._keep_alive = keep_alive

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        sending = asyncio.ensure_future(self._send(send))
        watch = asyncio.ensure_future(gone(receive))
        try:
            await asyncio.wait({sending, watch}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            for task in (sending, watch):
                task.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await task
            await self._generator.aclose()

    async def _send(self, send: Send) -> None:
        pieces = aiter(self._generator)
        while True:
            piece = await _patiently(pieces, lambda: _body(send, self._keep_alive()))
            if piece is None:
                break
            await _body(send, piece)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class LineStream(EventStream):
    """The same for lines of JSON."""

    media_type = "application/x-ndjson"

    def __init__(self, body: AsyncGenerator[bytes, None]) -> None:
        super().__init__(body, keep_alive=lambda: b"")


async def _body(send: Send, data: bytes) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": True})


async def _patiently(pieces: AsyncIterator[bytes], keep_alive: Any) -> bytes | None:
    """The next piece, or None at the end; `keep_alive` is called every KEEP_ALIVE_S until it is there."""
    task = asyncio.ensure_future(anext(pieces, None))
    try:
        while not (await asyncio.wait({task}, timeout=KEEP_ALIVE_S))[0]:
            await keep_alive()
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task
