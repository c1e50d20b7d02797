"""Attention over the paged cache with sinks, windows and grouped queries: a kernel for prompts and one for few tokens.

All query heads of a key head go through a program together, so that keys and values are read once for them. Softmax is
computed online in base 2; a head's sink is the logit that it starts from, with a value of nothing.

`prefill`: a program takes a run of tokens of one sequence, and reads every key tile that they see. Operations:
4 * head_dim * heads a token and key seen; bytes: 4 * head_dim * kv_heads a key for every run of TOKENS tokens. Bound by
the tensor cores.
`decode`: a token's keys are split among programs, whose results a second kernel puts together. Bytes:
4 * head_dim * kv_heads a key seen; bound by memory, and in short contexts by the launches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from gpt_oss.backends.triton.overlap import await_inputs, overlapped

LOG2E = tl.constexpr(math.log2(math.e))


@dataclass(frozen=True)
class Shape:
    """rows: queries (tokens * heads of a key head) of a program. keys: that it sees at a time. stages: of loads under
    way."""

    rows: int
    keys: int
    warps: int
    stages: int


LEAST_ROWS = 16  # that tensor cores take
MOST_SPLITS = 32
PREFILL = Shape(128, 64, 8, 2)
DECODE = Shape(LEAST_ROWS, 128, 4, 3)
EVERYTHING = 1 << 30  # a window that hides nothing


@triton.jit
def _see(
    q, keys, values, table, head, first, end, position, window, scale, best, total, mixed,
    KV_HEADS: tl.constexpr, DIM: tl.constexpr, BLOCK_TOKENS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """Let queries q [rows, DIM] at `position` [rows] see the keys first .. end - 1 of the sequence that has this table.

    best, total: float32 [rows], mixed: float32 [rows, DIM]: the greatest logit (times log2 e, as scale makes it) so
    far, and the sums of powers and of values under it; returned with these keys taken in.
    """
    i = tl.arange(0, DIM)
    for start in range(first, end, KEYS):
        key = start + tl.arange(0, KEYS)
        inside = key < end
        block = tl.load(table + key // BLOCK_TOKENS, mask=inside, other=0)
        row = (block.to(tl.int64) * BLOCK_TOKENS + key % BLOCK_TOKENS) * KV_HEADS + head
        k = tl.load(keys + row[None, :] * DIM + i[:, None], mask=inside[None, :], other=0.0)
        logits = tl.dot(q, k, input_precision="ieee") * scale
        distance = position[:, None] - key[None, :]
        logits = tl.where((distance >= 0) & (distance < window) & inside[None, :], logits, float("-inf"))
        greatest = tl.maximum(best, tl.max(logits, 1))
        powers = tl.exp2(logits - greatest[:, None])
        shrink = tl.exp2(best - greatest)
        v = tl.load(values + row[:, None] * DIM + i[None, :], mask=inside[:, None], other=0.0)
        mixed = tl.dot(powers.to(v.dtype), v, mixed * shrink[:, None], input_precision="ieee")
        total = total * shrink + tl.sum(powers, 1)
        best = greatest
    return best, total, mixed


@triton.jit
def _prefill(
    q, keys, values, sinks, positions, sequences, table, table_width, runs, out, window, scale,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, DIM: tl.constexpr, BLOCK_TOKENS: tl.constexpr,
    GROUP: tl.constexpr, GROUP_ROWS: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    await_inputs(OVERLAP)
    head = tl.program_id(0)
    run = tl.num_programs(1) - 1 - tl.program_id(1)  # those with the most keys first
    first_token = tl.load(runs + run * 2)
    end_token = tl.load(runs + run * 2 + 1)
    row = tl.arange(0, ROWS)
    token = first_token + row // GROUP_ROWS
    inside = (token < end_token) & (row % GROUP_ROWS < GROUP)
    query_head = head * GROUP + tl.minimum(row % GROUP_ROWS, GROUP - 1)
    at = (token.to(tl.int64) * HEADS + query_head)[:, None] * DIM + tl.arange(0, DIM)[None, :]
    queries = tl.load(q + at, mask=inside[:, None], other=0.0)

    first_position = tl.load(positions + first_token)
    first_key = tl.maximum(first_position - window + 1, 0)  # exactly: blocks before it may be freed
    end_key = first_position + end_token - first_token
    best = tl.load(sinks + query_head).to(tl.float32) * LOG2E
    total = tl.full((ROWS,), 1.0, tl.float32)
    mixed = tl.zeros((ROWS, DIM), tl.float32)
    own_table = table + tl.load(sequences + first_token).to(tl.int64) * table_width
    best, total, mixed = _see(
        queries, keys, values, own_table, head, first_key, end_key, first_position + row // GROUP_ROWS, window,
        scale * LOG2E, best, total, mixed, KV_HEADS, DIM, BLOCK_TOKENS, KEYS,
    )  # fmt: skip
    tl.store(out + at, (mixed / total[:, None]).to(out.dtype.element_ty), mask=inside[:, None])


@triton.jit
def _decode(
    q, keys, values, sinks, positions, sequences, table, table_width, sums, parts, out, window, scale,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, DIM: tl.constexpr, BLOCK_TOKENS: tl.constexpr,
    GROUP: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, SPLITS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    await_inputs(OVERLAP)
    head = tl.program_id(0)
    token = tl.program_id(1)
    split = tl.program_id(2)
    position = tl.load(positions + token)
    row = tl.arange(0, ROWS)
    i = tl.arange(0, DIM)
    inside = row < GROUP
    query = token.to(tl.int64) * HEADS + head * GROUP + tl.minimum(row, GROUP - 1)
    queries = tl.load(q + query[:, None] * DIM + i[None, :], mask=inside[:, None], other=0.0)

    first_key = tl.maximum(position - window + 1, 0)
    keys_each = ((position + 1 - first_key + KEYS - 1) // KEYS + SPLITS - 1) // SPLITS * KEYS
    first_key += split * keys_each
    best = tl.load(sinks + head * GROUP + tl.minimum(row, GROUP - 1)).to(tl.float32) * LOG2E
    total = tl.full((ROWS,), 1.0 if SPLITS == 1 else 0.0, tl.float32)  # _join counts the sink once
    mixed = tl.zeros((ROWS, DIM), tl.float32)
    own_table = table + tl.load(sequences + token).to(tl.int64) * table_width
    best, total, mixed = _see(
        queries, keys, values, own_table, head, first_key, tl.minimum(first_key + keys_each, position + 1),
        tl.full((ROWS,), 0, tl.int32) + position, window, scale * LOG2E, best, total, mixed,
        KV_HEADS, DIM, BLOCK_TOKENS, KEYS,
    )  # fmt: skip
    if SPLITS == 1:
        to = out + query[:, None] * DIM + i[None, :]
        tl.store(to, (mixed / total[:, None]).to(out.dtype.element_ty), mask=inside[:, None])
    else:
        part = query * SPLITS + split
        tl.store(sums + part * 2, best, mask=inside)
        tl.store(sums + part * 2 + 1, total, mask=inside)
        tl.store(parts + part[:, None] * DIM + i[None, :], mixed, mask=inside[:, None])


@triton.jit
def _join(sums, parts, sinks, out, HEADS: tl.constexpr, DIM: tl.constexpr, SPLITS: tl.constexpr, OVERLAP: tl.constexpr):
    await_inputs(OVERLAP)
    query = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, DIM)
    part = query * SPLITS + tl.arange(0, SPLITS)
    bests = tl.load(sums + part * 2)
    best = tl.max(bests, 0)
    factors = tl.exp2(bests - best)
    sink = tl.load(sinks + query % HEADS).to(tl.float32) * LOG2E
    total = tl.sum(factors * tl.load(sums + part * 2 + 1), 0) + tl.exp2(sink - best)
    mixed = tl.sum(factors[:, None] * tl.load(parts + part[:, None] * DIM + i[None, :]), 0)
    tl.store(out + query * DIM + i, (mixed / total).to(out.dtype.element_ty))


@dataclass(frozen=True)
class Pages:
    """What the tokens of a batch see of one pool.

    keys, values: [blocks * block_tokens, kv_heads, head_dim]. table: int32 [sequences, blocks of the longest].
    window: how many keys a token sees, itself included.
    """

    keys: Tensor
    values: Tensor
    table: Tensor
    block_tokens: int
    window: int = EVERYTHING


def prefill(q: Tensor, pages: Pages, sinks: Tensor, positions: Tensor, sequences: Tensor, runs: Tensor) -> Tensor:
    """q [tokens, heads, head_dim] to the same shape. sinks: [heads].

    positions, sequences: int32 [tokens], each token's position and row of the table. runs: int32 [runs, 2], first and
    end of at most `run_tokens` tokens that follow each other in one sequence; together they are all tokens.
    """
    _, heads, dim = q.shape
    kv_heads = pages.keys.shape[1]
    out = torch.empty_like(q)
    _prefill[(kv_heads, len(runs))](
        q, pages.keys, pages.values, sinks, positions, sequences, pages.table, pages.table.stride(0), runs, out,
        pages.window, 1 / math.sqrt(dim),
        HEADS=heads, KV_HEADS=kv_heads, DIM=dim, BLOCK_TOKENS=pages.block_tokens,
        GROUP=heads // kv_heads, GROUP_ROWS=triton.next_power_of_2(heads // kv_heads),
        ROWS=run_tokens(heads // kv_heads) * triton.next_power_of_2(heads // kv_heads), KEYS=PREFILL.keys,
        num_warps=PREFILL.warps, num_stages=PREFILL.stages, **overlapped(q),
    )  # fmt: skip
    return out


def run_tokens(group: int) -> int:
    """Tokens of a program of `prefill`, where `group` query heads share a key head."""
    return max(1, PREFILL.rows // triton.next_power_of_2(group))


def decode(q: Tensor, pages: Pages, sinks: Tensor, positions: Tensor, sequences: Tensor, splits: int) -> Tensor:
    """The same for any few tokens, each on its own; what comes out for positions below 0, padding, is of no use.

    splits: among how many programs each token's keys are divided, a power of two; more than one costs another launch.
    """
    tokens, heads, dim = q.shape
    kv_heads = pages.keys.shape[1]
    out = torch.empty_like(q)
    parts = sums = out
    if splits > 1:
        parts = torch.empty(tokens, heads, splits, dim, dtype=torch.float32, device=q.device)
        sums = torch.empty(tokens, heads, splits, 2, dtype=torch.float32, device=q.device)
    _decode[(kv_heads, tokens, splits)](
        q, pages.keys, pages.values, sinks, positions, sequences, pages.table, pages.table.stride(0), sums, parts, out,
        pages.window, 1 / math.sqrt(dim),
        HEADS=heads, KV_HEADS=kv_heads, DIM=dim, BLOCK_TOKENS=pages.block_tokens,
        GROUP=heads // kv_heads, ROWS=max(DECODE.rows, triton.next_power_of_2(heads // kv_heads)),
        KEYS=DECODE.keys, SPLITS=splits, num_warps=DECODE.warps, num_stages=DECODE.stages, **overlapped(q),
    )  # fmt: skip
    if splits > 1:
        _join[(tokens * heads,)](
            sums, parts, sinks, out, HEADS=heads, DIM=dim, SPLITS=splits, num_warps=1, **overlapped(q)
        )
    return out


def splits_for(tokens: int, kv_heads: int, processors: int) -> int:
    """A power of two that gives each of the GPU's processors two programs, or as near as it may."""
    wanted = 2 * processors // (tokens * kv_heads)
    return min(MOST_SPLITS, 1 << max(0, wanted.bit_length() - 1))
