"""The engine over a model that notices every wrong block: each request must get what it would get alone."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_oss.backends.base import Chunk, Float32, SampledToken
from gpt_oss.engine.engine import Engine, EngineConfig
from gpt_oss.engine.sampling import Sampler
from gpt_oss.errors import BackendError, CapacityError, ContextOverflowError, ParameterError
from gpt_oss.params import SamplingParams
from tests.engine.fake_model import FakeModel, Rows

SHARED = [5, 3, 5, 8, 1, 2, 9, 9, 4, 7, 7, 1, 3, 2]


def answer(engine: Engine, prompt: Sequence[int], params: SamplingParams) -> list[int]:
    return [token.id for token in engine.generate_sync(prompt, params)]


def alone(prompt: Sequence[int], params: SamplingParams, *, repeats: bool = False) -> list[int]:
    """The answer by definition: one token at a time, nothing shared, nothing drafted, nothing cached."""
    model = FakeModel(blocks=256, window_blocks=256, repeats=repeats)
    engine = Engine(model, EngineConfig(speculate=False))
    try:
        return answer(engine, prompt, params)
    finally:
        engine.close()


@st.composite
def requests(draw: st.DrawFn) -> tuple[list[int], SamplingParams, int | None]:
    """(prompt, params, how many tokens to read before closing; None: all)."""
    shared = draw(st.integers(0, len(SHARED)))
    prompt = SHARED[:shared] + draw(st.lists(st.integers(0, 23), min_size=1, max_size=30))
    params = SamplingParams(
        temperature=draw(st.sampled_from([0.0, 0.7, 1.0])),
        top_k=draw(st.sampled_from([0, 3])),
        seed=draw(st.integers(0, 50)),
        max_tokens=draw(st.integers(1, 25)),
        stop_token_ids=draw(st.sampled_from([(), (7, 8)])),
        frequency_penalty=draw(st.sampled_from([0.0, 0.5])),
    )
    return prompt, params, draw(st.none() | st.integers(0, 5))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(requests(), min_size=1, max_size=7),
    st.integers(18, 60),
    st.integers(12, 60),
    st.booleans(),
    st.integers(1, 4),
)
def test_every_request_gets_what_it_would_get_alone(
    wanted: list[tuple[list[int], SamplingParams, int | None]],
    blocks: int,
    window_blocks: int,
    repeats: bool,
    max_running: int,
) -> None:
    model = FakeModel(blocks=blocks, window_blocks=window_blocks, repeats=repeats)
    engine = Engine(model, EngineConfig(max_running=max_running, max_prompt_tokens=64))

    def run(item: tuple[list[int], SamplingParams, int | None]) -> list[int]:
        prompt, params, stop_after = item
        got = []
        stream = engine.generate_sync(prompt, params)
        for token in stream:
            got.append(token.id)
            if stop_after is not None and len(got) > stop_after:
                break
        stream.close()  # type: ignore[attr-defined]
        return got

    try:
        with ThreadPoolExecutor(len(wanted)) as pool:
            answers = list(pool.map(run, wanted, timeout=60))
    finally:
        engine.close()
    for (prompt, params, stop_after), got in zip(wanted, answers, strict=True):
        whole = alone(prompt, params, repeats=repeats)
        assert got == (whole if stop_after is None else whole[: stop_after + 1])
    assert engine._cache.full.held() == engine._cache.windowed.held() == 0  # nothing leaked
    assert engine.stats().running == engine.stats().waiting == 0


@settings(max_examples=20, deadline=None)
@given(requests())
def test_speculation_never_changes_an_answer(wanted: tuple[list[int], SamplingParams, int | None]) -> None:
    prompt, params, _ = wanted
    params = replace(params, max_tokens=60, stop_token_ids=())
    engine = Engine(FakeModel(blocks=128, window_blocks=128, repeats=True))
    try:
        assert answer(engine, prompt, params) == alone(prompt, params, repeats=True)
    finally:
        engine.close()


class Wanting:
    """A grammar that allows everything and is whole after `length` tokens."""

    def __init__(self, length: int) -> None:
        self.left = length

    def mask(self) -> None:
        return None

    def accept(self, token: int) -> None:
        self.left -= 1

    @property
    def whole(self) -> bool:
        return self.left <= 0


@pytest.mark.parametrize("speculate", [False, True])
@pytest.mark.parametrize(("wanted", "end"), [(1, "stop"), (300, "length")])
def test_an_answer_that_its_grammar_does_not_find_whole_ends_as_cut_off(
    wanted: int, end: str, *, speculate: bool
) -> None:
    """The loop that the answer falls into is drafted; the stop token is one that comes late."""
    free = SamplingParams(temperature=0, max_tokens=200)
    plain = alone([1, 2, 3], free, repeats=True)
    stop = next(token for token in reversed(plain) if plain.index(token) > 2)
    params = replace(free, stop_token_ids=(stop,), grammar=lambda: Wanting(wanted))
    engine = Engine(FakeModel(blocks=128, window_blocks=128, repeats=True), EngineConfig(speculate=speculate))
    tokens = list(engine.generate_sync([1, 2, 3], params))
    engine.close()
    assert [token.id for token in tokens] == plain[: plain.index(stop) + 1]
    assert [token.finish_reason for token in tokens] == [None] * (len(tokens) - 1) + [end]


def test_speculation_saves_steps_where_the_text_repeats() -> None:
    params = SamplingParams(temperature=0, max_tokens=200)
    counts = []
    for speculate in (False, True):
        model = FakeModel(blocks=128, window_blocks=128, vocab=8, repeats=True)  # 512 contexts: soon in a loop
        engine = Engine(model, EngineConfig(speculate=speculate))
        answer(engine, [1, 2, 3], params)
        engine.close()
        counts.append(engine.stats().steps)
    assert counts[0] == 200
    assert counts[1] < 100


def test_a_prefix_seen_before_is_not_computed_again() -> None:
    model = FakeModel(blocks=128, window_blocks=128)
    engine = Engine(model)
    params = SamplingParams(seed=1, max_tokens=3)
    prompt = [i % 23 for i in range(101)]
    first = list(engine.generate_sync(prompt, params))
    before = model.forwarded
    second = list(engine.generate_sync([*prompt, 3, 4], params))
    engine.close()
    assert first[0].cached_tokens == 0
    assert second[0].cached_tokens == 100
    assert model.forwarded - before == 3 + 2  # three new tokens of the prompt, two of the answer
    assert [t.id for t in second] == alone([*prompt, 3, 4], params)


def test_the_next_turn_resumes_at_the_last_prompt_though_the_answer_is_replaced() -> None:
    model = FakeModel(blocks=256, window_blocks=64)
    engine = Engine(model)
    prompt = [i % 19 for i in range(80)]
    answer(engine, prompt, SamplingParams(seed=1, max_tokens=90))  # far past the window of the prompt's end
    second = list(engine.generate_sync([*prompt, 20, 21, 22, 20], SamplingParams(seed=2, max_tokens=2)))
    engine.close()
    assert second[0].cached_tokens == 80


def test_windowed_layers_hold_a_window_not_the_whole_sequence() -> None:
    model = FakeModel(blocks=120, window_blocks=24, block_tokens=4, window=6)
    engine = Engine(model, EngineConfig(max_prompt_tokens=64))
    assert len(answer(engine, [1] * 300, SamplingParams(seed=1, max_tokens=100))) == 100
    engine.close()


class Gated(FakeModel):
    """Computes nothing until `gate` is opened."""

    def __init__(self, **options: int) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self.gate, self.reached = threading.Event(), threading.Event()

    def forward(self, batch: Sequence[Chunk]) -> Rows:
        self.reached.set()
        self.gate.wait(30)
        return super().forward(batch)


def test_a_long_prompt_does_not_hold_up_a_short_one() -> None:
    model = Gated(blocks=200, window_blocks=200)
    engine = Engine(model, EngineConfig(max_prompt_tokens=64))
    params = SamplingParams(seed=1, max_tokens=2)
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(answer, engine, [2] * 480, params)
        model.reached.wait(30)
        quick = pool.submit(answer, engine, [3, 4, 5], params)
        while engine._pending < 2:
            time.sleep(0.001)
        model.gate.set()
        assert len(slow.result(30)) == len(quick.result(30)) == 2
    engine.close()
    steps = [i for i, batch in enumerate(model.batches) if any(chunk.tokens[0] == 3 for chunk in batch)]
    assert steps[0] <= 2  # one of the two steps after the one under way, long before the long prompt's eighth


def test_prompts_are_read_in_pieces_while_others_answer() -> None:
    model = FakeModel(blocks=400, window_blocks=400)
    ticks = iter(range(10**9))
    engine = Engine(model, EngineConfig(max_stall_ms=100, max_prompt_tokens=512), clock=lambda: next(ticks) * 1.0)
    # By this clock every step takes a second, far more than the stall allowed: pieces shrink to the least.
    first = engine.generate_sync([1, 2, 3], SamplingParams(seed=1, max_tokens=400))
    next(first)
    answer(engine, [4] * 400, SamplingParams(seed=1, max_tokens=1))
    first.close()  # type: ignore[attr-defined]
    engine.close()
    beside = [chunk for batch in model.batches if len(batch) > 1 for chunk in batch if chunk.tokens[0] == 4]
    assert beside
    assert max(len(chunk.tokens) for chunk in beside[2:]) <= 64


def test_cancelling_frees_the_blocks_and_stops_the_work() -> None:
    model = Gated(blocks=128, window_blocks=128)
    model.gate.set()
    engine = Engine(model)
    stream = engine.generate_sync([1, 2, 3], SamplingParams(seed=1))
    next(stream)
    model.gate.clear()
    stream.close()  # type: ignore[attr-defined]
    model.gate.set()
    answer(engine, [4, 5], SamplingParams(seed=1, max_tokens=1))  # comes after the cancellation
    assert engine.stats().running == 0
    assert engine.stats().sampled_tokens < 500
    engine.close()
    assert engine._cache.full.held() == 0


def test_one_failure_ends_its_requests_and_not_the_engine() -> None:
    model = FakeModel()
    engine = Engine(model)
    model.fail_next = True
    with pytest.raises(BackendError, match="fails on request"):
        answer(engine, [1, 2], SamplingParams(seed=1, max_tokens=4))
    assert answer(engine, [1, 2], SamplingParams(seed=1, max_tokens=4)) == alone(
        [1, 2], SamplingParams(seed=1, max_tokens=4)
    )
    engine.close()


class Panic(BaseException):
    """What a library of another language raises: none of Exception's."""


@dataclass
class Failing:
    """A grammar that allows anything, and raises where it is told to."""

    error: BaseException
    masks: int = 10**9
    accepts: int = 10**9
    whole: bool = True

    def mask(self) -> None:
        self.masks -= 1
        if self.masks < 0:
            raise self.error

    def accept(self, token: int) -> None:
        self.accepts -= 1
        if self.accepts < 0:
            raise self.error


@pytest.mark.parametrize("speculate", [True, False])
@pytest.mark.parametrize("error", [ValueError("odd"), Panic("panicked"), MemoryError()])
@pytest.mark.parametrize("where", ["masks", "accepts"])
def test_a_sampler_that_raises_ends_its_own_request_only(where: str, error: BaseException, speculate: bool) -> None:
    """In the middle of a batch, between drafts and prompts under way: all the others get what they get alone."""
    model = FakeModel(blocks=256, window_blocks=256, repeats=True)
    engine = Engine(model, EngineConfig(speculate=speculate))
    usual = SamplingParams(temperature=0, max_tokens=40)
    broken = replace(usual, grammar=lambda: Failing(error, **{where: 7}))
    prompts = [[5, 3, 5, 8], [1, 2, 9, 9, 4], [7, 7, 1], [3, 2, 5], SHARED * 6]
    with ThreadPoolExecutor(8) as pool:
        wanted = [pool.submit(answer, engine, prompt, usual) for prompt in prompts]
        failing = [pool.submit(answer, engine, prompt, broken) for prompt in prompts[:3]]
        for future in failing:
            with pytest.raises(BackendError, match="failed while sampling"):
                future.result(30)
        for prompt, future in zip(prompts, wanted, strict=True):
            assert future.result(30) == alone(prompt, usual, repeats=True)
    assert engine.stats().running == 0
    engine.close()


def test_a_score_that_cannot_be_told_ends_its_own_request_only(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(FakeModel(blocks=256, window_blocks=256))
    score = Sampler.score

    def scored(self: Sampler, row: Float32, token: int) -> SampledToken:
        if self.params.logprobs == 5:
            raise Panic("panicked")
        return score(self, row, token)

    monkeypatch.setattr(Sampler, "score", scored)
    usual = SamplingParams(temperature=0, max_tokens=30)
    with ThreadPoolExecutor(8) as pool:
        answers = pool.submit(answer, engine, [5, 3, 5], usual)
        fine = pool.submit(lambda: len(list(engine.score_sync(SHARED, 2))))
        broken = pool.submit(lambda: list(engine.score_sync(SHARED, 5)))
        with pytest.raises(BackendError, match="failed while sampling"):
            broken.result(30)
        assert fine.result(30) == len(SHARED) - 1
        assert answers.result(30) == alone([5, 3, 5], usual)
    engine.close()


def test_a_defect_of_the_scheduler_ends_what_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the engine takes the next request."""
    engine = Engine(FakeModel())
    with monkeypatch.context() as patch:
        patch.setattr(engine, "_plan", lambda: 1 / 0)
        with pytest.raises(BackendError, match="division by zero"):
            answer(engine, [1, 2], SamplingParams(max_tokens=3))
    assert len(answer(engine, [1, 2], SamplingParams(max_tokens=3))) == 3
    engine.close()


def test_bad_requests_get_a_sentence_with_numbers() -> None:
    engine = Engine(FakeModel(blocks=8, window_blocks=8), EngineConfig(context_tokens=20))
    with pytest.raises(ParameterError, match="no tokens"):
        answer(engine, [], SamplingParams())
    with pytest.raises(ParameterError, match="token 24"):
        answer(engine, [24], SamplingParams())
    with pytest.raises(ParameterError, match="logit_bias names token 99"):
        answer(engine, [1], SamplingParams(logit_bias={99: 1.0}))
    with pytest.raises(ContextOverflowError, match="20 tokens > 20 maximum"):
        answer(engine, [1] * 20, SamplingParams())
    engine.close()
    with pytest.raises(BackendError, match="closed"):
        answer(engine, [1], SamplingParams())
    engine.close()
    assert engine.model.closed  # type: ignore[attr-defined]


def test_too_many_requests_are_refused() -> None:
    model = Gated()
    engine = Engine(model, EngineConfig(max_running=1, max_waiting=1))
    with ThreadPoolExecutor(2) as pool:
        held = [pool.submit(answer, engine, [1], SamplingParams(seed=1, max_tokens=2)) for _ in range(2)]
        while engine._pending < 2:
            time.sleep(0.001)
        with pytest.raises(CapacityError, match="2 requests"):
            answer(engine, [1], SamplingParams())
        model.gate.set()
        assert [len(request.result(30)) for request in held] == [2, 2]
    engine.close()


def test_closing_ends_waiting_callers_with_an_error() -> None:
    model = Gated(blocks=128, window_blocks=128)
    engine = Engine(model)
    model.gate.set()
    stream = engine.generate_sync([1], SamplingParams(seed=1))
    next(stream)
    model.gate.clear()
    closing = threading.Thread(target=engine.close)
    closing.start()
    while not engine._closed:
        time.sleep(0.001)
    model.gate.set()
    with pytest.raises(BackendError, match="closed"):
        list(stream)
    closing.join()


async def test_the_async_stream_is_the_same_stream() -> None:
    engine = Engine(FakeModel())
    params = SamplingParams(seed=4, max_tokens=9, logprobs=2)
    streamed = [token async for token in engine.generate([1, 2, 3], params)]
    plain = [replace(token, cached_tokens=0) for token in engine.generate_sync([1, 2, 3], params)]
    assert streamed == plain
    assert streamed[-1].finish_reason == "length"
    assert all(token.finish_reason is None for token in streamed[:-1])
    assert all(len(token.top_logprobs) == 2 and token.logprob is not None for token in streamed)
    tasks = [asyncio.create_task(collect(engine, [7, i], params)) for i in range(5)]
    assert [[t.id for t in await task] for task in tasks] == [alone([7, i], params) for i in range(5)]
    engine.close()


async def collect(engine: Engine, prompt: list[int], params: SamplingParams) -> list[SampledToken]:
    return [token async for token in engine.generate(prompt, params)]


def test_the_prefix_cache_survives_a_restart(tmp_path: Path) -> None:
    config = EngineConfig(prefix_file=tmp_path / "prefixes", prefix_identity="fake")
    prompt = [i % 23 for i in range(61)]
    params = SamplingParams(seed=1, max_tokens=2)
    cached = []
    for identity in ("fake", "fake", "other", "fake"):
        engine = Engine(FakeModel(blocks=64, window_blocks=64), replace(config, prefix_identity=identity))
        tokens = list(engine.generate_sync(prompt, params))
        assert [t.id for t in tokens] == alone(prompt, params)
        cached.append(tokens[0].cached_tokens)
        engine.close()
    assert cached == [0, 60, 0, 0]


@pytest.mark.parametrize("damage", [b"", b"{}\n", b"not json\n123", None])
def test_a_damaged_prefix_file_is_ignored(tmp_path: Path, damage: bytes | None) -> None:
    path = tmp_path / "prefixes"
    config = EngineConfig(prefix_file=path, prefix_identity="fake")
    params = SamplingParams(seed=1, max_tokens=2)
    engine = Engine(FakeModel(), config)
    answer(engine, [1] * 30, params)
    engine.close()
    path.write_bytes(path.read_bytes()[:-5] if damage is None else damage)
    engine = Engine(FakeModel(), config)
    assert next(iter(engine.generate_sync([1] * 30, params))).cached_tokens == 0
    engine.close()
