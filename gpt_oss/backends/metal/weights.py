"""A network's weights as mlx arrays, as the kernels want them: experts MXFP4 as they lie in the file, the rest bf16.

On Metal nothing is copied that the layout has as it is used: all of `original/`, all but q, k and v of the Hugging Face
layout (joined into one matrix) and of metal/model.bin (whose halves are interleaved and scaled). In float32, for mlx's
CPU build, everything but the experts is converted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import mlx.core as mx
import numpy as np

from gpt_oss.backends.metal.mapping import arrays_to_mlx, to_mlx
from gpt_oss.errors import ConfigError
from gpt_oss.model.checkpoint import Checkpoint
from gpt_oss.model.config import ModelConfig
from gpt_oss.model.tensors import E8M0_BIAS, U8, Array, ExpertWeights, TensorSpec, Weights, canonical_tensors

GROUP = 32  # values that share a scale in int8; the released hidden size is no multiple of 128


class Int8(NamedTuple):
    """A matrix [out, in] in mlx's affine form: value = code * scale + offset, both of them for every GROUP values."""

    codes: mx.array  # uint32 [out, in / 4], four codes a word
    scales: mx.array  # [out, in / 32]
    offsets: mx.array


Matrix: TypeAlias = mx.array | Int8  # an array is [in, out], mostly a transposed view


class Linear(NamedTuple):
    weight: Matrix
    bias: mx.array  # [out]


class Experts(NamedTuple):
    """One matrix [out, in] for each expert of a layer. scales: uint8 [experts, out, in / 32], and blocks uint32
    [experts, out, in / 8], eight e2m1 codes a word, the lowest bits first; or scales None, blocks plain matrices."""

    blocks: mx.array
    scales: mx.array | None
    bias: mx.array  # [experts, out]


class Block(NamedTuple):
    """One layer. Norms are in the network's dtype where that is exact, else float32."""

    attention_norm: mx.array  # [hidden]
    qkv: Linear  # to [(heads + 2 * kv_heads) * head_dim]
    sinks: mx.array  # [heads]
    out: Linear  # [heads * head_dim] to [hidden]
    mlp_norm: mx.array
    gate: Linear  # to [experts]
    mlp1: Experts  # [2 * intermediate, hidden], gate and linear rows interleaved
    mlp2: Experts  # [hidden, intermediate]


@dataclass(frozen=True)
class NetworkWeights:
    """expert_input_scale: what the experts' inputs are multiplied by, a power of two: metal/model.bin has its MXFP4
    scales 2^14 higher, and there they stay."""

    embedding: Array  # [vocab, hidden] bf16, in the file: the host picks rows of it, and no GPU memory goes to it
    blocks: Sequence[Block]
    norm: mx.array  # [hidden]
    unembedding: Matrix  # from [hidden] to [vocab]
    expert_input_scale: float


def load(source: Weights, dtype: mx.Dtype, *, int8: bool = False) -> NetworkWeights:
    """dtype: bfloat16 or float32, of everything that is not MXFP4. int8: but for the matrices of attention and the
    unembedding, which are read once a token and are two thirds of what it reads. Every array is evaluated: any thread
    may use it. Raises ConfigError for a shape that has no int8 form.
    """
    config = source.config
    heads_out = config.num_attention_heads * config.head_dim
    if int8 and heads_out % GROUP:
        raise ConfigError(f"{heads_out} columns of attention are no multiple of {GROUP}, as balanced precision needs")

    def vector(name: str) -> mx.array:
        return _evaluated(to_mlx(source.tensor(name)).astype(dtype))

    def norm(name: str) -> mx.array:
        scale = to_mlx(source.tensor(name))
        rounded = scale.astype(dtype)
        return _evaluated(rounded if mx.array_equal(rounded.astype(scale.dtype), scale) else scale)

    def matrix(name: str) -> Matrix:
        """[out, in] as [in, out]. The CPU build's BLAS takes half the time for it when it really lies so."""
        stored = to_mlx(source.tensor(name))
        if int8 and not name.endswith("gate.weight"):
            return _int8(stored.astype(dtype))
        return _evaluated(stored.T if stored.dtype == dtype else mx.contiguous(stored.T.astype(dtype)))

    def linear(name: str) -> Linear:
        return Linear(matrix(f"{name}.weight"), vector(f"{name}.bias"))

    def block(layer: int) -> Block:
        attn, mlp = f"block.{layer}.attn", f"block.{layer}.mlp"
        mlp1, mlp2 = _experts(source, layer, dtype)
        return Block(
            attention_norm=norm(f"{attn}.norm.scale"),
            qkv=linear(f"{attn}.qkv"),
            sinks=vector(f"{attn}.sinks"),
            out=linear(f"{attn}.out"),
            mlp_norm=norm(f"{mlp}.norm.scale"),
            gate=linear(f"{mlp}.gate"),
            mlp1=mlp1,
            mlp2=mlp2,
        )

    blocks = [block(layer) for layer in range(config.num_hidden_layers)]
    bias = _expert_weights(source, 0).scale_bias if source.quantized else E8M0_BIAS
    return NetworkWeights(
        embedding=source.tensor("embedding.weight"),
        blocks=blocks,
        norm=norm("norm.scale"),
        unembedding=matrix("unembedding.weight"),
        expert_input_scale=2.0 ** (E8M0_BIAS - bias),
    )


def weights_bytes(config: ModelConfig, quantized: bool, dtype: mx.Dtype, *, int8: bool = False) -> int:
    """About how much memory the device needs for them, mapped or not."""

    def value_bytes(name: str, spec: TensorSpec) -> float:
        if spec.dtype == U8:
            return 1
        if int8 and name.endswith(("qkv.weight", "out.weight", "unembedding.weight")):
            return 1 + 2 * dtype.size / GROUP
        return dtype.size

    tensors = canonical_tensors(config, quantized).items()
    held = ((name, spec) for name, spec in tensors if name != "embedding.weight")
    return int(sum(spec.size_bytes // spec.dtype.itemsize * value_bytes(name, spec) for name, spec in held))


def _int8(matrix: mx.array) -> Int8:
    made = Int8(*mx.quantize(matrix, group_size=GROUP, bits=8))
    mx.eval(*made)
    return made


def _experts(source: Weights, layer: int, dtype: mx.Dtype) -> tuple[Experts, Experts]:
    if not source.quantized:
        mlp = f"block.{layer}.mlp"

        def plain(name: str) -> Experts:
            parts = (source.tensor(f"{mlp}.{name}_weight"), source.tensor(f"{mlp}.{name}_bias"))
            weight, bias = (_evaluated(to_mlx(part).astype(dtype)) for part in parts)
            return Experts(weight, None, bias)

        return plain("mlp1"), plain("mlp2")
    stored = _expert_weights(source, layer)
    parts = arrays_to_mlx(
        [
            _as_words(stored.mlp1_blocks), stored.mlp1_scales, stored.mlp1_bias,
            _as_words(stored.mlp2_blocks), stored.mlp2_scales, stored.mlp2_bias,
        ]
    )  # fmt: skip
    blocks1, scales1, bias1, blocks2, scales2, bias2 = parts
    return (
        Experts(blocks1, scales1, _evaluated(bias1.astype(dtype))),
        Experts(blocks2, scales2, _evaluated(bias2.astype(dtype))),
    )


def _expert_weights(source: Weights, layer: int) -> ExpertWeights:
    if isinstance(source, Checkpoint):
        return source.experts(layer)
    mlp = f"block.{layer}.mlp"
    return ExpertWeights(
        mlp1_blocks=source.tensor(f"{mlp}.mlp1_weight.blocks"),
        mlp1_scales=source.tensor(f"{mlp}.mlp1_weight.scales"),
        mlp1_bias=source.tensor(f"{mlp}.mlp1_bias"),
        mlp2_blocks=source.tensor(f"{mlp}.mlp2_weight.blocks"),
        mlp2_scales=source.tensor(f"{mlp}.mlp2_weight.scales"),
        mlp2_bias=source.tensor(f"{mlp}.mlp2_bias"),
        scale_bias=E8M0_BIAS,
    )


def _as_words(blocks: Array) -> Array:
    """uint8 [experts, out, in / 32, 16] as uint32 [experts, out, in / 8], the same memory."""
    experts, rows, _, _ = blocks.shape
    return blocks.view(np.uint32).reshape(experts, rows, -1)  # within an expert all is contiguous: still a view


def _evaluated(array: mx.array) -> mx.array:
    mx.eval(array)
    return array
