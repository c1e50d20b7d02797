"""Dense products of few tokens against torch's, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gpt_oss.backends.triton import dense
from tests.backends.triton.conftest import Near


@pytest.mark.parametrize("tokens", [1, dense.FEW_TOKENS, dense.FEW_TOKENS + 1])
@pytest.mark.parametrize(("rows", "columns"), [(1, 32), (135, 96), (8, 128)])
@pytest.mark.parametrize("biased", [True, False])
def test_products(
    tokens: int,
    rows: int,
    columns: int,
    biased: bool,
    dtype: torch.dtype,
    device: str,
    random: np.random.Generator,
    assert_near: Near,
) -> None:
    x, weight, bias = (
        torch.from_numpy(random.standard_normal(shape)).to(device, dtype)
        for shape in ((tokens, columns), (rows, columns), (rows,))
    )
    found = dense.linear(x, weight, bias if biased else None)
    expected = x.cpu().double() @ weight.cpu().double().T + (bias.cpu().double() if biased else 0)
    assert_near(found, expected)
