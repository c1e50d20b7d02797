"""Runs asks: so many at a time, so many waiting, the rest refused; and an end that waits for those under way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar

from gpt_oss.backends.base import SampledToken, TokenGenerator, scorer_of
from gpt_oss.errors import CapacityError, ParameterError
from gpt_oss.events import Event, RoundStarted, Sampled
from gpt_oss.params import SamplingParams
from gpt_oss.server.core.ask import Ask
from gpt_oss.server.metrics import Metrics, Watch
from gpt_oss.server.sent import Known, Sent
from gpt_oss.turn import Turn

T = TypeVar("T")
ENDING = "the server is shutting down"


async def _in_time(work: Awaitable[T], deadline: float | None) -> T:
    """The result of `work`. Raises TimeoutError when the deadline, of the monotonic clock, comes first."""
    if deadline is None:
        return await work
    return await asyncio.wait_for(work, max(0.0, deadline - time.monotonic()))


class Runner:
    """max_concurrent: turns at a time. max_queue: how many more may wait. longest_s: of a turn, tools included.
    most_tokens: sampled in a turn, whatever the client asks. Of one event loop.

    Raises ParameterError where a number is not positive.
    """

    def __init__(
        self,
        generator: TokenGenerator,
        *,
        max_concurrent: int = 32,
        max_queue: int = 128,
        longest_s: float | None = None,
        most_tokens: int | None = None,
    ) -> None:
        for number in (max_concurrent, longest_s, most_tokens):
            if number is not None and number <= 0:
                raise ParameterError(f"a limit of the server must be over 0, not {number}")
        self.generator = generator
        self.metrics = Metrics(generator)
        self.running = 0
        self.waiting = 0
        self.draining = False
        self.was_cut = False
        self._under_way: set[asyncio.Task[Any]] = set()
        self._slots = asyncio.Semaphore(max_concurrent)
        self._max_queue = max_queue
        self._longest_s = longest_s
        self._most_tokens = most_tokens
        self._sent = Sent()

    def asker(self, whose: str = "") -> Asker:
        """What runs asks for one of those who ask. whose: "" where they need not be told apart."""
        return Asker(self, whose)

    async def events(self, ask: Ask, whose: str = "") -> AsyncGenerator[Event, None]:
        """The events of a turn; closing the generator ends it at once.

        whose: see `asker`.
        Raises CapacityError where too many wait or the server is about to end, and what a turn raises.
        """
        watch = Watch(self.metrics)
        known = Known(self._sent, whose)
        seconds, tokens = ask.limits.seconds or self._longest_s, self._capped(ask.limits.tokens)
        async with self._slot():
            turn = Turn(
                self.generator,
                ask.history,
                ask.tools.toolbox,
                params=ask.params,
                later=ask.later,
                limits=replace(ask.limits, seconds=seconds, tokens=tokens),
                response_formats=ask.response_formats,
            )
            try:
                async with aclosing(aiter(turn)) as events:
                    async for event in events:
                        match event:
                            case RoundStarted(_, prompt):
                                watch.prompt(len(prompt))
                                known.prompt(prompt)
                            case Sampled(token):
                                watch.sampled(token)
                                event = Sampled(known.sampled(token))
                        yield event
            finally:
                known.end()
                await ask.tools.toolbox.close()

    async def tokens(
        self, prompt: Sequence[int], params: SamplingParams, whose: str = ""
    ) -> AsyncGenerator[SampledToken, None]:
        """Bare tokens, for what is no conversation; queued like a turn, and over when its time is."""
        watch = Watch(self.metrics)
        known = Known(self._sent, whose)
        async with self._slot():
            deadline = None if self._longest_s is None else time.monotonic() + self._longest_s
            watch.prompt(len(prompt))
            known.prompt(prompt)
            stream = self.generator.generate(prompt, replace(params, max_tokens=self._capped(params.max_tokens)))
            try:
                while (token := await _in_time(anext(stream, None), deadline)) is not None:
                    watch.sampled(token)
                    yield known.sampled(token)
            except TimeoutError:
                return
            finally:
                known.end()
                close = getattr(stream, "aclose", None)
                if close is not None:
                    await close()

    async def scores(self, prompt: Sequence[int], top: int) -> list[SampledToken]:
        """The prompt's tokens with their log probabilities, the first without one; queued like a turn.

        top: how many likely tokens each of them lists. Raises ParameterError where the backend gives no scores.
        """
        scorer = scorer_of(self.generator)
        found = [SampledToken(prompt[0])]
        async with self._slot():
            self.metrics.prompt.inc(len(prompt))
            stream: Any = scorer.score(prompt, top)
            async with aclosing(stream) as tokens:
                async for token in tokens:
                    found.append(token)
        return found

    def _capped(self, tokens: int | None) -> int | None:
        return min((n for n in (tokens, self._most_tokens) if n is not None), default=None)

    def check_room(self) -> None:
        """Raises CapacityError where a request would not even be let into the queue."""
        if self.draining:
            raise CapacityError(ENDING)
        if self._slots.locked() and self.waiting >= self._max_queue:
            self.metrics.refused.inc()
            raise CapacityError(f"{self.waiting} requests are waiting already; try again later")

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        """One of the turns at a time. Raises CapacityError, also where the turn is cut off."""
        self.check_room()
        task = asyncio.current_task()
        assert task is not None
        self._under_way.add(task)
        try:
            async with self._turn():
                yield
        except asyncio.CancelledError:
            if not self.was_cut or not task.cancelling():
                raise
            task.uncancel()
            raise CapacityError(ENDING) from None
        finally:
            self._under_way.discard(task)

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Waits for a turn, and counts it."""
        self.waiting += 1
        self.metrics.waiting.set(self.waiting)
        try:
            await self._slots.acquire()
        finally:
            self.waiting -= 1
            self.metrics.waiting.set(self.waiting)
        self.running += 1
        self.metrics.running.set(self.running)
        try:
            yield
        finally:
            self.running -= 1
            self.metrics.running.set(self.running)
            self._slots.release()

    @property
    def idle(self) -> bool:
        return not (self.running or self.waiting)

    def cut(self) -> None:
        """End everything now; each answer is told so."""
        self.draining = self.was_cut = True
        for task in self._under_way:
            task.cancel()

    async def drain(self, seconds: float) -> None:
        """Take nothing more and wait for what is under way, at most so long."""
        self.draining = True
        deadline = asyncio.get_running_loop().time() + seconds
        while not self.idle and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.05)


class Asker:
    """Runs asks for one of those who ask, who sees nothing of what others have asked; see Runner."""

    def __init__(self, runner: Runner, whose: str) -> None:
        self.runner = runner
        self._whose = whose

    def events(self, ask: Ask) -> AsyncGenerator[Event, None]:
        return self.runner.events(ask, self._whose)

    def tokens(self, prompt: Sequence[int], params: SamplingParams) -> AsyncGenerator[SampledToken, None]:
        return self.runner.tokens(prompt, params, self._whose)

    async def scores(self, prompt: Sequence[int], top: int) -> list[SampledToken]:
        return await self.runner.scores(prompt, top)
