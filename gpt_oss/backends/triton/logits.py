"""Logits that stay on the GPU until somebody asks, with the tokens that were drawn from them in the same step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpt_oss.backends.base import Draw, Float32
from gpt_oss.backends.triton.batch import PlannedDraw, draw_inputs
from gpt_oss.backends.triton.sampling import sample


@dataclass(frozen=True)
class Drawn:
    """Tokens that were drawn along with the logits: `tokens` [rows] is on its way to the host until `ready`."""

    tokens: Tensor
    ready: torch.cuda.Event | None
    draws: Sequence[PlannedDraw]  # of each row

    @cached_property
    def on_host(self) -> list[int]:
        """Waits for the device."""
        if self.ready is not None:
            self.ready.synchronize()
        result: list[int] = self.tokens.tolist()
        return result


class TritonLogits:
    """See base.Logits. tensor: [tokens computed, vocab_size]; rows: which of them were asked for."""

    def __init__(self, tensor: Tensor, rows: NDArray[np.int64], usable: int, drawn: Drawn | None) -> None:
        self._tensor = tensor
        self._rows = rows
        self._usable = usable
        self._drawn = drawn

    def __len__(self) -> int:
        return len(self._rows)

    def numpy(self) -> Float32:
        return self._on_host

    @cached_property
    def _on_host(self) -> Float32:
        rows = torch.from_numpy(self._rows).to(self._tensor.device)
        result: Float32 = self._tensor[rows].float().cpu().numpy()
        return result

    def sample(self, row: int, temperature: float, seed: int, position: int) -> int:
        """See base.SamplesItself: at once where the chunk said that this would be asked."""
        index = self._rows[row]
        if self._drawn is not None and self._drawn.draws[index] == (Draw(temperature, seed), position):
            return self._drawn.on_host[index]
        inputs = draw_inputs([(Draw(temperature, seed), position)])
        device = self._tensor.device
        logits = self._tensor[index : index + 1]
        return int(sample(logits, self._usable, *(torch.from_numpy(array).to(device) for array in inputs)))
