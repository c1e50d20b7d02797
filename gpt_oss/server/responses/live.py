"""A response under way: computed at its own pace, read by as many as like, from wherever they like.

The computing task never waits for a reader, so a slow one holds up nobody. Without `background` it ends with its first
reader; with it, it goes on, and its events can be read again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Any

from gpt_oss.errors import ContextOverflowError
from gpt_oss.events import Event
from gpt_oss.server.errors import RequestError, as_response
from gpt_oss.server.responses.outbound import ResponseFold
from gpt_oss.server.runner import Runner

Json = dict[str, Any]
CODES = {"context_length_exceeded": "context_length_exceeded", "rate_limit_exceeded": "rate_limit_exceeded"}


class LiveResponse:
    """runner: computes the fold's plan. at_start: done before the first event can be read. at_end: before the last ones
    can; it is given all of them. watch: sees the turn's own events."""

    def __init__(
        self,
        fold: ResponseFold,
        runner: Runner,
        at_start: Callable[[], Awaitable[None]],
        at_end: Callable[[list[Json]], Awaitable[None]],
        watch: Callable[[Event], None] = lambda _: None,
    ) -> None:
        self.fold = fold
        self.events: list[Json] = []
        self.over = False
        self.failure: Exception | None = None
        self._runner = runner
        self._at_start = at_start
        self._at_end = at_end
        self._watch = watch
        self._changed = asyncio.Event()
        self.written = asyncio.Event()  # at_start is done
        self._begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._cancelled = False
        self.task = asyncio.ensure_future(self._run())

    async def begun(self, within_s: float | None = None) -> None:
        """Returns when it is sure that it can be computed, or the time is over. Raises what keeps it from that."""
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._begun), within_s)

    async def after(self, number: int) -> AsyncGenerator[Json, None]:
        """Events with a sequence number above it, to the end."""
        at = number + 1
        while True:
            while at < len(self.events):
                yield self.events[at]
                at += 1
            if self.over:
                return
            await self._changed.wait()

    def keep_alive(self) -> None:
        """A real event, for comments do not reset every client's clock; the first one where there was none yet."""
        if not self.over:
            self._publish([self.fold.keep_alive()] if self.events else self.fold.start())

    async def cancel(self) -> None:
        """End it now; what there is becomes its output."""
        self._cancelled = True
        await self.stop()

    async def stop(self) -> None:
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task

    def _publish(self, events: list[Json]) -> None:
        self.events += events
        self._changed.set()
        self._changed = asyncio.Event()

    async def _run(self) -> None:
        fold, last = self.fold, []
        try:
            await self._at_start()
            self.written.set()
            if fold.status == "queued":
                self._publish(fold.start())
            async with aclosing(self._runner.events(fold.wanted.plan)) as events:
                async for event in events:
                    if not self._begun.done():
                        self._begun.set_result(None)
                        if fold.status == "queued":
                            self._publish(fold.go_on())
                        elif not self.events:  # nobody had to be kept waiting
                            self._publish(fold.start())
                    self._watch(event)
                    last = fold.push(event)
                    if fold.status in ("in_progress", "queued"):
                        self._publish(last)
        except asyncio.CancelledError:
            last = fold.cancel()
            if not self._cancelled:
                raise
        except Exception as error:
            if isinstance(error, ContextOverflowError):
                error = RequestError(str(error), param="input", code="context_length_exceeded")
            self.failure = error
            detail = as_response(error)[1]["error"]
            code = CODES.get(detail["code"] or "", "server_error")
            last = fold.fail(code, detail["message"])
            if not self._begun.done():
                self._begun.set_exception(error)
                self._begun.exception()  # a background response has nobody who waits for it
        finally:
            await asyncio.shield(self._end(last))

    async def _end(self, last: list[Json]) -> None:
        """Written down first, then told: who has seen the end may ask for it."""
        try:
            await self._at_end([*self.events, *last])
        finally:
            if not self._begun.done():
                self._begun.set_result(None)
            self.over = True
            self.written.set()
            self._publish(last)
