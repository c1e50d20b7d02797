"""Tokens drawn in the step that computes their logits, so that the host waits for a number and not for a vocabulary.

The draw is that of engine/noise.py: the argmax of logit / temperature + noise, the noise a function of seed, position
and token. Metal has no float64, so the device computes it in float32 and says whether the best is so far ahead that
float64 must agree; where it is not (a draw in a hundred), the host draws from the row itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TypeAlias

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from gpt_oss.backends.base import Chunk, Draw, Float32

PlannedDraw: TypeAlias = tuple[Draw, int]  # and the position of the token drawn
DrawRows: TypeAlias = Callable[[mx.array, mx.array | None, mx.array | None], tuple[mx.array, mx.array]]

_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # of splitmix64

# float32 noise is off by less than 0.001 + 1e-5 |total|: what lies further than this below the best cannot win.
MARGIN, RELATIVE_MARGIN = 0.01, 1e-4


def planned_draws(batch: Sequence[Chunk]) -> list[PlannedDraw | None]:
    """For each row of logits that is asked for, what is known of the draw from it."""
    return [
        None if chunk.draw is None else (chunk.draw, chunk.position + len(chunk.tokens) - chunk.logits + row + 1)
        for chunk in batch
        for row in range(chunk.logits)
    ]


@dataclass(frozen=True)
class Drawn:
    """tokens: uint32 [rows]. certain: bool [rows], whether float64 would draw the same. plans: what of each row."""

    tokens: mx.array
    certain: mx.array
    plans: Sequence[PlannedDraw | None]

    @classmethod
    def of(cls, logits: mx.array, plans: Sequence[PlannedDraw | None], draw_rows: DrawRows) -> Drawn | None:
        """Not yet computed. logits [rows, usable]; None where no row has a plan."""
        if not any(plans):
            return None
        temperatures = np.array([0.0 if plan is None else plan[0].temperature for plan in plans], np.float32)
        if not temperatures.any():
            return cls(*draw_rows(logits, None, None), plans)
        keys = np.array([0 if plan is None else _key(plan[0].seed, plan[1]) for plan in plans], np.uint64)
        return cls(*draw_rows(logits, mx.array(temperatures), mx.array(keys)), plans)

    @cached_property
    def host(self) -> tuple[list[int], list[bool]]:
        """Waits for the device."""
        return np.array(self.tokens).tolist(), np.array(self.certain).tolist()


def draw_rows(logits: mx.array, temperatures: mx.array | None, keys: mx.array | None) -> tuple[mx.array, mx.array]:
    """logits [rows, usable]; temperatures float32 [rows], 0 for the plain argmax; keys uint64 [rows], see _key. Without
    the two, the plain argmax of every row. Gives tokens [rows], and whether each is certain."""
    totals, needed = logits.astype(mx.float32), mx.array(0.0)
    if temperatures is not None and keys is not None:
        random = temperatures[:, None] > 0
        scaled = totals / mx.where(random, temperatures[:, None], 1.0)
        totals = mx.where(random, scaled + _noise(keys, logits.shape[-1]), scaled)
        needed = mx.where(random, MARGIN + RELATIVE_MARGIN * mx.abs(totals.max(axis=-1, keepdims=True)), 0.0)
    tokens = mx.argmax(totals, axis=-1, keepdims=True)
    best = mx.max(totals, axis=-1, keepdims=True)
    others = mx.where(mx.arange(totals.shape[-1]) == tokens, -mx.inf, totals)
    lead = best - mx.max(others, axis=-1, keepdims=True)
    return tokens.squeeze(-1), (lead > needed).squeeze(-1)


def _noise(keys: mx.array, count: int) -> mx.array:
    """Gumbel noise in float32, [rows, count]."""
    bits = _mix(keys[:, None] + _steps(count))
    # Of u and 1 - u the smaller keeps its digits in float32: large noise comes from the latter, small from the former.
    u, rest = ((word >> _word(12)).astype(mx.float32) * 2.0**-52 + 2.0**-53 for word in (bits, ~bits))
    exponential = mx.where(rest < 0.01, rest + rest * rest / 2, -mx.log(u))  # -log(u)
    return -mx.log(exponential)


def draw_exactly(logits: Float32, draw: Draw, position: int) -> int:
    """From one row [usable], on the host."""
    if draw.temperature == 0:
        return int(np.argmax(logits))
    return int(np.argmax(logits.astype(np.float64) / draw.temperature + gumbel(draw.seed, position, len(logits))))


def gumbel(seed: int, position: int, count: int) -> NDArray[np.float64]:
    """Noise of the tokens 0 .. count - 1: engine/noise.py has the definition."""
    key = np.array([_key(seed, position)], np.uint64)
    with np.errstate(over="ignore"):
        z = key + np.uint64(_GOLDEN) * np.arange(1, count + 1, dtype=np.uint64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(_FIRST)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(_SECOND)
    bits = z ^ (z >> np.uint64(31))
    u = ((bits >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
    noise: NDArray[np.float64] = -np.log(-np.log(u))
    return noise


def _key(seed: int, position: int) -> int:
    z = (seed + _GOLDEN * (position + 1)) % 2**64
    z = (z ^ z >> 30) * _FIRST % 2**64
    z = (z ^ z >> 27) * _SECOND % 2**64
    return z ^ z >> 31


@lru_cache(maxsize=4)
def _steps(count: int) -> mx.array:
    """uint64 [count]: what splitmix64 adds for each token."""
    with np.errstate(over="ignore"):
        return mx.array(np.array(_GOLDEN, np.uint64) * np.arange(1, count + 1, dtype=np.uint64))


def _mix(z: mx.array) -> mx.array:
    z = (z ^ (z >> _word(30))) * _word(_FIRST)
    z = (z ^ (z >> _word(27))) * _word(_SECOND)
    return z ^ (z >> _word(31))


def _word(value: int) -> mx.array:
    return mx.array(np.array(value, np.uint64))
