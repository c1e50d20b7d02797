"""One sequence on a Model, without an engine: block i of either pool holds positions i * block_tokens onwards.

For tests, benchmarks and scripts that look at logits. Knows nothing of sampling.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gpt_oss.backends.base import Chunk, Float32, Model
from gpt_oss.errors import ContextOverflowError


class SingleSequence:
    """A sequence that has the whole cache of a model to itself. position: how many tokens it has so far."""

    def __init__(self, model: Model, chunk_tokens: int = 512) -> None:
        """chunk_tokens: at most so many new tokens go into one forward pass of the model."""
        self._model = model
        self._chunk_tokens = chunk_tokens
        self.position = 0

    def forward(self, tokens: Sequence[int] | NDArray[np.integer], logits: int | None = 1) -> Float32:
        """Append tokens; the logits after the last `logits` of them (None: all), [logits, vocab_size].

        Raises ContextOverflowError where the model's cache is too short, and the sequence stays as it was.
        """
        wanted = len(tokens) if logits is None else logits
        end = self.position + len(tokens)
        capacity = self._model.block_tokens * min(self._model.cache_blocks, self._model.window_cache_blocks)
        if end > capacity:
            raise ContextOverflowError(f"a sequence of {end} tokens does not fit the model's cache of {capacity}")
        rows = [np.empty((0, self._model.config.vocab_size), np.float32)]
        for first in range(0, len(tokens), self._chunk_tokens):
            new = np.asarray(tokens[first : first + self._chunk_tokens], np.int32)
            after = len(tokens) - first - len(new)  # tokens that come in later chunks
            blocks = np.arange(-(-(self.position + len(new)) // self._model.block_tokens), dtype=np.int32)
            chunk = Chunk(new, self.position, blocks, blocks, logits=min(max(wanted - after, 0), len(new)))
            rows.append(self._model.forward([chunk]).numpy().copy())  # valid until the next forward
            self.position += len(new)
        return np.concatenate(rows)

    def rewind(self, position: int) -> None:
        """Forget what comes after the first `position` tokens."""
        assert 0 <= position <= self.position
        self.position = position
