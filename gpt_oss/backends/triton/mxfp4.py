"""MXFP4 on the GPU: the arrangement that the kernels read, made once at load, and its decoding in registers.

A group is 128 values of one row: 4 blocks, 16 words of 32 bits. Word 4 (b % 4) + b / 4 holds byte b of all four blocks,
the byte's first value in the upper half. A half holds four e2m1 codes, block i's in slot i, whose bits lie where one
shift and one mask put sign and magnitude at their places in a bf16 number:

    bit of the half   15  14  13  12  11  10   9   8   7   6   5   4   3   2   1   0
    slot              s0  s3  m3  s1  m3  m3  s2  m0  m0  m0  m1  m1  m1  m2  m2  m2

Two bf16 numbers thus come out of a word by one shift and one mask (slot 3: three each), already neighbours in a
register, and in the order in which tensor cores take a row: no data moves between threads. Rows are padded with zeros
to whole groups. Scales: a group's four in one word, [experts, groups, rows], so that neighbouring rows' scales are one
access.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

GROUP = tl.constexpr(128)  # values
WORDS = tl.constexpr(16)  # of a group

# Weights are decoded as their value times 2^-SHIFT, so that the factor of a block is a normal bf16 number.
SHIFT = tl.constexpr(64)
MAX_SCALE = 190  # the greatest e8m0 code for which it is; such weights would be 2^63 and more


def groups_of(columns: int) -> int:
    return -(-columns // GROUP.value)


def arrange_blocks(blocks: Tensor, out: Tensor) -> None:
    """uint8 [..., columns / 32, 16] as released, into int32 [..., groups * 16]. Needs about 6 bytes a byte
    meanwhile."""
    padded = _whole_groups(blocks, axis=-2)
    padded = padded.unflatten(-2, (-1, 4)).unflatten(-1, (4, 4)).transpose(-1, -2).flatten(-2)  # [..., groups, 4, 16]
    places = _places().to(blocks.device)
    words = places[0][padded[..., 0, :].int()]
    for slot in range(1, 4):
        words |= places[slot][padded[..., slot, :].int()]
    out.copy_(words.flatten(-2))


def arrange_scales(scales: Tensor, out: Tensor) -> None:
    """uint8 [..., rows, columns / 32] as released, into int32 [..., groups, rows]."""
    words = _whole_groups(scales, axis=-1).contiguous().view(torch.int32)  # little-endian: block i in bits 8 i …
    out.copy_(words.transpose(-1, -2))


def _whole_groups(x: Tensor, axis: int) -> Tensor:
    missing = -x.shape[axis] % 4
    return torch.cat([x, x.new_zeros(*x.shape[:axis], missing, *x.shape[axis:][1:])], axis) if missing else x


def _places() -> Tensor:
    """int32 [4, 256]: for each slot, a byte's two codes at their bits of a word."""
    codes = torch.arange(16)
    sign, magnitude = codes >> 3, codes & 7
    halves = torch.stack(
        [
            sign << 15 | magnitude << 6,
            sign << 12 | magnitude << 3,
            sign << 9 | magnitude,
            sign << 14 | (magnitude & 1) << 13 | (magnitude >> 1) << 10,
        ]
    )
    byte = torch.arange(256)
    words = halves[:, byte & 15] << 16 | halves[:, byte >> 4]
    return words.to(torch.int32)  # wraps: bit 31 is the sign


@triton.jit
def decode(words, scales, DTYPE: tl.constexpr):
    """words int32 [rows, 16] and scales int32 [rows], one group: a tile [rows, 128] of values times 2^-SHIFT.

    DTYPE: bf16 or float32; exact in both.
    """
    rows: tl.constexpr = words.shape[0]
    words = words.to(tl.uint32, bitcast=True)
    scales = scales.to(tl.uint32, bitcast=True)
    pairs0, pairs1, pairs2, pairs3 = slots(words)
    block0 = _block(pairs0, scales & 255, DTYPE)
    block1 = _block(pairs1, (scales >> 8) & 255, DTYPE)
    block2 = _block(pairs2, (scales >> 16) & 255, DTYPE)
    block3 = _block(pairs3, scales >> 24, DTYPE)
    tile = tl.join(tl.join(block0, block1), tl.join(block2, block3))  # [rows, words, halves, block % 2, block / 2]
    tile = tile.reshape(rows, 4, 4, 2, 2, 2)  # word = 4 (byte % 4) + byte / 4
    return tile.permute(0, 5, 4, 2, 1, 3).reshape(rows, 128)  # block, byte, half


@triton.jit
def slots(words):
    """The four slots of uint32 words: two e2m1 values each as bf16 numbers times 2^-126 (subnormal where the code is
    1)."""
    last = ((words << 1) & 0x80008000) | ((words >> 3) & 0x01800180) | ((words >> 7) & 0x00400040)
    return words & 0x81C081C0, (words << 3) & 0x81C081C0, (words << 6) & 0x81C081C0, last


@triton.jit
def _block(pairs, scale, DTYPE: tl.constexpr):
    """pairs uint32 [rows, 16], see slots, and scale uint32 [rows]: DTYPE [rows, 16, 2], times 2^-SHIFT."""
    exponent = (scale + (126 - SHIFT))[:, None]  # of scale - 127 + 126 - SHIFT, as it is stored
    if DTYPE == tl.bfloat16:  # noqa: SIM300
        factor = (exponent << 7).to(tl.uint16).to(tl.bfloat16, bitcast=True)
        first = (pairs >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)
        second = pairs.to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        factor = (exponent << 23).to(tl.float32, bitcast=True)
        first = (pairs & 0xFFFF0000).to(tl.float32, bitcast=True)
        second = (pairs << 16).to(tl.float32, bitcast=True)
    return tl.join(first * factor, second * factor)
