"""The cpu backend's `Model`: a thin skin over the native forward pass, which does all the work without the GIL.

Knows chunks, cache blocks and rows of logits; not how weights are laid out (weights.py), nor anything of text.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from gpt_oss.backends.base import Chunk, Float32, Int32
from gpt_oss.backends.cpu import _native
from gpt_oss.errors import BackendError
from gpt_oss.model.config import ModelConfig

# Of read_cache's bytes: what the values mean. Raise it when the layout of a block in csrc/attention.h changes.
_CACHE_MAGIC = b"gpt-oss cpu kv 1"
_CACHE_HEADER = struct.Struct("<16sIIII")  # magic, blocks, window blocks, bytes of a block, of a window block


class CpuLogits:
    """The rows of one forward; see backends/base.py, `Logits`. Computed when read.

    Raises BackendError when the model has computed another batch since, or was closed.
    """

    def __init__(self, model: CpuModel, rows: int) -> None:
        self._model = model
        self._step = model.step
        self._rows = rows
        self._computed: Float32 | None = None

    def __len__(self) -> int:
        return self._rows

    def numpy(self) -> Float32:
        native = self._native()
        if self._computed is None:
            self._computed = np.empty((self._rows, self._model.config.vocab_size), np.float32)
            native.logits(self._computed)
        return self._computed

    def sample(self, row: int, temperature: float, seed: int, position: int) -> int:
        """See backends/base.py, `SamplesItself`. The logits are those of exact precision, whatever the model's: in
        balanced precision `numpy` gives the int8 form's."""
        return self._native().sample(row, temperature, seed % 2**64, position)

    def _native(self) -> _native.Model:
        if self._step != self._model.step:
            raise BackendError("these logits are gone: the model has computed another batch since")
        return self._model.native


class CpuModel:
    """See backends/base.py, `Model`. Results do not depend on the number of threads; those of a chunk of at most 16
    tokens do not depend on the rest of the batch either."""

    def __init__(self, native: _native.Model, config: ModelConfig, description: str) -> None:
        self.config = config
        self.description = description  # for people: "avx512-amx, balanced, 2 threads"
        self.block_tokens: int = _native.BLOCK_TOKENS
        self.cache_blocks: int = native.cache_blocks
        self.window_cache_blocks: int = native.window_cache_blocks
        self.step = 0
        self._open: _native.Model | None = native

    @property
    def native(self) -> _native.Model:
        if self._open is None:
            raise BackendError("the model is closed")
        return self._open

    def forward(self, batch: Sequence[Chunk]) -> CpuLogits:
        """Raises ValueError for a chunk that reaches outside the vocabulary, the context or the cache."""
        self.step += 1
        rows = self.native.forward(
            [
                (_int32(chunk.tokens), chunk.position, _int32(chunk.blocks), _int32(chunk.window_blocks), chunk.logits)
                for chunk in batch
            ]
        )
        return CpuLogits(self, rows)

    def read_cache(self, blocks: Int32, window_blocks: Int32) -> bytes:
        native, full, windowed = self.native, _int32(blocks), _int32(window_blocks)
        sizes = native.block_bytes(False), native.block_bytes(True)
        header = _CACHE_HEADER.pack(_CACHE_MAGIC, len(full), len(windowed), *sizes)
        data = bytearray(len(header) + len(full) * sizes[0] + len(windowed) * sizes[1])
        data[: len(header)] = header
        native.read_cache(full, windowed, np.frombuffer(data, np.uint8, offset=len(header)))
        return bytes(data)

    def write_cache(self, blocks: Int32, window_blocks: Int32, data: bytes) -> None:
        """Raises BackendError for bytes that are not a `read_cache` of as many blocks of this model."""
        native, full, windowed = self.native, _int32(blocks), _int32(window_blocks)
        sizes = native.block_bytes(False), native.block_bytes(True)
        header = _CACHE_HEADER.pack(_CACHE_MAGIC, len(full), len(windowed), *sizes)
        if data[: len(header)] != header or len(data) != len(header) + len(full) * sizes[0] + len(windowed) * sizes[1]:
            raise BackendError("saved keys and values do not fit: another model, version or number of blocks")
        native.write_cache(full, windowed, np.frombuffer(data, np.uint8, offset=len(header)))

    def close(self) -> None:
        """Lets go of the weights and the cache. Closing twice is fine."""
        self._open = None


def _int32(values: Int32) -> Int32:
    return np.ascontiguousarray(values, dtype=np.int32)
