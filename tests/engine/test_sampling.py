"""Sampling against its definition: exact filters on a sorted list, and draws by chi-square."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from gpt_oss.engine.noise import gumbel, likely_winners
from gpt_oss.engine.sampling import Sampler, kept, log_probabilities
from gpt_oss.errors import ParameterError
from gpt_oss.params import SamplingParams

F32 = NDArray[np.float32]


class Row:
    """One row of logits, as a model returns them."""

    def __init__(self, values: F32) -> None:
        self._values = values[None]

    def __len__(self) -> int:
        return 1

    def numpy(self) -> F32:
        return self._values


def definition(values: F32, params: SamplingParams) -> NDArray[np.float64]:
    """The probabilities of every token, the slow and obvious way: sort everything."""
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))
    logits = values.astype(np.float64) / params.temperature
    weights = np.exp(logits - logits.max())
    if params.top_k:
        order = order[: params.top_k]
    if params.top_p < 1:
        goal, total, keep = params.top_p * sum(weights[i] for i in order), 0.0, []
        for i in order:
            keep.append(i)
            total += weights[i]
            if total >= goal:
                break
        order = keep
    order = [i for i in order if weights[i] >= params.min_p * weights.max()]
    probabilities = np.zeros(len(values))
    probabilities[order] = weights[order] / weights[order].sum()
    return probabilities


PARAMS = [
    {},
    {"temperature": 0.6},
    {"top_k": 4},
    {"top_p": 0.7},
    {"min_p": 0.1},
    {"temperature": 1.7, "top_k": 9, "top_p": 0.9, "min_p": 0.02},
]


@pytest.mark.parametrize("options", PARAMS, ids=str)
def test_draws_follow_the_definition(options: dict[str, float]) -> None:
    params = SamplingParams(seed=11, **options)  # type: ignore[arg-type]
    values = np.random.default_rng(2).normal(scale=1.5, size=16).astype(np.float32)
    sampler = Sampler(params, 16)
    draws = 20_000
    counts = np.bincount([sampler.next(Row(values), 0, p).id for p in range(draws)], minlength=16)
    expected = definition(values, params) * draws
    assert counts[expected == 0].sum() == 0
    assert stats.chisquare(counts[expected > 0], expected[expected > 0]).pvalue > 1e-4


@given(
    st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=60, unique=True),
    st.floats(0.2, 3),
    st.integers(0, 12),
    st.floats(0.05, 1),
    st.floats(0, 1),
)
def test_filters_keep_what_a_full_sort_keeps(
    logits: list[float], temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    values = np.array(logits, np.float32)
    ids = kept(values, params)
    wanted = definition(values, params)
    got = set(range(len(values))) if ids is None else set(ids.tolist())
    # On the very edge of a filter float rounding may decide either way.
    assert all(wanted[i] < 0.06 or i in got for i in range(len(values))) or got == set(np.flatnonzero(wanted))
    assert abs(len(got) - np.count_nonzero(wanted)) <= 1
    assert int(np.argmax(values)) in got


def test_the_nucleus_is_found_without_sorting_everything() -> None:
    values = np.random.default_rng(0).normal(scale=0.01, size=30_000).astype(np.float32)  # almost flat
    ids = kept(values, SamplingParams(top_p=0.9))
    assert ids is not None
    assert set(ids.tolist()) == set(np.flatnonzero(definition(values, SamplingParams(top_p=0.9))).tolist())


@pytest.mark.parametrize("scale", [0.0, 0.5, 4.0, 40.0])
def test_the_shortlist_always_holds_the_winner(scale: float) -> None:
    values = np.random.default_rng(4).normal(scale=scale, size=5_000).astype(np.float32)
    ids = np.arange(len(values))
    for position in range(300):
        shortlist = likely_winners(3, position, values)
        winner = int(np.argmax(values.astype(np.float64) + gumbel(3, position, ids)))
        assert winner in shortlist
        assert len(shortlist) < 60


def test_a_winner_with_the_least_noise_there_is_stays_on_the_shortlist() -> None:
    """u of a few times 2^-52: the seed is computed backwards from the bits that token 7 shall have at position 0."""
    golden, full = 0x9E3779B97F4A7C15, 2**64

    def unmix(z: int) -> int:
        for shift, factor in ((31, 0x94D049BB133111EB), (27, 0xBF58476D1CE4E5B9), (30, 1)):
            z ^= z >> shift ^ z >> 2 * shift
            z = z * pow(factor, -1, full) % full
        return z

    for bits in (0, 3 << 12, 1 << 30):
        seed = (unmix((unmix(bits) - golden * 8) % full) - golden) % full
        values = np.zeros(100, np.float32)
        values[7] = 100.0
        assert gumbel(seed, 0, np.array([7]))[0] < -3
        assert 7 in likely_winners(seed, 0, values)


def test_noise_is_the_gumbel_distribution() -> None:
    noise = np.concatenate([gumbel(7, position, np.arange(2000)) for position in range(20)])
    assert stats.kstest(noise, stats.gumbel_r.cdf).pvalue > 1e-4
    assert not np.array_equal(gumbel(7, 0, np.arange(9)), gumbel(8, 0, np.arange(9)))
    assert np.array_equal(gumbel(-1, 5, np.arange(9)), gumbel(2**64 - 1, 5, np.arange(9)))


def test_temperature_zero_takes_the_lowest_of_the_likeliest() -> None:
    values = np.array([1, 3, 3, 0], np.float32)
    assert Sampler(SamplingParams(temperature=0), 4).next(Row(values), 0, 0).id == 1


def test_ids_beyond_the_usable_vocabulary_are_never_drawn() -> None:
    values = np.array([0, 0, 9, 9], np.float32)
    sampler = Sampler(SamplingParams(seed=1), 2)
    assert {sampler.next(Row(values), 0, p).id for p in range(50)} == {0, 1}


def test_bias_and_penalties_are_openais() -> None:
    values = np.array([2, 1, 0], np.float32)
    sampler = Sampler(
        SamplingParams(temperature=0, presence_penalty=0.5, frequency_penalty=0.3, logit_bias={2: 0.9}), 3
    )
    # logits by turn: [2, 1, .9], [1.2, 1, .9], [.9, 1, .9], [.9, .2, .9], [.6, .2, .9], [.6, .2, .1]
    assert [sampler.next(Row(values), 0, p).id for p in range(6)] == [0, 0, 1, 0, 2, 0]
    with pytest.raises(ParameterError, match="logit_bias names token 3"):
        Sampler(SamplingParams(logit_bias={3: 1.0}), 3)


class OnlyEven:
    """A grammar: even ids, and after the first token nothing but 6."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def mask(self) -> NDArray[np.uint32] | None:
        return np.array([1 << 6 if self.seen else 0x55555555], np.uint32)

    def accept(self, token: int) -> None:
        self.seen.append(token)

    @property
    def whole(self) -> bool:
        return len(self.seen) > 1


def test_a_grammar_decides_what_may_come() -> None:
    make: Callable[[], OnlyEven] = OnlyEven
    values = np.random.default_rng(1).normal(size=40).astype(np.float32)
    values[[39, 7]] = 99  # likely, odd, and one of them beyond the mask
    sampler = Sampler(SamplingParams(seed=1, grammar=make), 40)
    first, second = (sampler.next(Row(values), 0, p).id for p in (0, 1))
    assert first % 2 == 0
    assert second == 6


class NoWayOn(OnlyEven):
    def mask(self) -> NDArray[np.uint32] | None:
        return np.zeros(2, np.uint32)


def test_a_stop_token_before_a_grammar_has_all_it_wants_has_cut_the_answer_off() -> None:
    even = tuple(range(0, 40, 2))
    for options in ({}, {"logprobs": 1}, {"temperature": 0}):
        sampler = Sampler(SamplingParams(seed=1, grammar=OnlyEven, stop_token_ids=even, **options), 40)  # type: ignore[arg-type]
        ends = [sampler.next(Row(np.zeros(40, np.float32)), 0, p).finish_reason for p in (0, 1)]
        assert ends == ["length", "stop"]
    free = Sampler(SamplingParams(seed=1, stop_token_ids=even), 40)
    assert {free.next(Row(np.zeros(40, np.float32)), 0, p).finish_reason for p in range(50)} == {"stop", None}


@pytest.mark.parametrize("options", [{}, {"temperature": 0}, {"top_p": 0.5}, {"top_k": 3}, {"min_p": 0.1}], ids=str)
def test_a_grammar_that_knows_no_way_on_ends_the_answer(options: dict[str, float]) -> None:
    values = np.zeros(64, np.float32)
    token = Sampler(SamplingParams(seed=1, grammar=NoWayOn, **options), 40).next(Row(values), 0, 0)  # type: ignore[arg-type]
    assert token.finish_reason == "length"


def test_log_probabilities_are_of_the_models_own_distribution() -> None:
    values = np.random.default_rng(3).normal(scale=3, size=500).astype(np.float32)
    exact = values.astype(np.float64) - np.log(np.exp(values.astype(np.float64)).sum())
    chosen, top = log_probabilities(values, 17, 5)
    assert chosen == pytest.approx(exact[17], abs=1e-5)
    assert [i for i, _ in top] == np.argsort(-exact)[:5].tolist()
    assert [p for _, p in top] == pytest.approx(np.sort(exact)[::-1][:5].tolist(), abs=1e-5)
    token = Sampler(SamplingParams(seed=1, temperature=0.3, top_k=1, logprobs=3), 500).next(Row(values), 0, 0)
    assert token.logprob == pytest.approx(exact[token.id], abs=1e-5)
    assert len(token.top_logprobs) == 3


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": -1},
        {"temperature": float("nan")},
        {"top_p": 0},
        {"min_p": 2},
        {"max_tokens": 0},
        {"logprobs": -1},
    ],
)
def test_parameters_out_of_range_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ParameterError, match=next(iter(bad))):
        SamplingParams(**bad)  # type: ignore[arg-type]


def test_a_token_without_a_logit_is_never_drawn() -> None:
    values = np.array([1, 2, 3, 4], np.float32)
    assert log_probabilities(values, 4, 0) == (-np.inf, ())
    scored = Sampler(SamplingParams(logprobs=1), 3).score(values, 3)
    assert scored.logprob == -np.inf
    assert scored.top_logprobs[0][0] == 2
