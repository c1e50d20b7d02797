"""Split qkv, turn queries and keys by their position's angles, and write keys and values to the paged cache: one pass.

Bytes a token: (heads + 2 kv_heads) * head_dim * 2 read and as many written. Operations: 3 a value. Bound by memory, and
at small batches by the launch.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gpt_oss.backends.triton.overlap import await_inputs, overlapped

VALUES = 4096  # pairs of values that a program takes at least, in whole tokens


@triton.jit
def _kernel(
    qkv, cosines, sines, positions, sequences, table, table_width, q, keys, values, tokens,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, DIM: tl.constexpr, BLOCK_TOKENS: tl.constexpr,
    TOKENS: tl.constexpr, ROWS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    half: tl.constexpr = DIM // 2
    await_inputs(OVERLAP)
    token = tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    position = tl.load(positions + token, mask=token < tokens, other=-1)
    real = position >= 0  # the rest is padding
    sequence = tl.load(sequences + token, mask=real, other=0).to(tl.int64)
    block = tl.load(table + sequence * table_width + position // BLOCK_TOKENS, mask=real, other=0)
    row = (block.to(tl.int64) * BLOCK_TOKENS + position % BLOCK_TOKENS)[:, None, None] * KV_HEADS
    token, position, real = token[:, None, None], position[:, None, None], real[:, None, None]
    head = tl.arange(0, ROWS)[None, :, None]
    i = tl.arange(0, half)[None, None, :]

    inside = real & (head < HEADS + 2 * KV_HEADS)
    x = qkv + (token * (HEADS + 2 * KV_HEADS) + head) * DIM + i
    x1 = tl.load(x, mask=inside, other=0.0).to(tl.float32)
    x2 = tl.load(x + half, mask=inside, other=0.0).to(tl.float32)
    turned = head < HEADS + KV_HEADS
    cos = tl.where(turned, tl.load(cosines + position * half + i, mask=real, other=1.0), 1.0)
    sin = tl.where(turned, tl.load(sines + position * half + i, mask=real, other=0.0), 0.0)
    y1 = (x1 * cos - x2 * sin).to(q.dtype.element_ty)
    y2 = (x2 * cos + x1 * sin).to(q.dtype.element_ty)

    to = q + (token * HEADS + head) * DIM + i
    is_query = real & (head < HEADS)
    tl.store(to, y1, mask=is_query)
    tl.store(to + half, y2, mask=is_query)
    to = keys + (row + head - HEADS) * DIM + i
    is_key = real & (head >= HEADS) & turned
    tl.store(to, y1, mask=is_key)
    tl.store(to + half, y2, mask=is_key)
    to = values + (row + head - HEADS - KV_HEADS) * DIM + i
    is_value = inside & (head >= HEADS + KV_HEADS)
    tl.store(to, y1, mask=is_value)
    tl.store(to + half, y2, mask=is_value)


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
    rows = triton.next_power_of_2(heads + 2 * kv_heads)
    tokens = max(1, VALUES // (rows * dim // 2))
    _kernel[(triton.cdiv(len(qkv), tokens),)](
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
        len(qkv),
        HEADS=heads,
        KV_HEADS=kv_heads,
        DIM=dim,
        BLOCK_TOKENS=block_tokens,
        TOKENS=tokens,
        ROWS=rows,
        num_warps=4,
        **overlapped(qkv),
    )
    return q
