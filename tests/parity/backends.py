"""The backends that parity is asked of, and how far from the oracle each may be. A new one joins with one entry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch

from gpt_oss.backends import cpu, metal
from gpt_oss.backends import torch as torch_backend
from gpt_oss.backends.base import Model
from gpt_oss.model.checkpoint import Checkpoint

RUN = 32


@dataclass(frozen=True)
class Backend:
    """open: takes a checkpoint and cache_tokens.

    near: the largest distance of logits allowed in the first thousand positions; far: past position 4096, where float32
    angles of the rotary embedding differ from the oracle's; transformers: from transformers in float32, anywhere.
    Logits have a standard deviation of about 2.5.
    rounds: the backend rounds to bf16 or less. Where that makes the router choose another expert, a token's logits are
    far off and rightly so: the distance is then the median over the worst run of RUN tokens, not the largest.
    torchrun: can share a model among processes, see processes.py, with this precision.
    """

    name: str
    open: Callable[..., Model]
    near: float
    far: float
    transformers: float | None = None
    rounds: bool = False
    torchrun: str | None = None

    def distance(self, a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
        assert a.shape == b.shape
        difference = np.abs(a.astype(np.float64) - b)
        if not self.rounds:
            return float(difference.max())
        return float(max(np.median(run) for run in np.array_split(difference, max(1, len(a) // RUN))))


def _torch(dtype: str, device: str = "cpu", **tolerances: Any) -> Backend:
    open_model = partial(torch_backend.open_model, dtype=dtype, device=device)
    if device != "cpu":
        return Backend(f"torch {dtype} {device}", open_model, **tolerances)
    return Backend(f"torch {dtype}", open_model, torchrun=dtype, **tolerances)


def _cpu(precision: Literal["exact", "balanced"], kv: Literal["bf16", "int8"] = "bf16", **tolerances: Any) -> Backend:
    def open_model(checkpoint: Checkpoint, cache_tokens: int) -> Model:
        repacked = checkpoint.path.parent / "repacked"
        return cpu.open_model(
            checkpoint, precision=precision, kv=kv, threads=2, cache_tokens=cache_tokens, cache_dir=repacked
        )

    return Backend(f"cpu {precision}" + (" int8 kv" if kv == "int8" else ""), open_model, **tolerances)


BACKENDS = [
    _torch("float64", near=2e-6, far=2e-6),  # the logits come as float32
    _torch("float32", near=1e-4, far=1e-3, transformers=1e-4),
    _torch("bf16", near=0.07, far=0.07, transformers=0.07, rounds=True),
    _cpu("exact", near=0.07, far=0.07, transformers=0.07, rounds=True),
    _cpu("balanced", near=0.2, far=0.2, transformers=0.2, rounds=True),
    Backend("metal float32", partial(metal.open_model, precision="float32"), near=1e-4, far=1e-4, transformers=1e-3),
    _cpu("exact", "int8", near=0.07, far=0.07, transformers=0.07, rounds=True),
]
if torch.cuda.is_available():
    BACKENDS += [
        _torch("float64", "cuda", near=2e-6, far=2e-6),
        _torch("float32", "cuda", near=1e-4, far=1e-3, transformers=1e-3),  # its pow rounds angles another way
        _torch("bf16", "cuda", near=0.07, far=0.07, transformers=0.07, rounds=True),
    ]
