"""The canonical tensors of a gpt-oss network: names, shapes and dtypes of the `original/` layout, whatever a file has.

Knows no files. Everything that reads, writes or makes up weights speaks in these names.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from gpt_oss.model.config import ModelConfig

Array: TypeAlias = NDArray[Any]
Index: TypeAlias = tuple[slice, ...]

BF16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
F32: np.dtype[Any] = np.dtype(np.float32)
U8: np.dtype[Any] = np.dtype(np.uint8)

BLOCK_VALUES = 32  # values that share one MXFP4 scale
BLOCK_BYTES = 16
E8M0_BIAS = 127

# What a writer holds at a time. Small enough that malloc hands the same memory out again (fresh pages are slow to
# touch), large enough that the system calls do not matter.
CHUNK_BYTES = 8 << 20


@dataclass(frozen=True)
class TensorSpec:
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def chunk_rows(self) -> int:
        """How many entries of the first axis make one chunk."""
        return max(1, CHUNK_BYTES // (self.size_bytes // self.shape[0]))


@dataclass(frozen=True)
class ExpertWeights:
    """One layer's experts as they lie in memory: views of the file, nothing copied.

    Within one expert each array is C-contiguous; the stride from expert to expert is the layout's.
    scale_bias: value = e2m1 · 2^(scale - scale_bias); 127, or 141 in metal/model.bin, which
    stores its scales 14 higher.
    """

    mlp1_blocks: NDArray[np.uint8]  # [experts, 2 * intermediate, hidden / 32, 16]
    mlp1_scales: NDArray[np.uint8]  # [experts, 2 * intermediate, hidden / 32]
    mlp1_bias: Array  # [experts, 2 * intermediate] bf16
    mlp2_blocks: NDArray[np.uint8]  # [experts, hidden, intermediate / 32, 16]
    mlp2_scales: NDArray[np.uint8]  # [experts, hidden, intermediate / 32]
    mlp2_bias: Array  # [experts, hidden] bf16
    scale_bias: int


class Weights(Protocol):
    """A network's weights under their canonical names: a checkpoint on disk, or made up by the factory."""

    @property
    def config(self) -> ModelConfig: ...

    @property
    def quantized(self) -> bool:
        """Experts as MXFP4 blocks and scales; False: as bf16 `mlp1_weight` and `mlp2_weight`."""
        ...

    def tensor(self, name: str, index: Index = ()) -> Array:
        """The part `index` (slices over the leading axes) of a tensor."""
        ...


def canonical_tensors(config: ModelConfig, quantized: bool = True) -> dict[str, TensorSpec]:
    """Every tensor of the network in the order of the computation."""
    vocab, hidden, inter, experts = config.vocab_size, config.hidden_size, config.intermediate_size, config.num_experts
    heads_out = config.num_attention_heads * config.head_dim
    qkv_out = heads_out + 2 * config.num_key_value_heads * config.head_dim

    tensors = {"embedding.weight": TensorSpec((vocab, hidden), BF16)}
    for layer in range(config.num_hidden_layers):
        attn, mlp = f"block.{layer}.attn", f"block.{layer}.mlp"
        tensors |= {
            f"{attn}.norm.scale": TensorSpec((hidden,), F32),
            f"{attn}.qkv.weight": TensorSpec((qkv_out, hidden), BF16),
            f"{attn}.qkv.bias": TensorSpec((qkv_out,), BF16),
            f"{attn}.sinks": TensorSpec((config.num_attention_heads,), BF16),
            f"{attn}.out.weight": TensorSpec((hidden, heads_out), BF16),
            f"{attn}.out.bias": TensorSpec((hidden,), BF16),
            f"{mlp}.norm.scale": TensorSpec((hidden,), F32),
            f"{mlp}.gate.weight": TensorSpec((experts, hidden), BF16),
            f"{mlp}.gate.bias": TensorSpec((experts,), BF16),
        }
        for name, rows, columns in ((f"{mlp}.mlp1", 2 * inter, hidden), (f"{mlp}.mlp2", hidden, inter)):
            if quantized:
                blocks = (experts, rows, columns // BLOCK_VALUES)
                tensors[f"{name}_weight.blocks"] = TensorSpec((*blocks, BLOCK_BYTES), U8)
                tensors[f"{name}_weight.scales"] = TensorSpec(blocks, U8)
            else:
                tensors[f"{name}_weight"] = TensorSpec((experts, rows, columns), BF16)
            tensors[f"{name}_bias"] = TensorSpec((experts, rows), BF16)
    tensors["norm.scale"] = TensorSpec((hidden,), F32)
    tensors["unembedding.weight"] = TensorSpec((vocab, hidden), BF16)
    return tensors


def chunks(weights: Weights, name: str, spec: TensorSpec, start: int = 0, stop: int | None = None) -> Iterator[Array]:
    """Rows start..stop of a tensor in pieces of about CHUNK_BYTES, so that no writer holds a large one."""
    stop = spec.shape[0] if stop is None else stop
    for row in range(start, stop, spec.chunk_rows):
        yield weights.tensor(name, (slice(row, min(row + spec.chunk_rows, stop)),))
