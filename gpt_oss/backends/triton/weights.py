"""One process's share of a network's weights on its GPU, loaded at the speed of the disk: nothing is held twice.

Every tensor goes piece by piece from the mapped file through a ring of pinned buffers: while one piece is copied to the
GPU, threads read the next ones (a page that is not in memory is fetched from the disk as it is read). Experts stay
MXFP4 and are arranged for the kernels on the GPU, a piece at a time. Knows no kernel but the arrangement in mxfp4.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from gpt_oss.backends.torch.weights import Share, Vocabulary
from gpt_oss.backends.triton import mxfp4
from gpt_oss.backends.triton.experts import Matrices
from gpt_oss.errors import BackendError
from gpt_oss.model.config import ModelConfig
from gpt_oss.model.mxfp4 import encode
from gpt_oss.model.tensors import BF16, BLOCK_VALUES, F32, U8, Array, Weights

PIECE_BYTES = 32 << 20
BUFFERS = 3
READERS = 4


@dataclass(frozen=True)
class Block:
    """One layer. Heads and intermediate columns: this process's share."""

    attention_norm: Tensor  # [hidden] float32, as all norms
    qkv_weight: Tensor  # [(heads + 2 * kv_heads) * head_dim, hidden]
    qkv_bias: Tensor
    sinks: Tensor  # [heads]
    out_weight: Tensor  # [hidden, heads * head_dim]
    out_bias: Tensor  # [hidden]; zeros in all processes but one, as mlp2's
    mlp_norm: Tensor
    gate_weight: Tensor  # [experts, hidden]
    gate_bias: Tensor
    mlp1: Matrices  # [2 * intermediate, hidden], gate and linear rows interleaved
    mlp2: Matrices  # [hidden, intermediate]


@dataclass(frozen=True)
class NetworkWeights:
    embedding: Vocabulary
    blocks: Sequence[Block]
    norm: Tensor
    unembedding: Vocabulary


def weights_bytes(config: ModelConfig, share: Share, dtype: torch.dtype) -> int:
    """What `load` will keep on the device."""
    hidden, experts = config.hidden_size, config.num_experts
    inter = BLOCK_VALUES * _length(share.intermediate_blocks)
    query_rows, rows = _length(share.query_rows), sum(_length(rows) for rows in share.qkv_rows)
    values = rows * (hidden + 1) + hidden * (query_rows + 1) + _length(share.heads)  # qkv, out, sinks
    values += experts * (hidden + 1) + experts * (2 * inter + hidden)  # gate and the experts' biases
    group_bytes = 4 * (mxfp4.WORDS.value + 1)
    groups = 2 * inter * mxfp4.groups_of(hidden) + hidden * mxfp4.groups_of(inter)
    layer = values * dtype.itemsize + 2 * hidden * 4 + experts * groups * group_bytes
    vocabulary = 2 * _length(share.vocabulary) * hidden * dtype.itemsize
    return config.num_hidden_layers * layer + vocabulary + hidden * 4


def load(
    source: Weights, share: Share, dtype: torch.dtype, device: torch.device, *, progress: bool = False
) -> NetworkWeights:
    """Read the share. Experts that are not MXFP4 are rounded to it, which loses nothing where they once were.

    Raises BackendError for scales that the kernels cannot take.
    """
    config = source.config
    all_of = slice(None)
    own_blocks = share.intermediate_blocks
    pairs, inter = _scaled(own_blocks, 2 * BLOCK_VALUES), BLOCK_VALUES * _length(own_blocks)
    greatest_scale = torch.zeros((), dtype=torch.uint8, device=device)

    def read(name: str, *index: slice, dtype: torch.dtype = dtype) -> Tensor:
        return on_device(source.tensor(name, index)).to(dtype)

    def on_device(array: Array) -> Tensor:
        tensor = torch.empty(array.shape, dtype=_TORCH_TYPES[array.dtype], device=device)
        upload(array, tensor)
        return tensor

    def bias_once(name: str, *index: slice) -> Tensor:
        bias = read(name, *index)
        return bias if share.adds_biases else torch.zeros_like(bias)

    def vocabulary(name: str) -> Vocabulary:
        return Vocabulary(read(name, share.vocabulary), share.vocabulary.start, config.vocab_size)

    def one_expert(name: str, expert: int, rows: slice, column_blocks: slice) -> tuple[Array, Array]:
        """Blocks [rows, n, 16] and scales [rows, n], as released."""
        index = (slice(expert, expert + 1), rows)
        if source.quantized:
            blocks = source.tensor(f"{name}.blocks", (*index, column_blocks))
            return blocks[0], source.tensor(f"{name}.scales", (*index, column_blocks))[0]
        columns = column_blocks if column_blocks == all_of else _scaled(column_blocks, BLOCK_VALUES)
        return encode(source.tensor(name, (*index, columns))[0])

    def matrices(name: str, rows: slice, column_blocks: slice, columns: int, bias: Tensor) -> Matrices:
        nonlocal greatest_scale
        experts, height = bias.shape
        groups = mxfp4.groups_of(columns)
        words = torch.empty(experts, height, groups * mxfp4.WORDS.value, dtype=torch.int32, device=device)
        scale_words = torch.empty(experts, groups, height, dtype=torch.int32, device=device)
        for expert in range(experts):
            blocks, scales = map(on_device, one_expert(name, expert, rows, column_blocks))
            mxfp4.arrange_blocks(blocks, words[expert])
            mxfp4.arrange_scales(scales, scale_words[expert])
            greatest_scale = torch.maximum(greatest_scale, scales.max())
        return Matrices(words, scale_words, bias, columns)

    def block(layer: int) -> Block:
        attn, mlp = f"block.{layer}.attn", f"block.{layer}.mlp"
        mlp1_bias = read(f"{mlp}.mlp1_bias", all_of, pairs)
        loaded = Block(
            attention_norm=read(f"{attn}.norm.scale", dtype=torch.float32),
            qkv_weight=torch.cat([read(f"{attn}.qkv.weight", rows) for rows in share.qkv_rows]),
            qkv_bias=torch.cat([read(f"{attn}.qkv.bias", rows) for rows in share.qkv_rows]),
            sinks=read(f"{attn}.sinks", share.heads),
            out_weight=read(f"{attn}.out.weight", all_of, share.query_rows),
            out_bias=bias_once(f"{attn}.out.bias"),
            mlp_norm=read(f"{mlp}.norm.scale", dtype=torch.float32),
            gate_weight=read(f"{mlp}.gate.weight"),
            gate_bias=read(f"{mlp}.gate.bias"),
            mlp1=matrices(f"{mlp}.mlp1_weight", pairs, all_of, config.hidden_size, mlp1_bias),
            mlp2=matrices(f"{mlp}.mlp2_weight", all_of, own_blocks, inter, bias_once(f"{mlp}.mlp2_bias")),
        )
        bar.update()
        return loaded

    with (
        _Upload(device) as upload,
        tqdm(total=config.num_hidden_layers, unit=" layers", desc="weights", disable=not progress) as bar,
    ):
        weights = NetworkWeights(
            embedding=vocabulary("embedding.weight"),
            blocks=[block(layer) for layer in range(config.num_hidden_layers)],
            norm=read("norm.scale", dtype=torch.float32),
            unembedding=vocabulary("unembedding.weight"),
        )
        greatest = int(greatest_scale)  # waits for the device
    if greatest > mxfp4.MAX_SCALE:
        raise BackendError(f"an expert has a scale of 2^{greatest - 127}, and the triton backend takes up to 2^63")
    return weights


_TORCH_TYPES = {BF16: torch.bfloat16, F32: torch.float32, U8: torch.uint8}


class _Upload(AbstractContextManager["_Upload"]):
    """Copies arrays of any size to a device: on a GPU in pieces, through pinned buffers in turn."""

    def __init__(self, device: torch.device) -> None:
        pinned = device.type == "cuda"
        self._buffers = [torch.empty(PIECE_BYTES, dtype=torch.uint8, pin_memory=True) for _ in range(BUFFERS * pinned)]
        self._copied = [torch.cuda.Event() for _ in self._buffers]
        self._turn = 0
        self._readers = ThreadPoolExecutor(READERS)

    def __exit__(self, *_: object) -> None:
        self._readers.shutdown()

    def __call__(self, array: Array, out: Tensor) -> None:
        """Queue the copy of an array into a contiguous tensor of as many bytes. The array may go at once."""
        source = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        target = out.view(-1).view(torch.uint8)
        if not self._buffers:
            np.copyto(target.numpy(), source)
        for first in range(0, len(source) if self._buffers else 0, PIECE_BYTES):
            piece = source[first : first + PIECE_BYTES]
            self._turn = (self._turn + 1) % BUFFERS
            self._copied[self._turn].synchronize()
            buffer = self._buffers[self._turn][: len(piece)]
            self._read(piece, buffer.numpy())
            target[first : first + PIECE_BYTES].copy_(buffer, non_blocking=True)
            self._copied[self._turn].record()

    def _read(self, source: Array, into: Array) -> None:
        step = -(-len(source) // READERS)
        starts = range(0, len(source), step)
        for _ in self._readers.map(lambda i: np.copyto(into[i : i + step], source[i : i + step]), starts):
            pass


def _length(run: slice) -> int:
    return int(run.stop - run.start)


def _scaled(run: slice, unit: int) -> slice:
    return slice(run.start * unit, run.stop * unit)
