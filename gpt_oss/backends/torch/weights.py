"""One process's share of a network's weights as torch tensors, read through Checkpoint.tensor: nothing else is touched.

A share is a run of key heads with their query heads, a run of every expert's rows of mlp1 (columns of mlp2), and a run
of the vocabulary. Shares need not be equal. Experts stay MXFP4 and are decoded when used, unless asked otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding

from gpt_oss.errors import ConfigError
from gpt_oss.model.config import ModelConfig
from gpt_oss.model.tensors import BF16, BLOCK_VALUES, E8M0_BIAS, U8, Array, Weights, canonical_tensors


class Matrices(Protocol):
    """One matrix [out, in] for each expert of a layer."""

    def matrix(self, expert: int) -> Tensor: ...


@dataclass(frozen=True)
class DenseMatrices:
    weights: Tensor  # [experts, out, in]

    def matrix(self, expert: int) -> Tensor:
        return self.weights[expert]


@dataclass(frozen=True)
class Mxfp4Matrices:
    blocks: Tensor  # uint8 [experts, out, in / 32, 16]
    scales: Tensor  # uint8 [experts, out, in / 32]
    dtype: torch.dtype

    def matrix(self, expert: int) -> Tensor:
        return decode_mxfp4(self.blocks[expert], self.scales[expert], self.dtype)


@dataclass(frozen=True)
class Block:
    """One layer. Heads, intermediate columns: this process's share."""

    attention_norm: Tensor  # [hidden], float32 or float64, as all norms
    qkv_weight: Tensor  # [(heads + 2 * kv_heads) * head_dim, hidden]
    qkv_bias: Tensor
    sinks: Tensor  # [heads]
    out_weight: Tensor  # [hidden, heads * head_dim]
    out_bias: Tensor  # [hidden]; zeros in all processes but one, as mlp2_bias
    mlp_norm: Tensor
    gate_weight: Tensor  # [experts, hidden]
    gate_bias: Tensor
    mlp1: Matrices  # [2 * intermediate, hidden], gate and linear rows interleaved
    mlp1_bias: Tensor  # [experts, 2 * intermediate]
    mlp2: Matrices  # [hidden, intermediate]
    mlp2_bias: Tensor  # [experts, hidden]


@dataclass(frozen=True)
class Vocabulary:
    """The rows first .. first + len(rows) - 1 of an embedding of `size` rows."""

    rows: Tensor  # [share of the vocabulary, hidden]
    first: int
    size: int


@dataclass(frozen=True)
class NetworkWeights:
    embedding: Vocabulary
    blocks: Sequence[Block]
    norm: Tensor
    unembedding: Vocabulary


@dataclass(frozen=True)
class Share:
    """What process `rank` of `ranks` holds, as slices of tensors. Raises ConfigError where that is nothing."""

    config: ModelConfig
    rank: int = 0
    ranks: int = 1

    def __post_init__(self) -> None:
        for name, parts in (
            ("num_key_value_heads", self.config.num_key_value_heads),
            ("intermediate_size / 32", self.config.intermediate_size // BLOCK_VALUES),
        ):
            if parts < self.ranks:
                raise ConfigError(
                    f"{self.ranks} processes cannot share this model, whose {name} is {parts}",
                    hint=f"Run torchrun with --nproc-per-node {parts} or less.",
                )

    def _of(self, total: int, unit: int = 1) -> slice:
        """Our run of `total` things that each are `unit` rows."""
        first, last = self.rank * total // self.ranks, (self.rank + 1) * total // self.ranks
        return slice(first * unit, last * unit)

    @property
    def kv_heads(self) -> slice:
        return self._of(self.config.num_key_value_heads)

    @property
    def heads(self) -> slice:
        return self._of(
            self.config.num_key_value_heads, self.config.num_attention_heads // self.config.num_key_value_heads
        )

    @property
    def query_rows(self) -> slice:
        """Rows of qkv, and columns of out, that are ours."""
        return _scaled(self.heads, self.config.head_dim)

    @property
    def qkv_rows(self) -> list[slice]:
        keys = _scaled(self.kv_heads, self.config.head_dim)
        first_key = self.config.num_attention_heads * self.config.head_dim
        first_value = first_key + self.config.num_key_value_heads * self.config.head_dim
        return [self.query_rows, *(slice(keys.start + row, keys.stop + row) for row in (first_key, first_value))]

    @property
    def intermediate_blocks(self) -> slice:
        """MXFP4 blocks are not divided."""
        return self._of(self.config.intermediate_size // BLOCK_VALUES)

    @property
    def vocabulary(self) -> slice:
        return self._of(self.config.vocab_size)

    @property
    def adds_biases(self) -> bool:
        """Of linear layers whose output is summed over the processes, one process adds the bias."""
        return self.rank == 0


def _scaled(run: slice, unit: int) -> slice:
    return slice(run.start * unit, run.stop * unit)


def weights_bytes(source: Weights, ranks: int, dtype: torch.dtype, dequantize: bool) -> int:
    """About how much memory the share of one of `ranks` processes takes."""
    total = 0
    for name, spec in canonical_tensors(source.config, source.quantized).items():
        values = spec.size_bytes // spec.dtype.itemsize
        if spec.dtype != U8:
            total += values * dtype.itemsize
        elif not dequantize:
            total += values
        elif name.endswith("blocks"):
            total += 2 * values * dtype.itemsize
    return total // ranks


def load(
    source: Weights, share: Share, dtype: torch.dtype, device: torch.device, *, dequantize: bool = False
) -> NetworkWeights:
    """Read the share. dequantize: hold MXFP4 experts in dtype (four times the memory in bf16), which is faster."""
    config = source.config
    all_of = slice(None)
    pairs = _scaled(share.intermediate_blocks, 2 * BLOCK_VALUES)

    def read(name: str, *index: slice, dtype: torch.dtype = dtype) -> Tensor:
        return to_torch(source.tensor(name, index)).to(device, dtype)

    def norm(name: str) -> Tensor:
        return read(name, dtype=torch.float64 if dtype == torch.float64 else torch.float32)

    def bias_once(name: str) -> Tensor:
        bias = read(name)
        return bias if share.adds_biases else torch.zeros_like(bias)

    def vocabulary(name: str) -> Vocabulary:
        return Vocabulary(read(name, share.vocabulary), share.vocabulary.start, config.vocab_size)

    def matrices(name: str, rows: slice, column_blocks: slice) -> Matrices:
        if not source.quantized:
            columns = slice(None) if column_blocks == all_of else _scaled(column_blocks, BLOCK_VALUES)
            return DenseMatrices(read(name, all_of, rows, columns))
        blocks = read(f"{name}.blocks", all_of, rows, column_blocks, dtype=torch.uint8)
        scales = read(f"{name}.scales", all_of, rows, column_blocks, dtype=torch.uint8)
        packed = Mxfp4Matrices(blocks, scales, dtype)
        if not dequantize:
            return packed
        return DenseMatrices(torch.stack([packed.matrix(expert) for expert in range(config.num_experts)]))

    def block(layer: int) -> Block:
        attn, mlp = f"block.{layer}.attn", f"block.{layer}.mlp"
        return Block(
            attention_norm=norm(f"{attn}.norm.scale"),
            qkv_weight=torch.cat([read(f"{attn}.qkv.weight", rows) for rows in share.qkv_rows]),
            qkv_bias=torch.cat([read(f"{attn}.qkv.bias", rows) for rows in share.qkv_rows]),
            sinks=read(f"{attn}.sinks", share.heads),
            out_weight=read(f"{attn}.out.weight", all_of, share.query_rows),
            out_bias=bias_once(f"{attn}.out.bias"),
            mlp_norm=norm(f"{mlp}.norm.scale"),
            gate_weight=read(f"{mlp}.gate.weight"),
            gate_bias=read(f"{mlp}.gate.bias"),
            mlp1=matrices(f"{mlp}.mlp1_weight", pairs, all_of),
            mlp1_bias=read(f"{mlp}.mlp1_bias", all_of, pairs),
            mlp2=matrices(f"{mlp}.mlp2_weight", all_of, share.intermediate_blocks),
            mlp2_bias=bias_once(f"{mlp}.mlp2_bias"),
        )

    return NetworkWeights(
        embedding=vocabulary("embedding.weight"),
        blocks=[block(layer) for layer in range(config.num_hidden_layers)],
        norm=norm("norm.scale"),
        unembedding=vocabulary("unembedding.weight"),
    )


def to_torch(array: Array) -> Tensor:
    """A copy: torch has no read-only tensors, and the array may be a view of a file."""
    if array.dtype == BF16:
        return torch.from_numpy(np.array(array.view(np.int16))).view(torch.bfloat16)
    return torch.from_numpy(np.array(array))


def decode_mxfp4(blocks: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """blocks uint8 [..., n, 16] and scales uint8 [..., n] to [..., n * 32], exact in every dtype."""
    every_byte = torch.arange(256, device=blocks.device).to(torch.uint8)
    pairs = e2m1_values(blocks.device).to(dtype)[nibbles(every_byte[:, None]).int()]  # [256, 2]: a byte's two values
    values = embedding(blocks.int(), pairs).flatten(-2)  # [..., n, 32]
    return (values * e8m0_values(blocks.device).to(dtype)[scales.int()][..., None]).flatten(-2)


def nibbles(blocks: Tensor) -> Tensor:
    """uint8 [..., bytes] to e2m1 codes [..., 2 * bytes]: the low nibble comes first."""
    return torch.stack([blocks & 15, blocks >> 4], dim=-1).flatten(-2)


def e2m1_values(device: torch.device) -> Tensor:
    """float32 [16]."""
    magnitudes = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0], device=device)
    return torch.cat([magnitudes, -magnitudes])


def e8m0_values(device: torch.device) -> Tensor:
    """float32 [256]: 2^(code - 127), and NaN for 255."""
    exponents = torch.arange(256, dtype=torch.float64, device=device) - E8M0_BIAS
    values = torch.exp2(exponents).float()
    values[255] = torch.nan
    return values
