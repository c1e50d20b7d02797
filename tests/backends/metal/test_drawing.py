"""Tokens drawn on the device are those of the engine's sampling, or the device says that it is not sure."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from gpt_oss.backends.base import Chunk, Draw
from gpt_oss.backends.metal import drawing
from gpt_oss.backends.metal.drawing import Drawn, draw_exactly, draw_rows, planned_draws
from gpt_oss.engine import noise

VOCAB = 5000


def exact(logits: np.ndarray, draw: Draw, position: int) -> int:
    """As engine/sampling.py does."""
    if draw.temperature == 0:
        return int(np.argmax(logits))
    every = np.arange(len(logits))
    return int(np.argmax(logits.astype(np.float64) / draw.temperature + noise.gumbel(draw.seed, position, every)))


@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1, 0x9E3779B97F4A7C15])
def test_the_noise_is_the_engines(seed: int) -> None:
    for position in (0, 1, 131_071):
        expected = noise.gumbel(seed, position, np.arange(VOCAB))
        np.testing.assert_array_equal(drawing.gumbel(seed, position, VOCAB), expected)
        keys = mx.array(np.array([drawing._key(seed, position)], np.uint64))
        on_device = np.array(drawing._noise(keys, VOCAB))[0]
        # A tenth of the margin within which the device gives up.
        assert (np.abs(on_device - expected) < 0.001 + 1e-5 * np.abs(expected)).all()


def test_the_largest_and_smallest_noise_keeps_its_precision() -> None:
    """Of four million values they come from u next to 1 and next to 0: either is rounded to 1 or 0 too easily."""
    keys = mx.array(np.array([drawing._key(3, 4)], np.uint64))
    on_device = np.array(drawing._noise(keys, 4_000_000))[0]
    expected = drawing.gumbel(3, 4, 4_000_000)
    order = np.argsort(expected)
    ends = np.concatenate([order[:20], order[-20:]])
    np.testing.assert_allclose(on_device[ends], expected[ends], rtol=1e-4)


def test_what_is_certain_is_what_the_engine_draws() -> None:
    rng = np.random.default_rng(2)
    draws = [Draw(float(t), int(rng.integers(2**63))) for t in rng.choice([0.0, 0.3, 1.0, 2.0], 400)]
    logits = rng.normal(0, 2.5, (400, VOCAB)).astype(np.float32)
    plans = [(draw, 100 + row) for row, draw in enumerate(draws)]
    drawn = Drawn.of(mx.array(logits), plans, draw_rows)
    assert drawn is not None
    tokens, certain = drawn.host
    assert sum(certain) > 380
    for row, (draw, position) in enumerate(plans):
        expected = exact(logits[row], draw, position)
        assert draw_exactly(logits[row], draw, position) == expected
        if certain[row]:
            assert tokens[row] == expected


def test_a_tie_is_not_certain() -> None:
    logits = np.zeros((2, VOCAB), np.float32)
    logits[0, [70, 4000]] = 8.0
    logits[1, 70] = 8.0
    drawn = Drawn.of(mx.array(logits), [(Draw(0.0, 1), 5)] * 2, draw_rows)
    assert drawn is not None
    assert drawn.host[1] == [False, True]
    assert drawn.host[0][1] == 70
    assert draw_exactly(logits[0], Draw(0.0, 1), 5) == 70


def test_a_near_tie_with_noise_is_not_certain() -> None:
    """The two best of a row brought to within 0.001 of each other, noise included."""
    logits = np.random.default_rng(3).normal(0, 1, VOCAB).astype(np.float32)
    totals = logits + noise.gumbel(9, 6, np.arange(VOCAB))
    second, best = np.argsort(totals)[-2:]
    logits[second] += np.float32(totals[best] - totals[second] - 0.001)
    drawn = Drawn.of(mx.array(logits[None]), [(Draw(1.0, 9), 6)], draw_rows)
    assert drawn is not None
    assert drawn.host[1] == [False]


def test_each_row_is_planned_for_the_position_after_it() -> None:
    blocks = np.arange(2, dtype=np.int32)
    first, second = Draw(1.0, 7), Draw(0.0, 8)
    batch = [
        Chunk(np.zeros(5, np.int32), 10, blocks, blocks, 3, first),
        Chunk(np.zeros(2, np.int32), 0, blocks, blocks, 0, first),
        Chunk(np.zeros(1, np.int32), 30, blocks, blocks, 1, None),
        Chunk(np.zeros(1, np.int32), 40, blocks, blocks, 1, second),
    ]
    assert planned_draws(batch) == [(first, 13), (first, 14), (first, 15), None, (second, 41)]
    assert Drawn.of(mx.zeros((1, VOCAB)), [None], draw_rows) is None
