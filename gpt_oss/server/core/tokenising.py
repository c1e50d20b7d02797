"""Token ids that clients send."""

from __future__ import annotations

from collections.abc import Iterable

from gpt_oss.server.core.errors import RequestError
from gpt_oss.vocabulary import VOCABULARY_SIZE


def check_tokens(tokens: Iterable[int], field: str) -> None:
    """Raises RequestError where one is no id of the vocabulary."""
    wrong = next((token for token in tokens if not 0 <= token < VOCABULARY_SIZE), None)
    if wrong is not None:
        raise RequestError(f"{wrong} is no token id: they go from 0 to {VOCABULARY_SIZE - 1}", param=field)
