"""Split qkv, turn queries and keys by their position's angles, and write keys and values to the paged cache: one pass.

Bytes a token: (heads + 2 kv_heads) * head_dim * 2 read and as many written. Operations: 3 a value. Bound by memory, and
at small batches by the launch.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _kernel(
    qkv,
    cosines,
    sines,
    positions,
    sequences,
    table,
    table_width,
    q,
    keys,
    values,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    position = tl.load(positions + token)
    if position < 0:  # padding of a batch
        return
    half: tl.constexpr = DIM // 2
    head = tl.arange(0, ROWS)[:, None]
    i = tl.arange(0, half)[None, :]
    first = qkv + (token * (HEADS + 2 * KV_HEADS) + head) * DIM + i
    inside = head < HEADS + 2 * KV_HEADS
    x1 = tl.load(first, mask=inside, other=0.0).to(tl.float32)
    x2 = tl.load(first + half, mask=inside, other=0.0).to(tl.float32)
    turned = head < HEADS + KV_HEADS
    cos = tl.where(turned, tl.load(cosines + position * half + i), 1.0)
    sin = tl.where(turned, tl.load(sines + position * half + i), 0.0)
    y1 = (x1 * cos - x2 * sin).to(q.dtype.element_ty)
    y2 = (x2 * cos + x1 * sin).to(q.dtype.element_ty)

    to = q + (token * HEADS + head) * DIM + i
    tl.store(to, y1, mask=head < HEADS)
    tl.store(to + half, y2, mask=head < HEADS)
    block = tl.load(table + tl.load(sequences + token).to(tl.int64) * table_width + position // BLOCK_TOKENS)
    row = block.to(tl.int64) * BLOCK_TOKENS + position % BLOCK_TOKENS
    to = keys + (row * KV_HEADS + head - HEADS) * DIM + i
    tl.store(to, y1, mask=(head >= HEADS) & turned)
    tl.store(to + half, y2, mask=(head >= HEADS) & turned)
    to = values + (row * KV_HEADS + head - HEADS - KV_HEADS) * DIM + i
    tl.store(to, y1, mask=inside & (head >= HEADS + KV_HEADS))
    tl.store(to + half, y2, mask=inside & (head >= HEADS + KV_HEADS))


def rotate_and_store(
    qkv: Tensor,
    cosines: Tensor,
    sines: Tensor,
    positions: Tensor,
    sequences: Tensor,
    table: Tensor,
    keys: Tensor,
    values: Tensor,
    block_tokens: int,
) -> Tensor:
    """The turned queries, [tokens, heads, head_dim].

    qkv: [tokens, (heads + 2 kv_heads) * head_dim]. cosines, sines: float32 [positions, head_dim / 2]. positions: int32
    [tokens]; below 0 for padding, which is not stored. sequences: int32 [tokens], each token's row of the block table,
    int32 [sequences, blocks]. keys, values: the pool, [blocks * block_tokens, kv_heads, head_dim].
    """
    _, kv_heads, dim = keys.shape
    heads = qkv.shape[1] // dim - 2 * kv_heads
    q = torch.empty(len(qkv), heads, dim, dtype=qkv.dtype, device=qkv.device)
    _kernel[(len(qkv),)](
        qkv,
        cosines,
        sines,
        positions,
        sequences,
        table,
        table.stride(0),
        q,
        keys,
        values,
        HEADS=heads,
        KV_HEADS=kv_heads,
        DIM=dim,
        BLOCK_TOKENS=block_tokens,
        ROWS=triton.next_power_of_2(heads + 2 * kv_heads),
        num_warps=4,
    )
    return q
