"""Where kernels are tested: on the GPU when there is one, else in Triton's interpreter (slow: shapes are tiny)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")


@pytest.fixture(scope="session")
def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(params=["float32", "bf16"])
def dtype(request: pytest.FixtureRequest, device: str) -> torch.dtype:
    """What the kernels compute in. The interpreter's bf16 arithmetic is wrong, so that is for GPUs."""
    if request.param == "bf16" and device == "cpu":
        pytest.skip("bf16 needs a GPU")
    return {"float32": torch.float32, "bf16": torch.bfloat16}[request.param]


Near = Callable[[Tensor, Tensor], None]


@pytest.fixture
def assert_near(dtype: torch.dtype) -> Near:
    """The largest difference is small beside the expected values' root mean square."""
    limit = {torch.float32: 1e-5, torch.bfloat16: 0.03}[dtype]

    def check(found: Tensor, expected: Tensor) -> None:
        expected = expected.double().cpu()
        assert found.shape == expected.shape
        size = float(expected.square().mean().sqrt())
        assert float((found.double().cpu() - expected).abs().max()) <= limit * size

    return check


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(3)
