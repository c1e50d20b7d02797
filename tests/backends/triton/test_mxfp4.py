"""The arrangement of MXFP4 weights, and its decoding, against the plain definition in gpt_oss.model.mxfp4."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from gpt_oss.backends.triton import mxfp4
from gpt_oss.model import mxfp4 as definition


@triton.jit
def decode_rows(words, scales, out, rows, GROUPS: tl.constexpr, ROWS: tl.constexpr):
    row = tl.arange(0, ROWS)
    for group in range(GROUPS):
        word = tl.load(words + row[:, None] * GROUPS * 16 + group * 16 + tl.arange(0, 16)[None, :])
        tile = mxfp4.decode(word, tl.load(scales + group * rows + row), out.dtype.element_ty)
        tl.store(out + row[:, None] * GROUPS * 128 + group * 128 + tl.arange(0, 128)[None, :], tile)


def decoded(blocks: np.ndarray, scales: np.ndarray, dtype: torch.dtype, device: str) -> torch.Tensor:
    """blocks uint8 [rows, n, 16], scales [rows, n], arranged and decoded: float64 [rows, n * 32]."""
    rows, count = scales.shape
    groups = mxfp4.groups_of(count * 32)
    words = torch.empty(rows, groups * 16, dtype=torch.int32, device=device)
    words_of_scales = torch.empty(groups, rows, dtype=torch.int32, device=device)
    mxfp4.arrange_blocks(torch.from_numpy(blocks).to(device), words)
    mxfp4.arrange_scales(torch.from_numpy(scales).to(device), words_of_scales)
    out = torch.empty(rows, groups * 128, dtype=dtype, device=device)
    decode_rows[(1,)](words, words_of_scales, out, rows, GROUPS=groups, ROWS=rows)
    return out.double().cpu() * 2.0**mxfp4.SHIFT.value


@pytest.mark.parametrize("blocks_of_row", [1, 3, 4, 5, 8])
def test_any_byte_at_any_place_is_decoded_exactly(
    blocks_of_row: int, dtype: torch.dtype, device: str, random: np.random.Generator
) -> None:
    blocks = random.integers(0, 256, (64, blocks_of_row, 16), np.uint8)
    scales = random.integers(100, 140, (64, blocks_of_row), np.uint8)
    found = decoded(blocks, scales, dtype, device)
    np.testing.assert_array_equal(found[:, : blocks_of_row * 32], definition.decode(blocks, scales))
    assert not found[:, blocks_of_row * 32 :].any()


def test_every_scale_up_to_the_greatest_is_exact(dtype: torch.dtype, device: str) -> None:
    first = 64  # below, weights of less than 2^-63 may become zero
    scales = np.arange(first, mxfp4.MAX_SCALE + 1, dtype=np.uint8)
    scales = np.resize(scales, (32, 4))
    blocks = np.resize(np.arange(256, dtype=np.uint8), (32, 4, 16))
    np.testing.assert_array_equal(decoded(blocks, scales, dtype, device), definition.decode(blocks, scales))
