"""The generator: what it draws can be asked and learnt from, and held-out cases are apart from the others."""

from __future__ import annotations

import asyncio
import json
from random import Random

import pytest

from gpt_oss.demo.cases import EFFORTS, SKILLS, draw, is_held_out
from gpt_oss.demo.data import conversation_of, examples
from gpt_oss.demo.evaluate import Outcome, is_right
from gpt_oss.harmony import parse
from gpt_oss.tools.tool import text_of
from gpt_oss.training.data import IGNORED, examples_of
from gpt_oss.vocabulary import RETURN


@pytest.mark.parametrize("skill", SKILLS)
def test_a_case_ends_in_its_answer_and_is_judged_right(skill: str) -> None:
    rng = Random(skill)
    for _ in range(5):
        case = draw(rng, skill, held_out=True)
        conversation = asyncio.run(conversation_of(case))
        example = examples_of(conversation)[-1]
        assert example.targets[-1] == RETURN
        answer = [int(token) for token in example.targets if token != IGNORED]
        final = text_of(conversation.messages[-1])
        assert parse([*answer]).messages[-1].content == final if skill == "nothing" else final.startswith(case.final)
        outcome = Outcome(
            tuple((call.recipient, call.content) for call in case.calls), final, "", tuple(_after(case).items())
        )
        assert asyncio.run(is_right(case, outcome))
        assert not asyncio.run(is_right(case, Outcome((), "something else", "", ())))


def _after(case: object) -> dict[str, str]:
    from gpt_oss.demo.evaluate import _renamed

    return dict(_renamed(case)) if case.skill == "rename" else {}  # type: ignore[attr-defined,arg-type]
