"""A response under way: computed at its own pace, read by as many as like, from wherever they like.

The computing task never waits for a reader, so a slow one holds up nobody. Without `background` it ends with its first
reader; with it, it goes on, and its events can be read again. An event gets its number here, when it is published.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing, suppress
from typing import Any

from gpt_oss.events import Event
from gpt_oss.server.apis.responses.write import ResponseWriter
from gpt_oss.server.core.answer import Answer, Events, parts_of
from gpt_oss.server.core.body import Json
from gpt_oss.server.core.errors import failure_of

CODES = {"context_length_exceeded": "context_length_exceeded", "rate_limit_exceeded": "rate_limit_exceeded"}
UNDER_WAY = ("queued", "in_progress")
log = logging.getLogger("gpt_oss.server")


def numbered(events: Sequence[Json], first: int) -> list[Json]:
    """The events with sequence numbers from `first` on."""
    return [{"type": event["type"], "sequence_number": number, **event} for number, event in enumerate(events, first)]


class LiveResponse:
    """A response that is being computed.

    runner: computes the writer's ask.
    at_start: is done before the first event can be read.
    at_end: is done before the last events can; it is given all of them.
    at_failure: is given all events where at_end has failed: they end with a failure then.
    watch: sees the turn's own events.
    """

    def __init__(
        self,
        writer: ResponseWriter,
        runner: Events,
        at_start: Callable[[], Awaitable[None]],
        at_end: Callable[[list[Json]], Awaitable[None]],
        at_failure: Callable[[list[Json]], None] = lambda _: None,
        watch: Callable[[Event], None] = lambda _: None,
    ) -> None:
        self.writer = writer
        self.events: list[Json] = []
        self.over = False
        self.failure: BaseException | None = None
        self.refusal: BaseException | None = None  # what at_start raised: it was never under way
        self.written = asyncio.Event()  # at_start is done, or it is over
        self._answer = Answer(writer.wanted.ask.tools)
        self._runner = runner
        self._at_start = at_start
        self._at_end = at_end
        self._at_failure = at_failure
        self._watch = watch
        self._changed = asyncio.Event()
        self._begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._cancelled = False
        self._ending = False  # the last events have their numbers, and are not told yet
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

    def keep_alive(self) -> bool:
        """Publishes a real event, for comments do not reset every client's clock; the first ones where there were none.

        False where there is nothing to publish: the first or the last events are being written down.
        """
        if self.over or self._ending or not self.written.is_set():
            return False
        self._publish([self.writer.keep_alive()] if self.events else self.writer.start())
        return True

    async def cancel(self) -> None:
        """End it now; what there is becomes its output."""
        self._cancelled = True
        await self.stop()

    async def stop(self) -> None:
        """Ends it, and returns when its end is written or owed."""
        await asyncio.sleep(0)  # a task that is cancelled before its first step would not even end
        self.task.cancel()
        await asyncio.wait({self.task})

    def response(self) -> Json:
        """The Response as it may be shown: an end that is not written yet has not come."""
        shown = self.writer.response()
        if self.over or shown["status"] in UNDER_WAY:
            return shown
        not_yet = ("completed_at", "error", "incomplete_details", "usage")
        return {**shown, "status": "in_progress", **dict.fromkeys(not_yet)}

    def _publish(self, events: Sequence[Json]) -> None:
        self._tell(numbered(events, len(self.events)))

    def _tell(self, events: Sequence[Json]) -> None:
        self.events += events
        self._changed.set()
        self._changed = asyncio.Event()

    async def _run(self) -> None:
        last: list[Json] = []
        try:
            await self._start()
            if self.writer.status == "queued":
                self._publish(self.writer.start())
            last = await self._speak()
        except asyncio.CancelledError:
            last = [*self._cut(), *self.writer.cancel(self._answer.usage)]
            if not self._cancelled:
                raise
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # also a library's panic, which is none of Exception's
            last = self._failed(error)
        finally:
            await _whatever_happens(self._end(last))

    async def _start(self) -> None:
        try:
            await self._at_start()
        except BaseException as error:
            self.refusal = error
            raise
        self.written.set()

    async def _speak(self) -> list[Json]:
        """Publish what is said; the last events are given back."""
        writer = self.writer
        async with aclosing(parts_of(self._runner, writer.wanted.ask, self._answer, self._watch)) as parts:
            async for part in parts:
                if not self._begun.done():
                    self._begun.set_result(None)
                    if writer.status == "queued":
                        self._publish(writer.go_on())
                    elif not self.events:  # nobody had to be kept waiting
                        self._publish(writer.start())
                events = writer.push(part)
                if writer.status not in UNDER_WAY:
                    return events
                self._publish(events)
        return []

    def _failed(self, error: BaseException) -> list[Json]:
        self.failure = error
        failure = failure_of(error, overflow_param="input")
        if failure.status >= 500:
            log.error("response %s failed", self.writer.id, exc_info=error)
        if not self._begun.done():
            self._begun.set_exception(error if isinstance(error, Exception) else RuntimeError(str(error)))
            self._begun.exception()  # a background response has nobody who waits for it
        code = CODES.get(failure.code or "", "server_error")
        first = [] if self.events else self.writer.start()
        return [*first, *self._cut(), *self.writer.fail(code, failure.message, self._answer.usage)]

    def _cut(self) -> list[Json]:
        """The events that close what is open."""
        return [event for part in self._answer.cut() for event in self.writer.push(part)]

    async def _end(self, last: Sequence[Json]) -> None:
        """Written down first, then told: who has seen the end may ask for it."""
        self._ending = True
        told = numbered(last, len(self.events))
        try:
            await self._at_end([*self.events, *told])
        except Exception as error:
            log.error("response %s could not be written down", self.writer.id, exc_info=error)
            self.failure = error
            failed = self.writer.fail("server_error", "the response could not be written down", self.writer.usage)
            told = numbered([*last[:-1], *failed], len(self.events))
            self._at_failure([*self.events, *told])
        finally:
            if not self._begun.done():
                self._begun.set_result(None)
            self.over = True
            self.written.set()
            self._tell(told)


async def _whatever_happens(work: Coroutine[Any, Any, None]) -> None:
    """Runs to the end, also where whoever waits for it is cancelled meanwhile, who learns of it then."""
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            cancelled = True
    task.result()
    if cancelled:
        raise asyncio.CancelledError
