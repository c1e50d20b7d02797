"""Work on texts next to the event loop: at once where it is small, else on a thread, so that nobody waits."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from gpt_oss.server.core.aside import aside
from gpt_oss.server.core.errors import RequestError
from gpt_oss.vocabulary import VOCABULARY_SIZE

T = TypeVar("T")
AT_ONCE = 100_000  # characters, or bytes: some ten milliseconds of encoding, which holds no lock of Python's


async def tokenised(work: Callable[[], T], size: int) -> T:
    """The result of `work`, which encodes texts of so many characters, or reads a body that holds them."""
    if size <= AT_ONCE:
        return work()
    return await aside(work)


def check_tokens(tokens: Iterable[int], field: str) -> None:
    """Raises RequestError where one is no id of the vocabulary."""
    wrong = next((token for token in tokens if not 0 <= token < VOCABULARY_SIZE), None)
    if wrong is not None:
        raise RequestError(f"{wrong} is no token id: they go from 0 to {VOCABULARY_SIZE - 1}", param=field)
