"""Rotary, cache and both attention kernels against plain attention in the torch backend, in float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from gpt_oss.backends.base import FREED
from gpt_oss.backends.torch import network
from gpt_oss.backends.triton import attention
from gpt_oss.backends.triton.rotary import rotate_and_store
from gpt_oss.model.config import ModelConfig
from tests.backends.triton.conftest import Near

BLOCK_TOKENS = 16
KV_HEADS, DIM = 2, 16
WINDOW = 40


@dataclass(frozen=True)
class Piece:
    """New tokens of one sequence: `count` of them after `position` others."""

    position: int
    count: int


class Bench:
    """Sequences in a cache whose blocks are shuffled, and whose unused rows are not numbers.

    window: blocks that no new token can see are FREED in the tables; block -1 is not numbers either.
    """

    def __init__(
        self, pieces: list[Piece], group: int, dtype: torch.dtype, device: str, window: int | None = None
    ) -> None:
        random = np.random.default_rng(0)

        def normal(*shape: int) -> Tensor:
            return torch.from_numpy(random.standard_normal(shape)).to(device, dtype)

        self.pieces = pieces
        heads = KV_HEADS * group
        self.q = normal(sum(piece.count for piece in pieces), heads, DIM)
        self.sinks = normal(heads)
        lengths = [piece.position + piece.count for piece in pieces]
        width = -(-max(lengths) // BLOCK_TOKENS)
        table = random.permutation(len(pieces) * width).reshape(len(pieces), width).astype(np.int32)
        with_block_before = (2, (1 + table.size) * BLOCK_TOKENS, KV_HEADS, DIM)
        pool = torch.full(with_block_before, torch.nan, dtype=dtype, device=device)[:, BLOCK_TOKENS:]
        self.sequences_kv = [(normal(n, KV_HEADS, DIM), normal(n, KV_HEADS, DIM)) for n in lengths]
        for blocks, (k, v) in zip(table, self.sequences_kv, strict=True):
            at = np.arange(len(k))
            rows = torch.from_numpy(blocks[at // BLOCK_TOKENS].astype(np.int64) * BLOCK_TOKENS + at % BLOCK_TOKENS)
            pool[0, rows], pool[1, rows] = k, v
        for piece, blocks in zip(pieces, table, strict=True):
            blocks[: max(0, piece.position - window + 1) // BLOCK_TOKENS if window else 0] = FREED
        self.window = window
        self.pages = attention.Pages(
            pool[0], pool[1], torch.from_numpy(table).to(device), BLOCK_TOKENS, window or attention.EVERYTHING
        )
        self.positions = torch.cat([torch.arange(p.position, p.position + p.count) for p in pieces]).int().to(device)
        counts = torch.tensor([piece.count for piece in pieces])
        self.sequences = torch.arange(len(pieces)).repeat_interleave(counts).int().to(device)

    def expected(self) -> Tensor:
        answers, row = [], 0
        for piece, (k, v) in zip(self.pieces, self.sequences_kv, strict=True):
            positions = torch.arange(len(k))
            mask = network.visible(positions[piece.position :], positions, self.window)
            q = self.q[row : row + piece.count].cpu().double()
            answers.append(network.attend(q, k.cpu().double(), v.cpu().double(), self.sinks.cpu().double(), mask))
            row += piece.count
        return torch.cat(answers)

    def runs(self, group: int) -> Tensor:
        runs, row = [], 0
        for piece in self.pieces:
            step = attention.run_tokens(group)
            ends = range(row, row + piece.count, step)
            runs += [[first, min(first + step, row + piece.count)] for first in ends]
            row += piece.count
        return torch.tensor(runs, dtype=torch.int32, device=self.q.device)


BATCHES = {
    "one token": [Piece(0, 1)],
    "window edges": [Piece(WINDOW - 2, 4), Piece(63, 2), Piece(64, 1)],
    "prompts and answers": [Piece(0, 70), Piece(130, 1), Piece(100, 33)],
}


@pytest.mark.parametrize("window", [None, WINDOW])
@pytest.mark.parametrize("group", [1, 3, 8])
@pytest.mark.parametrize("batch", BATCHES)
def test_prefill(
    batch: str, group: int, window: int | None, dtype: torch.dtype, device: str, assert_near: Near
) -> None:
    bench = Bench(BATCHES[batch], group, dtype, device, window)
    found = attention.prefill(bench.q, bench.pages, bench.sinks, bench.positions, bench.sequences, bench.runs(group))
    assert_near(found, bench.expected())


@pytest.mark.parametrize("window", [None, WINDOW])
@pytest.mark.parametrize(("group", "splits"), [(1, 4), (3, 1), (8, 1), (8, 2), (8, 16)])
def test_decode(
    group: int, splits: int, window: int | None, dtype: torch.dtype, device: str, assert_near: Near
) -> None:
    pieces = [Piece(0, 1), Piece(200, 1), Piece(63, 3), Piece(WINDOW, 1)]
    bench = Bench(pieces, group, dtype, device, window)
    found = attention.decode(bench.q, bench.pages, bench.sinks, bench.positions, bench.sequences, splits)
    assert_near(found, bench.expected())


def test_decode_of_padding_does_not_touch_others(dtype: torch.dtype, device: str, assert_near: Near) -> None:
    bench = Bench([Piece(20, 1), Piece(30, 1)], 4, dtype, device)
    positions = bench.positions.clone()
    positions[1] = -1
    found = attention.decode(bench.q, bench.pages, bench.sinks, positions, bench.sequences, 2)
    assert_near(found[:1], bench.expected()[:1])


@pytest.mark.parametrize(
    ("tokens", "kv_heads", "processors", "splits"), [(1, 8, 132, 32), (8, 8, 132, 4), (64, 8, 132, 1), (1, 1, 1000, 32)]
)
def test_few_tokens_are_split_among_more_programs(tokens: int, kv_heads: int, processors: int, splits: int) -> None:
    assert attention.splits_for(tokens, kv_heads, processors) == splits


@pytest.mark.parametrize("first", [0, 15, 4090, 131_000])
def test_rotary_and_cache(
    first: int, dtype: torch.dtype, device: str, random: np.random.Generator, assert_near: Near
) -> None:
    """Three heads, two key heads; padding in the middle; positions that cross a block, in a shuffled table."""
    config = ModelConfig(head_dim=DIM, num_attention_heads=6, num_key_value_heads=2)
    heads, count = 6, 20
    positions = torch.arange(first, first + count)
    qkv = torch.from_numpy(random.standard_normal((count, (heads + 2 * KV_HEADS) * DIM))).to(device, dtype)
    cosines, sines = network.rotary_tables(config, torch.arange(first + count), torch.float32)
    width = (first + count) // BLOCK_TOKENS + 1
    table = torch.zeros(2, width, dtype=torch.int32)
    used = torch.arange(first // BLOCK_TOKENS, width)
    table[1, used] = torch.tensor([5, 0, 3])[: len(used)].int()
    pool = torch.full((2, 6 * BLOCK_TOKENS, KV_HEADS, DIM), 7.0, dtype=dtype, device=device)
    with_padding = positions.int()
    with_padding[4] = -1
    q = rotate_and_store(
        qkv,
        cosines.to(device),
        sines.to(device),
        with_padding.to(device),
        torch.ones(count, dtype=torch.int32, device=device),
        table.to(device),
        pool[0],
        pool[1],
        BLOCK_TOKENS,
    )
    tables = network.rotary_tables(config, positions, torch.float32)
    wanted_q, k, v = network.split_heads(qkv.cpu().double(), DIM, KV_HEADS)
    kept = positions != first + 4
    assert_near(q.cpu()[kept], network.rotate(wanted_q, *(t.double() for t in tables))[kept])
    rows = table[1, positions // BLOCK_TOKENS].long() * BLOCK_TOKENS + positions % BLOCK_TOKENS
    assert_near(pool[0].cpu()[rows[kept]], network.rotate(k, *(t.double() for t in tables))[kept])
    assert_near(pool[1].cpu()[rows[kept]], v[kept])
    untouched = torch.ones(pool.shape[1], dtype=torch.bool)
    untouched[rows[kept]] = False
    assert (pool[:, untouched.to(device)] == 7).all()
