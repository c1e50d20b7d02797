"""Runs plans: so many at a time, so many waiting, the rest refused; and an end that waits for those under way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from gpt_oss.backends.base import TokenGenerator
from gpt_oss.errors import CapacityError
from gpt_oss.events import Event
from gpt_oss.server.plan import Plan
from gpt_oss.turn import Turn


class Runner:
    """max_concurrent: turns at a time. max_queue: how many more may wait. Of one event loop."""

    def __init__(self, generator: TokenGenerator, *, max_concurrent: int = 32, max_queue: int = 128) -> None:
        self.generator = generator
        self.running = 0
        self.waiting = 0
        self.draining = False
        self._slots = asyncio.Semaphore(max_concurrent)
        self._max_queue = max_queue

    async def events(self, plan: Plan) -> AsyncGenerator[Event, None]:
        """The events of a turn; closing the generator ends it at once.

        Raises CapacityError where too many wait or the server is about to end, and what a turn raises.
        """
        if self.draining:
            raise CapacityError("the server is shutting down")
        if self._slots.locked() and self.waiting >= self._max_queue:
            raise CapacityError(f"{self.waiting} requests are waiting already; try again later")
        self.waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self.waiting -= 1
        self.running += 1
        try:
            turn = Turn(
                self.generator,
                plan.history,
                plan.toolbox,
                params=plan.params,
                limits=plan.limits,
                response_formats=plan.response_formats,
            )
            async with aclosing(aiter(turn)) as events:
                async for event in events:
                    yield event
        finally:
            self.running -= 1
            self._slots.release()
            await plan.toolbox.close()

    async def drain(self, seconds: float) -> None:
        """Take nothing more and wait for what is under way, at most so long."""
        self.draining = True
        deadline = asyncio.get_running_loop().time() + seconds
        while (self.running or self.waiting) and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.05)
