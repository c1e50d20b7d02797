"""Transformers as an engine, on random checkpoints: our own torch backend judges it token for token."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

pytest.importorskip("transformers")

from gpt_oss.backends import transformers as backend
from gpt_oss.backends.base import SampledToken, TokenGenerator
from gpt_oss.engine.sampling import Sampler
from gpt_oss.errors import BackendError, ConfigError, ContextOverflowError, ParameterError
from gpt_oss.load import LoadOptions, load
from gpt_oss.model.checkpoint import open_checkpoint
from gpt_oss.model.config import ModelConfig
from gpt_oss.params import SamplingParams
from tests.conftest import TINY

PROMPT = [7 * i % 500 for i in range(300)]  # longer than the window, shorter than a step


@pytest.fixture(scope="module")
def generator(tiny_checkpoints: dict[str, Path]) -> Iterator[TokenGenerator]:
    options = LoadOptions(backend="transformers", precision="float32", context_tokens=2000)
    opened = load(tiny_checkpoints["huggingface"], options)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def torch_generator(tiny_checkpoints: dict[str, Path]) -> Iterator[TokenGenerator]:
    options = LoadOptions(backend="torch", precision="float32", context_tokens=2000)
    opened = load(tiny_checkpoints["huggingface"], options)
    yield opened
    opened.close()


def ask(generator: TokenGenerator, prompt: list[int], params: SamplingParams) -> list[SampledToken]:
    return list(generator.generate_sync(prompt, params))


def ids(tokens: list[SampledToken]) -> list[int]:
    return [token.id for token in tokens]


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=0, max_tokens=12),
        SamplingParams(seed=3, max_tokens=12),
        SamplingParams(seed=4, max_tokens=12, top_p=0.5, min_p=0.001),
        SamplingParams(seed=5, max_tokens=12, presence_penalty=1.5, logit_bias={3: 4.0}),
    ],
    ids=["greedy", "seed", "filters", "penalties"],
)
def test_it_draws_what_our_own_engine_draws(
    params: SamplingParams, generator: TokenGenerator, torch_generator: TokenGenerator
) -> None:
    assert ids(ask(generator, PROMPT, params)) == ids(ask(torch_generator, PROMPT, params))


class Open:
    """A grammar that allows everything and is whole or is not."""

    def __init__(self, *, whole: bool) -> None:
        self.whole = whole

    def mask(self) -> None:
        return None

    def accept(self, token: int) -> None:
        pass


@pytest.mark.parametrize(("whole", "end"), [(True, "stop"), (False, "length")])
def test_a_stop_token_ends_only_what_its_grammar_finds_whole(generator: TokenGenerator, whole: bool, end: str) -> None:
    params = SamplingParams(seed=1, stop_token_ids=tuple(range(512)), grammar=lambda: Open(whole=whole))
    assert [token.finish_reason for token in ask(generator, PROMPT, params)] == [end]


def test_a_prompt_longer_than_a_step_is_computed_in_pieces(
    generator: TokenGenerator, torch_generator: TokenGenerator
) -> None:
    prompt = [11 * i % 500 for i in range(backend.PROMPT_STEP + 100)]
    params = SamplingParams(temperature=0, max_tokens=4, logprobs=1)
    mine, theirs = ask(generator, prompt, params), ask(torch_generator, prompt, params)
    assert ids(mine) == ids(theirs)
    assert [token.logprob for token in mine] == pytest.approx([token.logprob for token in theirs], abs=1e-3)


def test_a_prompt_seen_before_is_not_computed_again(generator: TokenGenerator, torch_generator: TokenGenerator) -> None:
    """As a conversation has it: what follows the answer, and a prompt that parts from it in the middle."""
    params = SamplingParams(temperature=0, max_tokens=6)
    first = [13 * i % 500 for i in range(200)]
    answer = ids(ask(generator, first, params))
    for prompt, least in (([*first, *answer, 1, 2, 3], 205), ([*first[:150], 9, 9, 9], 150)):
        tokens = ask(generator, prompt, params)
        assert tokens[0].cached_tokens == least
        assert all(token.cached_tokens == 0 for token in tokens[1:])
        assert ids(tokens) == ids(ask(torch_generator, prompt, params))


def test_many_at_once_are_as_one_at_a_time(generator: TokenGenerator) -> None:
    params = SamplingParams(temperature=0, max_tokens=8)
    prompts = [[(3 + n) * i % 500 for i in range(40 + n)] for n in range(6)]
    alone = [ids(ask(generator, prompt, params)) for prompt in prompts]

    async def one(prompt: list[int]) -> list[int]:
        return [token.id async for token in generator.generate(prompt, params)]

    async def every() -> list[list[int]]:
        return await asyncio.gather(*map(one, prompts))

    assert asyncio.run(every()) == alone


def test_leaving_early_leaves_no_trace(generator: TokenGenerator) -> None:
    params = SamplingParams(temperature=0, max_tokens=1000)

    async def leave() -> None:
        async with aclosing(generator.generate(PROMPT, params)) as tokens:  # type: ignore[type-var]
            async for _ in tokens:
                return

    few = SamplingParams(temperature=0, max_tokens=5)
    before = ids(ask(generator, PROMPT, few))
    for _ in range(3):
        asyncio.run(leave())
    assert ids(ask(generator, PROMPT, few)) == before


def test_a_full_context_ends_the_answer(generator: TokenGenerator) -> None:
    prompt = [5] * 1997
    tokens = ask(generator, prompt, SamplingParams(temperature=0))
    assert len(tokens) == 3
    assert tokens[-1].finish_reason == "length"
    with pytest.raises(ContextOverflowError, match="2000"):
        ask(generator, [5] * 2000, SamplingParams())


def test_bad_prompts_are_refused(generator: TokenGenerator) -> None:
    with pytest.raises(ParameterError, match="no tokens"):
        ask(generator, [], SamplingParams())
    with pytest.raises(ParameterError, match="token 512"):
        ask(generator, [512], SamplingParams())


def test_a_failure_within_the_model_ends_one_request(tiny_checkpoints: dict[str, Path]) -> None:
    class Breaks:
        device = "cpu"

        def forward(self, cache: object) -> None: ...

        def __call__(self, *args: object, **kwargs: object) -> object:
            raise RuntimeError("the GPU is on fire")

    generator = backend.TransformersGenerator(Breaks(), TINY, Sampler, name="broken")
    with pytest.raises(BackendError, match="broken failed while computing: the GPU is on fire"):
        ask(generator, [1, 2], SamplingParams())
    generator.close()
    with pytest.raises(BackendError, match="closed"):
        ask(generator, [1, 2], SamplingParams())


@pytest.mark.parametrize("layout", ["original", "metal"])
def test_another_layout_is_refused_with_what_to_do(layout: str, tiny_checkpoints: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match=f"the {layout} layout") as caught:
        load(tiny_checkpoints[layout], LoadOptions(backend="transformers"))
    assert "gpt-oss convert" in str(caught.value.hint)


def test_another_precision_is_refused(tiny_checkpoints: dict[str, Path]) -> None:
    with pytest.raises(ParameterError, match="bf16 or float32, not 'fp8'"):
        load(tiny_checkpoints["huggingface"], LoadOptions(backend="transformers", precision="fp8"))


def test_the_memory_of_dequantised_weights_is_known() -> None:
    gpt_oss_20b = ModelConfig()
    assert backend.needed_bytes(gpt_oss_20b, 2) == pytest.approx(20.9e9 * 2, rel=0.01)


def test_too_little_memory_is_said_before_anything_is_loaded(
    tiny_checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "_free_bytes", lambda: 1000)
    with pytest.raises(BackendError, match=r"would need \d+\.\d GiB of memory .* 0\.0 GiB are free") as caught:
        load(tiny_checkpoints["huggingface"], LoadOptions(backend="transformers"))
    assert "cpu and triton backends" in str(caught.value.hint)


def test_dequantising_a_large_model_is_warned_of_with_figures(
    tiny_checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "needed_bytes", lambda config, item_bytes: 40 * backend.GIB)
    monkeypatch.setattr(backend, "_free_bytes", lambda: 64 * backend.GIB)
    with open_checkpoint(tiny_checkpoints["huggingface"]) as checkpoint:
        with pytest.warns(UserWarning, match=r"takes 40\.0 GiB of memory .* 64\.0 GiB are free"):
            generator = backend.open_generator(checkpoint, Sampler)
        generator.close()
        monkeypatch.undo()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            backend.open_generator(checkpoint, Sampler).close()  # a small one is not worth a word
