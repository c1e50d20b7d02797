"""The experts' products for a few tokens, straight from MXFP4 and without tensor cores: a matrix times one vector.

Tensor cores take 16 tokens; with fewer, what counts is that the whole memory is busy from the first microsecond to the
last. A program takes some rows of the matrix that one token's choice needs: a warp reads whole rows, 16 bytes a thread,
straight into registers, decodes two values with a shift and a mask and adds in float32. `mlp1` applies swiglu.

Vectors are "spread": float32 [8, groups * 16]. Plane 2 i + h has, at the place of each word of a row, the value that
meets half h of the word's slot i (see mxfp4.py), so that a thread's 16 bytes of words meet 16 bytes of vector.

Bytes, of both products together: 3 * hidden * intermediate * 17 / 32 a pair (token, choice); what two tokens share
comes out of the second-level cache. Operations: about 5 instructions a weight, 0.1 billion weights a token and layer
(20b and 120b): on an H200 1.4 times what the memory takes, so that this is what to make less.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from gpt_oss.backends.triton import mxfp4
from gpt_oss.backends.triton.experts import Matrices, swiglu
from gpt_oss.backends.triton.overlap import await_inputs, overlapped

MOST_TOKENS = 4  # above, decoding for each pair alone costs more than 16 tokens of tensor cores


@dataclass(frozen=True)
class Shape:
    """rows: of the matrix, a program. warps: of a program; with one, nothing goes through shared memory. registers:
    that a thread may have at most, on NVIDIA's; None is as many as the compiler likes."""

    rows: int
    warps: int
    registers: int | None = None

    def options(self) -> dict[str, int]:
        limit = {"maxnreg": self.registers} if self.registers and torch.version.hip is None else {}
        return {"ROWS": self.rows, "num_warps": self.warps} | limit


_SHAPE1, _SHAPE2 = Shape(4, 1), Shape(4, 1)
_INTERPRETED = Shape(64, 1)  # the interpreter takes its time for every program
LANES = tl.constexpr(32)  # threads that share a row, each with 4 words at a time
PLANES = tl.constexpr(8)  # of a spread vector
_UP = tl.constexpr(2.0**64)  # of the vector, since weights are decoded as their value times 2^-126


@triton.jit
def place(column, width):
    """Where a spread vector of width = groups * 16 has the value of a column."""
    word = column // 128 * 16 + column % 8 // 2 * 4 + column % 32 // 8
    return (column % 128 // 32 * 2 + column % 2) * width + word


@triton.jit
def _product(words, scales, expert, row, rows, x, groups, PARTS: tl.constexpr):
    """float32: rows `row` of the expert's matrix times the spread vector x."""
    row = tl.minimum(row, rows - 1)  # rows past the end repeat the last, and are not stored
    thread = tl.arange(0, LANES)
    i = tl.arange(0, 4)[None, None, :]
    width = groups * 16
    word = words + (expert.to(tl.int64) * rows + row)[:, None, None] * width + i
    scale = scales + expert.to(tl.int64) * groups * rows + row[:, None]
    total = tl.zeros((row.shape[0], LANES, 4), tl.float32)
    for part in tl.static_range(PARTS):
        first = (part * LANES + thread) * 4
        inside = first < width
        loaded = tl.load(word + first[None, :, None], mask=inside[None, :, None], other=0).to(tl.uint32, bitcast=True)
        exponents = tl.load(scale + (first // 16 * rows)[None, :], mask=inside[None, :], other=0)
        exponents = exponents.to(tl.uint32, bitcast=True)
        value = x + first[None, :, None] + i
        mask = inside[None, :, None]
        pairs0, pairs1, pairs2, pairs3 = mxfp4.slots(loaded)
        total = _add(total, pairs0, exponents & 255, value, mask, width)
        total = _add(total, pairs1, (exponents >> 8) & 255, value + 2 * width, mask, width)
        total = _add(total, pairs2, (exponents >> 16) & 255, value + 4 * width, mask, width)
        total = _add(total, pairs3, exponents >> 24, value + 6 * width, mask, width)
    return tl.sum(tl.sum(total, 2), 1) * (2.0**62)


@triton.jit
def _add(total, pairs, exponent, value, mask, width):
    """total and the products of one slot: all of them times 2^-62, so that none is lost below the least number."""
    first = (pairs & 0xFFFF0000).to(tl.float32, bitcast=True)
    second = (pairs << 16).to(tl.float32, bitcast=True)
    x_first = tl.load(value, mask=mask, other=0.0)
    x_second = tl.load(value + width, mask=mask, other=0.0)
    factor = (exponent << 23).to(tl.float32, bitcast=True)  # 2^(exponent - 127)
    return total + (first * x_first + second * x_second) * factor[:, :, None]


@triton.jit
def _mlp1(
    x, words, scales, bias, chosen, out, rows, groups, out_groups, limit,
    EXPERTS: tl.constexpr, COUNT: tl.constexpr, ROWS: tl.constexpr, PARTS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    await_inputs(OVERLAP)
    pair = tl.program_id(1)
    expert = tl.load(chosen + pair)
    if expert >= EXPERTS:
        return
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    x += pair // COUNT * (groups * 128)
    total = _product(words, scales, expert, row, rows, x, groups, PARTS)
    total += tl.load(bias + expert.to(tl.int64) * rows + row, mask=row < rows, other=0.0).to(tl.float32)
    gate, linear = tl.split(total.reshape(ROWS // 2, 2))  # they lie interleaved
    column = tl.program_id(0) * (ROWS // 2) + tl.arange(0, ROWS // 2)
    # As the other kernels round between the products, so that a token's results hardly depend on its company.
    result = swiglu(gate, linear, limit).to(bias.dtype.element_ty).to(tl.float32) * _UP
    to = out + pair * (out_groups * 128) + place(column, out_groups * 16)
    tl.store(to, tl.where(column < rows // 2, result, 0.0), mask=column < out_groups * 128)


@triton.jit
def _mlp2(
    x, words, scales, bias, chosen, out, rows, groups,
    EXPERTS: tl.constexpr, ROWS: tl.constexpr, PARTS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    await_inputs(OVERLAP)
    pair = tl.program_id(1)
    expert = tl.load(chosen + pair)
    if expert >= EXPERTS:
        return
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    total = _product(words, scales, expert, row, rows, x + pair * (groups * 128), groups, PARTS)
    total += tl.load(bias + expert.to(tl.int64) * rows + row, mask=row < rows, other=0.0).to(tl.float32)
    tl.store(out + pair * rows + row, total.to(out.dtype.element_ty), mask=row < rows)


@triton.jit
def _spread(x, out, columns, groups, BLOCK: tl.constexpr, OVERLAP: tl.constexpr):
    await_inputs(OVERLAP)
    token = tl.program_id(0)
    column = tl.arange(0, BLOCK)
    value = tl.load(x + token * columns + column, mask=column < columns, other=0.0).to(tl.float32) * _UP
    tl.store(out + token * (groups * 128) + place(column, groups * 16), value, mask=column < groups * 128)


def room(tokens: int, columns: int, device: torch.device) -> Tensor:
    """For spread vectors, unset: float32 [tokens, 8, groups * 16]."""
    width = mxfp4.groups_of(columns) * mxfp4.WORDS.value
    return torch.empty(tokens, PLANES.value, width, dtype=torch.float32, device=device)


def spread(x: Tensor) -> Tensor:
    """x [tokens, columns], spread and times 2^64."""
    tokens, columns = x.shape
    out = room(tokens, columns, x.device)
    groups = mxfp4.groups_of(columns)
    _spread[(tokens,)](
        x, out, columns, groups, BLOCK=triton.next_power_of_2(groups * 128), num_warps=8, **overlapped(x)
    )
    return out


def mlp1(x: Tensor, matrices: Matrices, chosen: Tensor, limit: float) -> Tensor:
    """x: [tokens, hidden], spread. chosen: int32 [tokens, k], see route.choose. To [tokens * k, intermediate], spread:
    swiglu of the first product. Pairs of padding stay unset."""
    experts, rows = matrices.bias.shape
    pairs, inter = chosen.numel(), rows // 2
    out = room(pairs, inter, x.device)
    shape = _INTERPRETED if x.device.type == "cpu" else _SHAPE1
    groups, out_groups = mxfp4.groups_of(matrices.columns), mxfp4.groups_of(inter)
    _mlp1[(triton.cdiv(2 * 128 * out_groups, shape.rows), pairs)](
        x, matrices.words, matrices.scales, matrices.bias, chosen, out, rows, groups, out_groups, limit,
        EXPERTS=experts, COUNT=chosen.shape[1], PARTS=_parts(groups), **shape.options(),
        **overlapped(x),
    )  # fmt: skip
    return out


def mlp2(x: Tensor, matrices: Matrices, chosen: Tensor) -> Tensor:
    """x: [tokens * k, intermediate], spread, to [tokens, k, hidden]. Pairs of padding stay unset."""
    experts, rows = matrices.bias.shape
    shape = _INTERPRETED if x.device.type == "cpu" else _SHAPE2
    out = torch.empty(*chosen.shape, rows, dtype=matrices.bias.dtype, device=x.device)
    groups = mxfp4.groups_of(matrices.columns)
    _mlp2[(triton.cdiv(rows, shape.rows), chosen.numel())](
        x, matrices.words, matrices.scales, matrices.bias, chosen, out, rows, groups,
        EXPERTS=experts, PARTS=_parts(groups), **shape.options(), **overlapped(x),
    )  # fmt: skip
    return out


def _parts(groups: int) -> int:
    return triton.cdiv(groups * 4, LANES.value)
