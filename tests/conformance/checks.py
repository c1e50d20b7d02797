"""What every backend owes: each check asks one thing of an opened subject and raises AssertionError where it fails.

A check that does not apply to a subject says so by its `applies`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from statistics import median

import pytest

from gpt_oss.backends.base import SampledToken, TokenGenerator, scorer_of
from gpt_oss.errors import ContextOverflowError, ParameterError
from gpt_oss.params import SamplingParams
from gpt_oss.vocabulary import END, decode
from tests.conformance.subjects import CONTEXT, LONGEST, STOPS, Bench, Opened, Subject

GREEDY = SamplingParams(temperature=0, max_tokens=LONGEST, stop_token_ids=STOPS)


@dataclass(frozen=True)
class Check:
    """column: its heading in the table."""

    name: str
    column: str
    run: Callable[[Subject, Opened, Bench], None]
    applies: Callable[[Subject], bool] = lambda subject: True


def answer(generator: TokenGenerator, prompt: Sequence[int], params: SamplingParams) -> list[SampledToken]:
    """Judged by what base.SampledToken promises of a stream."""
    tokens = list(generator.generate_sync(prompt, params))
    _well_formed(tokens, params)
    return tokens


def ids(tokens: Sequence[SampledToken]) -> list[int]:
    return [token.id for token in tokens]


def _well_formed(tokens: Sequence[SampledToken], params: SamplingParams) -> None:
    assert tokens
    assert all(token.finish_reason is None for token in tokens[:-1])
    assert all(token.id not in params.stop_token_ids for token in tokens[:-1])
    if tokens[-1].finish_reason == "stop":
        assert tokens[-1].id in params.stop_token_ids
    else:
        assert tokens[-1].finish_reason == "length"


def greedy(subject: Subject, opened: Opened, bench: Bench) -> None:
    """The same answer as the reference, token for token, to the token that ends it."""
    for prompt, expected in zip(bench.prompts, bench.greedy, strict=True):
        tokens = answer(opened.generator, prompt, GREEDY)
        assert ids(tokens) == expected, f"{decode(ids(tokens))!r} is not {decode(expected)!r}"
        assert tokens[-1].finish_reason == "stop"


def limit(subject: Subject, opened: Opened, bench: Bench) -> None:
    tokens = answer(opened.generator, bench.prompts[0], replace(GREEDY, max_tokens=5))
    assert ids(tokens) == bench.greedy[0][:5]
    assert tokens[-1].finish_reason == "length"


def stop(subject: Subject, opened: Opened, bench: Bench) -> None:
    """A stop token of the caller's that ends nothing for the server."""
    assert END in bench.greedy[0], "the demo model thinks before it answers"
    tokens = answer(opened.generator, bench.prompts[0], replace(GREEDY, stop_token_ids=(END, *STOPS)))
    assert ids(tokens) == bench.greedy[0][: bench.greedy[0].index(END) + 1]


def seeds(subject: Subject, opened: Opened, bench: Bench) -> None:
    params = SamplingParams(temperature=1.5, seed=7, max_tokens=12, stop_token_ids=STOPS)
    one, two = (ids(answer(opened.generator, bench.prompts[1], params)) for _ in range(2))
    assert one == two
    if subject.same_draws:
        assert one == ids(bench.reference.answer(bench.prompts[1], params))


def logprobs(subject: Subject, opened: Opened, bench: Bench) -> None:
    params = replace(GREEDY, max_tokens=6, logprobs=3)
    expected = bench.reference.answer(bench.prompts[0], params)
    for token, reference in zip(answer(opened.generator, bench.prompts[0], params), expected, strict=True):
        assert token.id == reference.id
        assert token.logprob == pytest.approx(reference.logprob, abs=0.05)
        assert len(token.top_logprobs) == 3
        assert token.top_logprobs[0] == (token.id, token.logprob)
        likely = [(i, value) for i, value in reference.top_logprobs if value > -8]
        assert [i for i, _ in token.top_logprobs][: len(likely)] == [i for i, _ in likely]


def scores(subject: Subject, opened: Opened, bench: Bench) -> None:
    """A prompt's tokens have the log probabilities that they had when they were drawn, and that the reference gives."""
    params = replace(GREEDY, max_tokens=6, logprobs=3)
    drawn = bench.reference.answer(bench.prompts[0], params)
    prompt = [*bench.prompts[0], *ids(drawn)]
    tokens = list(scorer_of(opened.generator).score_sync(prompt, 3))
    assert ids(tokens) == prompt[1:]
    assert [token.finish_reason for token in tokens] == [None] * (len(tokens) - 1) + ["length"]
    reference = scorer_of(bench.engine).score_sync(prompt, 3)
    errors = [abs((ours.logprob or 0) - (its.logprob or 0)) for ours, its in zip(tokens, reference, strict=True)]
    assert median(errors) < 0.05  # what nobody would have said is off by more than that
    for token, before in zip(tokens[-6:], drawn, strict=True):
        assert token.logprob == pytest.approx(before.logprob, abs=0.05)
        assert token.top_logprobs[0] == (token.id, token.logprob)


def refused(subject: Subject, opened: Opened, bench: Bench) -> None:
    """What it does not offer is refused, not ignored."""
    asked = {
        "top_k": SamplingParams(top_k=5),
        "min_p": SamplingParams(min_p=0.1),
        "seed": SamplingParams(seed=1),
        "logprobs": SamplingParams(logprobs=0),
        "top_logprobs": SamplingParams(logprobs=2),
        "logit_bias": SamplingParams(logit_bias={5: 1.0}),
        "penalties": SamplingParams(presence_penalty=0.5),
    }
    for feature, params in asked.items():
        if feature not in subject.features:
            with pytest.raises(ParameterError, match=r"takes no (top_)?" + feature.removeprefix("top_")):
                answer(opened.generator, bench.prompts[0], replace(params, max_tokens=2))
    if not subject.scores:
        with pytest.raises(ParameterError, match="cannot score a prompt"):
            scorer_of(opened.generator)
    if not subject.grammar:
        with pytest.raises(ParameterError, match="grammar"):
            answer(opened.generator, bench.prompts[0], replace(GREEDY, grammar=_no_grammar))


def _no_grammar() -> None:  # never called
    raise AssertionError


def bias(subject: Subject, opened: Opened, bench: Bench) -> None:
    """A forbidden first token is not the first."""
    first = bench.greedy[0][0]
    params = SamplingParams(temperature=0, max_tokens=1, logit_bias={first: -100.0})
    assert ids(answer(opened.generator, bench.prompts[0], params)) != [first]


def cancel(subject: Subject, opened: Opened, bench: Bench) -> None:
    """Leaving an answer early is seen where it is computed, and the next one is right."""
    prompt = bench.prompts[0]
    params = replace(GREEDY, max_tokens=CONTEXT // 2, stop_token_ids=())
    generator = opened.slow or opened.generator

    async def leave() -> None:
        stream = generator.generate(prompt, params)
        async with aclosing(stream) as tokens:  # type: ignore[type-var]
            async for _ in tokens:
                return

    if subject.features:  # what is played back has an end of its own
        asyncio.run(leave())
        if opened.cancelled is not None:
            assert opened.cancelled.wait(5), "the server never saw that its client left"
    assert ids(answer(opened.generator, prompt, replace(GREEDY, max_tokens=4))) == bench.greedy[0][:4]


def concurrent(subject: Subject, opened: Opened, bench: Bench) -> None:
    """Several at once on an event loop give what each gives alone."""
    short = replace(GREEDY, max_tokens=10)

    async def one(prompt: list[int]) -> list[int]:
        stream: AsyncIterator[SampledToken] = opened.generator.generate(prompt, short)
        tokens = [token async for token in stream]
        _well_formed(tokens, short)
        return ids(tokens)

    async def every() -> list[list[int]]:
        return await asyncio.gather(*map(one, bench.prompts))

    assert asyncio.run(every()) == [expected[:10] for expected in bench.greedy]


def overflow(subject: Subject, opened: Opened, bench: Bench) -> None:
    assert opened.generator.context_tokens == CONTEXT
    with pytest.raises(ContextOverflowError, match=f"{CONTEXT}"):
        answer(opened.generator, [bench.prompts[0][0]] * CONTEXT, GREEDY)


CHECKS = (
    Check("greedy", "greedy", greedy),
    Check("limit", "limit", limit),
    Check("stop", "stop tokens", stop),
    Check("seeds", "seeds", seeds, lambda subject: "seed" in subject.features),
    Check("logprobs", "logprobs", logprobs, lambda subject: "top_logprobs" in subject.features),
    Check("scores", "scores prompts", scores, lambda subject: subject.scores),
    Check("bias", "logit bias", bias, lambda subject: "logit_bias" in subject.features),
    Check("refused", "refuses the rest", refused, lambda subject: subject.name != "scripted"),
    Check("cancel", "cancel", cancel),
    Check("concurrent", "concurrent", concurrent),
    Check("overflow", "full context", overflow),
)
