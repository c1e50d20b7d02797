"""Scores of a prompt from every engine that gives them, against the float64 reference."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gpt_oss.backends.base import Scorer, scorer_of
from gpt_oss.backends.scripted import ScriptedGenerator
from gpt_oss.engine.engine import SCORED_TOKENS
from gpt_oss.errors import BackendError, ContextOverflowError, ParameterError
from gpt_oss.load import LoadOptions, load
from gpt_oss.model import reference
from gpt_oss.model.checkpoint import open_checkpoint
from gpt_oss.params import SamplingParams

# Longer than the window, and than what is scored at once.
PROMPT = [int(token) for token in np.random.default_rng(5).integers(0, 512, 2 * SCORED_TOKENS + 40)]
# Of log probabilities: the median error, for some are far off by right (see tests/backends/cpu/test_model.py).
TOLERANCE = {"cpu": 0.05, "torch": 1e-4, "transformers": 1e-4}


@pytest.fixture(scope="module")
def expected(tiny_checkpoints: dict[str, Path]) -> NDArray[np.float64]:
    """Log probabilities after each of the prompt's tokens, of every token."""
    with open_checkpoint(tiny_checkpoints["huggingface"]) as checkpoint:
        logits = reference.forward(checkpoint, PROMPT)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@pytest.fixture(scope="module", params=list(TOLERANCE))
def opened(request: pytest.FixtureRequest, tiny_checkpoints: dict[str, Path]) -> Iterator[tuple[str, Any]]:
    name = request.param
    if name != "cpu" and importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    precision = "exact" if name == "cpu" else "float32"
    options = LoadOptions(backend=name, precision=precision, context_tokens=len(PROMPT) + 1)
    generator = load(tiny_checkpoints["huggingface"], options)
    yield name, generator
    generator.close()


def check(name: str, scorer: Scorer, prompt: list[int], expected: NDArray[np.float64]) -> None:
    tokens = list(scorer.score_sync(prompt, 2))
    assert [token.id for token in tokens] == prompt[1:]
    assert [token.finish_reason for token in tokens] == [None] * (len(prompt) - 2) + ["length"]
    wanted = expected[np.arange(len(prompt) - 1), prompt[1:]]
    errors = np.abs(np.array([token.logprob for token in tokens]) - wanted)
    assert np.median(errors) < TOLERANCE[name]
    likeliest = np.array([token.top_logprobs[0][1] for token in tokens]) - expected[: len(prompt) - 1].max(-1)
    assert np.median(np.abs(likeliest)) < TOLERANCE[name]


def test_scores_are_the_references(opened: tuple[str, Any], expected: NDArray[np.float64]) -> None:
    check(opened[0], scorer_of(opened[1]), PROMPT, expected)


def test_so_they_are_where_the_prompt_is_cached(opened: tuple[str, Any], expected: NDArray[np.float64]) -> None:
    name, generator = opened
    params = SamplingParams(temperature=0, max_tokens=1, logprobs=1)
    list(generator.generate_sync(PROMPT[:200], params))
    check(name, generator, PROMPT[:200], expected)
    check(name, generator, PROMPT[:150], expected)
    (token,) = generator.generate_sync(PROMPT[:200], params)
    assert token.cached_tokens > 0
    (again,) = list(generator.score_sync([*PROMPT[:200], token.id], 1))[-1:]
    assert again.logprob == pytest.approx(token.logprob, abs=0.05)


def test_leaving_in_the_middle_and_several_at_once(opened: tuple[str, Any]) -> None:
    _, generator = opened

    async def leave() -> None:
        async with aclosing(generator.score(PROMPT, 0)) as tokens:
            async for _ in tokens:
                return

    async def one(prompt: list[int]) -> list[float | None]:
        return [token.logprob async for token in generator.score(prompt, 0)]

    async def every() -> list[list[float | None]]:
        await leave()
        return await asyncio.gather(*(one(PROMPT[: 100 + n]) for n in range(4)), one(PROMPT[:1]))

    *scores, none = asyncio.run(every())
    assert none == []
    alone = [token.logprob for token in generator.score_sync(PROMPT[:103], 0)]
    for n, got in enumerate(scores):
        assert np.median(np.abs(np.array(got) - np.array(alone[: 99 + n]))) < 0.05


def test_what_cannot_be_scored(opened: tuple[str, Any]) -> None:
    _, generator = opened
    with pytest.raises(ContextOverflowError):
        list(generator.score_sync([1] * (len(PROMPT) + 2), 0))
    assert len(list(generator.score_sync([1] * (len(PROMPT) + 1), 0))) == len(PROMPT)
    with pytest.raises(ParameterError, match="no tokens"):
        list(generator.score_sync([], 0))
    with pytest.raises(ParameterError, match="token 512"):
        list(generator.score_sync([512], 0))


def test_transformers_ends_a_score_with_the_models_own_failure() -> None:
    pytest.importorskip("transformers")
    from gpt_oss.backends.transformers import TransformersGenerator
    from gpt_oss.engine.sampling import Sampler
    from tests.conftest import TINY

    class Breaks:
        device = "cpu"

        def forward(self, cache: object) -> None: ...

        def __call__(self, *args: object, **kwargs: object) -> object:
            raise RuntimeError("the GPU is on fire")

    generator = TransformersGenerator(Breaks(), TINY, Sampler, name="broken")
    with pytest.raises(BackendError, match="broken failed while computing: the GPU is on fire"):
        list(generator.score_sync([1, 2], 0))
    generator.close()


def test_scripted_scores_by_a_function() -> None:
    generator = ScriptedGenerator([], likelihood=lambda before, token: -float(len(before) + token), context_tokens=4)
    tokens = list(generator.score_sync([1, 2, 3], 1))
    assert [(token.id, token.logprob, token.finish_reason) for token in tokens] == [
        (2, -3.0, None),
        (3, -5.0, "length"),
    ]
    assert tokens[0].top_logprobs == ((2, -3.0),)
    assert generator.scored == [[1, 2, 3]]
    with pytest.raises(ContextOverflowError):
        list(generator.score_sync([1] * 5, 0))
