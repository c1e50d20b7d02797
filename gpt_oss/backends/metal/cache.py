"""The paged cache of keys and values, and where a batch's tokens lie in it. The blocks belong to the caller.

Each layer has its keys and its values in one array, [kv_heads, rows, head_dim], a row a token. Where a sequence's
blocks lie one after the other, as the engine hands them out to whoever is alone, its keys are a slice of that array and
attention reads them where they lie; other sequences' rows are gathered first. mlx updates an array in place when nobody
else refers to it, and on a GPU a step in flight does: the engine waits for a step's tokens before it asks for the next.
Knows no attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from gpt_oss.backends.base import Chunk, Int32
from gpt_oss.model.config import ModelConfig

SCORES_AT_ONCE = 1 << 27  # attention scores in memory where mlx has no fused kernel: 512 MB in float32
WINDOW_QUERIES = 256  # at once in a windowed layer: more would compare most of them with keys that they cannot see


@dataclass(frozen=True)
class Rows:
    """Rows of a pool: `first` and the ones after it, or where they do not follow each other, `numbers`."""

    count: int
    first: int | None
    numbers: mx.array | None  # int32 [count]

    @classmethod
    def of(cls, numbers: NDArray[np.int64]) -> Rows:
        first = int(numbers[0])
        if numbers[-1] - first == len(numbers) - 1 and (np.diff(numbers) == 1).all():
            return cls(len(numbers), first, None)
        return cls(len(numbers), None, mx.array(numbers.astype(np.int32)))


@dataclass(frozen=True)
class Span:
    """Consecutive new tokens of one sequence in one kind of layer.

    queries: their rows of the batch. keys: rows of the pool that they may see, their own included and the last ones.
    mask: for mlx: None, "causal", or bool [queries, keys].
    """

    queries: slice
    keys: Rows
    mask: mx.array | str | None


@dataclass(frozen=True)
class Places:
    """Of a batch in the pool of one kind of layer. written: where each of its tokens goes."""

    written: Rows
    spans: Sequence[Span]


def places_of(
    batch: Sequence[Chunk], config: ModelConfig, block_tokens: int, *, windowed: bool, wanted_only: bool = False
) -> Places:
    """wanted_only: spans of the tokens whose logits are asked for, as if the batch had no others."""
    window = config.sliding_window if windowed else None
    written, spans, row = [], [], 0
    for chunk in batch:
        blocks = (chunk.window_blocks if windowed else chunk.blocks).astype(np.int64)
        end = chunk.position + len(chunk.tokens)

        def numbers(first: int, end: int, blocks: NDArray[np.int64] = blocks) -> NDArray[np.int64]:
            positions = np.arange(first, end)
            return blocks[positions // block_tokens] * block_tokens + positions % block_tokens

        written.append(numbers(chunk.position, end))
        step = max(1, SCORES_AT_ONCE // (config.num_attention_heads * end))
        step = min(step, WINDOW_QUERIES) if windowed else step
        begin = end - chunk.logits if wanted_only else chunk.position
        for first in range(begin, end, step):
            last = min(first + step, end)
            first_key = 0 if window is None else max(0, first - window + 1)
            offset = row + first - begin
            mask = _mask(last - first, last - first_key, window)
            spans.append(Span(slice(offset, offset + last - first), Rows.of(numbers(first_key, last)), mask))
        row += end - begin
    return Places(Rows.of(np.concatenate(written)), spans)


@lru_cache(maxsize=64)
def _mask(queries: int, keys: int, window: int | None) -> mx.array | str | None:
    """The queries are the last of the keys; each sees itself and earlier ones, in a window `window` keys in all."""
    if queries == 1:
        return None
    if window is None or keys <= window:
        return "causal"
    distance = np.arange(keys - queries, keys)[:, None] - np.arange(keys)
    return mx.array((distance >= 0) & (distance < window))


class Cache:
    """Keys and values of every layer: `blocks` blocks in those of full attention, `window_blocks` in windowed ones."""

    def __init__(
        self, config: ModelConfig, blocks: int, window_blocks: int, block_tokens: int, dtype: mx.Dtype
    ) -> None:
        self._block_tokens = block_tokens
        self._dtype = dtype
        self._windowed = [config.is_windowed(layer) for layer in range(config.num_hidden_layers)]
        self._slot_bytes = config.num_key_value_heads * block_tokens * config.head_dim * dtype.size

        def pools() -> list[mx.array]:
            sizes = [block_tokens * (window_blocks if windowed else blocks) for windowed in self._windowed]
            arrays = [mx.zeros((config.num_key_value_heads, size, config.head_dim), dtype) for size in sizes]
            mx.eval(arrays)
            return arrays

        self.keys, self.values = pools(), pools()

    def write(self, layer: int, rows: Rows, k: mx.array, v: mx.array) -> None:
        """k, v [kv_heads, tokens of the batch, head_dim]."""
        for pool, new in ((self.keys[layer], k), (self.values[layer], v)):
            if rows.first is not None:
                pool[:, rows.first : rows.first + rows.count] = new
            else:
                pool[:, rows.numbers] = new

    def read(self, layer: int, rows: Rows) -> tuple[mx.array, mx.array]:
        """k, v [kv_heads, keys, head_dim]."""
        keys, values = self.keys[layer], self.values[layer]
        if rows.first is not None:
            some = slice(rows.first, rows.first + rows.count)
            return keys[:, some], values[:, some]
        assert rows.numbers is not None
        return mx.take(keys, rows.numbers, axis=1), mx.take(values, rows.numbers, axis=1)

    def copy_out(self, blocks: Int32, window_blocks: Int32) -> bytes:
        """Keys, then values, of each layer in turn."""
        parts = []
        for layer, windowed in enumerate(self._windowed):
            rows = self._rows(window_blocks if windowed else blocks)
            if rows is not None:
                parts += [np.array(mx.contiguous(part).view(mx.uint8)).tobytes() for part in self.read(layer, rows)]
        return b"".join(parts)

    def copy_in(self, blocks: Int32, window_blocks: Int32, data: bytes) -> None:
        """data: what copy_out gave for as many blocks."""
        stored = mx.array(np.frombuffer(data, np.uint8))
        at = 0
        for layer, windowed in enumerate(self._windowed):
            rows = self._rows(window_blocks if windowed else blocks)
            if rows is None:
                continue
            shape = (self.keys[layer].shape[0], rows.count, self.keys[layer].shape[2])
            size_bytes = self._slot_bytes * rows.count // self._block_tokens
            k, v = (
                stored[first : first + size_bytes].view(self._dtype).reshape(shape) for first in (at, at + size_bytes)
            )
            self.write(layer, rows, k, v)
            at += 2 * size_bytes
        mx.eval(self.keys, self.values)

    def bytes_of(self, blocks: int, window_blocks: int) -> int:
        """How many bytes copy_out gives for so many blocks."""
        return sum(2 * self._slot_bytes * (window_blocks if windowed else blocks) for windowed in self._windowed)

    def _rows(self, blocks: Int32) -> Rows | None:
        if not len(blocks):
            return None
        within = np.arange(self._block_tokens)
        return Rows.of((blocks.astype(np.int64)[:, None] * self._block_tokens + within).reshape(-1))
