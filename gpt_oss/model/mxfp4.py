"""MXFP4, the format of the experts' weights (OCP Microscaling Formats specification, v1.0).

A block is 32 e2m1 values in 16 bytes, low nibble first, and one e8m0 scale: value = e2m1 · 2^(scale - 127).
Scale 255 is NaN. The plain vectorised definition: backends have faster kernels, tested against this.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpt_oss.model.tensors import BF16, BLOCK_VALUES, E8M0_BIAS, Array

NAN_SCALE = 255

_MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_E2M1 = np.array(_MAGNITUDES + tuple(-value for value in _MAGNITUDES), dtype=np.float32)

_PAIRS = _E2M1[np.stack([np.arange(256) & 15, np.arange(256) >> 4], axis=-1)]  # [256, 2]: a byte's two values,
_PAIRS_AS_WORDS = _PAIRS.view(np.uint64)[:, 0]  # [256]: gathered as one word
_SCALES = np.append(np.ldexp(np.float32(1), np.arange(255) - E8M0_BIAS), np.float32(np.nan)).astype(np.float32)  # [256]


def decode(blocks: NDArray[np.uint8], scales: NDArray[np.uint8]) -> NDArray[np.float32]:
    """blocks [..., n, 16] and scales [..., n] to float32 [..., n * 32].

    Exact, but for values of 2^128 and more (scales 252..254 with large codes), which float32 has as infinity.
    """
    with np.errstate(over="ignore"):
        values = _PAIRS_AS_WORDS[blocks].view(np.float32) * _SCALES[scales][..., None]
    return values.reshape(*scales.shape[:-1], -1)


def decode_bf16(blocks: NDArray[np.uint8], scales: NDArray[np.uint8]) -> Array:
    """As decode, in bfloat16: also exact, since a value has two significant bits and bf16 has float32's exponents."""
    upper_half = (decode(blocks, scales).view(np.uint32) >> 16).astype(np.uint16)
    return upper_half.view(BF16)


def encode(values: Array) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Floats [..., n * 32] to the nearest MXFP4: blocks [..., n, 16] and scales [..., n].

    The specification's conversion: the scale is 2^(floor(log2(largest magnitude)) - 2); values round half to even
    and saturate at 6. What decode gave comes back as the same values. A block with NaN or infinity becomes NaN.
    """
    grouped = np.asarray(values, dtype=np.float32)
    grouped = grouped.reshape(*grouped.shape[:-1], -1, BLOCK_VALUES)
    largest = np.abs(grouped).max(axis=-1)
    _, exponent = np.frexp(largest)  # largest = m · 2^exponent with m in [0.5, 1)
    shared = np.clip(exponent - 3, -E8M0_BIAS, NAN_SCALE - 1 - E8M0_BIAS)
    scales = np.where(np.isfinite(largest), shared + E8M0_BIAS, NAN_SCALE).astype(np.uint8)

    scaled = np.ldexp(np.abs(grouped), -shared[..., None])
    # Midpoints between neighbours; a tie goes to the even code, so every second comparison includes equality.
    code = (scaled > 0.25).astype(np.uint8)
    for midpoint, tie_goes_up in ((0.75, True), (1.25, False), (1.75, True), (2.5, False), (3.5, True), (5.0, False)):
        code += (scaled >= midpoint) if tie_goes_up else (scaled > midpoint)
    code |= np.signbit(grouped).astype(np.uint8) << 3
    blocks = code[..., 0::2] | (code[..., 1::2] << 4)
    return blocks, scales
