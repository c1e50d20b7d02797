"""The network of gpt-oss in numpy and float64: the readable definition of what is computed, and every test's oracle.

Made to be read, not to be fast: no cache, the whole sequence at once. Knows nothing of batches, precision or hardware.
Sources: the gpt-oss model card (arXiv 2508.10925); YaRN (arXiv 2309.00071); OCP Microscaling Formats v1.0 for MXFP4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gpt_oss.model import mxfp4
from gpt_oss.model.config import ModelConfig
from gpt_oss.model.tensors import Index, Weights

Float64 = NDArray[np.float64]

SWIGLU_ALPHA = 1.702
QUERIES_AT_ONCE = 256  # bounds the memory of the attention scores


def forward(weights: Weights, tokens: Sequence[int] | NDArray[np.integer]) -> Float64:
    """Logits [tokens, vocab] after each of `tokens`, which stand at positions 0, 1, 2 …

    weights: an open Checkpoint, or anything else that has the canonical tensors (model/tensors.py).
    """
    config = weights.config
    cos, sin = rotary_tables(config, np.arange(len(tokens)))

    x = _load(weights, "embedding.weight")[np.asarray(tokens)]  # [tokens, hidden]
    for layer in range(config.num_hidden_layers):
        x = x + attention(x, weights, layer, cos, sin)
        x = x + mixture_of_experts(x, weights, layer)
    x = rms_norm(x, _load(weights, "norm.scale"), config.rms_norm_eps)
    return x @ _load(weights, "unembedding.weight").T


def attention(x: Float64, weights: Weights, layer: int, cos: Float64, sin: Float64) -> Float64:
    """What the attention of a layer adds to the stream x [tokens, hidden]."""
    config, name = weights.config, f"block.{layer}.attn"
    tokens, heads, kv_heads = len(x), config.num_attention_heads, config.num_key_value_heads

    t = rms_norm(x, _load(weights, f"{name}.norm.scale"), config.rms_norm_eps)
    qkv = t @ _load(weights, f"{name}.qkv.weight").T + _load(weights, f"{name}.qkv.bias")
    q, k, v = np.split(qkv.reshape(tokens, heads + 2 * kv_heads, config.head_dim), [heads, heads + kv_heads], axis=1)
    q, k = rotate(q, cos, sin), rotate(k, cos, sin)

    # Query heads 0 .. heads / kv_heads - 1 share key head 0, the next ones key head 1, and so on.
    k, v = (np.repeat(each, heads // kv_heads, axis=1) for each in (k, v))  # [tokens, heads, head_dim]
    window = config.sliding_window if config.is_windowed(layer) else None
    sinks = _load(weights, f"{name}.sinks")

    attended = np.empty_like(q)
    for first in range(0, tokens, QUERIES_AT_ONCE):
        last = min(first + QUERIES_AT_ONCE, tokens)
        first_key = 0 if window is None else max(0, first - window + 1)
        keys = slice(first_key, last)
        scores = np.einsum("qhd,khd->hqk", q[first:last], k[keys], optimize=True) / math.sqrt(config.head_dim)
        scores[:, ~visible(np.arange(first, last), np.arange(first_key, last), window)] = -np.inf
        attended[first:last] = np.einsum("hqk,khd->qhd", softmax_with_sinks(scores, sinks), v[keys], optimize=True)

    return attended.reshape(tokens, -1) @ _load(weights, f"{name}.out.weight").T + _load(weights, f"{name}.out.bias")


def mixture_of_experts(x: Float64, weights: Weights, layer: int) -> Float64:
    """What the experts of a layer add to the stream x [tokens, hidden]."""
    config, name = weights.config, f"block.{layer}.mlp"

    t = rms_norm(x, _load(weights, f"{name}.norm.scale"), config.rms_norm_eps)
    router_logits = t @ _load(weights, f"{name}.gate.weight").T + _load(weights, f"{name}.gate.bias")
    chosen = np.argsort(-router_logits, axis=1, kind="stable")[:, : config.experts_per_token]  # [tokens, top-k]
    shares = softmax(np.take_along_axis(router_logits, chosen, axis=1))  # over the chosen experts only

    added = np.zeros_like(x)
    for expert in np.unique(chosen):
        rows, ranks = np.nonzero(chosen == expert)
        only = (slice(expert, expert + 1),)
        h = t[rows] @ _expert(weights, f"{name}.mlp1_weight", expert).T + _load(weights, f"{name}.mlp1_bias", only)
        h = swiglu(h, config.swiglu_limit)
        h = h @ _expert(weights, f"{name}.mlp2_weight", expert).T + _load(weights, f"{name}.mlp2_bias", only)
        added[rows] += shares[rows, ranks, None] * h
    return added


def rms_norm(x: Float64, scale: Float64, eps: float) -> Float64:
    """x [tokens, hidden] with every row brought to a root mean square of 1, then scaled by column."""
    mean_square: Float64 = np.mean(x**2, axis=-1, keepdims=True)
    return x / np.sqrt(mean_square + eps) * scale


def swiglu(x: Float64, limit: float) -> Float64:
    """x [tokens, 2 * intermediate], gate and linear columns interleaved, to [tokens, intermediate].

    The gate is clamped from above only, the linear part on both sides and shifted by one.
    """
    gate, linear = x[:, 0::2], x[:, 1::2]
    gate, linear = np.minimum(gate, limit), np.clip(linear, -limit, limit)
    with np.errstate(over="ignore"):  # exp(big) = inf gives the right sigmoid, 0
        sigmoid: Float64 = 1 / (1 + np.exp(-SWIGLU_ALPHA * gate))
    return gate * sigmoid * (linear + 1)


def visible(queries: NDArray[np.int64], keys: NDArray[np.int64], window: int | None) -> NDArray[np.bool_]:
    """[queries, keys], both positions: a query sees itself and what came before; in a window, `window` keys in all."""
    distance = queries[:, None] - keys
    return (distance >= 0) if window is None else (distance >= 0) & (distance < window)


def softmax(x: Float64) -> Float64:
    e: Float64 = np.exp(x - x.max(axis=-1, keepdims=True))
    total: Float64 = e.sum(axis=-1, keepdims=True)
    return e / total


def softmax_with_sinks(scores: Float64, sinks: Float64) -> Float64:
    """scores [heads, queries, keys] to probabilities that leave room for each head's sink, a key without a value.

    The sink is a logit as it stands: neither scaled nor masked.
    """
    column = np.broadcast_to(sinks[:, None, None], (*scores.shape[:2], 1))
    return softmax(np.concatenate([scores, column], axis=-1))[..., :-1]


def rotary_tables(config: ModelConfig, positions: NDArray[np.int64]) -> tuple[Float64, Float64]:
    """Cosines and sines [positions, head_dim / 2], with YaRN's concentration in them.

    YaRN with NTK-by-parts: fast dimensions keep their frequency, slow ones are slowed by rope_scaling_factor, with
    a ramp between the two dimensions that turn rope_ntk_beta and rope_ntk_alpha times within the initial context.
    The ramp's ends are not rounded to whole dimensions. It applies at every position, not only to long contexts.
    """
    half = config.head_dim // 2
    dimensions = np.arange(half)
    wavelength = config.rope_theta ** (dimensions / half)  # in positions per radian
    low, high = (_dimension_that_turns(times, config) for times in (config.rope_ntk_beta, config.rope_ntk_alpha))
    ramp = np.clip((dimensions - low) / (high - low), 0, 1)
    inverse_frequency = ramp / (config.rope_scaling_factor * wavelength) + (1 - ramp) / wavelength
    concentration = 0.1 * math.log(config.rope_scaling_factor) + 1
    angles = positions[:, None] * inverse_frequency
    return concentration * np.cos(angles), concentration * np.sin(angles)


def _dimension_that_turns(times: float, config: ModelConfig) -> float:
    """The (fractional) dimension whose angle makes so many full turns in the initial context."""
    turns = config.initial_context_length / (times * 2 * math.pi)
    return config.head_dim / 2 * math.log(turns) / math.log(config.rope_theta)


def rotate(x: Float64, cos: Float64, sin: Float64) -> Float64:
    """x [tokens, heads, head_dim]: each pair (x_i, x_{i + head_dim / 2}) turned by its token's angle i."""
    cos, sin = cos[:, None], sin[:, None]
    x1, x2 = np.split(x, 2, axis=-1)
    return np.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], axis=-1)


def _load(weights: Weights, name: str, index: Index = ()) -> Float64:
    tensor: Float64 = weights.tensor(name, index).astype(np.float64)
    return tensor


def _expert(weights: Weights, name: str, expert: int) -> Float64:
    """One expert's matrix [out, in]."""
    only = (slice(expert, expert + 1),)
    if weights.quantized:
        decoded = mxfp4.decode(weights.tensor(f"{name}.blocks", only), weights.tensor(f"{name}.scales", only))
        return decoded.squeeze(0).astype(np.float64)
    return _load(weights, name, only).squeeze(0)
