"""Answers on their way to the client, for every API: begun, kept alive, ended when the client hangs up.

whole()     runs the answer to its end, then sends one body
streamed()  sends pieces as they come: an error before the first one has its status, one after it is a piece itself
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from gpt_oss.server.core.errors import ENDS

T = TypeVar("T")
KEEP_ALIVE_S = 10.0
COMMENT = b": keep-alive\n\n"
# JSON may hold them as they are, but clients that split at what Python calls a line break end a line there.
LINE_BREAKS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}
log = logging.getLogger("gpt_oss.server")


def json_text(data: object) -> str:
    """JSON in one line, whatever a client takes for a line break."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).translate(LINE_BREAKS)


def event(data: object, name: str | None = None) -> bytes:
    """One server-sent event: a JSON object, or a string as it is."""
    text = data if isinstance(data, str) else json_text(data)
    return (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()


def line(data: object) -> bytes:
    """One line of JSON."""
    return json_text(data).encode() + b"\n"


def warning_headers(warnings: Sequence[str]) -> dict[str, str]:
    """The `Warning` header of an answer (RFC 7234, code 299), where there is something to warn of."""
    said = [text.encode("ascii", "replace").decode().replace("\\", "").replace('"', "'") for text in warnings]
    shown = ", ".join(f'299 gpt-oss "{" ".join(text.split())}"' for text in said)
    return {"Warning": shown[:4000]} if shown else {}


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
        await _end(task, watch)


async def _end(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def merged(generators: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[tuple[int, T], None]:
    """What all of them give, each with the number of its generator, in the order in which it comes.

    They run at their own pace: a client that reads slowly holds up nothing but its own reading. When one fails, the
    others are ended and its error is raised.
    """
    made: asyncio.Queue[tuple[int, T] | BaseException | None] = asyncio.Queue()

    async def make(number: int, items: AsyncGenerator[T, None]) -> None:
        try:
            async with aclosing(items):
                async for item in items:
                    made.put_nowait((number, item))
            made.put_nowait(None)
        except ENDS:
            raise
        except BaseException as error:  # a library's panic is none of Exception's
            made.put_nowait(error)

    tasks = [asyncio.ensure_future(make(number, items)) for number, items in enumerate(generators)]
    try:
        under_way = len(tasks)
        while under_way:
            found = await made.get()
            if isinstance(found, BaseException):
                raise found
            if found is None:
                under_way -= 1
            else:
                yield found
    finally:
        await _end(*tasks)


async def whole(
    request: Request,
    pieces: AsyncGenerator[Any, None],
    body: Callable[[], Mapping[str, Any]],
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Runs the answer to its end and gives its body. Raises GoneError, and what the answer raises."""

    async def run() -> None:
        async with aclosing(pieces):
            async for _ in pieces:
                pass

    await unless_gone(request, run())
    return JSONResponse(body(), headers=dict(headers or {}))


async def streamed(
    request: Request,
    pieces: AsyncGenerator[bytes, None],
    failed: Callable[[BaseException], bytes],
    *,
    keep_alive: Callable[[], bytes] = lambda: COMMENT,
    media_type: str = "text/event-stream",
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The answer as it comes, once its first piece is there or the client has waited for long.

    Until then an error is raised, and can have its status; later it becomes a piece, by `failed`. Raises GoneError.
    """
    sure = await begun(request, pieces, failed)
    return EventStream(sure, keep_alive=keep_alive, media_type=media_type, headers=headers)


async def begun(
    request: Request, parts: AsyncGenerator[T, None], failed: Callable[[BaseException], T]
) -> AsyncGenerator[T, None]:
    """The parts, once the first of them is there, or has kept the client waiting for long; see `streamed`."""
    first = asyncio.ensure_future(anext(parts))

    async def patience() -> None:
        if (await asyncio.wait({first}, timeout=KEEP_ALIVE_S))[0]:
            first.result()

    async def end() -> None:
        await _end(first)
        await parts.aclose()

    async def rest() -> AsyncGenerator[T, None]:
        try:
            yield await first
            async for part in parts:
                yield part
        except ENDS:
            raise
        except BaseException as error:
            log.error("an answer broke off: %s", type(error).__name__, exc_info=error)
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

    def __init__(
        self,
        body: AsyncGenerator[bytes, None],
        *,
        keep_alive: Callable[[], bytes] = lambda: COMMENT,
        media_type: str = "text/event-stream",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        own = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(headers={**own, **(headers or {})}, media_type=media_type)
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
            await _end(sending, watch)
            await self._generator.aclose()

    async def _send(self, send: Send) -> None:
        pieces = aiter(self._generator)
        while True:
            piece = await _patiently(pieces, lambda: _body(send, self._keep_alive()))
            if piece is None:
                break
            await _body(send, piece)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _body(send: Send, data: bytes) -> None:
    if data:
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
