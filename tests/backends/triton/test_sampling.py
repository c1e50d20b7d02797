"""Draws on the GPU are the draws of engine/sampling.py, token for token."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gpt_oss.backends.triton.sampling import CHUNK, sample
from gpt_oss.engine.noise import gumbel


def drawn(logits: np.ndarray, usable: int, draws: list[tuple[float, int, int]], device: str) -> list[int]:
    temperatures, seeds, positions = zip(*draws, strict=True)
    return sample(
        torch.from_numpy(logits).to(device),
        usable,
        torch.tensor(temperatures, dtype=torch.float64, device=device),
        torch.from_numpy(np.array(seeds, np.uint64).view(np.int64)).to(device),
        torch.tensor(positions, dtype=torch.int32, device=device),
    ).tolist()


@pytest.mark.parametrize("vocabulary", [7, CHUNK, 2 * CHUNK + 5])
def test_draws_are_those_of_the_engine(vocabulary: int, device: str, random: np.random.Generator) -> None:
    draws = [(1.0, 0, 0), (0.7, 2**64 - 1, 1), (2.0, 12345, 131_071), (0.01, 2**63, 77), (0.0, 5, 5)]
    logits = (3 * random.standard_normal((len(draws), vocabulary))).astype(np.float32)
    ids = np.arange(vocabulary)
    expected = [
        int(np.argmax(row / temperature + gumbel(seed, position, ids) if temperature else row))
        for row, (temperature, seed, position) in zip(logits.astype(np.float64), draws, strict=True)
    ]
    assert drawn(logits, vocabulary, draws, device) == expected


def test_ids_past_the_usable_ones_are_never_drawn(device: str) -> None:
    logits = np.zeros((40, 30), np.float32)
    logits[:, 20:] = 100
    tokens = drawn(logits, 20, [(1.0, seed, 0) for seed in range(40)], device)
    assert max(tokens) < 20
    assert len(set(tokens)) > 5


def test_of_equal_logits_the_lowest_id_wins(device: str) -> None:
    logits = np.zeros((1, 3 * CHUNK), np.float32)
    logits[0, [CHUNK + 3, CHUNK + 9, 2 * CHUNK]] = 1
    assert drawn(logits, 3 * CHUNK, [(0.0, 0, 0)], device) == [CHUNK + 3]
