"""The residual stream's kernel against the plain norm."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gpt_oss.backends.torch import network
from gpt_oss.backends.triton.norm import add_norm
from tests.backends.triton.conftest import Near


@pytest.mark.parametrize("hidden", [32, 96, 2880])
@pytest.mark.parametrize("terms", [0, 1, 4])
def test_add_and_norm(
    hidden: int, terms: int, dtype: torch.dtype, device: str, random: np.random.Generator, assert_near: Near
) -> None:
    def normal(*shape: int) -> torch.Tensor:
        return torch.from_numpy(random.standard_normal(shape)).float().to(device)

    x, scale = normal(3, hidden), normal(hidden)
    added = normal(3, terms, hidden).to(dtype) if terms > 1 else normal(3, hidden).to(dtype) if terms else None
    shares = normal(3, terms) if terms > 1 else None
    stream = x.cpu().double()
    if added is not None:
        total = added.cpu().double().view(3, terms, hidden)
        stream = stream + (total * (shares.cpu()[..., None] if shares is not None else 1)).sum(1)
    found = add_norm(x, scale, 1e-3, dtype, added, shares)
    assert found.dtype == dtype
    torch.testing.assert_close(x.cpu().double(), stream, rtol=1e-5, atol=1e-5)
    assert_near(found, network.rms_norm(stream, scale.cpu().double(), 1e-3))
