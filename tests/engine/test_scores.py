"""Prompts that are scored, over the model that notices every wrong block: each by definition, whatever else runs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_oss.backends.base import Chunk, SampledToken, Scorer, scorer_of
from gpt_oss.engine.engine import SCORED_TOKENS, Engine, EngineConfig, Work
from gpt_oss.errors import BackendError, ContextOverflowError, ParameterError
from gpt_oss.params import SamplingParams
from tests.engine.fake_model import FakeModel
from tests.engine.test_engine import SHARED, Gated, alone, answer, requests

LONG = [(7 * i) % 23 for i in range(300)]


def by_definition(prompt: Sequence[int]) -> list[float]:
    """Log probabilities of the tokens after the first: all rows of one forward, in float64."""
    model = FakeModel(blocks=256, window_blocks=256)
    table = np.arange(-(-len(prompt) // model.block_tokens), dtype=np.int32)
    rows = model.forward([Chunk(np.array(prompt, np.int32), 0, table, table, len(prompt))]).numpy().astype(np.float64)
    logs = rows - np.log(np.exp(rows).sum(-1, keepdims=True))
    return [float(logs[i, token]) for i, token in enumerate(prompt[1:])]


def check(tokens: Sequence[SampledToken], prompt: Sequence[int], top: int) -> None:
    assert [token.id for token in tokens] == list(prompt[1:])
    assert [token.logprob for token in tokens] == pytest.approx(by_definition(prompt), abs=1e-5)
    assert [token.finish_reason for token in tokens[:-1]] == [None] * (len(tokens) - 1)
    assert all(token.finish_reason == "length" for token in tokens[-1:])
    for token in tokens:
        assert len(token.top_logprobs) == top
        logprobs = [logprob for _, logprob in token.top_logprobs]
        assert logprobs == sorted(logprobs, reverse=True)
        assert token.logprob is not None
        if top and token.logprob >= logprobs[-1]:
            assert (token.id, token.logprob) in token.top_logprobs


@pytest.mark.parametrize("length", [1, 2, 3, 63, 64, 65, 127, 128, 129, 130, 256, 257, 300])
def test_scores_are_those_of_one_forward_wherever_the_prompt_is_cut(length: int) -> None:
    model = FakeModel(blocks=128, window_blocks=128)
    engine = Engine(model)
    check(list(engine.score_sync(LONG[:length], 3)), LONG[:length], 3)
    engine.close()
    assert sum(len(chunk.tokens) for batch in model.batches for chunk in batch) == length - 1
    assert engine._cache.full.held() == engine._cache.windowed.held() == 0


@pytest.mark.parametrize("top", [0, 1, 24, 100])
def test_as_many_likely_tokens_as_asked_for(top: int) -> None:
    engine = Engine(FakeModel())
    check(list(engine.score_sync(SHARED, top)), SHARED, min(top, 24))
    engine.close()


def test_what_is_cached_is_scored_again_and_what_was_scored_is_cached() -> None:
    engine = Engine(FakeModel(blocks=256, window_blocks=256))
    params = SamplingParams(seed=1, max_tokens=3)
    answer(engine, LONG[:200], params)
    for prompt in (LONG[:200], LONG[:150], LONG[:250], LONG[:200]):
        check(list(engine.score_sync(prompt, 1)), prompt, 1)
    tokens = list(engine.generate_sync(LONG[:250], params))
    assert tokens[0].cached_tokens == 248
    assert [token.id for token in tokens] == alone(LONG[:250], params)
    engine.close()


def test_a_step_has_a_bounded_number_of_rows() -> None:
    model = Gated(blocks=400, window_blocks=400)
    engine = Engine(model)
    with ThreadPoolExecutor(5) as pool:
        scores = [pool.submit(lambda n=n: list(engine.score_sync(LONG[: 250 + n], 0))) for n in range(4)]
        talking = pool.submit(answer, engine, [1, 2], SamplingParams(seed=1, max_tokens=40))
        model.reached.wait(30)
        model.gate.set()
        for n, tokens in enumerate(scores):
            check(tokens.result(30), LONG[: 250 + n], 0)
        assert talking.result(30) == alone([1, 2], SamplingParams(seed=1, max_tokens=40))
    engine.close()
    for batch in model.batches:
        assert sum(chunk.logits for chunk in batch if chunk.logits > 16) <= SCORED_TOKENS


@settings(max_examples=60, deadline=None)
@given(
    st.lists(requests() | st.lists(st.integers(0, 23), min_size=1, max_size=40), min_size=2, max_size=7),
    st.integers(18, 60),
    st.integers(12, 60),
    st.integers(1, 4),
    st.data(),
)
def test_next_to_others_with_little_room(
    wanted: list[tuple[list[int], SamplingParams, int | None] | list[int]],
    blocks: int,
    window_blocks: int,
    max_running: int,
    data: st.DataObject,
) -> None:
    """Prompts to be scored are plain lists here. Some callers leave early, some requests are preempted."""
    model = FakeModel(blocks=blocks, window_blocks=window_blocks)
    engine = Engine(model, EngineConfig(max_running=max_running, max_prompt_tokens=64))
    leaves = [data.draw(st.none() | st.integers(0, 5)) for _ in wanted]

    def run(number: int) -> list[SampledToken]:
        item, got = wanted[number], []
        if isinstance(item, list):
            stream, leave = engine.score_sync(item, 2), leaves[number]
        else:
            stream, leave = engine.generate_sync(item[0], item[1]), item[2]
        for token in stream:
            got.append(token)
            if leave is not None and len(got) > leave:
                break
        stream.close()  # type: ignore[attr-defined]
        return got

    try:
        with ThreadPoolExecutor(len(wanted)) as pool:
            answers = list(pool.map(run, range(len(wanted)), timeout=60))
    finally:
        engine.close()
    for item, leave, got in zip(wanted, leaves, answers, strict=True):
        if not isinstance(item, list):
            whole = alone(item[0], item[1])
            assert [token.id for token in got] == (whole if item[2] is None else whole[: item[2] + 1])
        elif leave is None:
            check(got, item, 2)
        else:
            assert [token.logprob for token in got] == pytest.approx(by_definition(item)[: leave + 1], abs=1e-5)
    assert engine._cache.full.held() == engine._cache.windowed.held() == 0
    assert engine.stats().running == engine.stats().waiting == 0


class GivesWay(Engine):
    """Takes the room of everybody who runs away before some of its steps, as happens where there is too little."""

    def _plan(self) -> list[Work]:
        if self._counters.steps in (1, 2):
            for request in list(self._running):
                self._preempt(request)
            self._admit()
        return super()._plan()


def test_a_preempted_prompt_goes_on_where_it_was() -> None:
    model = FakeModel(blocks=256, window_blocks=256)
    engine = GivesWay(model)
    check(list(engine.score_sync(LONG, 1)), LONG, 1)
    stats = engine.stats()
    engine.close()
    assert stats.preempted >= 2
    assert stats.prompt_tokens == 300  # counted once
    assert sum(chunk.logits for batch in model.batches for chunk in batch) == 299  # no row twice
    assert engine._cache.full.held() == engine._cache.windowed.held() == 0


def test_leaving_in_the_middle_frees_the_blocks_and_stops_the_work() -> None:
    model = FakeModel(blocks=128, window_blocks=128)
    engine = Engine(model)

    async def leave() -> None:
        async with aclosing(engine.score(LONG, 1)) as tokens:  # type: ignore[type-var]
            async for _ in tokens:
                return

    asyncio.run(leave())
    answer(engine, [4, 5], SamplingParams(seed=1, max_tokens=1))
    assert engine.stats().running == 0
    engine.close()
    assert engine._cache.full.held() == 0


async def test_the_async_stream_is_the_same_stream() -> None:
    engine = Engine(FakeModel(blocks=128, window_blocks=128))
    assert [token async for token in engine.score(LONG, 2)] == list(engine.score_sync(LONG, 2))
    assert [token async for token in engine.score([5], 2)] == []
    engine.close()


def test_what_cannot_be_scored_is_refused_in_a_sentence() -> None:
    engine = Engine(FakeModel(blocks=8, window_blocks=8), EngineConfig(context_tokens=20))
    check(list(engine.score_sync(LONG[:20], 0)), LONG[:20], 0)  # nothing follows: the context may be full
    with pytest.raises(ContextOverflowError, match="21 tokens > 20 maximum"):
        list(engine.score_sync(LONG[:21], 0))
    with pytest.raises(ParameterError, match="no tokens"):
        list(engine.score_sync([], 0))
    with pytest.raises(ParameterError, match="token 24"):
        list(engine.score_sync([24], 0))
    with pytest.raises(ParameterError, match="logprobs must be from 0 to 100, not 101"):
        engine.score_sync([1], 101)
    engine.model.fail_next = True  # type: ignore[attr-defined]
    with pytest.raises(BackendError, match="fails on request"):
        list(engine.score_sync([1, 2], 0))
    check(list(engine.score_sync([1, 2], 0)), [1, 2], 0)
    engine.close()
    with pytest.raises(BackendError, match="closed"):
        list(engine.score_sync([1, 2], 0))


def test_a_generator_that_cannot_score_says_so() -> None:
    class Deaf:
        name = "deaf"
        context_tokens = 9

    with pytest.raises(ParameterError, match="deaf cannot score a prompt") as caught:
        scorer_of(Deaf())  # type: ignore[arg-type]
    assert "cpu" in str(caught.value.hint)
    engine = Engine(FakeModel())
    assert scorer_of(engine) is engine
    assert isinstance(engine, Scorer)
    engine.close()
