"""Add a layer's output to the residual stream and normalise what comes next: one pass over each token's row.

Bytes a token: hidden * (4 + 4 read and written of the stream, which is float32, + 2 a term added + 2 of the result).
Operations: about 6 * hidden. Bound by memory, and at small batches by the launch.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gpt_oss.backends.triton.overlap import await_inputs, overlapped

VALUES = 4096  # that a program takes at least, in whole rows


@triton.jit
def kernel(
    x, terms, shares, scale, out, tokens, hidden, eps,
    TERMS: tl.constexpr, SHARED: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)[None, :]
    inside = (row < tokens)[:, None] & (column < hidden)
    at = row[:, None] * hidden + column
    scales = tl.load(scale + column, mask=column < hidden, other=0.0)
    await_inputs(OVERLAP)
    value = tl.load(x + at, mask=inside, other=0.0)
    if TERMS > 0:
        for i in tl.static_range(TERMS):
            nth = row * TERMS + i
            term = tl.load(terms + nth[:, None] * hidden + column, mask=inside, other=0.0).to(tl.float32)
            if SHARED:
                term *= tl.load(shares + nth, mask=row < tokens, other=0.0)[:, None]
            value += term
        tl.store(x + at, value, mask=inside)
    normal = value * tl.rsqrt(tl.sum(value * value, 1) / hidden + eps)[:, None]
    normal *= scales
    tl.store(out + at, normal.to(out.dtype.element_ty), mask=inside)


def add_norm(
    x: Tensor, scale: Tensor, eps: float, dtype: torch.dtype, terms: Tensor | None = None, shares: Tensor | None = None
) -> Tensor:
    """rmsnorm(x) * scale in dtype [tokens, hidden], after x, float32 [tokens, hidden], grew in place by terms.

    terms: [tokens, hidden], or [tokens, n, hidden] to be summed with shares, float32 [tokens, n].
    """
    tokens, hidden = x.shape
    out = torch.empty(tokens, hidden, dtype=dtype, device=x.device)
    count = 0 if terms is None else terms.numel() // x.numel()
    block = triton.next_power_of_2(hidden)
    rows = max(1, VALUES // block)
    kernel[(triton.cdiv(tokens, rows),)](
        x,
        terms,
        shares,
        scale,
        out,
        tokens,
        hidden,
        eps,
        TERMS=count,
        SHARED=shares is not None,
        ROWS=rows,
        BLOCK=block,
        num_warps=8,
        **overlapped(x),
    )
    return out
