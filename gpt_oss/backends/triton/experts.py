"""The experts' products, straight from MXFP4: every tile of tokens times its expert's matrix, as route.py grouped them.

`mlp1` gathers tokens, multiplies and applies swiglu; `mlp2` multiplies and scatters to (token, choice). A program
decodes its rows of a matrix in registers, right where the tensor cores take them from, so that weights never exist as
bf16 in memory. The product is transposed, weights times tokens, since the operand in registers is the first one.

Bytes, of both products together: 3 * hidden * intermediate * 17 / 32 for every expert with tokens (once for each of its
tiles, the repetitions out of the second-level cache), and a few KB a token. Operations: 6 * hidden * intermediate a
pair.
- Few tokens: bound by memory. A tile is 16 tokens, so an active expert's bytes are read
  once in a batch of up to 16. Many small programs keep the memory busy, each with `stages` groups of its rows under
  way.
- Many: bound by the tensor cores. Decoding costs about 5 instructions a weight and is shared by the tile's tokens, 64
  to 256.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from gpt_oss.backends.triton.mxfp4 import SHIFT, decode
from gpt_oss.backends.triton.overlap import await_inputs, overlapped
from gpt_oss.backends.triton.route import Groups

SWIGLU_ALPHA = tl.constexpr(1.702)


@dataclass(frozen=True)
class Matrices:
    """One matrix [rows, columns] for each expert, arranged as mxfp4.py says. bias: [experts, rows]."""

    words: Tensor  # int32 [experts, rows, groups * 16]
    scales: Tensor  # int32 [experts, groups, rows]
    bias: Tensor
    columns: int


@dataclass(frozen=True)
class Shape:
    """How a product is cut: rows of the matrix a program, warps of a program, loads under way ahead of the product.
    registers: that a thread may have at most, on NVIDIA's; None is as many as the compiler likes."""

    rows: int
    warps: int
    stages: int
    registers: int | None = None

    def options(self) -> dict[str, int]:
        limit = {"maxnreg": self.registers} if self.registers and torch.version.hip is None else {}
        return {"ROWS": self.rows, "num_warps": self.warps, "num_stages": self.stages} | limit


FEW_TOKENS = 16  # the least that tensor cores take
# For tiles of so many tokens, the fastest of some on an H200. With 64 tokens 75 KB of shared memory, with 128 122 KB.
SHAPES1 = {
    16: Shape(128, 4, 4),
    64: Shape(128, 8, 2, registers=128),
    128: Shape(128, 8, 2, registers=128),
    256: Shape(128, 8, 3),
}
SHAPES2 = {16: Shape(64, 4, 4), 64: Shape(128, 4, 3), 128: Shape(128, 8, 3), 256: Shape(128, 8, 3)}
FEWEST_PAIRS, FEWEST = 16, Shape(64, 4, 8)  # so few pairs (token, choice): one a tile, and memory is all that counts
LARGE_SHARED_MEMORY = 160 * 1024  # bytes: of data centre cards; consumer cards have 99 KB
LARGEST_SHARED_MEMORY = 220 * 1024  # of those since Hopper


def tile_tokens(pairs: int, experts: int, shared_memory: int) -> int:
    """How many tokens a tile should have, for so many pairs (token, choice) and a GPU with so much memory a program."""
    share = pairs // experts
    if share <= FEW_TOKENS:
        return FEW_TOKENS
    if share >= 512 and shared_memory >= LARGEST_SHARED_MEMORY:
        return 256
    return 128 if share > 64 and shared_memory >= LARGE_SHARED_MEMORY else 64


@triton.jit
def _product(
    words, scales, expert, row, rows, x, x_rows, inside, columns, ROWS: tl.constexpr, TOKENS: tl.constexpr
):  # fmt: skip
    """float32 [ROWS, TOKENS]: rows `row` of the expert's matrix times rows `x_rows` of x, which has `columns`
    columns, where they are `inside` [TOKENS]; the rest is not read and counts as zeros."""
    groups = (columns + 127) // 128
    row = tl.minimum(row, rows - 1)  # rows past the end repeat the last, and are not stored
    word = words + (expert.to(tl.int64) * rows + row[:, None]) * (groups * 16) + tl.arange(0, 16)[None, :]
    scale = scales + expert.to(tl.int64) * groups * rows + row
    column = tl.arange(0, 128)[:, None]
    value = x + x_rows[None, :].to(tl.int64) * columns + column
    total = tl.zeros((ROWS, TOKENS), tl.float32)
    for group in range(0, groups):
        weights = decode(tl.load(word), tl.load(scale), x.dtype.element_ty)
        values = tl.load(value, mask=inside[None, :] & (column < columns - group * 128), other=0.0)
        total = tl.dot(weights, values, total, input_precision="ieee")
        word += 16
        scale += rows
        value += 128
    return total * (2.0**SHIFT)


@triton.jit
def swiglu(gate, linear, limit):
    gate = tl.minimum(gate, limit)
    linear = tl.minimum(tl.maximum(linear, -limit), limit)
    return gate * tl.sigmoid(gate * SWIGLU_ALPHA) * (linear + 1)


@triton.jit
def _mlp1(
    x,
    words,
    scales,
    bias,
    order,
    tiles,
    out,
    rows,
    columns,
    limit,
    COUNT: tl.constexpr,
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    await_inputs(OVERLAP)
    tile = tl.program_id(1)
    expert = tl.load(tiles + tile * 3)
    if expert < 0:
        return
    at = tl.load(tiles + tile * 3 + 1) + tl.arange(0, TOKENS)
    inside = at < tl.load(tiles + tile * 3 + 2)
    token = tl.load(order + at, mask=inside, other=0) // COUNT
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    total = _product(words, scales, expert, row, rows, x, token, inside, columns, ROWS, TOKENS)
    total += tl.load(bias + expert.to(tl.int64) * rows + row, mask=row < rows, other=0.0).to(tl.float32)[:, None]

    gate, linear = tl.split(total.reshape(ROWS // 2, 2, TOKENS).permute(0, 2, 1))  # they lie interleaved
    result = swiglu(gate, linear, limit)
    column = tl.program_id(0) * (ROWS // 2) + tl.arange(0, ROWS // 2)
    to = out + at[None, :].to(tl.int64) * (rows // 2) + column[:, None]
    tl.store(to, result.to(out.dtype.element_ty), mask=inside[None, :] & (column < rows // 2)[:, None])


@triton.jit
def _mlp2(
    x, words, scales, bias, order, tiles, out, rows, columns,
    ROWS: tl.constexpr, TOKENS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    await_inputs(OVERLAP)
    tile = tl.program_id(1)
    expert = tl.load(tiles + tile * 3)
    if expert < 0:
        return
    first = tl.load(tiles + tile * 3 + 1)
    end = tl.load(tiles + tile * 3 + 2)
    at = first + tl.arange(0, TOKENS)
    inside = at < end
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    total = _product(words, scales, expert, row, rows, x, at, inside, columns, ROWS, TOKENS)
    total += tl.load(bias + expert.to(tl.int64) * rows + row, mask=row < rows, other=0.0).to(tl.float32)[:, None]
    pair = tl.load(order + at, mask=inside, other=0)
    to = out + pair[None, :].to(tl.int64) * rows + row[:, None]
    tl.store(to, total.to(out.dtype.element_ty), mask=inside[None, :] & (row < rows)[:, None])


def mlp1(x: Tensor, matrices: Matrices, groups: Groups, limit: float) -> Tensor:
    """x [tokens, hidden] to [pairs, intermediate], in the order of groups.order: swiglu of the first product."""
    rows, pairs = matrices.bias.shape[1], len(groups.order)
    shape = FEWEST if pairs <= FEWEST_PAIRS else SHAPES1[groups.tile_tokens]
    out = torch.empty(pairs, rows // 2, dtype=x.dtype, device=x.device)
    _mlp1[(triton.cdiv(rows, shape.rows), len(groups.tiles))](
        x,
        matrices.words,
        matrices.scales,
        matrices.bias,
        groups.order,
        groups.tiles,
        out,
        rows,
        matrices.columns,
        limit,
        COUNT=pairs // len(x),
        TOKENS=groups.tile_tokens,
        **shape.options(),
        **overlapped(x),
    )
    return out


def mlp2(x: Tensor, matrices: Matrices, groups: Groups, tokens: int) -> Tensor:
    """x [pairs, intermediate], in the order of groups.order, to [tokens, k, hidden]. Pairs of padding stay unset."""
    rows, pairs = matrices.bias.shape[1], len(groups.order)
    shape = FEWEST if pairs <= FEWEST_PAIRS else SHAPES2[groups.tile_tokens]
    out = torch.empty(tokens, pairs // tokens, rows, dtype=x.dtype, device=x.device)
    _mlp2[(triton.cdiv(rows, shape.rows), len(groups.tiles))](
        x,
        matrices.words,
        matrices.scales,
        matrices.bias,
        groups.order,
        groups.tiles,
        out,
        rows,
        matrices.columns,
        TOKENS=groups.tile_tokens,
        **shape.options(),
        **overlapped(x),
    )
    return out
