"""vLLM in this process, against a package of its signatures (fake.py): no vLLM has run here, for its wheels need a GPU.

What it shows is that ours calls theirs as they declare it, and makes of their outputs what a TokenGenerator owes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from gpt_oss.backends.base import SampledToken, TokenGenerator
from gpt_oss.errors import BackendError, ConfigError, ContextOverflowError, MissingDependencyError, ParameterError
from gpt_oss.load import LoadOptions, load
from gpt_oss.params import SamplingParams
from tests.backends.vllm import fake

PROMPT = [7 * i % 500 for i in range(40)]


@pytest.fixture(scope="module")
def engine(tiny_checkpoints: dict[str, Path]) -> Iterator[TokenGenerator]:
    options = LoadOptions(backend="cpu", precision="exact", context_tokens=400, threads=1)
    opened = load(tiny_checkpoints["huggingface"], options)
    yield opened
    opened.close()


@contextmanager
def opened(
    checkpoint: Path, engine: TokenGenerator, gpus: int = 1, **options: Any
) -> Iterator[tuple[TokenGenerator, fake.AsyncLLM]]:
    with fake.installed(engine, **options) as made:
        generator = load(checkpoint, LoadOptions(backend="vllm", context_tokens=300, gpus=gpus))
        try:
            yield generator, made[0]
        finally:
            generator.close()


def ask(generator: TokenGenerator, params: SamplingParams) -> list[SampledToken]:
    return list(generator.generate_sync(PROMPT, params))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=0, max_tokens=10),
        SamplingParams(seed=4, max_tokens=10, top_p=0.8, top_k=50, min_p=0.01, logit_bias={4: 1.0}, logprobs=2),
        SamplingParams(temperature=0, max_tokens=10, presence_penalty=0.5, frequency_penalty=0.5),
    ],
    ids=["greedy", "filters", "penalties"],
)
def test_tokens_in_and_tokens_out(
    batch: int, params: SamplingParams, engine: TokenGenerator, tiny_checkpoints: dict[str, Path]
) -> None:
    expected = ask(engine, params)
    with opened(tiny_checkpoints["huggingface"], engine, batch=batch) as (generator, _):
        tokens = ask(generator, params)
    assert [token.id for token in tokens] == [token.id for token in expected]
    assert [token.top_logprobs for token in tokens] == [token.top_logprobs for token in expected]
    assert [token.finish_reason for token in tokens] == [None] * 9 + ["length"]


def test_stop_tokens_are_ours_alone(engine: TokenGenerator, tiny_checkpoints: dict[str, Path]) -> None:
    third = ask(engine, SamplingParams(temperature=0, max_tokens=3))[2].id
    with opened(tiny_checkpoints["huggingface"], engine) as (generator, vllm):
        tokens = ask(generator, SamplingParams(temperature=0, stop_token_ids=(third,)))
        assert tokens[-1] == SampledToken(third, finish_reason="stop")
        assert vllm.asked[-1].ignore_eos
        assert vllm.asked[-1].max_tokens == 300 - len(PROMPT)


def test_it_is_started_as_it_was_asked(engine: TokenGenerator, tiny_checkpoints: dict[str, Path]) -> None:
    with opened(tiny_checkpoints["huggingface"], engine, gpus=2) as (generator, vllm):
        assert vllm.args.model == str(tiny_checkpoints["huggingface"])
        assert (vllm.args.tensor_parallel_size, vllm.args.max_model_len) == (2, 300)
        assert (vllm.args.dtype, vllm.args.skip_tokenizer_init) == ("bfloat16", True)
        assert generator.name == "vllm (0.33.0, 2 GPUs)"
    assert vllm.is_shut_down


def test_leaving_early_aborts_the_request(engine: TokenGenerator, tiny_checkpoints: dict[str, Path]) -> None:
    async def leave(generator: TokenGenerator) -> None:
        async with aclosing(generator.generate(PROMPT, SamplingParams())) as tokens:  # type: ignore[type-var]
            async for _ in tokens:
                return

    with opened(tiny_checkpoints["huggingface"], engine) as (generator, vllm):
        asyncio.run(leave(generator))
        ask(generator, SamplingParams(max_tokens=3))  # behind it on vLLM's loop
        assert len(vllm.aborted) == 1


def test_many_at_once(engine: TokenGenerator, tiny_checkpoints: dict[str, Path]) -> None:
    params = SamplingParams(temperature=0, max_tokens=5)

    async def one(generator: TokenGenerator) -> list[int]:
        return [token.id async for token in generator.generate(PROMPT, params)]

    async def every(generator: TokenGenerator) -> list[list[int]]:
        return await asyncio.gather(*(one(generator) for _ in range(4)))

    with opened(tiny_checkpoints["huggingface"], engine) as (generator, _):
        assert asyncio.run(every(generator)) == [[token.id for token in ask(engine, params)]] * 4


@pytest.mark.parametrize("reason", ["abort", "error"])
def test_an_answer_that_vllm_gives_up_is_an_error(
    reason: str, engine: TokenGenerator, tiny_checkpoints: dict[str, Path]
) -> None:
    with (
        opened(tiny_checkpoints["huggingface"], engine, ends_with=reason) as (generator, _),
        pytest.raises(BackendError, match=reason),
    ):
        ask(generator, SamplingParams(max_tokens=5))


def test_what_cannot_be_is_refused(engine: TokenGenerator, tiny_checkpoints: dict[str, Path]) -> None:
    checkpoint = tiny_checkpoints["huggingface"]
    with opened(checkpoint, engine) as (generator, _):
        with pytest.raises(ContextOverflowError, match="300"):
            list(generator.generate_sync([1] * 300, SamplingParams()))
        with pytest.raises(ParameterError, match="token 512"):
            list(generator.generate_sync([512], SamplingParams()))
        with pytest.raises(ParameterError, match="grammar"):
            ask(generator, SamplingParams(grammar=lambda: None))  # type: ignore[arg-type,return-value]
    with fake.installed(engine):
        with pytest.raises(ConfigError, match="the original layout"):
            load(tiny_checkpoints["original"], LoadOptions(backend="vllm"))
        with pytest.raises(ParameterError, match="1 or more"):
            load(checkpoint, LoadOptions(backend="vllm", gpus=0))


def test_without_vllm_the_user_is_told(tiny_checkpoints: dict[str, Path]) -> None:
    try:
        import vllm  # noqa: F401
    except ImportError:
        with pytest.raises(MissingDependencyError, match="the vllm backend cannot be imported") as caught:
            load(tiny_checkpoints["huggingface"], LoadOptions(backend="vllm"))
        assert "gpt-oss[vllm]" in str(caught.value.hint)
    else:
        pytest.skip("vllm is installed")
