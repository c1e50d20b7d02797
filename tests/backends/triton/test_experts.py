"""Routing, grouping and the experts' products against their plain definitions in the torch backend, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from gpt_oss.backends.torch import network
from gpt_oss.backends.torch.weights import decode_mxfp4
from gpt_oss.backends.triton import experts, mxfp4, route
from tests.backends.triton.conftest import Near

LIMIT = 2.0


@pytest.mark.parametrize(("tokens", "count_of_experts", "k"), [(1, 8, 2), (5, 3, 3), (7, 33, 4), (2, 1, 1)])
def test_the_greatest_logits_are_chosen(
    tokens: int, count_of_experts: int, k: int, device: str, random: np.random.Generator
) -> None:
    logits = torch.from_numpy(random.permutation(tokens * count_of_experts).reshape(tokens, -1) / 7.0).float()
    chosen, shares = route.choose(logits.to(device), torch.zeros(tokens, dtype=torch.int32, device=device), k)
    wanted, wanted_shares = network.route(logits.double(), k)
    torch.testing.assert_close(chosen.cpu().long(), wanted)
    torch.testing.assert_close(shares.cpu().double(), wanted_shares, rtol=1e-5, atol=1e-6)


def test_padding_chooses_nobody(device: str) -> None:
    positions = torch.tensor([4, -1, 0], dtype=torch.int32, device=device)
    chosen, _ = route.choose(torch.randn(3, 8, device=device), positions, 2)
    assert (chosen[1] == 8).all()
    assert (chosen[[0, 2]] < 8).all()
    groups = route.group(chosen, 8, 16)
    assert sorted(groups.order[:4].tolist()) == [0, 1, 4, 5]
    assert not {2, 3} & set(rows_of_tiles(groups))


def rows_of_tiles(groups: route.Groups) -> list[int]:
    return [
        pair for expert, first, end in groups.tiles.tolist() if expert >= 0 for pair in groups.order[first:end].tolist()
    ]


@pytest.mark.parametrize("tile_tokens", [16, 64])
@pytest.mark.parametrize("case", ["random", "one token", "all to one", "all to the last", "many"])
def test_every_pair_is_in_one_tile_of_its_expert(
    case: str, tile_tokens: int, device: str, random: np.random.Generator
) -> None:
    chosen = {
        "random": random.integers(0, 8, (37, 3)),
        "one token": np.array([[6, 1]]),
        "all to one": np.full((50, 1), 3),
        "all to the last": np.full((33, 2), 7),
        "many": random.integers(0, 8, (700, 2)),
    }[case]
    groups = route.group(torch.from_numpy(chosen.astype(np.int32)).to(device), 8, tile_tokens)
    used = [tile for tile in groups.tiles.tolist() if tile[0] >= 0]
    assert groups.tiles[len(used) :, 0].tolist() == [-1] * (len(groups.tiles) - len(used))
    for expert, first, end in used:
        assert 0 < end - first <= tile_tokens
        assert (chosen.flatten()[groups.order[first:end].cpu()] == expert).all()
    assert rows_of_tiles(groups) == np.argsort(chosen.flatten(), kind="stable").tolist()


@pytest.mark.parametrize(
    ("tokens", "count_of_experts", "k"),
    [(1, 8, 2), (1, 128, 4), (5, 3, 3), (7, 33, 4), (2, 1, 1), (16, 6, 2), (17, 6, 2)],
)
def test_choosing_and_grouping_at_once_is_both_in_turn(
    tokens: int, count_of_experts: int, k: int, device: str, random: np.random.Generator
) -> None:
    """A third of the tokens are padding."""
    logits = torch.from_numpy(random.standard_normal((tokens, count_of_experts))).float().to(device)
    positions = torch.from_numpy(np.where(np.arange(tokens) % 3 == 1, -1, 7).astype(np.int32)).to(device)
    groups, shares = route.assign(logits, positions, k, 16)
    chosen, wanted_shares = route.choose(logits, positions, k)
    wanted = route.group(chosen, count_of_experts, 16)
    torch.testing.assert_close(shares, wanted_shares)
    used = wanted.tiles[:, 0] >= 0
    assert (groups.tiles[~used, 0] == -1).all()
    torch.testing.assert_close(groups.tiles[used], wanted.tiles[used])
    assert rows_of_tiles(groups) == rows_of_tiles(wanted)


def random_matrices(
    count: int, rows: int, columns: int, dtype: torch.dtype, device: str, random: np.random.Generator
) -> tuple[experts.Matrices, Tensor]:
    """As the kernels take them, and as float64 [experts, rows, columns]."""
    blocks = torch.from_numpy(random.integers(0, 256, (count, rows, columns // 32, 16), np.uint8))
    scales = torch.from_numpy(random.integers(122, 126, (count, rows, columns // 32), np.uint8))
    groups = mxfp4.groups_of(columns)
    words = torch.empty(count, rows, groups * 16, dtype=torch.int32, device=device)
    words_of_scales = torch.empty(count, groups, rows, dtype=torch.int32, device=device)
    mxfp4.arrange_blocks(blocks.to(device), words)
    mxfp4.arrange_scales(scales.to(device), words_of_scales)
    bias = torch.from_numpy(random.standard_normal((count, rows))).to(device, dtype)
    return experts.Matrices(words, words_of_scales, bias, columns), decode_mxfp4(blocks, scales, torch.float64)


CHOICES = {
    "one token": lambda random: np.array([[5, 0]]),
    "some experts empty": lambda random: random.choice([0, 3, 4], (9, 1)),
    "all to one": lambda random: np.full((19, 1), 2),
    "a tile and one more": lambda random: np.full((17, 2), [1, 5]),
    "many": lambda random: random.integers(0, 6, (70, 2)),
}


@pytest.mark.parametrize("case", CHOICES)
@pytest.mark.parametrize("tile_tokens", [16, 64])
@pytest.mark.parametrize(("hidden", "intermediate"), [(64, 96), (160, 32)])
def test_products_of_experts(
    case: str,
    tile_tokens: int,
    hidden: int,
    intermediate: int,
    dtype: torch.dtype,
    device: str,
    random: np.random.Generator,
    assert_near: Near,
) -> None:
    chosen = torch.from_numpy(CHOICES[case](random).astype(np.int32))
    tokens, k = chosen.shape
    groups = route.group(chosen.to(device), 6, tile_tokens)
    matrices1, plain1 = random_matrices(6, 2 * intermediate, hidden, dtype, device, random)
    matrices2, plain2 = random_matrices(6, hidden, intermediate, dtype, device, random)

    x = torch.from_numpy(random.standard_normal((tokens, hidden))).to(device, dtype)
    h = experts.mlp1(x, matrices1, groups, LIMIT)
    order = groups.order.cpu().long()
    expert = chosen.flatten()[order].long()
    before = torch.einsum("prc,pc->pr", plain1[expert], x.cpu().double()[order // k]) + matrices1.bias.cpu()[expert]
    assert_near(h, network.swiglu(before.double(), LIMIT))

    y = experts.mlp2(h, matrices2, groups, tokens)
    expected = torch.einsum("prc,pc->pr", plain2[expert], h.cpu().double()) + matrices2.bias.cpu()[expert]
    assert_near(y.flatten(0, 1)[order.to(y.device)], expected)


def test_tiles_suit_the_number_of_tokens_and_the_gpu() -> None:
    consumer, data_centre = 99 * 1024, 227 * 1024
    assert experts.tile_tokens(4, 32, data_centre) == 16
    assert experts.tile_tokens(64 * 4, 32, data_centre) == 16
    assert experts.tile_tokens(1024 * 4, 128, data_centre) == 64
    assert experts.tile_tokens(2048 * 4, 32, data_centre) == 128
    assert experts.tile_tokens(2048 * 4, 32, consumer) == 64
    assert experts.tile_tokens(8192 * 4, 32, data_centre) == 256
    assert experts.tile_tokens(8192 * 4, 32, 163 * 1024) == 128
