"""MXFP4 against a table made with fractions: every byte under every scale."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gpt_oss.model.mxfp4 import decode, decode_bf16, encode

MAGNITUDES = [
    Fraction(0),
    Fraction(1, 2),
    Fraction(1),
    Fraction(3, 2),
    Fraction(2),
    Fraction(3),
    Fraction(4),
    Fraction(6),
]


def value(code: int, scale: int) -> float:
    exact = MAGNITUDES[code & 7] * Fraction(2) ** (scale - 127)
    return float(-exact if code & 8 else exact)


def test_every_byte_under_every_scale() -> None:
    blocks = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 16, axis=2)  # [256, 1, 16]
    for scale in range(256):
        scales = np.full((256, 1), scale, np.uint8)
        with np.errstate(over="ignore"):
            decoded = decode(blocks, scales)
        if scale == 255:
            assert np.isnan(decoded).all()
            continue
        expected = np.array([[value(byte & 15, scale), value(byte >> 4, scale)] for byte in range(256)])
        with np.errstate(over="ignore"):
            expected = np.tile(expected.astype(np.float32), (1, 16))
        assert np.array_equal(decoded, expected)  # low nibble first
        if 2 <= scale <= 252:
            assert np.array_equal(decode_bf16(blocks, scales).astype(np.float32), expected)


@given(st.binary(min_size=32, max_size=32), st.lists(st.integers(2, 250), min_size=2, max_size=2))
def test_what_was_decoded_is_encoded_without_loss(data: bytes, scale: list[int]) -> None:
    blocks, scales = np.frombuffer(data, np.uint8).reshape(2, 16), np.array(scale, np.uint8)
    values = decode(blocks, scales)
    assert np.array_equal(decode(*encode(values)), values)


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=32, max_size=32))
def test_encoding_is_within_half_a_step_or_saturates(values: list[float]) -> None:
    given_values = np.array(values, np.float32)
    decoded = decode(*encode(given_values))
    peak = np.abs(given_values).max()
    step = np.where(np.abs(given_values) <= peak / 2, peak / 8, peak / 4) + 1e-37
    assert np.all(np.abs(decoded - given_values) <= step)
