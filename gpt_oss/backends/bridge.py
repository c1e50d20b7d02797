"""One event loop on a thread of its own, whose streams any thread and any other event loop may consume.

For engines that live on an event loop, a pool of connections or vLLM's, while callers come from wherever they like.
Leaving a stream early cancels what makes it. Knows nothing of tokens.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

from gpt_oss.errors import BackendError

T = TypeVar("T")
CLOSING_S = 10.0  # for streams and connections to end when the bridge is closed


@dataclass(frozen=True)
class _Ended:
    error: BaseException | None = None


class Bridge:
    """name: for people and for the thread. Every method may be called from any thread; `close` ends the streams that
    are under way with a BackendError."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._loop = asyncio.new_event_loop()
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"gpt-oss {name}", daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run it to its end on the loop and give its result; blocks."""
        return self._submit(work).result()

    def stream_sync(self, make: Callable[[], AsyncGenerator[T, None]]) -> Iterator[T]:
        items: queue.SimpleQueue[T | _Ended] = queue.SimpleQueue()
        running = self._start(make, items.put)
        try:
            while not isinstance(item := items.get(), _Ended):
                yield item
            if item.error is not None:
                raise item.error
        finally:
            running.cancel()

    async def stream(self, make: Callable[[], AsyncGenerator[T, None]]) -> AsyncIterator[T]:
        loop = asyncio.get_running_loop()
        items: asyncio.Queue[T | _Ended] = asyncio.Queue()

        def emit(item: T | _Ended) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(items.put_nowait, item)

        running = self._start(make, emit)
        try:
            while not isinstance(item := await items.get(), _Ended):
                yield item
            if item.error is not None:
                raise item.error
        finally:
            running.cancel()

    def close(self, last: Coroutine[Any, Any, None] | None = None) -> None:
        """End the streams, run `last` on the loop, and end the thread. Closing twice is fine."""
        with self._lock:
            if self._closed:
                if last is not None:
                    last.close()
                return
            self._closed = True
        try:
            asyncio.run_coroutine_threadsafe(self._end(last), self._loop).result(2 * CLOSING_S)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(CLOSING_S)
            if not self._thread.is_alive():
                self._loop.close()

    async def _end(self, last: Coroutine[Any, Any, None] | None) -> None:
        streams = [task for task in asyncio.all_tasks() if task.get_name().startswith("stream")]
        for task in streams:
            task.cancel()
        if streams:
            await asyncio.wait(streams, timeout=CLOSING_S)
        if last is not None:
            await last

    def _start(self, make: Callable[[], AsyncGenerator[T, None]], emit: Callable[[T | _Ended], None]) -> Future[None]:
        async def pump() -> None:
            task = asyncio.current_task()
            assert task is not None
            task.set_name(f"stream of {self.name}")
            try:
                async with aclosing(make()) as items:
                    async for item in items:
                        emit(item)
                emit(_Ended())
            except (asyncio.CancelledError, CancelledError):
                emit(_Ended(BackendError(f"{self.name} was closed")))
                raise
            except Exception as error:
                emit(_Ended(error))

        return self._submit(pump())

    def _submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        with self._lock:
            if self._closed:
                work.close()
                raise BackendError(f"{self.name} is closed")
            return asyncio.run_coroutine_threadsafe(work, self._loop)
