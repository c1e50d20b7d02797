"""The oracle's steps against figures worked out apart from it. tests/parity holds the whole against transformers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gpt_oss.model import reference
from gpt_oss.model.config import ModelConfig
from gpt_oss.model.factory import RandomWeights
from tests.conftest import TINY


def test_a_row_depends_on_no_later_token() -> None:
    weights = RandomWeights(TINY, seed=3)
    tokens = np.random.default_rng(0).integers(0, TINY.vocab_size, 200)
    whole = reference.forward(weights, tokens)
    assert whole.shape == (200, TINY.vocab_size)
    np.testing.assert_allclose(reference.forward(weights, tokens[:130]), whole[:130], atol=1e-12)
    changed = reference.forward(weights, [*tokens[:150], (tokens[150] + 1) % TINY.vocab_size])
    assert np.abs(changed[150] - whole[150]).max() > 0.1


def test_queries_are_cut_into_runs_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = RandomWeights(TINY, seed=3)
    tokens = np.random.default_rng(0).integers(0, TINY.vocab_size, 200)
    whole = reference.forward(weights, tokens)
    monkeypatch.setattr(reference, "QUERIES_AT_ONCE", 33)
    np.testing.assert_allclose(reference.forward(weights, tokens), whole, atol=1e-12)


def test_experts_as_bf16_are_the_same_network() -> None:
    tokens = [1, 2, 3]
    packed, dense = (reference.forward(RandomWeights(TINY, 3, quantized), tokens) for quantized in (True, False))
    np.testing.assert_array_equal(packed, dense)


def test_rotary_frequencies_of_the_released_models() -> None:
    """The ramp's ends are the figures that the model's authors give: 8.092779 and 17.398025, not whole numbers."""
    config = ModelConfig()
    cos, sin = reference.rotary_tables(config, np.arange(3))
    concentration = 1.3465735902799727  # 0.1 ln 32 + 1
    np.testing.assert_allclose(cos[0], concentration)
    np.testing.assert_allclose(sin[0], 0)
    frequency = np.arctan2(sin[1], cos[1])
    plain = 150_000.0 ** -(np.arange(32) / 32)
    np.testing.assert_allclose(frequency[:9], plain[:9])
    np.testing.assert_allclose(frequency[18:], plain[18:] / 32)
    ramp = (np.arange(9, 18) - 8.092779) / (17.398025 - 8.092779)
    np.testing.assert_allclose(frequency[9:18], plain[9:18] * (1 - ramp + ramp / 32), rtol=1e-6)
    np.testing.assert_allclose(np.arctan2(sin[2], cos[2]), 2 * frequency)


def test_rotation_turns_halves_and_shows_only_distances() -> None:
    config = ModelConfig(rope_scaling_factor=1.0)  # no concentration, so a rotation keeps lengths
    cos, sin = reference.rotary_tables(config, np.array([0, 1, 5, 105, 110]))
    x = np.zeros((5, 1, 64))
    x[:, 0, 0] = 1
    turned = reference.rotate(x, cos, sin)[:, 0]
    np.testing.assert_allclose(turned[1, [0, 32]], [math.cos(1), math.sin(1)])  # the pair of dimension 0 is 0 and 32
    q, k = np.random.default_rng(0).normal(size=(2, 1, 1, 64)).repeat(5, axis=1)
    q, k = (
        reference.rotate(q.transpose(1, 0, 2), cos, sin)[:, 0],
        reference.rotate(k.transpose(1, 0, 2), cos, sin)[:, 0],
    )
    assert q[2] @ k[0] == pytest.approx(q[4] @ k[3])  # both are five positions apart
    assert q[2] @ k[0] != pytest.approx(q[0] @ k[2])


def test_a_sink_takes_its_share_of_the_attention() -> None:
    """The known form for kernels: with sink = without · sigmoid(logsumexp of the scores - sink)."""
    rng = np.random.default_rng(0)
    scores, sinks = rng.normal(size=(2, 3, 5)), np.array([0.7, -30.0])
    lse = np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    expected = reference.softmax(scores) / (1 + np.exp(sinks[:, None, None] - lse))
    np.testing.assert_allclose(reference.softmax_with_sinks(scores, sinks), expected)


def test_a_window_counts_the_token_itself() -> None:
    positions = np.arange(300)
    assert reference.visible(positions, positions, 128).sum(axis=1).tolist() == [min(i + 1, 128) for i in range(300)]
    assert reference.visible(positions, positions, None).sum(axis=1).tolist() == [i + 1 for i in range(300)]
    assert reference.visible(np.array([200]), positions, 128)[0].nonzero()[0][[0, -1]].tolist() == [73, 200]


def test_swiglu_clamps_the_gate_from_above_and_the_linear_part_on_both_sides() -> None:
    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-1.702 * x))

    pairs = [(1.0, 2.0), (9.0, 0.0), (-9.0, 0.0), (1.0, 9.0), (1.0, -9.0), (-1000.0, 1.0)]
    expected = [sigmoid(1) * 3, 7 * sigmoid(7), -9 * sigmoid(-9), sigmoid(1) * 8, sigmoid(1) * -6, 0.0]
    result = reference.swiglu(np.array([[value for pair in pairs for value in pair]]), 7.0)
    np.testing.assert_allclose(result[0], expected, atol=1e-300)


def test_rms_norm() -> None:
    np.testing.assert_allclose(
        reference.rms_norm(np.array([[3.0, 4.0]]), np.array([1.0, 2.0]), eps=0.5), [[3 / 13**0.5, 8 / 13**0.5]]
    )
