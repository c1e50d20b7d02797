"""The generator: what it draws can be learnt from and judged, and held-out cases are apart from the others."""

from __future__ import annotations

import asyncio
from random import Random

import numpy as np
import pytest

from gpt_oss.demo.cases import SKILLS, draw, is_held_out
from gpt_oss.demo.data import conversation_of, examples
from gpt_oss.demo.evaluate import Outcome, is_right, renamed
from gpt_oss.harmony.events import ParsedMessage
from gpt_oss.tools.tool import text_of
from gpt_oss.training.data import examples_of
from gpt_oss.vocabulary import RETURN


@pytest.mark.parametrize("skill", SKILLS)
def test_what_is_learnt_is_judged_right_and_all_else_wrong(skill: str) -> None:
    rng = Random(skill)
    for _ in range(5):
        case = draw(rng, skill, held_out=True)
        conversation = asyncio.run(conversation_of(case))
        assert examples_of(conversation)[-1].targets[-1] == RETURN
        last = conversation.messages[-1]
        assert not isinstance(last, ParsedMessage)
        final = text_of(last)
        assert final.startswith(case.final)
        calls = tuple((call.recipient, call.content) for call in case.calls)
        files = renamed(case) if skill == "rename" else ()
        assert asyncio.run(is_right(case, Outcome(calls, final, "", files)))
        assert not asyncio.run(is_right(case, Outcome(calls, f"{final} 7", "", ()))) or skill == "functions"
        assert not asyncio.run(is_right(case, Outcome((*calls, ("python", "")), final, "", files)))
        assert not asyncio.run(is_right(case, Outcome(calls, "", "", ())))


def test_held_out_cases_are_apart_also_those_asked_before() -> None:
    for held_out in (True, False):
        rng = Random(3)
        for number in range(300):
            case = draw(rng, list(SKILLS)[number % len(SKILLS)], held_out=held_out)
            assert all(is_held_out(each.key) == held_out for each in (case, *case.earlier))


def test_the_same_seed_gives_the_same_examples() -> None:
    first, second = (examples(5, 30) for _ in range(2))
    assert len(first) >= 30
    assert all(np.array_equal(a.tokens, b.tokens) for a, b in zip(first, second, strict=True))
    assert not all(np.array_equal(a.tokens, b.tokens) for a, b in zip(first, examples(6, 30), strict=False))
