"""Draw tokens on the GPU: the argmax of logit / temperature + noise, with exactly the noise of engine/noise.py, in
float64.

Every program draws from CHUNK tokens of the vocabulary, a second kernel takes the best of the programs'. Bytes a row:
vocabulary * 2 read. Operations: about 100 a token in float64 (two logarithms), 20 million a row: microseconds on data
centre cards, some 20 on consumer cards.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gpt_oss.backends.triton.overlap import await_inputs, overlapped

CHUNK = 1024


@triton.jit
def _mix(z):
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    return z ^ (z >> 31)


@triton.jit
def _best_of_chunks(
    logits, width, usable, temperatures, seeds, positions, values, tokens, chunks,
    CHUNK: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    await_inputs(OVERLAP)
    chunk = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64)
    token = chunk * CHUNK + tl.arange(0, CHUNK)
    logit = tl.load(logits + row * width + token, mask=token < usable, other=float("-inf")).to(tl.float64)
    temperature = tl.load(temperatures + row)
    if temperature > 0:
        golden = tl.full((1,), 0x9E3779B97F4A7C15, tl.uint64)
        seed = tl.load(seeds + row).to(tl.uint64, bitcast=True)
        position = tl.load(positions + row).to(tl.uint64)
        bits = _mix(_mix(seed + golden * (position + 1)) + golden * (token.to(tl.uint64) + 1))
        u = ((bits >> 12).to(tl.float64) + 0.5) * (1.0 / 4503599627370496)  # 2^-52
        logit = logit / temperature - tl.log(-tl.log(u))
    best = tl.argmax(logit, 0)  # of equal ones the first
    tl.store(values + row * chunks + chunk, tl.max(logit, 0))
    tl.store(tokens + row * chunks + chunk, chunk * CHUNK + best)


@triton.jit
def _best(values, tokens, out, chunks, BLOCK: tl.constexpr, OVERLAP: tl.constexpr):
    await_inputs(OVERLAP)
    row = tl.program_id(0).to(tl.int64)
    chunk = tl.arange(0, BLOCK)
    value = tl.load(values + row * chunks + chunk, mask=chunk < chunks, other=float("-inf"))
    tl.store(out + row, tl.load(tokens + row * chunks + tl.argmax(value, 0)))


def sample(logits: Tensor, usable: int, temperatures: Tensor, seeds: Tensor, positions: Tensor) -> Tensor:
    """int32 [rows]: a token for each row of logits [rows, vocab], among its first `usable`.

    temperatures: float64 [rows], 0 for the plain argmax. seeds: int64 [rows], 64 bits however they are read.
    positions: int32 [rows], of the tokens drawn, as engine/noise.py counts them.
    """
    rows, width = logits.shape
    chunks = triton.cdiv(usable, CHUNK)
    values = torch.empty(rows, chunks, dtype=torch.float64, device=logits.device)
    tokens = torch.empty(rows, chunks, dtype=torch.int32, device=logits.device)
    out = torch.empty(rows, dtype=torch.int32, device=logits.device)
    _best_of_chunks[(chunks, rows)](
        logits, width, usable, temperatures, seeds, positions, values, tokens, chunks,
        CHUNK=CHUNK, num_warps=4, **overlapped(logits),
    )  # fmt: skip
    block = triton.next_power_of_2(chunks)
    _best[(rows,)](values, tokens, out, chunks, BLOCK=block, num_warps=4, **overlapped(logits))
    return out
