"""The forward pass of gpt-oss in torch: `forward` names the steps, and the functions below it are the steps.

Every function is the plain definition of its step, in the precision of the weights, with norms, rotary, attention and
softmax computed in float32 at least. Knows nothing of files, block tables or processes: those come in as arguments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import linear

from gpt_oss.backends.torch.cache import Cache, Span
from gpt_oss.backends.torch.weights import Block, NetworkWeights, Vocabulary
from gpt_oss.model.config import ModelConfig

SWIGLU_ALPHA = 1.702

AddUp: TypeAlias = Callable[[Tensor], Tensor]  # the sum of a tensor over the processes that share the model


@dataclass(frozen=True)
class Batch:
    """The new tokens of all sequences, one after the other.

    tokens, positions: int64 [tokens]. spans: the same rows cut into runs of one sequence, see cache.Span.
    wanted: int64, the rows whose logits are asked for.
    """

    tokens: Tensor
    positions: Tensor
    spans: Sequence[Span]
    wanted: Tensor


def forward(weights: NetworkWeights, config: ModelConfig, batch: Batch, cache: Cache, add_up: AddUp) -> Tensor:
    """Logits [wanted, vocab]; keys and values of the batch are written to the cache.

    A process that holds a share of the heads, of each expert's rows and of the vocabulary computes its part of a sum;
    `add_up` makes the sum whole.
    """
    eps = config.rms_norm_eps
    x = add_up(embed(batch.tokens, weights.embedding))  # [tokens, hidden]
    rotary = rotary_tables(config, batch.positions, wide(x.dtype))
    for layer, block in enumerate(weights.blocks):
        t = rms_norm(x, block.attention_norm, eps)
        q, k, v = split_heads(linear(t, block.qkv_weight, block.qkv_bias), config.head_dim, cache.kv_heads)
        q, k = rotate(q, *rotary), rotate(k, *rotary)
        cache.write(layer, batch.spans, k, v)
        t = attention(q, batch.spans, cache, layer, block.sinks, window(config, layer))
        x = x + add_up(linear(t, block.out_weight, block.out_bias))

        t = rms_norm(x, block.mlp_norm, eps)
        chosen, shares = route(linear(t, block.gate_weight, block.gate_bias), config.experts_per_token)
        x = x + add_up(mixture_of_experts(t, chosen, shares, block, config.swiglu_limit))
    x = rms_norm(x[batch.wanted], weights.norm, eps)
    return add_up(unembed(x, weights.unembedding))


def wide(dtype: torch.dtype) -> torch.dtype:
    """What norms, rotary, attention and softmax are computed in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def embed(tokens: Tensor, table: Vocabulary) -> Tensor:
    """[tokens, hidden]: rows of the table; zeros for the tokens whose rows another process holds."""
    row = tokens - table.first
    here = (row >= 0) & (row < len(table.rows))
    return torch.where(here[:, None], table.rows[row.where(here, 0)], 0)


def unembed(x: Tensor, table: Vocabulary) -> Tensor:
    """Logits [rows, vocab]; zeros for the tokens whose rows another process holds."""
    logits = x.new_zeros(len(x), table.size)
    logits[:, table.first : table.first + len(table.rows)] = linear(x, table.rows)
    return logits


def rms_norm(x: Tensor, scale: Tensor, eps: float) -> Tensor:
    """x [tokens, hidden] with every row brought to a root mean square of 1, then scaled by column."""
    t = x.to(wide(x.dtype))
    t = t * torch.rsqrt(t.square().mean(-1, keepdim=True) + eps)
    return (t * scale).to(x.dtype)


# ---- rotary embedding: YaRN with NTK-by-parts (arXiv 2309.00071) --------------------------------------------------


def rotary_tables(config: ModelConfig, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines [positions, head_dim / 2], times the concentration.

    In float32 the angles, too, are rounded to float32, in the released implementation's order of operations: what the
    models were made with, and what other engines compute. At position 4,096 that moves an angle by up to 0.0002.
    """
    angles = positions[:, None].to(dtype) * inverse_frequencies(config, dtype).to(positions.device)
    concentration = yarn_concentration(config)
    return angles.cos() * concentration, angles.sin() * concentration


def inverse_frequencies(config: ModelConfig, dtype: torch.dtype) -> Tensor:
    """Radians per position, [head_dim / 2]: fast dimensions as they are, slow ones slowed by the factor."""
    half = config.head_dim // 2
    dimensions = torch.arange(half, dtype=dtype)
    low, high = yarn_bounds(config)
    slowed = ((dimensions - low) / (high - low)).clamp(0, 1)
    wavelength = config.rope_theta ** (dimensions / half)
    return 1 / (config.rope_scaling_factor * wavelength) * slowed + 1 / wavelength * (1 - slowed)


def yarn_bounds(config: ModelConfig) -> tuple[float, float]:
    """The dimensions, not rounded, that turn rope_ntk_beta and rope_ntk_alpha times within the initial context."""

    def dimension(turns: float) -> float:
        wavelength = config.initial_context_length / (2 * math.pi * turns)
        return config.head_dim / 2 * math.log(wavelength) / math.log(config.rope_theta)

    return dimension(config.rope_ntk_beta), dimension(config.rope_ntk_alpha)


def yarn_concentration(config: ModelConfig) -> float:
    return 0.1 * math.log(config.rope_scaling_factor) + 1


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [tokens, heads, head_dim]: each pair (x_i, x_{i + head_dim / 2}) turned by its token's angle i."""
    cos, sin = cos[:, None], sin[:, None]
    x1, x2 = x.to(cos.dtype).chunk(2, dim=-1)
    return torch.cat([x1 * cos - x2 * sin, x2 * cos + x1 * sin], dim=-1).to(x.dtype)


# ---- attention ----------------------------------------------------------------------------------------------------


def split_heads(qkv: Tensor, head_dim: int, kv_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """[tokens, rows of qkv] to q [tokens, heads, head_dim] and k, v [tokens, kv_heads, head_dim]."""
    heads = qkv.view(len(qkv), -1, head_dim)
    return heads[:, : -2 * kv_heads], heads[:, -2 * kv_heads : -kv_heads], heads[:, -kv_heads:]


def window(config: ModelConfig, layer: int) -> int | None:
    """How many keys a query of this layer sees, itself included; None is all of them."""
    return config.sliding_window if config.is_windowed(layer) else None


def attention(q: Tensor, spans: Sequence[Span], cache: Cache, layer: int, sinks: Tensor, window: int | None) -> Tensor:
    """q [tokens, heads, head_dim] to [tokens, heads * head_dim]: every span over its own sequence's keys."""
    attended = torch.empty_like(q)
    for span in spans:
        k, v, key_positions = cache.read(layer, span)
        attended[span.rows] = attend(q[span.rows], k, v, sinks, visible(span.positions, key_positions, window))
    return attended.flatten(1)


def attend(q: Tensor, k: Tensor, v: Tensor, sinks: Tensor, mask: Tensor) -> Tensor:
    """q [queries, heads, head_dim] over k, v [keys, kv_heads, head_dim], where mask [queries, keys] is true."""
    dtype = wide(q.dtype)
    grouped = group_queries(q, k.shape[1]).to(dtype)  # [queries, kv_heads, group, head_dim]
    scores = torch.einsum("qhgd,khd->hgqk", grouped, k.to(dtype)) / math.sqrt(q.shape[-1])
    scores = scores.masked_fill(~mask, -math.inf)
    probabilities = softmax_with_sinks(scores, sinks.to(dtype))
    return ungroup_queries(torch.einsum("hgqk,khd->qhgd", probabilities, v.to(dtype))).to(q.dtype)


def group_queries(q: Tensor, kv_heads: int) -> Tensor:
    """[queries, heads, head_dim] to [queries, kv_heads, heads / kv_heads, head_dim]: neighbours share a key head."""
    return q.reshape(len(q), kv_heads, -1, q.shape[-1])


def ungroup_queries(q: Tensor) -> Tensor:
    return q.flatten(1, 2)


def visible(queries: Tensor, keys: Tensor, window: int | None) -> Tensor:
    """Bool [queries, keys], both positions: a query sees itself and earlier ones; in a window, `window` keys in all."""
    distance = queries[:, None] - keys
    return distance >= 0 if window is None else (distance >= 0) & (distance < window)


def softmax_with_sinks(scores: Tensor, sinks: Tensor) -> Tensor:
    """scores [kv_heads, group, queries, keys]; sinks [heads], in the same order of heads.

    A sink is a logit of the denominator as it stands, neither scaled nor masked, and carries no value.
    """
    column = sinks.view(*scores.shape[:2], 1, 1).expand(*scores.shape[:3], 1)
    return torch.cat([scores, column], dim=-1).softmax(dim=-1)[..., :-1]


# ---- mixture of experts -------------------------------------------------------------------------------------------


def route(router_logits: Tensor, experts_per_token: int) -> tuple[Tensor, Tensor]:
    """[tokens, experts] to the chosen experts and their shares, both [tokens, experts_per_token].

    The softmax is over the chosen logits only.
    """
    best, chosen = router_logits.topk(experts_per_token, dim=-1)
    return chosen, best.to(wide(best.dtype)).softmax(dim=-1)


def mixture_of_experts(t: Tensor, chosen: Tensor, shares: Tensor, block: Block, limit: float) -> Tensor:
    """t [tokens, hidden]; chosen, shares [tokens, experts_per_token]. The experts' answers, each times its share."""
    total = torch.zeros_like(t, dtype=shares.dtype)
    for expert in sorted(set(chosen.flatten().tolist())):
        rows, ranks = (chosen == expert).nonzero(as_tuple=True)
        h = linear(t[rows], block.mlp1.matrix(expert), block.mlp1_bias[expert])
        h = linear(swiglu(h, limit), block.mlp2.matrix(expert), block.mlp2_bias[expert])
        total.index_add_(0, rows, h * shares[rows, ranks, None])
    return total.to(t.dtype)


def swiglu(x: Tensor, limit: float) -> Tensor:
    """x [rows, 2 * intermediate] to [rows, intermediate]; the gate is clamped from above only."""
    gate, up = split_gate(x)
    gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
    return gate * torch.sigmoid(SWIGLU_ALPHA * gate) * (up + 1)


def split_gate(x: Tensor) -> tuple[Tensor, Tensor]:
    """Gate and linear part lie interleaved, so that a run of rows of mlp1 holds whole pairs."""
    return x[..., 0::2], x[..., 1::2]
