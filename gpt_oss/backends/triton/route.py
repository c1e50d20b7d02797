"""Choose each token's experts, and list each expert's tokens, without the host knowing how many there are.

`choose`: the greatest k of the router's logits, softmax over those. Bytes a token: experts * 2 read, k * 8 written.
`group`: pairs (token, choice) by expert, cut into tiles that belong to one expert each. Every expert's program reads
all pairs twice, 4 bytes a pair, from the second-level cache: little beside the experts' products.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

VALUES = 1024  # that a program of `choose` takes at least, in whole rows


@triton.jit
def _choose(
    logits, positions, chosen, shares, tokens,
    EXPERTS: tl.constexpr, COUNT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, SLOTS: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    expert = tl.arange(0, BLOCK)[None, :]
    slot = tl.arange(0, SLOTS)[None, :]
    inside = (token < tokens) & (expert < EXPERTS)
    left = tl.load(logits + token * EXPERTS + expert, mask=inside, other=0.0).to(tl.float32)
    left = tl.where(expert < EXPERTS, left, float("-inf"))
    greatest = tl.max(left, 1)[:, None]
    weights = tl.zeros((ROWS, SLOTS), tl.float32)
    experts = tl.zeros((ROWS, SLOTS), tl.int32)
    for i in tl.static_range(COUNT):
        best = tl.argmax(left, 1)[:, None]
        weights = tl.where(slot == i, tl.exp(tl.max(left, 1)[:, None] - greatest), weights)
        experts = tl.where(slot == i, best, experts)
        left = tl.where(expert == best, float("-inf"), left)
    padding = tl.load(positions + token, mask=token < tokens, other=-1) < 0
    store = (token < tokens) & (slot < COUNT)
    tl.store(chosen + token * COUNT + slot, tl.where(padding, EXPERTS, experts), mask=store)
    tl.store(shares + token * COUNT + slot, weights / tl.sum(weights, 1)[:, None], mask=store)


def choose(logits: Tensor, positions: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """logits [tokens, experts] to chosen, int32, and shares, float32, both [tokens, count].

    Tokens whose position, int32 [tokens], is below 0 are padding: their choice is the number of experts, which is
    nobody.
    """
    tokens, experts = logits.shape
    chosen = torch.empty(tokens, count, dtype=torch.int32, device=logits.device)
    shares = torch.empty(tokens, count, dtype=torch.float32, device=logits.device)
    block = triton.next_power_of_2(experts)
    rows = max(1, VALUES // block)
    _choose[(triton.cdiv(tokens, rows),)](
        logits,
        positions,
        chosen,
        shares,
        tokens,
        EXPERTS=experts,
        COUNT=count,
        ROWS=rows,
        BLOCK=block,
        SLOTS=triton.next_power_of_2(count),
        num_warps=4,
    )
    return chosen, shares


@triton.jit
def _group(
    chosen,
    order,
    tiles,
    pairs,
    most_tiles,
    EXPERTS: tl.constexpr,
    TILE: tl.constexpr,
    BINS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    expert = tl.program_id(0)
    i = tl.arange(0, BLOCK)
    counts = tl.zeros((BINS,), tl.int32)
    for first in range(0, pairs, BLOCK):
        experts = tl.load(chosen + first + i, mask=first + i < pairs, other=EXPERTS)
        counts += tl.histogram(experts, BINS)
    number = tl.arange(0, BINS)
    counts = tl.where(number < EXPERTS, counts, 0)
    tiles_of = (counts + TILE - 1) // TILE
    start = tl.sum(tl.where(number < expert, counts, 0))
    end = start + tl.sum(tl.where(number == expert, counts, 0))

    at = start
    for first in range(0, pairs, BLOCK):
        experts = tl.load(chosen + first + i, mask=first + i < pairs, other=EXPERTS)
        mine = experts == expert
        rank = tl.cumsum(mine.to(tl.int32), 0)
        tl.store(order + at + rank - 1, first + i, mask=mine)
        at += tl.sum(mine.to(tl.int32))

    tile = tl.sum(tl.where(number < expert, tiles_of, 0))
    for row in range(start, end, TILE):
        tl.store(tiles + tile * 3, expert)
        tl.store(tiles + tile * 3 + 1, row)
        tl.store(tiles + tile * 3 + 2, tl.minimum(row + TILE, end))
        tile += 1
    if expert == 0:
        for unused in range(tl.sum(tiles_of), most_tiles):
            tl.store(tiles + unused * 3, -1)


@dataclass(frozen=True)
class Groups:
    """order: int32 [pairs], the pairs (token * k + choice) by expert; at the end, as many unset ones as padding chose.
    tiles: int32 [most_tiles, 3]: an expert, and the first and the end of its rows of `order`; the expert is -1 in tiles
    past the last. tile_tokens: most rows of a tile."""

    order: Tensor
    tiles: Tensor
    tile_tokens: int


def group(chosen: Tensor, experts: int, tile_tokens: int) -> Groups:
    """chosen: int32 [tokens, k], see `choose`."""
    pairs = chosen.numel()
    most_tiles = pairs // tile_tokens + min(experts, pairs)
    order = torch.empty(pairs, dtype=torch.int32, device=chosen.device)
    tiles = torch.empty(most_tiles, 3, dtype=torch.int32, device=chosen.device)
    _group[(experts,)](
        chosen,
        order,
        tiles,
        pairs,
        most_tiles,
        EXPERTS=experts,
        TILE=tile_tokens,
        BINS=triton.next_power_of_2(experts + 1),
        BLOCK=min(1024, max(32, triton.next_power_of_2(pairs))),
        num_warps=4,
    )
    return Groups(order, tiles, tile_tokens)
