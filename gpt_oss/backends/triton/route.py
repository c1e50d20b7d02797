"""Choose each token's experts, and list each expert's tokens, without the host knowing how many there are.

`choose`: the greatest k of the router's logits, softmax over those. Bytes a token: experts * 2 read, k * 8 written.
`group`: pairs (token, choice) by expert, cut into tiles that belong to one expert each. Every expert's program reads
all pairs twice, 4 bytes a pair, from the second-level cache: little beside the experts' products.
`assign`: both; for few tokens in one program that sorts the pairs, since then nothing counts but the launches.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from gpt_oss.backends.triton.overlap import await_inputs, overlapped

VALUES = 1024  # that a program of `choose` takes at least, in whole rows
FEW_TOKENS = 16  # of one program of `assign`: sorting more takes longer than another launch
MOST_PAIRS = 1024  # of the same


@triton.jit
def _greatest(
    logits, positions, token, slot, tokens,
    EXPERTS: tl.constexpr, COUNT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Experts, int32, and their shares, float32, of tokens [rows, 1] at slots [1, slots]; nobody (EXPERTS) for padding
    and where there is no such choice."""
    expert = tl.arange(0, BLOCK)[None, :]
    inside = (token < tokens) & (expert < EXPERTS)
    left = tl.load(logits + token * EXPERTS + expert, mask=inside, other=0.0).to(tl.float32)
    left = tl.where(expert < EXPERTS, left, float("-inf"))
    weights = tl.zeros((token.shape[0], slot.shape[1]), tl.float32)
    experts = tl.full((token.shape[0], slot.shape[1]), EXPERTS, tl.int32)
    greatest = tl.max(left, 1)[:, None]
    for i in tl.static_range(COUNT):
        logit, best = tl.max(left, 1, return_indices=True)
        weights = tl.where(slot == i, tl.exp(logit[:, None] - greatest), weights)
        experts = tl.where(slot == i, best[:, None], experts)
        left = tl.where(expert == best[:, None], float("-inf"), left)
    padding = tl.load(positions + token, mask=token < tokens, other=-1) < 0
    return tl.where(padding, EXPERTS, experts), weights / tl.sum(weights, 1)[:, None]


@triton.jit
def _choose(
    logits, positions, chosen, shares, tokens,
    EXPERTS: tl.constexpr, COUNT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, SLOTS: tl.constexpr,
    OVERLAP: tl.constexpr,
):  # fmt: skip
    await_inputs(OVERLAP)
    token = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    slot = tl.arange(0, SLOTS)[None, :]
    experts, weights = _greatest(logits, positions, token, slot, tokens, EXPERTS, COUNT, BLOCK)
    store = (token < tokens) & (slot < COUNT)
    tl.store(chosen + token * COUNT + slot, experts, mask=store)
    tl.store(shares + token * COUNT + slot, weights, mask=store)


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
        **overlapped(logits),
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
    OVERLAP: tl.constexpr,
):
    await_inputs(OVERLAP)
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
    groups = _room(pairs, experts, tile_tokens, chosen.device)
    _group[(experts,)](
        chosen,
        groups.order,
        groups.tiles,
        pairs,
        len(groups.tiles),
        EXPERTS=experts,
        TILE=tile_tokens,
        BINS=triton.next_power_of_2(experts + 1),
        BLOCK=min(1024, max(32, triton.next_power_of_2(pairs))),
        num_warps=4,
        **overlapped(chosen),
    )
    return groups


def _room(pairs: int, experts: int, tile_tokens: int, device: torch.device) -> Groups:
    most_tiles = pairs // tile_tokens + min(experts, pairs)
    order = torch.empty(pairs, dtype=torch.int32, device=device)
    return Groups(order, torch.empty(most_tiles, 3, dtype=torch.int32, device=device), tile_tokens)


@triton.jit
def _assign(
    logits, positions, shares, order, tiles, tokens, most_tiles,
    EXPERTS: tl.constexpr, COUNT: tl.constexpr, TILE: tl.constexpr, MOST_PAIRS: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr, SLOTS: tl.constexpr, BINS: tl.constexpr, TILES: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    await_inputs(OVERLAP)
    token = tl.arange(0, ROWS)[:, None]
    slot = tl.arange(0, SLOTS)[None, :]
    experts, weights = _greatest(logits, positions, token, slot, tokens, EXPERTS, COUNT, BLOCK)
    real = (token < tokens) & (slot < COUNT)
    tl.store(shares + token * COUNT + slot, weights, mask=real)

    pair = token * COUNT + slot
    nowhere: tl.constexpr = (EXPERTS + 1) * MOST_PAIRS  # after all pairs
    key = tl.sort(tl.where(real, experts * MOST_PAIRS + pair, nowhere).reshape(ROWS * SLOTS))
    place = tl.arange(0, ROWS * SLOTS)
    tl.store(order + place, key % MOST_PAIRS, mask=place < tokens * COUNT)

    number = tl.arange(0, BINS)
    counts = tl.histogram(tl.where(real, experts, EXPERTS).reshape(ROWS * SLOTS), BINS)
    counts = tl.where(number < EXPERTS, counts, 0)
    tiles_of = (counts + TILE - 1) // TILE
    start = tl.cumsum(counts, 0) - counts
    tile = tl.cumsum(tiles_of, 0) - tiles_of
    for i in tl.static_range((ROWS + TILE - 1) // TILE):  # an expert has a token but once
        first = start + i * TILE
        used = i < tiles_of
        at = tiles + (tile + i) * 3
        tl.store(at, number, mask=used)
        tl.store(at + 1, first, mask=used)
        tl.store(at + 2, tl.minimum(first + TILE, start + counts), mask=used)
    unused = tl.arange(0, TILES)
    tl.store(tiles + unused * 3, -1, mask=(unused >= tl.sum(tiles_of)) & (unused < most_tiles))


def assign(logits: Tensor, positions: Tensor, count: int, tile_tokens: int) -> tuple[Groups, Tensor]:
    """What `choose` chooses, grouped, and its shares."""
    tokens, experts = logits.shape
    pairs = tokens * count
    if tokens > FEW_TOKENS or pairs > MOST_PAIRS:
        chosen, shares = choose(logits, positions, count)
        return group(chosen, experts, tile_tokens), shares
    shares = torch.empty(tokens, count, dtype=torch.float32, device=logits.device)
    groups = _room(pairs, experts, tile_tokens, logits.device)
    rows, block = triton.next_power_of_2(tokens), triton.next_power_of_2(experts)
    _assign[(1,)](
        logits,
        positions,
        shares,
        groups.order,
        groups.tiles,
        tokens,
        len(groups.tiles),
        EXPERTS=experts,
        COUNT=count,
        TILE=tile_tokens,
        MOST_PAIRS=MOST_PAIRS,
        ROWS=rows,
        BLOCK=block,
        SLOTS=triton.next_power_of_2(count),
        BINS=triton.next_power_of_2(experts + 1),
        TILES=triton.next_power_of_2(len(groups.tiles)),
        num_warps=4 if rows * block > 512 else 1,
        **overlapped(logits),
    )
    return groups, shares
