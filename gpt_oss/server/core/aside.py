"""Reading requests next to the event loop: on threads, few of which compute at a time.

Python runs one thread at a time and lets the next one go on after some milliseconds. With two that compute, the event
loop gets its turn among three; with fifty it would wait for a quarter of a second each time.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from gpt_oss.harmony.trials import in_turn

T = TypeVar("T")
MOST_THREADS = 64  # more than may wait for a trial of a grammar (trials.py), so that those never take all of them
_threads = ThreadPoolExecutor(MOST_THREADS, "gpt-oss reading")


async def aside(work: Callable[[], T]) -> T:
    """The result of `work`, done on a thread. Raises what it raises."""
    return await asyncio.get_running_loop().run_in_executor(_threads, _done, work)


def start_threads() -> None:
    """Starts the threads now: to start one while others compute takes the event loop as long as its turns."""
    met = threading.Barrier(MOST_THREADS + 1)
    for _ in range(MOST_THREADS):
        _threads.submit(met.wait)
    met.wait()


def _done(work: Callable[[], T]) -> T:
    with in_turn():
        try:
            return work()
        except StopIteration as error:  # which no future can hold
            raise RuntimeError("a request's reader ran out") from error
