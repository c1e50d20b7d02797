"""The experts' products of a few tokens against their plain definitions in the torch backend, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gpt_oss.backends.torch import network
from gpt_oss.backends.triton import gemv
from tests.backends.triton.conftest import Near
from tests.backends.triton.test_experts import LIMIT, random_matrices

EXPERTS = 6


def gathered(x: torch.Tensor, columns: int) -> torch.Tensor:
    """Spread vectors [n, 8, width] put back into order, by the definition of a word: [n, columns]."""
    n, _, width = x.shape
    planes = x.reshape(n, 4, 2, width // 16, 4, 4)  # block, half, group, byte % 4, byte / 4
    return planes.permute(0, 3, 1, 5, 4, 2).reshape(n, -1)[:, :columns].double().cpu() * 2.0**-64


@pytest.mark.parametrize("columns", [32, 128, 160])
def test_a_spread_vector_is_the_vector(columns: int, device: str, random: np.random.Generator) -> None:
    x = torch.from_numpy(random.standard_normal((3, columns))).float()
    found = gemv.spread(x.to(device))
    torch.testing.assert_close(gathered(found, columns), x.double(), rtol=0, atol=0)
    assert np.count_nonzero(found.cpu()) == x.numel()  # the padding is zeros


CHOICES = {
    "one token": [[5, 0]],
    "one expert": [[2]],
    "a shared expert": [[4, 1, 3], [1, 0, 5]],
    "a token of padding": [[2, 3], [EXPERTS, EXPERTS], [3, 0], [5, 4]],
}


@pytest.mark.parametrize("case", CHOICES)
@pytest.mark.parametrize(("hidden", "intermediate"), [(64, 96), (160, 32), (1056, 32)])
def test_products_of_few_tokens(
    case: str,
    hidden: int,
    intermediate: int,
    dtype: torch.dtype,
    device: str,
    random: np.random.Generator,
    assert_near: Near,
) -> None:
    chosen = torch.tensor(CHOICES[case], dtype=torch.int32)
    tokens, k = chosen.shape
    matrices1, plain1 = random_matrices(EXPERTS, 2 * intermediate, hidden, dtype, device, random)
    matrices2, plain2 = random_matrices(EXPERTS, hidden, intermediate, dtype, device, random)
    real = torch.nonzero(chosen.flatten() < EXPERTS).flatten()
    expert = chosen.flatten()[real].long()

    x = torch.from_numpy(random.standard_normal((tokens, hidden))).to(device, dtype)
    h = gemv.mlp1(gemv.spread(x), matrices1, chosen.to(device), LIMIT)
    before = torch.einsum("prc,pc->pr", plain1[expert], x.cpu().double()[real // k]) + matrices1.bias.cpu()[expert]
    h_real = gathered(h, intermediate)[real]
    assert_near(h_real, network.swiglu(before.double(), LIMIT))

    y = gemv.mlp2(h, matrices2, chosen.to(device))
    expected = torch.einsum("prc,pc->pr", plain2[expert], h_real) + matrices2.bias.cpu()[expert]
    assert_near(y.flatten(0, 1)[real.to(y.device)], expected)
