"""What could not be written when it should have been: tried again until it is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from gpt_oss.server.state.database import StoreError

log = logging.getLogger("gpt_oss.server")


class Owed:
    """The ends of responses that wait to be written, by the responses' ids. Of one event loop."""

    FIRST_S = 1.0
    LONGEST_S = 30.0

    def __init__(self) -> None:
        self._writes: dict[str, tuple[Callable[[], Awaitable[None]], Callable[[], None]]] = {}
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._writes)

    def add(self, identity: str, write: Callable[[], Awaitable[None]], then: Callable[[], None]) -> None:
        """write: may raise StoreError, and is tried again then. then: is called when it is written."""
        self._writes[identity] = (write, then)
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._pay())

    async def settle(self) -> None:
        """A last attempt, at the server's end; what is under way in the database then is marked at its next start."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._try()

    async def _pay(self) -> None:
        wait_s = self.FIRST_S
        while self._writes:
            await asyncio.sleep(wait_s)
            wait_s = min(self.LONGEST_S, 2 * wait_s)
            await self._try()

    async def _try(self) -> None:
        """Writes one after the other, up to the first that cannot be written."""
        for identity, (write, then) in list(self._writes.items()):
            try:
                await write()
            except StoreError as error:
                log.warning("%d responses are still to be written: %s", len(self._writes), error)
                return
            except Exception:
                log.exception("the end of response %s cannot be written", identity)
            self._writes.pop(identity, None)
            then()
