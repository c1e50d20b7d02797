"""Known defects of gpt-oss implementations, each a patch of the torch backend that the parity check must notice.

Most were found in published engines; the rest are their neighbours. A check that lets one through says nothing about
the fact that the defect breaks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn.functional import linear

from gpt_oss.backends.torch import model, network, weights
from gpt_oss.backends.torch.weights import Block, NetworkWeights
from gpt_oss.model.config import ModelConfig
from gpt_oss.model.tensors import Weights


@dataclass(frozen=True)
class Defect:
    """break_it: from the right function to the broken one. An owner without the attribute is an error."""

    name: str
    owner: Any
    attribute: str
    break_it: Callable[[Any], Any]

    def injected(self) -> AbstractContextManager[Any]:
        right = getattr(self.owner, self.attribute)
        return mock.patch.object(self.owner, self.attribute, self.break_it(right))


def always(value: Any) -> Callable[[Any], Any]:
    return lambda right: lambda *_, **__: value


def instead(broken: Callable[..., Any]) -> Callable[[Any], Any]:
    return lambda right: broken


def in_blocks(edit: Callable[[Block], Block]) -> Callable[[Any], Any]:
    """Changes the weights of every layer after they were loaded."""

    def break_it(load: Callable[..., NetworkWeights]) -> Callable[..., NetworkWeights]:
        def broken(*args: Any, **options: Any) -> NetworkWeights:
            loaded = load(*args, **options)
            return replace(loaded, blocks=[edit(block) for block in loaded.blocks])

        return broken

    return break_it


def without_bias(part: str) -> Callable[[Any], Any]:
    def edit(block: Block) -> Block:
        query_rows = block.out_weight.shape[1]
        key_rows = (len(block.qkv_bias) - query_rows) // 2
        q, k, v = block.qkv_bias.clone().split([query_rows, key_rows, key_rows])
        {"q": q, "k": k, "v": v}[part].zero_()
        return replace(block, qkv_bias=torch.cat([q, k, v]))

    return in_blocks(edit)


def zeroed(field: str) -> Callable[[Any], Any]:
    return in_blocks(lambda block: replace(block, **{field: torch.zeros_like(getattr(block, field))}))


# ---- rotary embedding ---------------------------------------------------------------------------------------------


def plain_frequencies(config: ModelConfig, dtype: torch.dtype) -> Tensor:
    half = config.head_dim // 2
    return 1 / config.rope_theta ** (torch.arange(half, dtype=dtype) / half)


def yarn_only_past_the_initial_context(right: Callable[..., Any]) -> Callable[..., Any]:
    def broken(config: ModelConfig, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        if positions.max() >= config.initial_context_length:
            return right(config, positions, dtype)
        angles = positions[:, None].to(dtype) * plain_frequencies(config, dtype)
        return angles.cos(), angles.sin()

    return broken


def rotate_interleaved_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    x1, x2 = x[..., 0::2], x[..., 1::2]
    cos, sin = cos[:, None], sin[:, None]
    return torch.stack([x1 * cos - x2 * sin, x2 * cos + x1 * sin], dim=-1).flatten(-2)


# ---- attention ----------------------------------------------------------------------------------------------------


def window_of(change: int) -> Callable[[Any], Any]:
    def break_it(right: Callable[..., int | None]) -> Callable[..., int | None]:
        return lambda config, layer: None if (keys := right(config, layer)) is None else keys + change

    return break_it


def sinks_times(factor: float) -> Callable[[Any], Any]:
    return in_blocks(lambda block: replace(block, sinks=block.sinks * factor))


def swap_gqa_axes(right: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Heads seen as [group, kv_heads], going in and (attend flattens the same axes) coming out."""

    def broken(q: Tensor, k: Tensor, v: Tensor, sinks: Tensor, mask: Tensor) -> Tensor:
        kv_heads = k.shape[1]
        order = torch.arange(q.shape[1]).view(-1, kv_heads).T.flatten()
        return right(q[:, order], k, v, sinks[order], mask)[:, order.argsort()]

    return broken


def sinks_in_some_layers(kept: Callable[[int], bool]) -> Callable[[Any], Any]:
    def break_it(right: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def broken(q: Tensor, spans: Any, cache: Any, layer: int, sinks: Tensor, window: int | None) -> Tensor:
            without = torch.full_like(sinks, -math.inf)
            return right(q, spans, cache, layer, sinks if kept(layer) else without, window)

        return broken

    return break_it


# ---- mixture of experts -------------------------------------------------------------------------------------------


def softmax_over_all_experts(router_logits: Tensor, experts_per_token: int) -> tuple[Tensor, Tensor]:
    shares, chosen = router_logits.softmax(dim=-1).topk(experts_per_token, dim=-1)
    return chosen, shares


def equal_shares(right: Callable[..., Any]) -> Callable[..., Any]:
    def broken(router_logits: Tensor, experts_per_token: int) -> tuple[Tensor, Tensor]:
        chosen, shares = right(router_logits, experts_per_token)
        return chosen, torch.full_like(shares, 1 / experts_per_token)

    return broken


def swiglu_variant(
    *,
    alpha: float = 1.702,
    shift: float = 1,
    gate_low: bool = False,
    linear_low: bool = True,
    limit: float | None = None,
) -> Callable[[Any], Any]:
    """limit: in place of the config's."""

    def broken(x: Tensor, config_limit: float) -> Tensor:
        most = config_limit if limit is None else limit
        gate, up = network.split_gate(x)
        gate = gate.clamp(-most if gate_low else None, most)
        up = up.clamp(-most if linear_low else None, most)
        return gate * torch.sigmoid(alpha * gate) * (up + shift)

    return instead(broken)


def mlp2_bias_outside_the_sum(t: Tensor, chosen: Tensor, shares: Tensor, block: Block, limit: float) -> Tensor:
    total = torch.zeros_like(t)
    for token in range(len(t)):
        for expert, share in zip(chosen[token].tolist(), shares[token], strict=True):
            h = linear(t[token], block.mlp1.matrix(expert), block.mlp1_bias[expert])
            total[token] += (
                share * linear(network.swiglu(h, limit), block.mlp2.matrix(expert)) + block.mlp2_bias[expert]
            )
    return total


# ---- the table ----------------------------------------------------------------------------------------------------

CONTROL = Defect("none (control: must pass)", network, "forward", lambda right: right)

DEFECTS = (
    Defect("window one key wider", network, "window", window_of(+1)),
    Defect("window one key narrower", network, "window", window_of(-1)),
    Defect("no window", network, "window", always(None)),
    Defect("windows on odd layers", ModelConfig, "is_windowed", instead(lambda config, layer: layer % 2 == 1)),
    Defect("windows on all layers", ModelConfig, "is_windowed", always(True)),
    Defect(
        "a query sees the next token",
        network,
        "visible",
        lambda right: lambda queries, keys, window: right(queries + 1, keys, window and window + 1),
    ),
    Defect("scores not scaled", network, "attend", lambda right: lambda q, *rest: right(q * q.shape[-1] ** 0.5, *rest)),
    Defect("no sinks", network, "attention", sinks_in_some_layers(lambda layer: False)),
    Defect("sinks in full layers only", network, "attention", sinks_in_some_layers(lambda layer: layer % 2 == 1)),
    Defect("sinks in windowed layers only", network, "attention", sinks_in_some_layers(lambda layer: layer % 2 == 0)),
    Defect("sinks scaled as the scores", model, "load", sinks_times(16**-0.5)),
    Defect("sinks at zero", model, "load", sinks_times(0)),
    Defect("GQA axes swapped", network, "attend", swap_gqa_axes),
    Defect("k and v swapped", network, "split_heads", lambda right: lambda *a: (lambda q, k, v: (q, v, k))(*right(*a))),
    Defect("no q bias", model, "load", without_bias("q")),
    Defect("no k bias", model, "load", without_bias("k")),
    Defect("no v bias", model, "load", without_bias("v")),
    Defect("no out bias", model, "load", zeroed("out_bias")),
    Defect(
        "YaRN's bounds rounded",
        network,
        "yarn_bounds",
        lambda right: lambda config: (math.floor(right(config)[0]), math.ceil(right(config)[1])),
    ),
    Defect("no YaRN", network, "inverse_frequencies", instead(plain_frequencies)),
    Defect("YaRN past the initial context only", network, "rotary_tables", yarn_only_past_the_initial_context),
    Defect("no concentration", network, "yarn_concentration", always(1.0)),
    Defect("rotary over interleaved pairs", network, "rotate", instead(rotate_interleaved_pairs)),
    Defect("rotary turns backwards", network, "rotate", lambda right: lambda x, cos, sin: right(x, cos, -sin)),
    Defect("no router bias", model, "load", zeroed("gate_bias")),
    Defect("softmax over all experts", network, "route", instead(softmax_over_all_experts)),
    Defect("all shares equal", network, "route", equal_shares),
    Defect("one expert too few", network, "route", lambda right: lambda logits, k: right(logits, k - 1)),
    Defect("one expert too many", network, "route", lambda right: lambda logits, k: right(logits, k + 1)),
    Defect("gate and linear as halves", network, "split_gate", instead(lambda x: x.chunk(2, dim=-1))),
    Defect("gate and linear swapped", network, "split_gate", lambda right: lambda x: right(x)[::-1]),
    Defect("linear part without + 1", network, "swiglu", swiglu_variant(shift=0)),
    Defect("no clamp", network, "swiglu", swiglu_variant(limit=math.inf)),
    Defect("limit fixed at 7", network, "swiglu", swiglu_variant(limit=7)),
    Defect("gate clamped on both sides", network, "swiglu", swiglu_variant(gate_low=True)),
    Defect("linear part clamped from above only", network, "swiglu", swiglu_variant(linear_low=False)),
    Defect("sigmoid without 1.702", network, "swiglu", swiglu_variant(alpha=1)),
    Defect("no mlp1 bias", model, "load", zeroed("mlp1_bias")),
    Defect("no mlp2 bias", model, "load", zeroed("mlp2_bias")),
    Defect("mlp2 bias outside the weighted sum", network, "mixture_of_experts", instead(mlp2_bias_outside_the_sum)),
    Defect("eps of 1e-5 whatever the config", network, "rms_norm", lambda right: lambda x, s, eps: right(x, s, 1e-5)),
    Defect("no norm scale", network, "rms_norm", lambda right: lambda x, s, eps: right(x, torch.ones_like(s), eps)),
    Defect("high nibble first", weights, "nibbles", lambda right: lambda blocks: right((blocks << 4) | (blocks >> 4))),
    Defect("MXFP4 scale off by one", weights, "e8m0_values", lambda right: lambda device: right(device) * 2),
    Defect("no MXFP4 sign", weights, "e2m1_values", lambda right: lambda device: right(device).abs()),
    Defect(
        "e2m1 table of seven values", weights, "e2m1_values", lambda right: lambda device: right(device).clamp(-4, 4)
    ),
    Defect(
        "embeddings tied",
        model,
        "load",
        lambda load: lambda *a, **o: (lambda loaded: replace(loaded, unembedding=loaded.embedding))(load(*a, **o)),
    ),
)


# ---- defects that show only where several processes share a model ---------------------------------------------------


def bias_in_every_process(field: str, name: str) -> Callable[[Any], Any]:
    def break_it(load: Callable[..., NetworkWeights]) -> Callable[..., NetworkWeights]:
        def broken(source: Weights, *args: Any, **options: Any) -> NetworkWeights:
            loaded = load(source, *args, **options)
            biases = [weights.to_torch(source.tensor(f"block.{i}.{name}")) for i in range(len(loaded.blocks))]
            blocks = [
                replace(block, **{field: bias.to(getattr(block, field).dtype)})
                for block, bias in zip(loaded.blocks, biases, strict=True)
            ]
            return replace(loaded, blocks=blocks)

        return broken

    return break_it


def qkv_rows_in_one_run(right: property) -> property:
    """As if the fused matrix were one list of heads."""

    def broken(share: weights.Share) -> list[slice]:
        rows = sum(run.stop - run.start for run in right.fget(share))  # type: ignore[misc]
        return [slice(share.rank * rows, (share.rank + 1) * rows)]

    return property(broken)


PARALLEL_DEFECTS = (
    Defect("mlp2 bias in every process", model, "load", bias_in_every_process("mlp2_bias", "mlp.mlp2_bias")),
    Defect("out bias in every process", model, "load", bias_in_every_process("out_bias", "attn.out.bias")),
    Defect("biases in no process", weights.Share, "adds_biases", lambda right: property(lambda share: False)),
    Defect("rows of qkv in one run", weights.Share, "qkv_rows", qkv_rows_in_one_run),
)
