"""rmsnorm, rotary and router of the native extension against numpy in float64."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest

from gpt_oss.backends.cpu import _native

RANDOM = np.random.default_rng(7)


@pytest.mark.parametrize("hidden", [1, 15, 64, 2880])
def test_rmsnorm(hidden: int) -> None:
    x = RANDOM.normal(0, 30, (3, hidden)).astype(np.float32)
    scale = RANDOM.normal(1, 1, hidden).astype(np.float32)
    out = np.empty_like(x)
    _native.rmsnorm(x, scale, 1e-5, out)
    wide = x.astype(np.float64)
    expected = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-5) * scale
    np.testing.assert_allclose(out, expected, rtol=2e-6)


def test_rmsnorm_of_zeros_is_zero() -> None:
    out = np.ones((1, 64), np.float32)
    _native.rmsnorm(np.zeros((1, 64), np.float32), np.ones(64, np.float32), 1e-5, out)
    assert not out.any()


def yarn(x: np.ndarray, positions: np.ndarray, factor: float, theta: float = 150_000.0) -> np.ndarray:
    """Rotary as model.md states it. x: [tokens, heads, head_dim]."""
    d = x.shape[-1]
    i = np.arange(d // 2)
    freq = theta ** (2 * i / d)
    low = d / 2 * math.log(4096 / (32 * 2 * math.pi)) / math.log(theta)
    high = d / 2 * math.log(4096 / (1 * 2 * math.pi)) / math.log(theta)
    ramp = np.clip((i - low) / (high - low), 0, 1)
    inverse = ramp / (factor * freq) + (1 - ramp) / freq if factor > 1 else 1 / freq
    concentration = 0.1 * math.log(factor) + 1 if factor > 1 else 1.0
    angle = positions[:, None, None] * inverse
    cos, sin = np.cos(angle) * concentration, np.sin(angle) * concentration
    first, second = x[..., : d // 2].astype(np.float64), x[..., d // 2 :].astype(np.float64)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], -1)


@pytest.mark.parametrize("head_dim", [16, 64, 80])
@pytest.mark.parametrize("factor", [1.0, 32.0])
def test_rotary(head_dim: int, factor: float) -> None:
    positions = np.array([0, 1, 127, 4096, 131_071], np.int32)
    x = RANDOM.normal(0, 1, (5, 3, head_dim)).astype(np.float32)
    expected = yarn(x, positions, factor)
    _native.rotate(x, positions, 150_000.0, factor, 1.0, 32.0, 4096)
    np.testing.assert_allclose(x, expected, atol=2e-6)


def test_yarn_ramp_is_not_rounded() -> None:
    """low = 8.092779, high = 17.398025 for the released models: dimension 12 is 41.99% interpolated."""
    x = np.zeros((1, 1, 64), np.float32)
    x[0, 0, 12] = 1
    _native.rotate(x, np.array([1], np.int32), 150_000.0, 32.0, 1.0, 32.0, 4096)
    ramp = (12 - 8.092779) / (17.398025 - 8.092779)
    angle = 150_000.0 ** (-12 / 32) * (ramp / 32 + 1 - ramp)
    assert math.atan2(x[0, 0, 44], x[0, 0, 12]) == pytest.approx(angle, rel=1e-6)
    assert math.hypot(x[0, 0, 44], x[0, 0, 12]) == pytest.approx(0.1 * math.log(32) + 1, rel=1e-6)


def run_router(x: np.ndarray, gate: np.ndarray, bias: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    picked, weights = np.empty((len(x), k), np.int32), np.empty((len(x), k), np.float32)
    _native.route(x, gate.view(np.uint16), bias, picked, weights)
    return picked, weights


@pytest.mark.parametrize(("experts", "k"), [(8, 2), (32, 4), (128, 4), (4, 4), (3, 1)])
def test_router_softmax_is_over_the_picked_only(experts: int, k: int) -> None:
    x = RANDOM.normal(0, 1, (5, 96)).astype(np.float32)
    gate = RANDOM.normal(0, 1, (experts, 96)).astype(ml_dtypes.bfloat16)
    bias = RANDOM.normal(0, 1, experts).astype(np.float32)
    picked, weights = run_router(x, gate, bias, k)
    logits = x.astype(np.float64) @ gate.astype(np.float64).T + bias
    expected = np.argsort(-logits, axis=-1)[:, :k]
    np.testing.assert_array_equal(picked, expected)
    top = np.take_along_axis(logits, expected, -1)
    odds = np.exp(top - top.max(-1, keepdims=True))
    np.testing.assert_allclose(weights, odds / odds.sum(-1, keepdims=True), rtol=1e-5)


def test_router_picks_the_lowest_of_equals() -> None:
    picked, weights = run_router(
        np.zeros((1, 32), np.float32), np.zeros((8, 32), ml_dtypes.bfloat16), np.zeros(8, np.float32), 3
    )
    assert picked.tolist() == [[0, 1, 2]]
    np.testing.assert_allclose(weights, 1 / 3, rtol=1e-6)


def test_router_picks_real_experts_from_nan() -> None:
    picked, weights = run_router(
        np.full((1, 32), np.nan, np.float32), np.ones((8, 32), ml_dtypes.bfloat16), np.zeros(8, np.float32), 4
    )
    assert sorted(picked[0]) == [0, 1, 2, 3]
    assert np.isfinite(weights).all()
