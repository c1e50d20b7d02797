"""The backends that parity is asked of, and how far from the oracle each may be. A new one joins with one entry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from gpt_oss.backends import torch as torch_backend
from gpt_oss.backends.base import Model


@dataclass(frozen=True)
class Backend:
    """open: takes a checkpoint and cache_tokens.

    near: the largest distance of logits allowed in the first thousand positions; far: past position 4096, where float32
    angles of the rotary embedding differ from the oracle's; transformers: from transformers in float32, anywhere.
    Logits have a standard deviation of about 2.5. median: judge by the median distance, not the largest: where
    rounding makes the router choose another expert, a token's logits are far off and rightly so.
    torchrun: can share a model among processes, see processes.py, with this precision.
    """

    name: str
    open: Callable[..., Model]
    near: float
    far: float
    transformers: float | None = None
    median: bool = False
    torchrun: str | None = None

    def distance(self, a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
        assert a.shape == b.shape
        difference = np.abs(a.astype(np.float64) - b)
        return float(np.median(difference) if self.median else difference.max())


def _torch(dtype: str, device: str = "cpu", **tolerances: Any) -> Backend:
    open_model = partial(torch_backend.open_model, dtype=dtype, device=device)
    if device != "cpu":
        return Backend(f"torch {dtype} {device}", open_model, **tolerances)
    return Backend(f"torch {dtype}", open_model, torchrun=dtype, **tolerances)


BACKENDS = [
    _torch("float64", near=2e-6, far=2e-6),  # the logits come as float32
    _torch("float32", near=1e-4, far=1e-3, transformers=1e-4),
    _torch("bf16", near=0.05, far=0.05, median=True),
]
if torch.cuda.is_available():
    BACKENDS += [
        _torch("float64", "cuda", near=2e-6, far=2e-6),
        _torch("float32", "cuda", near=1e-4, far=1e-3, transformers=1e-3),  # its pow rounds angles another way
        _torch("bf16", "cuda", near=0.05, far=0.05, median=True),
    ]
