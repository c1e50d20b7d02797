"""A batch on the host: the chunks of a step as flat arrays, and what is drawn after each token. Knows no GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gpt_oss.backends.base import Chunk, Draw, Int32

PlannedDraw: TypeAlias = tuple[Draw, int]  # and the position of the token drawn


@dataclass(frozen=True)
class Arrays:
    """A batch on the host, see network.Batch. wanted: rows whose logits are asked for."""

    tokens: NDArray[np.int64]
    positions: Int32
    sequences: Int32
    table: Int32
    window_table: Int32
    wanted: NDArray[np.int64]


def arrays_of(chunks: Sequence[Chunk]) -> Arrays:
    counts = np.array([len(chunk.tokens) for chunk in chunks])
    wanted = np.array([chunk.logits for chunk in chunks])
    starts = np.array([chunk.position for chunk in chunks])
    ends, ends_wanted = np.cumsum(counts), np.cumsum(wanted)
    width = max(len(chunk.blocks) for chunk in chunks)

    def table(rows: Sequence[Int32]) -> Int32:
        filled = np.zeros((len(rows), width), np.int32)
        for i, row in enumerate(rows):
            filled[i, : len(row)] = row
        return filled

    return Arrays(
        tokens=np.concatenate([chunk.tokens for chunk in chunks]).astype(np.int64),
        positions=(np.arange(ends[-1]) + np.repeat(starts - ends + counts, counts)).astype(np.int32),
        sequences=np.repeat(np.arange(len(chunks), dtype=np.int32), counts),
        table=table([chunk.blocks for chunk in chunks]),
        window_table=table([chunk.window_blocks for chunk in chunks]),
        wanted=np.arange(ends_wanted[-1]) + np.repeat(ends - ends_wanted, wanted),
    )


NO_DRAW = (Draw(0.0, 0), 0)


def draws_of(chunks: Sequence[Chunk]) -> list[PlannedDraw]:
    """For each token of the batch, what is drawn after it."""
    return [
        (chunk.draw, chunk.position + i + 1) if chunk.draw is not None else NO_DRAW
        for chunk in chunks
        for i in range(len(chunk.tokens))
    ]


def runs_of(chunks: Sequence[Chunk], most_tokens: int) -> Int32:
    """[runs, 2]: first and end of runs of rows of the batch, of one sequence each, see attention.prefill."""
    runs, row = [], 0
    for chunk in chunks:
        end = row + len(chunk.tokens)
        runs += [(first, min(first + most_tokens, end)) for first in range(row, end, most_tokens)]
        row = end
    return np.array(runs, np.int32)


def draw_inputs(draws: Sequence[PlannedDraw]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Temperatures, seeds and positions as `sample` takes them."""
    return (
        np.array([draw.temperature for draw, _ in draws], np.float64),
        np.array([draw.seed % 2**64 for draw, _ in draws], np.uint64).view(np.int64),
        np.array([position for _, position in draws], np.int32),
    )
