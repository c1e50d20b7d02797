"""A step of few tokens as one CUDA graph: the host copies inputs to fixed places and starts the whole pass at once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpt_oss.backends.triton.batch import Arrays, PlannedDraw, draw_inputs
from gpt_oss.backends.triton.network import Batch, Network
from gpt_oss.backends.triton.sampling import sample


class _Input:
    """A tensor at a fixed place on the device, whose beginning follows an array of the host."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, fill: int = 0) -> None:
        self.tensor = torch.full(shape, fill, dtype=dtype, device=device)
        self._last: NDArray[Any] | None = None

    def set(self, array: NDArray[Any]) -> None:
        """Copied only when it changed: block tables of answers do every BLOCK_TOKENS steps."""
        if self._last is None or not np.array_equal(self._last, array):
            where = tuple(slice(length) for length in array.shape)
            self.tensor[where].copy_(torch.from_numpy(array), non_blocking=True)
            self._last = array


class Graph:
    """A step of `size` tokens as one CUDA graph, with the inputs and outputs that it was captured with."""

    def __init__(self, network: Network, size: int, blocks: int, usable: int, device: torch.device) -> None:
        self.size = size
        self._tokens = _Input((size,), torch.int64, device)
        self._positions = _Input((size,), torch.int32, device, fill=-1)
        self._sequences = _Input((size,), torch.int32, device)
        self._table = _Input((size, blocks), torch.int32, device)
        self._window_table = _Input((size, blocks), torch.int32, device)
        self._temperatures = _Input((size,), torch.float64, device)
        self._seeds = _Input((size,), torch.int64, device)
        self._draw_positions = _Input((size,), torch.int32, device)
        self._network = network
        self._usable = usable

    def run(self, arrays: Arrays, draws: Sequence[PlannedDraw]) -> tuple[Tensor, Tensor]:
        """Logits [size, vocab] and tokens drawn [size]; valid until the next run."""
        missing = self.size - len(arrays.tokens)
        for tensor, array, fill in (
            (self._tokens, arrays.tokens, 0),
            (self._positions, arrays.positions, -1),
            (self._sequences, arrays.sequences, 0),
        ):
            tensor.set(np.pad(array, (0, missing), constant_values=fill))
        self._table.set(arrays.table)
        self._window_table.set(arrays.window_table)
        places = (self._temperatures, self._seeds, self._draw_positions)
        for tensor, array in zip(places, draw_inputs(draws), strict=True):
            tensor.set(array)
        graph, outputs = self._captured
        graph.replay()
        return outputs

    @cached_property
    def _captured(self) -> tuple[torch.cuda.CUDAGraph, tuple[Tensor, Tensor]]:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._compute()  # compiles what is new, and lets libraries take the memory that they keep
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = self._compute()
        return graph, outputs

    def _compute(self) -> tuple[Tensor, Tensor]:
        batch = Batch(
            self._tokens.tensor,
            self._positions.tensor,
            self._sequences.tensor,
            self._table.tensor,
            self._window_table.tensor,
        )
        logits = self._network.forward(batch)
        draws = (self._temperatures.tensor, self._seeds.tensor, self._draw_positions.tensor)
        return logits, sample(logits, self._usable, *draws)
