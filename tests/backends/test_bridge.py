"""Streams of one event loop, consumed by any thread and any other loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

import pytest

from gpt_oss.backends.bridge import Bridge
from gpt_oss.errors import BackendError, ParameterError
from tests.backends.remote.live import wait_for


@pytest.fixture
def bridge() -> Iterator[Bridge]:
    opened = Bridge("test")
    yield opened
    opened.close()


async def three() -> AsyncGenerator[int, None]:
    for number in range(3):
        await asyncio.sleep(0)
        yield number


async def failing() -> AsyncGenerator[int, None]:
    yield 1
    raise ParameterError("no more")


class Endless:
    """Says when it was ended."""

    def __init__(self) -> None:
        self.ended = threading.Event()

    async def __call__(self) -> AsyncGenerator[int, None]:
        try:
            while True:
                yield 1
                await asyncio.sleep(0.001)
        finally:
            self.ended.set()


async def collected(bridge: Bridge) -> list[int]:
    return [number async for number in bridge.stream(three)]


def test_from_a_thread_and_from_loops(bridge: Bridge) -> None:
    assert list(bridge.stream_sync(three)) == [0, 1, 2]
    for _ in range(2):  # each run has a loop of its own
        assert asyncio.run(collected(bridge)) == [0, 1, 2]


def test_from_many_threads_at_once(bridge: Bridge) -> None:
    results: list[list[int]] = []
    threads = [threading.Thread(target=lambda: results.append(list(bridge.stream_sync(three)))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [[0, 1, 2]] * 8


def test_an_error_comes_where_it_is_consumed(bridge: Bridge) -> None:
    got: list[int] = []
    with pytest.raises(ParameterError, match="no more"):
        got.extend(bridge.stream_sync(failing))

    async def consume() -> None:
        async for number in bridge.stream(failing):
            got.append(number)

    with pytest.raises(ParameterError, match="no more"):
        asyncio.run(consume())
    assert got == [1, 1]


def test_leaving_ends_what_makes_the_stream(bridge: Bridge) -> None:
    one, two = Endless(), Endless()
    stream = bridge.stream_sync(one)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    wait_for(one.ended)

    async def leave() -> None:
        async with aclosing(bridge.stream(two)) as numbers:  # type: ignore[type-var]
            async for _ in numbers:
                return

    asyncio.run(leave())
    wait_for(two.ended)


def test_cancelling_the_consumer_ends_what_makes_the_stream(bridge: Bridge) -> None:
    endless = Endless()

    async def consume() -> None:
        async for _ in bridge.stream(endless):
            pass

    async def cancel() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(consume(), 0.1)

    asyncio.run(cancel())
    wait_for(endless.ended)


def test_closing_ends_streams_with_an_error() -> None:
    bridge, endless = Bridge("engine"), Endless()
    cleaned = threading.Event()

    async def clean() -> None:
        assert endless.ended.is_set(), "the streams end first"
        cleaned.set()

    stream = bridge.stream_sync(endless)
    next(stream)
    bridge.close(clean())
    assert cleaned.is_set()
    with pytest.raises(BackendError, match="engine was closed"):
        list(stream)
    bridge.close(clean())
    with pytest.raises(BackendError, match="engine is closed"):
        list(bridge.stream_sync(three))


def test_a_call_gives_its_result(bridge: Bridge) -> None:
    async def work() -> str:
        return threading.current_thread().name

    assert bridge.call(work()) == "gpt-oss test"
