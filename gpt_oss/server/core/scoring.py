"""Scores of a prompt for the APIs: queued and counted like an answer."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

from gpt_oss.backends.base import SampledToken, scorer_of
from gpt_oss.server.runner import Runner


async def scores(runner: Runner, prompt: Sequence[int], top: int) -> list[SampledToken]:
    """The prompt's tokens, the first without a score. Raises ParameterError where the backend gives none."""
    scorer = scorer_of(runner.generator)
    found = [SampledToken(prompt[0])]
    async with runner._slot():  # a turn of its own, as Runner.tokens takes one
        runner.metrics.prompt.inc(len(prompt))
        stream: Any = scorer.score(prompt, top)
        async with aclosing(stream) as tokens:
            async for token in tokens:
                found.append(token)
    return found
