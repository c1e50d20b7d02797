"""Every matrix kernel on every instruction set of this machine, against numpy in float64."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from gpt_oss.backends.cpu import _native
from gpt_oss.model.mxfp4 import decode

F32 = NDArray[np.float32]
ISAS = _native.instruction_sets()
SHAPES = [(1, 32), (2, 96), (17, 64), (34, 160), (100, 2880), (64, 416)]  # rows, cols
TOKENS = [1, 2, 3, 5, 8, 9, 15, 16, 17, 31, 33, 64, 100]
EMPTY_8, EMPTY_16 = np.empty(0, np.uint8), np.empty(0, np.uint16)


def bf16(values: NDArray[np.floating]) -> NDArray[np.uint16]:
    return values.astype(ml_dtypes.bfloat16).view(np.uint16)


def widen(bits: NDArray[np.uint16]) -> NDArray[np.float64]:
    return bits.view(ml_dtypes.bfloat16).astype(np.float64)


def unaligned(array: NDArray) -> NDArray:  # type: ignore[type-arg]
    """The same values at an address that is no multiple of 16, as safetensors may have them."""
    memory = np.empty(array.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64 + 8
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def quantised(weight: NDArray[np.uint16]) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    sizes = _native.int8_sizes(*weight.shape)
    values, scales = np.empty(sizes[0], np.uint8), np.empty(sizes[1], np.uint16)
    _native.quantise_int8(weight, 0, len(weight), values, scales)
    return values, scales


def linear(isa: str, precision: str, weight: NDArray[np.uint16], bias: F32, x: F32, *, threads: int = 1) -> F32:
    values, scales = quantised(weight) if precision == "balanced" else (EMPTY_8, EMPTY_16)
    y = np.full((len(x), len(weight)), np.nan, np.float32)
    _native.linear(isa, precision, threads, weight, values, scales, bias, x, y, False)
    return y


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def test_the_plain_twin_is_always_there() -> None:
    assert ISAS[-1] == "plain"


@pytest.mark.parametrize("shape", SHAPES)
def test_int8_weights_are_within_half_a_step(rng: np.random.Generator, shape: tuple[int, int]) -> None:
    rows, cols = shape
    weight = bf16(rng.normal(size=shape) * np.exp(rng.normal(size=(rows, 1)) * 3))
    weight[0, :32] = 0
    values, scales = quantised(weight)
    groups = -(-cols // 128)
    split = (values.reshape(rows, groups, 2, 4, 16).astype(np.int32) - 128).transpose(0, 1, 3, 4, 2)
    steps = widen(scales).reshape(rows, groups * 4, 1)
    restored = (split.reshape(rows, groups * 4, 32) * steps).reshape(rows, -1)
    assert np.all(restored[:, cols:] == 0)
    error = np.abs(restored[:, :cols] - widen(weight)).reshape(rows, -1, 32)
    # The scale is rounded up to bf16, and a value to the nearest step.
    assert np.all(error <= steps[:, : cols // 32] * 0.5 + 1e-30)
    peak = np.abs(widen(weight)).reshape(rows, -1, 32).max(axis=-1)
    assert np.all(steps[:, : cols // 32, 0] * 127 <= peak * 1.01)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("precision", ["exact", "balanced"])
@pytest.mark.parametrize("shape", SHAPES)
def test_linear_is_the_product(rng: np.random.Generator, isa: str, precision: str, shape: tuple[int, int]) -> None:
    rows, cols = shape
    weight = unaligned(bf16(rng.normal(size=shape)))
    bias = rng.normal(size=rows).astype(np.float32)
    for tokens in TOKENS:
        x = rng.normal(size=(tokens, cols)).astype(np.float32)
        expected = x.astype(np.float64) @ widen(weight).T + bias
        actual = linear(isa, precision, weight, bias, x)
        # bf16 rounds an activation by 2^-9 of itself, int8 either factor by 1/254 of its block's greatest.
        tolerance = (0.005 if precision == "exact" else 0.02) * np.sqrt(cols) * 4
        np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("isa", ISAS)
def test_exact_linear_only_rounds_activations_to_bf16(rng: np.random.Generator, isa: str) -> None:
    weight = bf16(rng.normal(size=(48, 2880)))
    for tokens in (1, 7, 40):
        x = widen(bf16(rng.normal(size=(tokens, 2880)))).astype(np.float32)
        expected = x.astype(np.float64) @ widen(weight).T
        actual = linear(isa, "exact", weight, np.empty(0, np.float32), x)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize("isa", ISAS)
def test_adding_leaves_what_was_there(rng: np.random.Generator, isa: str) -> None:
    weight, before = bf16(rng.normal(size=(40, 64))), rng.normal(size=(20, 40)).astype(np.float32)
    x = rng.normal(size=(20, 64)).astype(np.float32)
    after = before.copy()
    none = np.empty(0, np.float32)
    _native.linear(isa, "exact", 1, weight, EMPTY_8, EMPTY_16, none, x, after, True)
    np.testing.assert_allclose(after, before + linear(isa, "exact", weight, none, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("precision", ["exact", "balanced"])
def test_linear_depends_on_neither_threads_nor_neighbours(rng: np.random.Generator, isa: str, precision: str) -> None:
    weight, bias = bf16(rng.normal(size=(300, 416))), rng.normal(size=300).astype(np.float32)
    x = rng.normal(size=(40, 416)).astype(np.float32)
    alone = np.concatenate([linear(isa, precision, weight, bias, x[t : t + 1]) for t in range(16)])
    for tokens in range(1, 17):
        assert np.array_equal(linear(isa, precision, weight, bias, x[:tokens], threads=2), alone[:tokens])
    one, two = (linear(isa, precision, weight, bias, x, threads=threads) for threads in (1, 2))
    assert np.array_equal(one, two)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_greatest_bytes_do_not_saturate(isa: str, sign: int) -> None:
    weight = bf16(np.full((40, 288), sign * 127.0))
    for tokens in (1, 16, 40):
        x = np.full((tokens, 288), 127.0, np.float32)
        actual = linear(isa, "balanced", weight, np.empty(0, np.float32), x)
        np.testing.assert_allclose(actual, sign * 127.0**2 * 288, rtol=1e-6)


class Experts:
    """Random experts, and what they compute in float64."""

    def __init__(self, rng: np.random.Generator, count: int, hidden: int, inner: int, scale_bias: int = 127) -> None:
        def matrix(rows: int, cols: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint16]]:
            blocks = rng.integers(0, 256, (count, rows, cols // 32, 16), dtype=np.uint8)
            scales = rng.integers(120, 125, (count, rows, cols // 32), dtype=np.uint8)
            scales[0, 0, 0], scales[-1, -1, -1] = 90, 127
            return unaligned(blocks), unaligned(scales), unaligned(bf16(rng.normal(size=(count, rows))))

        self.scale_bias = scale_bias
        self.mlp1, self.mlp2 = matrix(2 * inner, hidden), matrix(hidden, inner)
        self.dense = [decode(m[0], m[1]).astype(np.float64) for m in (self.mlp1, self.mlp2)]

    def oracle(self, x: F32, picked: NDArray[np.int32], weights: F32, limit: float) -> NDArray[np.float64]:
        y = np.zeros(x.shape)
        for token, (experts, shares) in enumerate(zip(picked, weights, strict=True)):
            for e, share in zip(experts, shares, strict=True):
                t = self.dense[0][e] @ x[token].astype(np.float64) + widen(self.mlp1[2][e])
                gate, up = np.minimum(t[0::2], limit), np.clip(t[1::2], -limit, limit)
                inner = gate / (1 + np.exp(-1.702 * gate)) * (up + 1)
                y[token] += share * (self.dense[1][e] @ inner + widen(self.mlp2[2][e]))
        return y

    def run(
        self, isa: str, precision: str, x: F32, picked: NDArray[np.int32], weights: F32, limit: float, threads: int = 1
    ) -> F32:
        y = np.zeros(x.shape, np.float32)
        shift = np.uint8(self.scale_bias - 127)
        matrices = [part for m in (self.mlp1, self.mlp2) for part in (m[0], m[1] + shift, m[2])]
        _native.experts(isa, precision, threads, *matrices, self.scale_bias, limit, x, picked, weights, y)
        return y


def routing(rng: np.random.Generator, tokens: int, count: int, active: int) -> tuple[NDArray[np.int32], F32]:
    """The last expert is never picked."""
    picked = np.stack([rng.permutation(count - 1)[:active] for _ in range(tokens)]).astype(np.int32)
    weights = rng.random((tokens, active)).astype(np.float32)
    return picked, weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("precision", ["exact", "balanced"])
@pytest.mark.parametrize(("hidden", "inner"), [(32, 32), (64, 96), (160, 32), (288, 416)])
@pytest.mark.parametrize("scale_bias", [127, 141])
def test_experts_are_the_mixture(
    rng: np.random.Generator, isa: str, precision: str, hidden: int, inner: int, scale_bias: int
) -> None:
    experts = Experts(rng, 5, hidden, inner, scale_bias)
    for tokens in (1, 2, 7, 16, 17, 33, 70, 300):
        x = rng.normal(size=(tokens, hidden)).astype(np.float32)
        picked, weights = routing(rng, tokens, 5, 3)
        expected = experts.oracle(x, picked, weights, 7.0)
        actual = experts.run(isa, precision, x, picked, weights, 7.0)
        error = np.sqrt(np.mean((actual - expected) ** 2)) / expected.std()
        assert error < (0.008 if precision == "exact" else 0.03), (tokens, error)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("precision", ["exact", "balanced"])
def test_experts_depend_on_neither_threads_nor_neighbours(rng: np.random.Generator, isa: str, precision: str) -> None:
    experts = Experts(rng, 6, 160, 96)
    x = rng.normal(size=(50, 160)).astype(np.float32)
    picked, weights = routing(rng, 50, 6, 2)

    def run(first: int, last: int, threads: int) -> F32:
        part = slice(first, last)
        return experts.run(isa, precision, x[part], picked[part], weights[part], 7.0, threads)

    alone = np.concatenate([run(t, t + 1, 1) for t in range(16)])
    for tokens in range(1, 17):
        assert np.array_equal(run(0, tokens, 2), alone[:tokens])
    assert np.array_equal(run(0, 50, 1), run(0, 50, 2))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("precision", ["exact", "balanced"])
def test_many_tokens_may_be_few_for_most_experts(rng: np.random.Generator, isa: str, precision: str) -> None:
    experts = Experts(rng, 40, 160, 96)
    picked = np.stack([np.zeros(34), np.arange(1, 35)], axis=1).astype(np.int32)  # all 34 tokens pick the first expert
    x, weights = rng.normal(size=(34, 160)).astype(np.float32), np.full((34, 2), 0.5, np.float32)
    expected = experts.oracle(x, picked, weights, 7.0)
    actual = experts.run(isa, precision, x, picked, weights, 7.0, threads=2)
    assert np.sqrt(np.mean((actual - expected) ** 2)) / expected.std() < (0.008 if precision == "exact" else 0.03)
    assert np.array_equal(actual, experts.run(isa, precision, x, picked, weights, 7.0))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("nibbles", [0x77, 0xFF])  # 6 and -6
def test_the_greatest_nibbles_do_not_saturate(rng: np.random.Generator, isa: str, nibbles: int) -> None:
    experts = Experts(rng, 2, 160, 64)
    for blocks, scales, bias in (experts.mlp1, experts.mlp2):
        blocks[...], scales[...], bias[...] = nibbles, 118, 0
    experts.dense = [decode(m[0], m[1]).astype(np.float64) for m in (experts.mlp1, experts.mlp2)]
    picked = np.zeros((40, 1), np.int32)
    x, weights = np.ones((40, 160), np.float32), np.ones((40, 1), np.float32)
    for tokens in (1, 16, 40):
        expected = experts.oracle(x[:tokens], picked[:tokens], weights[:tokens], 7.0)
        actual = experts.run(isa, "balanced", x[:tokens], picked[:tokens], weights[:tokens], 7.0)
        np.testing.assert_allclose(actual, expected, rtol=0.01)


@pytest.mark.parametrize("isa", ISAS)
def test_the_clamps_hold(rng: np.random.Generator, isa: str) -> None:
    experts = Experts(rng, 3, 64, 64)
    x = 30 * rng.normal(size=(40, 64)).astype(np.float32)
    picked, weights = routing(rng, 40, 3, 2)
    expected = experts.oracle(x, picked, weights, 0.5)
    for tokens in (3, 40):
        actual = experts.run(isa, "exact", x[:tokens], picked[:tokens], weights[:tokens], 0.5)
        assert np.sqrt(np.mean((actual - expected[:tokens]) ** 2)) / expected.std() < 0.01
