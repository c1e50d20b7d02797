"""The scripted generator against the contract of TokenGenerator, in its async and its plain form."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import pytest

from gpt_oss.backends.base import SampledToken, TokenGenerator
from gpt_oss.backends.scripted import Reply, ScriptedGenerator
from gpt_oss.errors import BackendError, ContextOverflowError
from gpt_oss.params import SamplingParams

STOP = 99
Play = Callable[[TokenGenerator, list[int], SamplingParams], list[SampledToken]]


def play_async(generator: TokenGenerator, prompt: list[int], params: SamplingParams) -> list[SampledToken]:
    async def collect() -> list[SampledToken]:
        return [token async for token in generator.generate(prompt, params)]

    return asyncio.run(collect())


def play_sync(generator: TokenGenerator, prompt: list[int], params: SamplingParams) -> list[SampledToken]:
    return list(generator.generate_sync(prompt, params))


@pytest.fixture(params=[play_async, play_sync])
def play(request: pytest.FixtureRequest) -> Play:
    return request.param


def ids_and_reasons(tokens: list[SampledToken]) -> list[tuple[int, str | None]]:
    return [(token.id, token.finish_reason) for token in tokens]


def test_it_plays_the_replies_in_order_and_remembers_the_prompts(play: Play) -> None:
    generator = ScriptedGenerator([[1, 2], [3]])
    params = SamplingParams(temperature=0.5)
    assert ids_and_reasons(play(generator, [10, 11], params)) == [(1, None), (2, "length")]
    assert ids_and_reasons(play(generator, [12], params)) == [(3, "length")]
    assert generator.prompts == [[10, 11], [12]]
    assert [(call.params, call.delivered, call.closed) for call in generator.calls] == [
        (params, [1, 2], True),
        (params, [3], True),
    ]
    with pytest.raises(BackendError, match="the script has 2 replies, and call 3 came"):
        play(generator, [13], params)


def test_a_function_of_the_prompt_can_be_the_script(play: Play) -> None:
    echo = ScriptedGenerator(lambda prompt: [*reversed(prompt)])
    assert [token.id for token in play(echo, [1, 2, 3], SamplingParams())] == [3, 2, 1]


def test_a_stop_token_is_delivered_and_ends_the_answer(play: Play) -> None:
    generator = ScriptedGenerator([[1, STOP, 2]])
    assert ids_and_reasons(play(generator, [0], SamplingParams(stop_token_ids=(STOP,)))) == [(1, None), (STOP, "stop")]


@pytest.mark.parametrize("context_tokens", [100, 5])
def test_max_tokens_and_the_context_end_the_answer(play: Play, context_tokens: int) -> None:
    generator = ScriptedGenerator([Reply([1, 2, 3], error=BackendError("later"))], context_tokens=context_tokens)
    params = SamplingParams(max_tokens=2 if context_tokens == 100 else None)
    assert ids_and_reasons(play(generator, [7, 8, 9], params)) == [(1, None), (2, "length")]


def test_a_prompt_that_leaves_no_room_is_refused(play: Play) -> None:
    with pytest.raises(ContextOverflowError, match="prompt is too long: 3 tokens > 3 maximum"):
        play(ScriptedGenerator([[1]], context_tokens=3), [7, 8, 9], SamplingParams())


def test_logprobs_come_when_asked_for(play: Play) -> None:
    generator = ScriptedGenerator(lambda prompt: Reply([1, 2], logprobs=[-0.5, -1.5], cached_tokens=4))
    assert [token.logprob for token in play(generator, [0], SamplingParams())] == [None, None]
    assert [token.logprob for token in play(generator, [0], SamplingParams(logprobs=0))] == [-0.5, -1.5]
    first, second = play(generator, [0], SamplingParams(logprobs=1))
    assert (first.top_logprobs, second.top_logprobs) == (((1, -0.5),), ((2, -1.5),))
    assert (first.cached_tokens, second.cached_tokens) == (4, 0)


def test_an_error_comes_after_the_tokens(play: Play) -> None:
    generator = ScriptedGenerator([Reply([1, 2], error=BackendError("the machine caught fire"))])
    with pytest.raises(BackendError, match="caught fire"):
        play(generator, [0], SamplingParams())
    assert (generator.calls[0].delivered, generator.calls[0].closed) == ([1, 2], True)


def test_delays_are_before_each_token(play: Play) -> None:
    generator = ScriptedGenerator([Reply([1, 2], delay_s=0.02)])
    start = time.monotonic()
    play(generator, [0], SamplingParams())
    assert time.monotonic() - start >= 0.04


async def test_closing_early_shows_in_the_call() -> None:
    generator = ScriptedGenerator([[1, 2, 3], Reply([4], delay_s=60)])
    tokens = generator.generate([0], SamplingParams())
    assert (await anext(tokens)).id == 1
    await tokens.aclose()  # type: ignore[attr-defined]
    assert (generator.calls[0].delivered, generator.calls[0].closed) == ([1], True)

    waiting = asyncio.ensure_future(anext(generator.generate([0], SamplingParams())))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (generator.calls[1].delivered, generator.calls[1].closed) == ([], True)


def test_overlapping_calls_from_many_threads_each_get_a_reply() -> None:
    generator = ScriptedGenerator([[i] for i in range(50)])
    got: list[int] = []
    threads = [
        threading.Thread(target=lambda: got.append(play_sync(generator, [0], SamplingParams())[0].id))
        for _ in range(50)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == list(range(50))
