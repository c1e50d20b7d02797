"""The network with gradients: its logits against the reference, its gradients against differences."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gpt_oss.errors import ParameterError
from gpt_oss.model import mxfp4, reference
from gpt_oss.model.config import ModelConfig
from gpt_oss.model.factory import RandomWeights
from gpt_oss.model.tensors import canonical_tensors
from gpt_oss.training import network
from gpt_oss.training.data import IGNORED, Pack
from gpt_oss.training.network import Network, PackTensors, canonical_name, round_to_mxfp4
from tests.conftest import TINY

LENGTHS = (200, 1, 37, 128, 129)  # around the window of 128
WEIGHTS = RandomWeights(TINY, seed=3)


def random_pack(*lengths: int, config: ModelConfig = TINY, seed: int = 0) -> PackTensors:
    random = np.random.default_rng(seed)
    count = sum(lengths)
    tokens, targets = random.integers(0, config.vocab_size, (2, count))
    targets[random.random(count) < 0.5] = IGNORED
    return PackTensors.of(Pack(tokens, targets, lengths))


def loaded(**options: object) -> Network:
    made = Network(TINY, **options)  # type: ignore[arg-type]
    made.load(WEIGHTS)
    return made


def test_parameters_are_the_canonical_tensors() -> None:
    shapes = {canonical_name(name): tuple(p.shape) for name, p in Network(TINY).named_parameters()}
    assert shapes == {name: spec.shape for name, spec in canonical_tensors(TINY, quantized=False).items()}


def test_packed_examples_have_the_references_logits() -> None:
    """Within 1e-4 of logits of several units: float32 against float64."""
    pack = random_pack(*LENGTHS)
    with torch.no_grad():
        logits = loaded()(pack).split(LENGTHS)
    for tokens, own in zip(pack.tokens.split(LENGTHS), logits, strict=True):
        np.testing.assert_allclose(own.numpy(), reference.forward(WEIGHTS, tokens.numpy()), atol=1e-4, rtol=1e-5)


def test_what_gpus_compute_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """All examples in one attention, every expert for every token: on a CPU here, where nothing else differs."""
    pack = random_pack(*LENGTHS)
    plain, together = loaded(), loaded()
    config = dataclasses.replace(TINY, experts_per_token=TINY.num_experts // 2)
    for each in (plain, together):
        for block in each.block:
            block.mlp.config = config
    plain_loss = plain.loss(pack)
    plain_loss.total.backward()
    monkeypatch.setattr(network, "on_gpu", lambda x: True)
    loss = together.loss(pack)
    loss.total.backward()
    torch.testing.assert_close(loss.total, plain_loss.total)
    for (name, p), q in zip(plain.named_parameters(), together.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, atol=1e-4, rtol=1e-4, msg=name)


def test_a_pack_with_nothing_to_learn_has_no_gradient() -> None:
    pack = random_pack(20, 5)
    pack.targets[:] = IGNORED
    trained = loaded()
    loss = trained.loss(pack)
    (loss.total + loss.balance).backward()
    assert loss.total.item() == 0
    assert torch.isfinite(loss.balance)
    assert all(p.grad is None or p.grad.isfinite().all() for p in trained.parameters())


def test_examples_too_long_for_all_scores_at_once_have_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    pack = random_pack(*LENGTHS)
    dense, tiled = loaded(), loaded()
    dense.loss(pack).total.backward()
    monkeypatch.setattr(network, "SCORES_AT_ONCE", TINY.num_attention_heads * 128**2)
    tiled.loss(pack).total.backward()
    for (name, one), other in zip(dense.named_parameters(), tiled.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-4, rtol=1e-4, msg=name)


def test_recomputing_and_pieces_of_the_softmax_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pack = random_pack(40, 30)
    plain, thrifty = loaded(), loaded(recompute=True)
    plain.loss(pack).total.backward()
    monkeypatch.setattr(network, "LOGITS_AT_ONCE", TINY.vocab_size * 7)
    thrifty.loss(pack).total.backward()
    for (name, one), other in zip(plain.named_parameters(), thrifty.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=2e-5, rtol=1e-4, msg=name)


def test_a_vocabulary_gives_the_loss_of_all_tokens_with_equal_rows() -> None:
    few = Network(TINY, vocabulary=range(0, 512, 4))
    few.initialise(1)
    whole = Network(TINY)
    state = few.state_dict()
    for name in ("embedding.weight", "unembedding.weight"):
        state[name] = state[name][few.rows(torch.arange(512))]
    whole.load_state_dict(state)
    pack = random_pack(60)
    known = PackTensors(pack.tokens, pack.targets - pack.targets % 4, pack.positions, pack.lengths)
    known.targets[pack.targets == IGNORED] = IGNORED
    torch.testing.assert_close(few.loss(known).total, whole.loss(known).total, atol=1e-3, rtol=1e-6)


def test_a_vocabulary_takes_its_rows_and_the_mean_of_the_others() -> None:
    few = loaded(vocabulary=[7, 3])
    table = torch.from_numpy(WEIGHTS.tensor("embedding.weight").astype(np.float32))
    torch.testing.assert_close(few.embedding.weight[:2], table[[3, 7]])
    torch.testing.assert_close(few.embedding.weight[2], (table.sum(0) - table[3] - table[7]) / 510)


def test_a_vocabulary_of_no_or_foreign_tokens_is_refused() -> None:
    for wrong in ([], [512], [-1, 4]):
        with pytest.raises(ParameterError, match="token ids from 0 to 511"):
            Network(TINY, vocabulary=wrong)


SMALL = ModelConfig(
    num_hidden_layers=2,
    num_experts=4,
    experts_per_token=2,
    vocab_size=32,
    hidden_size=32,
    intermediate_size=32,
    head_dim=8,
    num_attention_heads=4,
    num_key_value_heads=2,
    sliding_window=4,
)


def test_gradients_are_the_differences_of_the_loss() -> None:
    """Central differences in float64 along a random direction of every parameter."""
    tiny = Network(SMALL).double()
    tiny.load(RandomWeights(SMALL, seed=2))
    pack = random_pack(9, 4, config=SMALL)

    def loss() -> torch.Tensor:
        found = tiny.loss(pack)
        return found.total + found.balance

    loss().backward()
    for name, parameter in tiny.named_parameters():
        direction = torch.randn(parameter.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        assert parameter.grad is not None
        along = (parameter.grad * direction).sum().item()
        step = 1e-6
        with torch.no_grad():
            parameter += step * direction
            above = loss().item()
            parameter -= 2 * step * direction
            below = loss().item()
            parameter += step * direction
        assert math.isclose((above - below) / (2 * step), along, rel_tol=1e-4, abs_tol=1e-5), name


@given(hnp.arrays(np.float32, (3, 64), elements=st.floats(-1.0, 1.0, width=32)), st.integers(-140, 120))
def test_rounding_is_mxfp4s_to_the_bit(values: np.ndarray, exponent: int) -> None:
    values = np.ldexp(values, exponent)
    expected = mxfp4.decode(*mxfp4.encode(values))
    np.testing.assert_array_equal(round_to_mxfp4(torch.from_numpy(values)).numpy(), expected)


def test_rounding_of_ties_and_of_ordinary_weights_is_mxfp4s() -> None:
    ties = np.arange(-32, 32, dtype=np.float32) / 8  # among them every midpoint, beside a block's largest of 4
    weights = np.random.default_rng(0).normal(0, 0.02, (50, 2880)).astype(np.float32)
    for values in (ties, ties * 2, weights):
        expected = mxfp4.decode(*mxfp4.encode(values))
        np.testing.assert_array_equal(round_to_mxfp4(torch.from_numpy(values)).numpy(), expected)


def test_quantised_experts_compute_with_rounded_weights_and_learn_unrounded_ones() -> None:
    quantised, rounded = Network(TINY, quantize_experts=True), Network(TINY)
    quantised.initialise(4)
    rounded.load_state_dict(quantised.state_dict())
    with torch.no_grad():
        for name, parameter in rounded.named_parameters():
            if name.endswith(("mlp1.weight", "mlp2.weight")):
                parameter.copy_(round_to_mxfp4(parameter))
    pack = random_pack(50)
    ours, theirs = quantised.loss(pack).total, rounded.loss(pack).total
    assert torch.equal(ours, theirs)
    ours.backward()
    theirs.backward()
    for (name, one), other in zip(quantised.named_parameters(), rounded.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, msg=name)


def test_balance_is_one_where_all_experts_are_used_alike() -> None:
    even, skewed = Network(TINY), Network(TINY)
    for net in (even, skewed):
        net.initialise(0)
    with torch.no_grad():
        for block in skewed.block:
            block.mlp.gate.bias[:2] = 50.0
    pack = random_pack(300)
    assert even.loss(pack).balance.item() < 1.2
    assert math.isclose(skewed.loss(pack).balance.item(), TINY.num_experts / TINY.experts_per_token, rel_tol=1e-3)
