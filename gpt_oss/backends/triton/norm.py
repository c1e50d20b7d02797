"""Add a layer's output to the residual stream and normalise what comes next: one pass over each token's row.

Bytes a token: hidden * (4 + 4 read and written of the stream, which is float32, + 2 a term added + 2 of the result).
Operations: about 6 * hidden. Bound by memory, and at small batches by the launch.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _kernel(x, terms, shares, scale, out, hidden, eps, TERMS: tl.constexpr, SHARED: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < hidden
    value = tl.load(x + row * hidden + column, mask=inside, other=0.0)
    if TERMS > 0:
        for i in tl.static_range(TERMS):
            term = tl.load(terms + (row * TERMS + i) * hidden + column, mask=inside, other=0.0).to(tl.float32)
            if SHARED:
                term *= tl.load(shares + row * TERMS + i)
            value += term
        tl.store(x + row * hidden + column, value, mask=inside)
    normal = value * tl.rsqrt(tl.sum(value * value) / hidden + eps)
    normal *= tl.load(scale + column, mask=inside, other=0.0)
    tl.store(out + row * hidden + column, normal.to(out.dtype.element_ty), mask=inside)


def add_norm(
    x: Tensor, scale: Tensor, eps: float, dtype: torch.dtype, terms: Tensor | None = None, shares: Tensor | None = None
) -> Tensor:
    """rmsnorm(x) * scale in dtype [tokens, hidden], after x, float32 [tokens, hidden], grew in place by terms.

    terms: [tokens, hidden], or [tokens, n, hidden] to be summed with shares, float32 [tokens, n].
    """
    tokens, hidden = x.shape
    out = torch.empty(tokens, hidden, dtype=dtype, device=x.device)
    count = 0 if terms is None else terms.numel() // x.numel()
    _kernel[(tokens,)](
        x,
        terms,
        shares,
        scale,
        out,
        hidden,
        eps,
        TERMS=count,
        SHARED=shares is not None,
        BLOCK=triton.next_power_of_2(hidden),
        num_warps=8,
    )
    return out
