"""A step of few tokens as one CUDA graph: the host copies inputs to fixed places and starts the whole pass at once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpt_oss.backends.triton.batch import Arrays, PlannedDraw, draw_inputs
from gpt_oss.backends.triton.network import Batch, Network
from gpt_oss.backends.triton.sampling import sample


class _Inputs:
    """What changes with every step, `size` values of each kind at a fixed place, copied to the device at once."""

    KINDS: ClassVar = {
        "tokens": (torch.int64, 0),
        "positions": (torch.int32, -1),
        "sequences": (torch.int32, 0),
        "temperatures": (torch.float64, 0),
        "seeds": (torch.int64, 0),
        "draw_positions": (torch.int32, 0),
    }  # with what padding gets
    ALIGNMENT = 256  # bytes: kernels are compiled for pointers that are multiples of 16

    def __init__(self, size: int, device: torch.device) -> None:
        room = -(-size * 8 // self.ALIGNMENT) * self.ALIGNMENT
        self._host = torch.zeros(len(self.KINDS), room, dtype=torch.uint8, pin_memory=True)
        self._device = torch.zeros_like(self._host, device=device)
        self._copied = torch.cuda.Event()
        self._places: dict[str, NDArray[Any]] = {}
        self.tensors: dict[str, Tensor] = {}
        for row, (name, (dtype, _)) in enumerate(self.KINDS.items()):
            self._places[name] = self._host[row].view(dtype)[:size].numpy()
            self.tensors[name] = self._device[row].view(dtype)[:size]

    def set(self, **arrays: NDArray[Any]) -> None:
        self._copied.synchronize()  # the copy before this one; it has ended where a token of that step was waited for
        for name, array in arrays.items():
            place = self._places[name]
            place[: len(array)] = array
            place[len(array) :] = self.KINDS[name][1]
        self._device.copy_(self._host, non_blocking=True)
        self._copied.record()


class _Table:
    """A block table at a fixed place on the device, copied when it changed: every BLOCK_TOKENS steps of an answer."""

    def __init__(self, shape: tuple[int, int], device: torch.device) -> None:
        self.tensor = torch.zeros(shape, dtype=torch.int32, device=device)
        self._last: NDArray[Any] | None = None

    def set(self, table: NDArray[Any]) -> None:
        """table: [sequences, blocks], as many as there are; the rest keeps what it was."""
        if self._last is None or not np.array_equal(self._last, table):
            self.tensor[: len(table), : table.shape[1]].copy_(torch.from_numpy(table), non_blocking=True)
            self._last = table


class Graph:
    """A step of `size` tokens as one CUDA graph, with the inputs and outputs that it was captured with."""

    def __init__(self, network: Network, size: int, blocks: int, usable: int, device: torch.device) -> None:
        self.size = size
        self._inputs = _Inputs(size, device)
        self._table, self._window_table = _Table((size, blocks), device), _Table((size, blocks), device)
        self._network = network
        self._usable = usable

    def run(self, arrays: Arrays, draws: Sequence[PlannedDraw]) -> tuple[Tensor, Tensor]:
        """Logits [size, vocab] and tokens drawn [size]; valid until the next run."""
        temperatures, seeds, draw_positions = draw_inputs(draws)
        self._inputs.set(
            tokens=arrays.tokens,
            positions=arrays.positions,
            sequences=arrays.sequences,
            temperatures=temperatures,
            seeds=seeds,
            draw_positions=draw_positions,
        )
        self._table.set(arrays.table)
        self._window_table.set(arrays.window_table)
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
        given = self._inputs.tensors
        tables = self._table.tensor, self._window_table.tensor
        logits = self._network.forward(Batch(given["tokens"], given["positions"], given["sequences"], *tables))
        draws = (given["temperatures"], given["seeds"], given["draw_positions"])
        return logits, sample(logits, self._usable, *draws)
