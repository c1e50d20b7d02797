"""Hands a checkpoint's tensors to the native model: views of the mapped file where they lie as the kernels read them,
else sections of the repacked file (repack.py). Knows names and shapes; computes nothing but quantisation.

Repacked are: in balanced precision an int8 copy of attention and unembedding weights, and how far each row of the
unembedding is from its copy; in layouts that do not store q, k and v as one matrix, that matrix in bf16. Experts are
never repacked.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from gpt_oss.backends.cpu import _native
from gpt_oss.backends.cpu.repack import Bytes, Section, checkpoint_identity, load_sections
from gpt_oss.model.checkpoint import Checkpoint

INT8_LAYOUT = "int8-2"  # Int8Weight of csrc/matmul.h, RowNorms of csrc/unembed.h; raise it with any change there

_NORMS = "unembedding.weight norms"
_ROWS_AT_ONCE = 4096  # of a matrix that is quantised: what one thread takes

_NO_BYTES = np.empty(0, np.uint8)
_NO_SCALES = np.empty(0, np.uint16)
_NO_NORMS = np.empty((0, 2), np.float32)

Bits = NDArray[np.uint16]  # of bfloat16 values


def load_weights(
    native: _native.Model, checkpoint: Checkpoint, precision: str, threads: int, cache_dir: Path | None
) -> None:
    """Gives the native model all of its weights. The arrays live as long as it does."""
    layers = range(checkpoint.config.num_hidden_layers)
    linear_names = [f"block.{i}.attn.{name}.weight" for i in layers for name in ("qkv", "out")] + ["unembedding.weight"]
    qkv_is_mapped = checkpoint.layout == "original"

    with ThreadPoolExecutor(threads) as pool:
        sections: dict[str, Section] = {}
        for name in linear_names:
            shape = _shape(checkpoint, name)
            if not qkv_is_mapped and ".qkv." in name:
                sections[f"{name} bf16"] = Section(2 * shape[0] * shape[1], _copy(checkpoint, name, pool))
            if precision == "balanced":
                values, scales = _native.int8_sizes(*shape)
                sections[f"{name} int8"] = Section(values + 2 * scales, _quantise(checkpoint, name, values, pool))
        if precision == "balanced":
            rows = checkpoint.config.vocab_size
            sections[_NORMS] = Section(8 * rows, _row_norms(checkpoint, "unembedding.weight", pool))
        identity = f"{checkpoint_identity(checkpoint.path)} {precision} {INT8_LAYOUT}"
        made = load_sections(identity, str(checkpoint.path), sections, cache_dir) if sections else {}

    def linear(name: str) -> _native.Linear:
        shape = _shape(checkpoint, name)
        copied = made.get(f"{name} bf16")
        weight = _bits(checkpoint.tensor(name)) if copied is None else copied.view(np.uint16).reshape(shape)
        int8 = made.get(f"{name} int8")
        if int8 is None:
            return _native.Linear(weight, _NO_BYTES, _NO_SCALES)
        values, _ = _native.int8_sizes(*shape)
        return _native.Linear(weight, int8[:values], int8[values:].view(np.uint16))

    for i in layers:
        attn, mlp, experts = f"block.{i}.attn", f"block.{i}.mlp", checkpoint.experts(i)
        native.add_layer(
            attention_norm=_float(checkpoint.tensor(f"{attn}.norm.scale")),
            qkv=linear(f"{attn}.qkv.weight"),
            qkv_bias=_float(checkpoint.tensor(f"{attn}.qkv.bias")),
            sinks=_float(checkpoint.tensor(f"{attn}.sinks")),
            out=linear(f"{attn}.out.weight"),
            out_bias=_float(checkpoint.tensor(f"{attn}.out.bias")),
            mlp_norm=_float(checkpoint.tensor(f"{mlp}.norm.scale")),
            gate=_bits(checkpoint.tensor(f"{mlp}.gate.weight")),
            gate_bias=_float(checkpoint.tensor(f"{mlp}.gate.bias")),
            mlp1_blocks=experts.mlp1_blocks,
            mlp1_scales=experts.mlp1_scales,
            mlp1_bias=experts.mlp1_bias.view(np.uint16),
            mlp2_blocks=experts.mlp2_blocks,
            mlp2_scales=experts.mlp2_scales,
            mlp2_bias=experts.mlp2_bias.view(np.uint16),
            scale_bias=experts.scale_bias,
        )
    native.finish(
        embedding=_bits(checkpoint.tensor("embedding.weight")),
        norm=_float(checkpoint.tensor("norm.scale")),
        unembedding=linear("unembedding.weight"),
        unembedding_norms=made[_NORMS].view(np.float32).reshape(-1, 2) if _NORMS in made else _NO_NORMS,
    )


def _shape(checkpoint: Checkpoint, name: str) -> tuple[int, int]:
    config = checkpoint.config
    heads_width = config.num_attention_heads * config.head_dim
    if name == "unembedding.weight":
        return config.vocab_size, config.hidden_size
    if name.endswith(".out.weight"):
        return config.hidden_size, heads_width
    return heads_width + 2 * config.num_key_value_heads * config.head_dim, config.hidden_size


def _pieces(rows: int) -> list[slice]:
    return [slice(row, min(row + _ROWS_AT_ONCE, rows)) for row in range(0, rows, _ROWS_AT_ONCE)]


def _copy(checkpoint: Checkpoint, name: str, pool: ThreadPoolExecutor) -> Callable[[Bytes], None]:
    def write(out: Bytes) -> None:
        rows, cols = _shape(checkpoint, name)
        matrix = out.view(np.uint16).reshape(rows, cols)

        def piece(part: slice) -> None:
            matrix[part] = _bits(checkpoint.tensor(name, (part,)))

        list(pool.map(piece, _pieces(rows)))

    return write


def _quantise(checkpoint: Checkpoint, name: str, value_bytes: int, pool: ThreadPoolExecutor) -> Callable[[Bytes], None]:
    def write(out: Bytes) -> None:
        rows, _ = _shape(checkpoint, name)
        values, scales = out[:value_bytes].reshape(rows, -1), out[value_bytes:].view(np.uint16).reshape(rows, -1)

        def piece(part: slice) -> None:
            bits = _bits(checkpoint.tensor(name, (part,)))
            _native.quantise_int8(bits, 0, len(bits), values[part].reshape(-1), scales[part].reshape(-1))

        list(pool.map(piece, _pieces(rows)))

    return write


def _row_norms(checkpoint: Checkpoint, name: str, pool: ThreadPoolExecutor) -> Callable[[Bytes], None]:
    def write(out: Bytes) -> None:
        norms = out.view(np.float32).reshape(-1, 2)

        def piece(part: slice) -> None:
            bits = _bits(checkpoint.tensor(name, (part,)))
            _native.row_norms(bits, 0, len(bits), norms[part])

        list(pool.map(piece, _pieces(len(norms))))

    return write


def _bits(values: NDArray[ml_dtypes.bfloat16]) -> Bits:
    return values.view(np.uint16)


def _float(values: NDArray[np.generic]) -> NDArray[np.float32]:
    return np.ascontiguousarray(values, dtype=np.float32)
