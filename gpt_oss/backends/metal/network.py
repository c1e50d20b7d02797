"""The forward pass of gpt-oss in mlx: `forward` names the steps, the functions below it are the steps.

A layer is two halves around attention. Each half has the same shapes in every step of as many tokens and in every
layer, so that mlx compiles it once; attention, whose number of keys grows with every token, stays outside. Norms,
rotary, swiglu and softmax are computed in float32. Knows nothing of files or block tables.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from gpt_oss.backends.metal.cache import Cache, Places, Span
from gpt_oss.backends.metal.weights import GROUP, Experts, Linear, Matrix, NetworkWeights
from gpt_oss.model.config import ModelConfig
from gpt_oss.model.reference import rotary_tables

SWIGLU_ALPHA = 1.702
FEW_TOKENS, QUANTUM = 16, 64  # steps of up to so many tokens, and of multiples of so many, come again: compiled
SORTED_ROWS = 64  # from so many rows on, experts' rows are sorted: then mlx reads each expert once for all of its rows
LAYERS_AT_ONCE = 4  # are handed to the device together: it computes them while Python describes the next ones

Compute: TypeAlias = Callable[..., tuple[mx.array, ...]]


@dataclass(frozen=True)
class Batch:
    """The new tokens of all sequences, one after the other.

    embedded: [tokens, hidden]. cos, sin: float32 [tokens, head_dim / 2]. full, windowed: their places in the pools.
    wanted: int32, the rows whose logits are asked for, wanted_places: theirs in the last layer; None is all of them.
    """

    embedded: mx.array
    cos: mx.array
    sin: mx.array
    full: Places
    windowed: Places
    wanted: mx.array | None
    wanted_places: Places | None


def rotary_of(positions: NDArray[np.int64], config: ModelConfig) -> tuple[mx.array, mx.array]:
    """Cosines and sines, times the concentration: computed in float64, angles included, and rounded once."""
    cos, sin = rotary_tables(config, positions)
    return mx.array(cos.astype(np.float32)), mx.array(sin.astype(np.float32))


class Network:
    """The weights, and the two halves of a layer, compiled where asked."""

    def __init__(self, config: ModelConfig, weights: NetworkWeights, *, compiled: bool) -> None:
        self.config = config
        self.weights = weights
        self._compiled = compiled

    def forward(self, batch: Batch, cache: Cache) -> mx.array:
        """Logits [wanted, vocab], not yet computed; keys and values of the batch are written to the cache.

        Of the last layer only keys and values are needed of all tokens: from there on the others are left out.
        """
        weights, config = self.weights, self.config
        x = batch.embedded  # [tokens, hidden]
        before, after = self._halves(len(x))
        for layer, block in enumerate(weights.blocks):
            places = batch.windowed if config.is_windowed(layer) else batch.full
            q, k, v = before(x, batch.cos, batch.sin, block.attention_norm, block.qkv)
            cache.write(layer, places.written, k, v)
            if layer == config.num_hidden_layers - 1 and batch.wanted is not None and batch.wanted_places is not None:
                if batch.wanted.size == 0:
                    return mx.zeros((0, config.vocab_size), x.dtype)
                x, q, places = x[batch.wanted], q[:, batch.wanted], batch.wanted_places
                _, after = self._halves(len(x))
            attended = attention(q, places.spans, cache, layer, block.sinks)
            (x,) = after(x, attended, block.out, block.mlp_norm, block.gate, block.mlp1, block.mlp2)
            if layer % LAYERS_AT_ONCE == LAYERS_AT_ONCE - 1:
                mx.async_eval(x)
        return multiply(rms_norm(x, weights.norm, config.rms_norm_eps), weights.unembedding)

    def _halves(self, tokens: int) -> tuple[Compute, Compute]:
        if self._compiled and (tokens <= FEW_TOKENS or tokens % QUANTUM == 0):
            return self._compiled_halves
        return self._before_attention, self._after_attention

    @cached_property
    def _compiled_halves(self) -> tuple[Compute, Compute]:
        return mx.compile(self._before_attention), mx.compile(self._after_attention)

    def _before_attention(
        self, x: mx.array, cos: mx.array, sin: mx.array, norm: mx.array, qkv_layer: Linear
    ) -> tuple[mx.array, ...]:
        """x [tokens, hidden] to q [heads, tokens, head_dim] and k, v [kv_heads, tokens, head_dim]."""
        heads, kv_heads = self.config.num_attention_heads, self.config.num_key_value_heads
        qkv = linear(rms_norm(x, norm, self.config.rms_norm_eps), qkv_layer)
        qkv = qkv.reshape(len(x), -1, self.config.head_dim).swapaxes(0, 1)
        rotated = rotate(qkv[: heads + kv_heads], cos, sin)
        return rotated[:heads], rotated[heads:], qkv[heads + kv_heads :]

    def _after_attention(
        self,
        x: mx.array,
        attended: mx.array,
        out: Linear,
        norm: mx.array,
        gate: Linear,
        mlp1: Experts,
        mlp2: Experts,
    ) -> tuple[mx.array, ...]:
        """x [tokens, hidden], attended [heads, tokens, head_dim]; what the layer leaves in the stream."""
        config = self.config
        x = x + linear(attended.swapaxes(0, 1).reshape(len(x), -1), out)
        t = rms_norm(x, norm, config.rms_norm_eps)
        chosen, shares = route(linear(t, gate), config.experts_per_token)
        scale = self.weights.expert_input_scale
        return (x + mixture_of_experts(t, chosen, shares, mlp1, mlp2, config.swiglu_limit, scale),)


def rms_norm(x: mx.array, scale: mx.array, eps: float) -> mx.array:
    """x [tokens, hidden] with every row brought to a root mean square of 1, then scaled by column."""
    return mx.fast.rms_norm(x, scale, eps).astype(x.dtype)


def linear(x: mx.array, layer: Linear) -> mx.array:
    """x [tokens, in] to [tokens, out]."""
    weight, bias = layer  # where mlx compiles, it is a plain tuple
    return mx.addmm(bias, x, weight) if isinstance(weight, mx.array) else multiply(x, weight) + bias


def multiply(x: mx.array, matrix: Matrix) -> mx.array:
    """x [tokens, in] to [tokens, out]."""
    if isinstance(matrix, mx.array):
        return x @ matrix
    codes, scales, offsets = matrix
    return mx.quantized_matmul(x, codes, scales, offsets, transpose=True, group_size=GROUP, bits=8)


def rotate(x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    """x [heads, tokens, head_dim]: each pair (x_i, x_{i + head_dim / 2}) turned by its token's angle i."""
    x1, x2 = mx.split(x.astype(mx.float32), 2, axis=-1)
    return mx.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], axis=-1).astype(x.dtype)


def attention(q: mx.array, spans: Sequence[Span], cache: Cache, layer: int, sinks: mx.array) -> mx.array:
    """q [heads, tokens, head_dim] to the same shape: every span over its own sequence's keys.

    A sink is a logit of the softmax's denominator, neither scaled nor masked, and carries no value.
    """
    parts = []
    for span in spans:
        k, v = cache.read(layer, span.keys)
        part = mx.fast.scaled_dot_product_attention(
            q[None, :, span.queries], k[None], v[None], scale=1 / math.sqrt(q.shape[-1]), mask=span.mask, sinks=sinks
        )
        parts.append(part[0])
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=1)


def route(router_logits: mx.array, experts_per_token: int) -> tuple[mx.array, mx.array]:
    """[tokens, experts] to the chosen experts and their shares, both [tokens, experts_per_token].

    The softmax is over the chosen logits only.
    """
    order = mx.argpartition(-router_logits, experts_per_token - 1, axis=-1)
    chosen = order[:, :experts_per_token]
    best = mx.take_along_axis(router_logits, chosen, axis=-1)
    return chosen, mx.softmax(best.astype(mx.float32), axis=-1)


def mixture_of_experts(
    t: mx.array, chosen: mx.array, shares: mx.array, mlp1: Experts, mlp2: Experts, limit: float, input_scale: float
) -> mx.array:
    """t [tokens, hidden]; chosen, shares [tokens, experts_per_token]. The experts' answers, each times its share."""
    tokens, top = chosen.shape
    ordered = tokens * top >= SORTED_ROWS
    if ordered:
        experts = chosen.flatten()
        order = mx.argsort(experts)
        experts, x = experts[order], t[order // top][:, None]  # [rows, 1, hidden]
    else:
        experts, x = chosen, t[:, None, None]  # [tokens, 1, 1, hidden], for each of the chosen
    h = swiglu(apply_experts(x, experts, mlp1, input_scale, ordered), limit)
    h = apply_experts(h, experts, mlp2, input_scale, ordered).squeeze(-2)
    if ordered:
        h = h[mx.argsort(order)].reshape(tokens, top, -1)
    return (h * shares[..., None]).sum(-2).astype(t.dtype)


def apply_experts(x: mx.array, experts: mx.array, matrices: Experts, input_scale: float, ordered: bool) -> mx.array:
    """x [..., 1, in] to [..., 1, out], each row by the expert that `experts` names. ordered: experts ascend."""
    blocks, scales, bias = matrices
    if scales is None:
        y = mx.gather_mm(x, blocks.swapaxes(-1, -2), rhs_indices=experts, sorted_indices=ordered)
    else:
        if input_scale != 1:
            x = x * input_scale
        y = mx.gather_qmm(
            x,
            blocks,
            scales,
            rhs_indices=experts,
            transpose=True,
            group_size=32,
            bits=4,
            mode="mxfp4",
            sorted_indices=ordered,
        )
    return y + bias[experts][..., None, :]


def swiglu(x: mx.array, limit: float) -> mx.array:
    """x [..., 2 * intermediate], gate and linear part interleaved, to [..., intermediate].

    The gate is clamped from above only, the linear part on both sides and shifted by one.
    """
    gate, up = x[..., 0::2].astype(mx.float32), x[..., 1::2].astype(mx.float32)
    gate, up = mx.minimum(gate, limit), mx.clip(up, -limit, limit)
    return (gate * mx.sigmoid(SWIGLU_ALPHA * gate) * (up + 1)).astype(x.dtype)
