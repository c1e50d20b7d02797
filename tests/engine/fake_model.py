"""A Model whose cache holds token ids and whose logits are a function of what it reads back from the cache.

Any wrong, freed or stale block therefore changes tokens, or raises. In place of keys and values each pool stores, at
(block, offset), the token and its position; logits come from a digest of the context that a real network would see.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from gpt_oss.backends.base import FREED, Chunk, Float32, Int32
from gpt_oss.model.config import ModelConfig


class Rows:
    def __init__(self, rows: list[Float32]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def numpy(self) -> Float32:
        return np.stack(self._rows) if self._rows else np.empty((0, 0), np.float32)


class FakeModel:
    """`repeats`: the context is only the last three tokens, so that answers fall into loops that drafts can guess."""

    def __init__(
        self,
        *,
        blocks: int = 64,
        window_blocks: int = 64,
        block_tokens: int = 4,
        window: int = 6,
        vocab: int = 24,
        context: int = 512,
        repeats: bool = False,
    ) -> None:
        self.config = ModelConfig(
            vocab_size=vocab, sliding_window=window, initial_context_length=context, rope_scaling_factor=1.0
        )
        self.block_tokens = block_tokens
        self.cache_blocks, self.window_cache_blocks = blocks, window_blocks
        self.pools = [np.full((n, block_tokens, 2), -7, np.int64) for n in (blocks, window_blocks)]
        self.batches: list[list[Chunk]] = []
        self.fail_next = False
        self.closed = False
        self._repeats = repeats

    @property
    def forwarded(self) -> int:
        return sum(len(chunk.tokens) for batch in self.batches for chunk in batch)

    def forward(self, batch: Sequence[Chunk]) -> Rows:
        if self.fail_next:
            self.fail_next = False
            raise RuntimeError("the fake model fails on request")
        self.batches.append(list(batch))
        for chunk in batch:
            for offset, token in enumerate(chunk.tokens):
                position = chunk.position + offset
                for pool, table in zip(self.pools, (chunk.blocks, chunk.window_blocks), strict=True):
                    assert len(table) == -(-(chunk.position + len(chunk.tokens)) // self.block_tokens)
                    pool[table[position // self.block_tokens], position % self.block_tokens] = token, position
        rows = []
        for chunk in batch:
            end = chunk.position + len(chunk.tokens)
            rows += [self._logits(chunk, position) for position in range(end - chunk.logits, end)]
        return Rows(rows)

    def _logits(self, chunk: Chunk, position: int) -> Float32:
        first = max(0, position - self.config.sliding_window + 1)
        full = self._read(self.pools[0], chunk.blocks, 0, position + 1)
        windowed = self._read(self.pools[1], chunk.window_blocks, first, position + 1)
        assert full[first:] == windowed
        seen = full[-3:] if self._repeats else full
        digest = hashlib.blake2b(np.array(seen, np.int64).tobytes(), digest_size=8).digest()
        rng = np.random.default_rng(int.from_bytes(digest, "little"))
        return rng.normal(scale=2, size=self.config.vocab_size).astype(np.float32)

    def _read(self, pool: np.ndarray, table: Int32, first: int, last: int) -> list[int]:  # type: ignore[type-arg]
        tokens = []
        for position in range(first, last):
            block = table[position // self.block_tokens]
            assert block != FREED, "a freed block was read"
            token, stored_position = pool[block, position % self.block_tokens]
            assert stored_position == position, "a block holds somebody else's tokens"
            tokens.append(int(token))
        return tokens

    def read_cache(self, blocks: Int32, window_blocks: Int32) -> bytes:
        return self.pools[0][blocks].tobytes() + self.pools[1][window_blocks].tobytes()

    def write_cache(self, blocks: Int32, window_blocks: Int32, data: bytes) -> None:
        values = np.frombuffer(data, np.int64).reshape(-1, self.block_tokens, 2)
        self.pools[0][blocks] = values[: len(blocks)]
        self.pools[1][window_blocks] = values[len(blocks) :]

    def close(self) -> None:
        self.closed = True
