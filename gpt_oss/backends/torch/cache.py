"""The paged cache of keys and values: two pools of blocks, one for each kind of layer. The blocks belong to the caller.

Turns the block tables of a batch into row numbers, and copies rows in and out. Knows no attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gpt_oss.backends.base import Chunk, Int32
from gpt_oss.model.config import ModelConfig

SCORES_AT_ONCE = 1 << 27  # attention scores in memory, a few times 512 MB in float32


@dataclass(frozen=True)
class Rows:
    """Rows of one pool. written: int64, where the span's tokens go. keys: int64, what its queries may see, their own
    included, and the positions that those rows hold."""

    written: Tensor
    keys: Tensor
    key_positions: Tensor


@dataclass(frozen=True)
class Span:
    """Consecutive new tokens of one sequence, few enough that their attention scores fit into memory.

    rows: where they lie in the batch. positions: int64 [tokens]. full, windowed: their rows of each pool.
    """

    rows: slice
    positions: Tensor
    full: Rows
    windowed: Rows


def spans_of(batch: Sequence[Chunk], config: ModelConfig, block_tokens: int, device: torch.device) -> list[Span]:
    """The rows of a batch cut into spans, in order."""
    spans, row = [], 0
    for chunk in batch:
        most_keys = chunk.position + len(chunk.tokens)
        at_once = max(1, SCORES_AT_ONCE // (config.num_attention_heads * most_keys))
        for offset in range(0, len(chunk.tokens), at_once):
            count = min(at_once, len(chunk.tokens) - offset)
            first = chunk.position + offset

            def rows(blocks: Int32, first_key: int, first: int = first, end: int = first + count) -> Rows:
                positions = np.arange(first_key, end)
                numbers = blocks.astype(np.int64)[positions // block_tokens] * block_tokens + positions % block_tokens
                keys = torch.from_numpy(numbers).to(device)
                return Rows(keys[first - first_key :], keys, torch.from_numpy(positions).to(device))

            full = rows(chunk.blocks, 0)
            windowed = rows(chunk.window_blocks, max(0, first - config.sliding_window + 1))
            spans.append(Span(slice(row, row + count), full.key_positions[first:], full, windowed))
            row += count
    return spans


class Cache:
    """Keys and values of every layer: a pool [layers, 2, blocks, block_tokens, kv_heads, head_dim] for each kind."""

    def __init__(
        self,
        config: ModelConfig,
        kv_heads: slice,
        blocks: int,
        block_tokens: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """kv_heads: which of the model's this process holds. blocks: physical blocks in each pool."""
        self.kv_heads = kv_heads.stop - kv_heads.start
        self._slot_bytes = block_tokens * config.head_dim * dtype.itemsize
        self._windowed = [config.is_windowed(layer) for layer in range(config.num_hidden_layers)]

        def pool(layers: int) -> Tensor:
            # Zeros, so that memory which the system has not been asked to touch costs nothing.
            shape = (layers, 2, blocks, block_tokens, self.kv_heads, config.head_dim)
            return torch.zeros(shape, dtype=dtype, device=device)

        self._window_pool = pool(sum(self._windowed))
        self._full_pool = pool(config.num_hidden_layers - sum(self._windowed))
        window_layers, full_layers = iter(self._window_pool.flatten(2, 3)), iter(self._full_pool.flatten(2, 3))
        # By layer: [2, rows, kv_heads, head_dim], views of the pools.
        self._layers = [next(window_layers if windowed else full_layers) for windowed in self._windowed]

    def write(self, layer: int, spans: Sequence[Span], k: Tensor, v: Tensor) -> None:
        """k, v [tokens of the batch, kv_heads, head_dim]. All are written before any is read: see network.forward."""
        keys, values = self._layers[layer]
        for span in spans:
            written = self._rows(layer, span).written
            keys[written], values[written] = k[span.rows], v[span.rows]

    def pool(self, layer: int) -> tuple[Tensor, Tensor]:
        """All keys and all values of a layer, [rows, kv_heads, head_dim], to be read and written in place."""
        keys, values = self._layers[layer]
        return keys, values

    def read(self, layer: int, span: Span) -> tuple[Tensor, Tensor, Tensor]:
        """k, v [keys, kv_heads, head_dim] that the span's queries may see, and their positions [keys]."""
        keys, values = self._layers[layer]
        rows = self._rows(layer, span)
        return keys[rows.keys], values[rows.keys], rows.key_positions

    def _rows(self, layer: int, span: Span) -> Rows:
        return span.windowed if self._windowed[layer] else span.full

    def copy_out(self, blocks: Int32, window_blocks: Int32) -> bytes:
        return b"".join(
            pool[:, :, _ids(chosen)].cpu().view(torch.uint8).numpy().tobytes()
            for pool, chosen in ((self._full_pool, blocks), (self._window_pool, window_blocks))
        )

    def copy_in(self, blocks: Int32, window_blocks: Int32, data: bytes) -> None:
        """data: what copy_out gave for as many blocks."""
        stored = torch.from_numpy(np.frombuffer(data, np.uint8).copy())
        full_bytes = self.bytes_of(len(blocks), 0) * self.kv_heads
        for pool, ids, part in (
            (self._full_pool, _ids(blocks), stored[:full_bytes]),
            (self._window_pool, _ids(window_blocks), stored[full_bytes:]),
        ):
            shape = (*pool.shape[:2], len(ids), *pool.shape[3:])
            pool[:, :, ids] = part.view(pool.dtype).view(shape).to(pool.device)

    def bytes_of(self, blocks: int, window_blocks: int) -> int:
        """How many bytes copy_out gives for so many blocks, for one key head."""
        pools = ((self._full_pool, blocks), (self._window_pool, window_blocks))
        return sum(len(pool) * 2 * count * self._slot_bytes for pool, count in pools)


def _ids(blocks: Int32) -> Tensor:
    return torch.from_numpy(blocks.astype(np.int64))
