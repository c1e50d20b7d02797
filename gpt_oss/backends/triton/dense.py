"""x times a dense matrix: for few tokens our own kernel, for more of them torch's (cuBLAS).

A program holds its rows of the matrix in registers, read at once and, see overlap.py, while the kernel before still
runs; then it multiplies one token after the other. Bytes: 2 * rows * columns, each once, and x out of the caches.
Operations: 2 * rows * columns a token, and a conversion of each weight. Bound by memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from gpt_oss.backends.triton.overlap import await_inputs, overlapped

FEW_TOKENS = 4  # up to which the arithmetic hides behind the memory


@dataclass(frozen=True)
class Shape:
    """rows: of the matrix, a program. warps: of a program."""

    rows: int
    warps: int


_FEW = Shape(2, 4)  # 12 KB under way a program, for 2880 columns of bf16, and six programs a processor of Hopper's
_INTERPRETED = Shape(64, 4)  # the interpreter takes its time for every program


@triton.jit
def _few(
    x, weight, bias, out, rows, columns,
    TOKENS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    weights = tl.load(weight + row[:, None].to(tl.int64) * columns + column[None, :], mask=inside, other=0.0)
    added = tl.zeros((ROWS,), tl.float32)
    if bias is not None:
        added += tl.load(bias + row, mask=row < rows, other=0.0).to(tl.float32)
    await_inputs(OVERLAP)
    for token in tl.static_range(TOKENS):
        values = tl.load(x + token * columns + column, mask=column < columns, other=0.0).to(tl.float32)
        total = tl.sum(weights.to(tl.float32) * values[None, :], 1) + added
        tl.store(out + token * rows + row, total.to(out.dtype.element_ty), mask=row < rows)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [tokens, columns] times weight [rows, columns], transposed, plus bias [rows]: [tokens, rows]."""
    tokens, columns = x.shape
    if tokens > FEW_TOKENS:
        return torch.nn.functional.linear(x, weight, bias)
    rows = len(weight)
    shape = _INTERPRETED if x.device.type == "cpu" else _FEW
    out = torch.empty(tokens, rows, dtype=x.dtype, device=x.device)
    _few[(triton.cdiv(rows, shape.rows),)](
        x,
        weight,
        bias,
        out,
        rows,
        columns,
        TOKENS=tokens,
        ROWS=shape.rows,
        BLOCK=triton.next_power_of_2(columns),
        num_warps=shape.warps,
        **overlapped(x),
    )
    return out
