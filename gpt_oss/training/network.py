"""gpt-oss with gradients: the same steps as backends/torch/network.py, for packs of whole examples and without a cache.

Plain torch on any device, in float32 or under autocast. Knows nothing of optimisers, files on disk or processes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.functional import linear, pad, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from gpt_oss.backends.torch.network import SWIGLU_ALPHA, rms_norm, rotary_tables, rotate, route, visible, wide, window
from gpt_oss.errors import ParameterError
from gpt_oss.model import mxfp4
from gpt_oss.model.config import ModelConfig
from gpt_oss.model.tensors import BLOCK_VALUES, Weights, canonical_tensors
from gpt_oss.training.data import IGNORED, Pack

LOGITS_AT_ONCE = 1 << 20  # of the softmax: small enough to stay in a core's cache
LOGITS_AT_ONCE_ON_GPU = 1 << 27  # half a gigabyte
ROWS_AT_ONCE = 1024  # of swiglu, for the same reason
SCORES_AT_ONCE = 1 << 22  # of one example's attention, which are kept for the backward pass
FURTHER_COLUMNS = 8  # of heads in attention on a GPU, whose fast kernels want whole eights


@dataclass(frozen=True)
class PackTensors:
    """A data.Pack on the network's device: int64 [tokens] each; lengths of the examples."""

    tokens: Tensor
    targets: Tensor
    positions: Tensor
    lengths: tuple[int, ...]

    @classmethod
    def of(cls, pack: Pack, device: torch.device | str = "cpu") -> PackTensors:
        positions = torch.cat([torch.arange(length) for length in pack.lengths])
        tokens, targets = torch.from_numpy(pack.tokens), torch.from_numpy(pack.targets)
        return cls(tokens.to(device), targets.to(device), positions.to(device), pack.lengths)


@dataclass(frozen=True)
class Loss:
    """total: the sum of the targets' cross-entropies, in nats. balance: 1 where all experts of every layer are used
    alike, up to num_experts / experts_per_token where the same ones always are; the mean over the layers."""

    total: Tensor
    balance: Tensor


class Network(nn.Module):
    """Parameters are float32, under their canonical names (see `canonical_name`).

    vocabulary: the only token ids with rows of their own in embedding and unembedding; all others share one further,
    last row. The loss is exactly that of the whole vocabulary with equal rows, at the cost of the few.
    quantize_experts: compute with the experts' weights rounded to MXFP4, and give the gradient to the weights as if
    they had not been (straight through), so that exporting them changes nothing.
    recompute: keep only each layer's input for the backward pass and compute the rest twice: less memory, more time.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        vocabulary: Iterable[int] | None = None,
        quantize_experts: bool = False,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.config = config
        self.recompute = recompute
        self.vocabulary = None if vocabulary is None else sorted(set(vocabulary))
        rows = config.vocab_size if self.vocabulary is None else len(self.vocabulary) + 1
        self.embedding = nn.Embedding(rows, config.hidden_size)
        self.block = nn.ModuleList(Block(config, layer, quantize_experts) for layer in range(config.num_hidden_layers))
        self.norm = Norm(config)
        self.unembedding = nn.Linear(config.hidden_size, rows, bias=False)
        if self.vocabulary is not None:
            self.register_buffer("row_of", _rows(self.vocabulary, config.vocab_size), persistent=False)
        shared = 0 if self.vocabulary is None else config.usable_vocab_size - len(self.vocabulary)
        self._shared_logit = math.log(shared) if shared > 0 else -math.inf

    def rows(self, tokens: Tensor) -> Tensor:
        """Which row of the embedding each token has; IGNORED stays as it is."""
        if self.vocabulary is None:
            return tokens
        row_of = cast(Tensor, self.row_of)
        return torch.where(tokens < 0, tokens, row_of[tokens.clamp(min=0)])

    def hidden(self, pack: PackTensors, wanted: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What the unembedding reads, [tokens, hidden], and the balance (see Loss). wanted: bool [tokens], the rows to
        give; what only the others need is not computed, which is the last layer's experts."""
        x = self.embedding(self.rows(pack.tokens))
        rotary = rotary_tables(self.config, pack.positions, x.dtype)
        balances = []
        for block in self.block:
            rows = wanted if block is self.block[-1] else None
            if self.recompute and torch.is_grad_enabled():
                x, balance = checkpoint(block, x, rotary, pack.lengths, rows, use_reentrant=False)
            else:
                x, balance = block(x, rotary, pack.lengths, rows)
            balances.append(balance)
        return self.norm(x), torch.stack(balances).mean()

    def forward(self, pack: PackTensors) -> Tensor:
        """Logits [tokens, rows]. With a `vocabulary`, row i is the token vocabulary[i]; the last one, any other."""
        return cast(Tensor, self.unembedding(self.hidden(pack)[0]))

    def loss(self, pack: PackTensors) -> Loss:
        """Of a pack; divide the total by the number of targets for the mean. Tokens outside the vocabulary count as
        one group."""
        wanted = pack.targets != IGNORED
        x, balance = self.hidden(pack, wanted)
        offsets = torch.zeros(self.unembedding.out_features, device=x.device, dtype=wide(x.dtype))
        if self.vocabulary is not None:
            offsets[-1] = self._shared_logit  # the shared row stands for many equal logits
        targets = self.rows(pack.targets[wanted])
        return Loss(sum_of_cross_entropies(x, self.unembedding.weight, offsets, targets), balance)

    @torch.no_grad()
    def load(self, weights: Weights) -> None:
        """Take the weights of a checkpoint. Raises ParameterError where its config is another."""
        if weights.config != self.config:
            raise ParameterError("the checkpoint's config is not the network's")
        for name, parameter in self.named_parameters():
            parameter.copy_(self._read(weights, canonical_name(name)))

    def _read(self, weights: Weights, name: str) -> Tensor:
        if name.endswith(("mlp1_weight", "mlp2_weight")) and weights.quantized:
            values = mxfp4.decode(weights.tensor(f"{name}.blocks"), weights.tensor(f"{name}.scales"))
            return torch.from_numpy(values)
        tensor = torch.from_numpy(weights.tensor(name).astype("float32"))
        if name not in ("embedding.weight", "unembedding.weight") or self.vocabulary is None:
            return tensor
        others = torch.ones(len(tensor), dtype=torch.bool)
        others[self.vocabulary] = False
        others[self.config.usable_vocab_size :] = False
        shared = tensor[others].mean(0, keepdim=True) if others.any() else tensor.mean(0, keepdim=True)
        return torch.cat([tensor[self.vocabulary], shared])

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Random weights to train from: every branch begins small beside the stream, and experts are chosen evenly."""
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if name.endswith("norm.scale"):
                parameter.fill_(1)
            elif name.endswith(("bias", "sinks")):
                parameter.zero_()
            else:
                inputs = parameter.shape[-1]
                deviation = 0.5 / math.sqrt(inputs)
                if name.endswith(("out.weight", "mlp2.weight")):
                    deviation /= math.sqrt(2 * self.config.num_hidden_layers)
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * deviation)


def canonical_name(name: str) -> str:
    """A parameter's name as model/tensors.py has it: the experts' differ by a letter from a module's."""
    return re.sub(r"(mlp[12])\.", r"\1_", name)


def _rows(vocabulary: Sequence[int], vocab_size: int) -> Tensor:
    """[vocab_size]: the row of each token id; those not in use have the last one."""
    if not vocabulary or vocabulary[0] < 0 or vocabulary[-1] >= vocab_size:
        raise ParameterError(f"the vocabulary must be token ids from 0 to {vocab_size - 1}, at least one")
    rows = torch.full((vocab_size,), len(vocabulary))
    rows[list(vocabulary)] = torch.arange(len(vocabulary))
    return rows


class Norm(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.eps = config.rms_norm_eps
        self.scale = nn.Parameter(torch.ones(config.hidden_size))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.scale, self.eps)


class Block(nn.Module):
    def __init__(self, config: ModelConfig, layer: int, quantize_experts: bool) -> None:
        super().__init__()
        self.attn = Attention(config, layer)
        self.mlp = MixtureOfExperts(config, quantize_experts)

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], lengths: Sequence[int], wanted: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        x = x + self.attn(x, rotary, lengths)
        if wanted is not None:
            x = x[wanted]
        added, balance = self.mlp(x)
        return x + added, balance


# ---- attention ------------------------------------------------------------------------------------------------------


class Attention(nn.Module):
    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.config = config
        self.window = window(config, layer)
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.norm = Norm(config)
        self.qkv = nn.Linear(config.hidden_size, (heads + 2 * kv_heads) * config.head_dim)
        self.sinks = nn.Parameter(torch.zeros(heads))
        self.out = nn.Linear(heads * config.head_dim, config.hidden_size)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor], lengths: Sequence[int]) -> Tensor:
        """What attention adds to the stream x [tokens, hidden]."""
        heads, kv_heads = self.config.num_attention_heads, self.config.num_key_value_heads
        qkv = self.qkv(self.norm(x)).view(len(x), -1, self.config.head_dim)
        qk, v = torch.split(qkv, [heads + kv_heads, kv_heads], dim=1)
        q, k = torch.split(rotate(qk, *rotary), [heads, kv_heads], dim=1)
        attended = attend(q, k, v, self.sinks, lengths, self.window)
        return cast(Tensor, self.out(attended))


def attend(q: Tensor, k: Tensor, v: Tensor, sinks: Tensor, lengths: Sequence[int], window: int | None) -> Tensor:
    """q [tokens, heads, head_dim], k, v [tokens, kv_heads, head_dim] to [tokens, heads * head_dim], each example apart.

    On a CPU matrices of all scores that stay in the cache take a third of the time of torch's attention in tiles.
    """
    heads = q.shape[1]
    q = q * (1 / math.sqrt(q.shape[2]))
    k, v = (each.repeat_interleave(heads // each.shape[1], dim=1) for each in (k, v))
    qkv = [in_autocast(each) for each in (q, k, v)]
    if on_gpu(q):
        return _attend_together(qkv, sinks, lengths, window).flatten(1)
    if window is not None:
        return _attend_in_blocks(qkv, sinks, lengths, window)
    longest = max((length for length in lengths if heads * length**2 <= SCORES_AT_ONCE), default=0)
    future = torch.full((longest, longest), -math.inf, dtype=qkv[0].dtype).triu(1)
    attended = []
    for each in zip(*(torch.split(part, list(lengths)) for part in qkv), strict=True):
        length = len(each[0])
        if length > longest:
            attended.append(_attend_together(each, sinks, [length], None))
        else:
            q_, k_, v_ = (part.transpose(0, 1) for part in each)
            attended.append(attend_densely(q_, k_, v_, sinks, future[:length, :length]).transpose(0, 1))
    return torch.cat(attended).flatten(1)


def _attend_in_blocks(qkv: Sequence[Tensor], sinks: Tensor, lengths: Sequence[int], window: int) -> Tensor:
    """The pack cut into blocks as long as the window, of which each sees itself and the one before."""
    tokens = sum(lengths)
    blocks = -(-tokens // window)
    example = pad(torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)), (window, 0), value=-2)
    example = pad(example, (0, blocks * window - tokens), value=-1)

    def with_block_before(x: Tensor) -> Tensor:
        """[(1 + blocks) * window, …] to [blocks, 2 * window, …]"""
        x = x.view(1 + blocks, window, *x.shape[1:])
        return torch.cat([x[:-1], x[1:]], dim=1)

    positions = torch.arange(2 * window)
    seen = visible(positions[window:], positions, window)
    seen = seen & (example[window:].view(blocks, window, 1) == with_block_before(example)[:, None])
    mask = torch.zeros(seen.shape, dtype=qkv[0].dtype).masked_fill_(~seen, -math.inf)[:, None]
    q, k, v = (pad(each, (0, 0, 0, 0, window, blocks * window - tokens)) for each in qkv)
    q = q[window:].view(blocks, window, *q.shape[1:])
    q, k, v = (each.transpose(1, 2) for each in (q, with_block_before(k), with_block_before(v)))
    attended = attend_densely(q, k, v, sinks, mask)
    return attended.transpose(1, 2).flatten(0, 1)[:tokens].flatten(1)


def attend_densely(q: Tensor, k: Tensor, v: Tensor, sinks: Tensor, mask: Tensor) -> Tensor:
    """softmax(q · k^T + mask) · v with sinks in the denominator.

    q: […, heads, queries, head_dim]. k, v: […, heads, keys, head_dim]. sinks: [heads]. mask: 0 or -inf; every query
    must see a key.
    """
    return cast(Tensor, _Attention.apply(q, k, v, sinks, mask))  # type: ignore[no-untyped-call]


class _Attention(Function):
    @staticmethod
    def forward(context: Any, q: Tensor, k: Tensor, v: Tensor, sinks: Tensor, mask: Tensor) -> Tensor:
        scores = (q @ k.mT).add_(mask)
        best, key = scores.max(-1, keepdim=True)
        shares = scores.softmax(-1)  # as if there were no sink
        log_sum = best.to(wide(q.dtype)) - shares.gather(-1, key).to(wide(q.dtype)).log()
        kept = (log_sum - sinks[:, None, None]).sigmoid().to(q.dtype)  # what the sink leaves
        result = (shares @ v).mul_(kept)
        context.save_for_backward(q, k, v, shares, kept, result)
        return result

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        q, k, v, shares, kept, result = context.saved_tensors
        mean = torch.linalg.vecdot(gradient, result)[..., None]  # of the gradients of a query's shares
        of_sinks = (mean * (kept - 1)).to(wide(q.dtype)).sum((*range(mean.ndim - 3), -2, -1))
        gradient = gradient * kept
        of_v = shares.mT @ gradient
        of_scores = (gradient @ v.mT).sub_(mean * kept).mul_(shares)
        return of_scores @ k, of_scores.mT @ q, of_v, of_sinks, None


def _attend_together(qkv: Sequence[Tensor], sinks: Tensor, lengths: Sequence[int], window: int | None) -> Tensor:
    """The same in one call of torch's attention: for GPUs, which many small ones keep waiting, and for examples whose
    scores are too many to be held. qkv: [tokens, heads, head_dim] each, q scaled.

    torch's attention knows no sinks. One more key in front, with no value, does what a sink does: queries and keys get
    a further column, which makes their product the sink's logit there and adds nothing elsewhere. One more query in
    front, whose result is dropped, keeps the matrix square, so that causal is all that need be said. Examples lie side
    by side and are filled up with zeros.
    """
    q, k, v = qkv
    head_dim = q.shape[2]
    more = FURTHER_COLUMNS if on_gpu(q) else 1
    q = pad(pad(q, (0, 1), value=1.0), (0, more - 1))
    k, v = (pad(each, (0, more)) for each in (k, v))
    sink = pad(sinks[:, None].to(k.dtype), (head_dim, more - 1))[None]  # [1, heads, head_dim + more]
    nothing = torch.zeros_like(sink)
    longest = max(lengths)
    inside = torch.arange(longest)[None] < torch.tensor(lengths)[:, None]  # [examples, longest]
    rows = inside.flatten().nonzero()[:, 0].to(q.device)

    def side_by_side(each: Tensor, front: Tensor) -> Tensor:
        """[examples, heads, 1 + longest, columns]"""
        filled = each.new_zeros(inside.numel(), *each.shape[1:]).index_copy(0, rows, each)
        filled = filled.view(len(lengths), longest, *each.shape[1:])
        return torch.cat([front.expand(len(lengths), -1, -1, -1), filled], dim=1).transpose(1, 2)

    mask = None
    if window is not None and longest >= window:
        positions = torch.arange(1 + longest, device=rows.device)
        mask = visible(positions, positions, window)
        mask[:, 0] = True
    q, k, v = (side_by_side(*each) for each in zip((q, k, v), (nothing, sink, nothing), strict=True))
    result = scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=1.0)
    return result[:, :, 1:, :head_dim].transpose(1, 2).flatten(0, 1).index_select(0, rows)


# ---- mixture of experts ---------------------------------------------------------------------------------------------


class MixtureOfExperts(nn.Module):
    def __init__(self, config: ModelConfig, quantize: bool) -> None:
        super().__init__()
        self.config = config
        hidden, inter, experts = config.hidden_size, config.intermediate_size, config.num_experts
        self.norm = Norm(config)
        self.gate = nn.Linear(hidden, experts)
        self.mlp1: nn.Module = ExpertLinear(experts, hidden, 2 * inter, quantize=quantize, pairs_apart=True)
        self.mlp2: nn.Module = ExpertLinear(experts, inter, hidden, quantize=quantize, pairs_apart=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the experts add to the stream x [tokens, hidden]; how evenly they were chosen (see Loss.balance)."""
        t = in_autocast(self.norm(x))
        router_logits = self.gate(t)
        chosen, shares = route(router_logits, self.config.experts_per_token)
        counts = chosen.flatten().bincount(minlength=self.config.num_experts)
        if on_gpu(x) and self.config.num_experts <= 2 * self.config.experts_per_token:
            added = self._of_all(t, chosen, shares)
        else:
            order = chosen.flatten().argsort(stable=True)  # (token, rank) pairs, expert by expert
            h = dispatch(t, order, self.config.experts_per_token)
            h = swiglu(self.mlp1(h, counts.tolist()), self.config.swiglu_limit)
            added = combine(self.mlp2(h, counts.tolist()), shares, order)
        used = counts / counts.sum().clamp(min=1)
        wanted = router_logits.softmax(dim=-1, dtype=wide(router_logits.dtype)).sum(0) / max(1, len(x))
        return added, self.config.num_experts * (used * wanted).sum()

    def _of_all(self, t: Tensor, chosen: Tensor, shares: Tensor) -> Tensor:
        """The same, with each expert computed for each token: where they are few, a GPU has done that before the host
        knows who was chosen by how many."""
        experts, tokens = self.config.num_experts, len(t)
        counts = [tokens] * experts
        h = swiglu(self.mlp1(t.repeat(experts, 1), counts), self.config.swiglu_limit)
        h = self.mlp2(h, counts).view(experts, tokens, -1)
        weights = torch.zeros(tokens, experts, dtype=h.dtype, device=h.device).scatter(1, chosen, shares.to(h.dtype))
        return torch.einsum("te,eth->th", weights, h)


class ExpertLinear(nn.Module):
    """One linear layer an expert. weight: [experts, out, in]. bias: [experts, out].

    pairs_apart: of the outputs, which are pairs of neighbours, give all the first halves before all the second ones.
    """

    def __init__(self, experts: int, in_size: int, out_size: int, *, quantize: bool, pairs_apart: bool) -> None:
        super().__init__()
        self.quantize = quantize
        self.pairs_apart = pairs_apart
        self.weight = nn.Parameter(torch.zeros(experts, out_size, in_size))
        self.bias = nn.Parameter(torch.zeros(experts, out_size))

    def forward(self, x: Tensor, counts: Sequence[int]) -> Tensor:
        """x [rows, in], of which the first counts[0] are for expert 0, the next for expert 1, and so on."""
        weight: Tensor = rounded_to_mxfp4(self.weight) if self.quantize else self.weight
        bias: Tensor = self.bias
        if self.pairs_apart:  # moving rows of weights costs less than moving every token's columns
            weight, bias = take_apart(weight), take_apart(bias)
        if on_gpu(x) and len(set(counts)) == 1:
            return torch.baddbmm(bias[:, None], x.view(len(counts), -1, x.shape[1]), weight.mT).flatten(0, 1)
        rows = zip(torch.split(x, list(counts)), weight.unbind(), bias.unbind(), strict=True)
        return torch.cat([linear(part, matrix, bias) for part, matrix, bias in rows])


def on_gpu(x: Tensor) -> bool:
    """Where many small steps, or one that the host must wait for, cost more than some work done for nothing."""
    return x.is_cuda


def take_apart(x: Tensor) -> Tensor:
    """[experts, 2 n, …]: rows 0, 2, 4 …, then rows 1, 3, 5 …"""
    return x.view(len(x), -1, 2, *x.shape[2:]).transpose(1, 2).flatten(1, 2)


def in_autocast(x: Tensor) -> Tensor:
    """x as the products of autocast will want it, where that is on."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


# The functions below have gradients of their own. What torch would derive is the same, but adds rows up by index and
# goes over memory several times as often; the experts see each token experts_per_token times, so this is what counts.


def dispatch(t: Tensor, order: Tensor, k: int) -> Tensor:
    """t [tokens, hidden] to [tokens * k, hidden]: row i is that of the token order[i] // k."""
    return cast(Tensor, _Dispatch.apply(t, order, k))  # type: ignore[no-untyped-call]


class _Dispatch(Function):
    @staticmethod
    def forward(context: Any, t: Tensor, order: Tensor, k: int) -> Tensor:
        context.save_for_backward(order)
        context.k = k
        return t.index_select(0, order // k)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (order,) = context.saved_tensors
        return gradient.index_select(0, invert(order)).view(-1, context.k, gradient.shape[-1]).sum(1), None, None


def combine(h: Tensor, shares: Tensor, order: Tensor) -> Tensor:
    """The inverse of dispatch: h [tokens * k, hidden] to the sum of each token's rows, times its shares [tokens, k]."""
    return cast(Tensor, _Combine.apply(h, shares, order))  # type: ignore[no-untyped-call]


class _Combine(Function):
    @staticmethod
    def forward(context: Any, h: Tensor, shares: Tensor, order: Tensor) -> Tensor:
        context.save_for_backward(h, shares, order)
        rows = h.index_select(0, invert(order)).view(*shares.shape, h.shape[1])
        return torch.bmm(shares[:, None].to(h.dtype), rows)[:, 0]

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        h, shares, order = context.saved_tensors
        rows = gradient.index_select(0, order // shares.shape[1])
        of_shares = torch.linalg.vecdot(h, rows).to(shares.dtype)[invert(order)].view_as(shares)
        return rows.mul_(shares.flatten()[order, None].to(rows.dtype)), of_shares, None


def invert(order: Tensor) -> Tensor:
    """The permutation that undoes `order`."""
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(len(order), device=order.device)
    return inverse


def _rows_at_once(x: Tensor) -> int:
    return max(1, len(x)) if on_gpu(x) else ROWS_AT_ONCE


def swiglu(x: Tensor, limit: float) -> Tensor:
    """x [rows, 2 * intermediate], gates before linear parts, to [rows, intermediate]."""
    return cast(Tensor, _Swiglu.apply(x, limit))  # type: ignore[no-untyped-call]


class _Swiglu(Function):
    @staticmethod
    def forward(context: Any, x: Tensor, limit: float) -> Tensor:
        context.save_for_backward(x)
        context.limit = limit
        result = x.new_empty(len(x), x.shape[1] // 2)
        rows = _rows_at_once(x)
        for part, out in zip(torch.split(x, rows), torch.split(result, rows), strict=True):
            gate, up = part.to(wide(x.dtype)).chunk(2, dim=1)
            gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
            out.copy_((gate * SWIGLU_ALPHA).sigmoid_().mul_(gate).mul_(up.add_(1)))
        return result

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (x,) = context.saved_tensors
        limit = context.limit
        result = torch.empty_like(x)
        rows = _rows_at_once(x)
        for part, out, of_out in zip(*(torch.split(each, rows) for each in (x, result, gradient)), strict=True):
            raw_gate, raw_up = part.to(wide(x.dtype)).chunk(2, dim=1)
            gate, up = raw_gate.clamp(max=limit), raw_up.clamp(-limit, limit)
            sigmoid = (gate * SWIGLU_ALPHA).sigmoid_()
            swish = gate * sigmoid
            # (g · s(αg))' = s + α · g · s · (1 - s)
            slope = (1 - sigmoid).mul_(swish).mul_(SWIGLU_ALPHA).add_(sigmoid)
            of_gate, of_up = out.chunk(2, dim=1)
            torch.mul(slope.mul_(up.add_(1)).mul_(raw_gate <= limit), of_out, out=of_gate)
            torch.mul(swish.mul_(raw_up.abs_() <= limit), of_out, out=of_up)
        return result, None


# ---- the loss -------------------------------------------------------------------------------------------------------


def sum_of_cross_entropies(x: Tensor, weight: Tensor, offsets: Tensor, targets: Tensor) -> Tensor:
    """Of softmax(x · weight^T + offsets) against targets [rows], summed; in the precision of autocast.

    x: [rows, hidden]. weight: [vocab, hidden]. offsets: [vocab], constants. The gradients are computed with the loss,
    some rows at a time, so that the logits are never in memory as a whole.
    """
    x, weight = in_autocast(x), in_autocast(weight)
    learns = torch.is_grad_enabled()
    return cast(Tensor, _CrossEntropies.apply(x, weight, offsets, targets, learns))  # type: ignore[no-untyped-call]


class _CrossEntropies(Function):
    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, offsets: Tensor, targets: Tensor, learns: bool) -> Tensor:
        at_once = max(64, (LOGITS_AT_ONCE_ON_GPU if on_gpu(x) else LOGITS_AT_ONCE) // len(weight))
        total = offsets.new_zeros(())
        of_x = torch.empty_like(x) if learns and context.needs_input_grad[0] else None
        of_weight = offsets.new_zeros(weight.shape) if learns and context.needs_input_grad[1] else None
        for start in range(0, len(x), at_once):
            rows = slice(start, start + at_once)
            logits = (x[rows] @ weight.T).to(offsets.dtype).add_(offsets)
            losses = torch.log_softmax(logits, dim=1)
            picked = targets[rows, None]
            total -= losses.gather(1, picked).sum()
            if of_x is None and of_weight is None:
                continue
            of_logits = losses.exp_().scatter_add_(1, picked, losses.new_full(picked.shape, -1.0)).to(x.dtype)
            if of_x is not None:
                torch.mm(of_logits, weight, out=of_x[rows])
            if of_weight is not None:
                of_weight += of_logits.T @ x[rows]
        context.save_for_backward(of_x, of_weight)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        of_x, of_weight = context.saved_tensors
        return (
            None if of_x is None else of_x * gradient.to(of_x.dtype),
            None if of_weight is None else of_weight * gradient,
            None,
            None,
            None,
        )


# ---- MXFP4 ----------------------------------------------------------------------------------------------------------


def rounded_to_mxfp4(weights: Tensor) -> Tensor:
    """As round_to_mxfp4; the gradient passes as if nothing were."""
    return cast(Tensor, _Rounded.apply(weights))  # type: ignore[no-untyped-call]


class _Rounded(Function):
    @staticmethod
    def forward(context: Any, weights: Tensor) -> Tensor:
        return round_to_mxfp4(weights)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return gradient


def round_to_mxfp4(weights: Tensor) -> Tensor:
    """Finite float32 weights [..., n * 32] to the values that mxfp4.decode(*mxfp4.encode(weights)) gives, exactly."""
    blocks = weights.detach().reshape(*weights.shape[:-1], -1, BLOCK_VALUES)
    # 2^(127 - exponent) is at most 2^127: a block smaller than that has the smallest scale.
    inverse = 4 / power_of_two_below(blocks.abs().amax(-1, keepdim=True)).clamp(min=2.0**-125)
    scaled = blocks * inverse
    # e2m1 has one bit behind the leading one, and steps of a half below 2; rounding is half to even as torch's.
    step = power_of_two_below(scaled.abs()).clamp(min=1.0).mul_(0.5)
    rounded = (scaled / step).round_().mul_(step).clamp_(-6, 6)
    return rounded.mul_(1 / inverse).flatten(-2)


def power_of_two_below(magnitudes: Tensor) -> Tensor:
    """2^floor(log2(x)) of float32: the exponent's bits alone. Subnormal numbers become 0."""
    bits = magnitudes.view(torch.int32) & 0x7F800000
    return bits.view(torch.float32)


def parameter_names(config: ModelConfig) -> list[str]:
    """The canonical names that a Network has: those of a checkpoint with plain experts."""
    return list(canonical_tensors(config, quantized=False))
