"""What of a session's prompts a prefix cache has: tests/clients/reuse.py counts it."""

from __future__ import annotations

from gpt_oss.backends.scripted import Call, ScriptedGenerator
from gpt_oss.params import SamplingParams
from tests.clients.reuse import Reuse, Sessions, reuse_of, told


def call(prompt: list[int], delivered: list[int]) -> Call:
    return Call(prompt, SamplingParams(), delivered)


def test_what_is_shared_is_counted_with_the_answers() -> None:
    calls = [call([1, 2, 3], [4, 5]), call([1, 2, 9], []), call([1, 2, 3, 4, 7], []), call([8], [])]
    assert reuse_of(calls) == [Reuse(3, 0, None), Reuse(3, 2, 0), Reuse(5, 4, 0), Reuse(1, 0, None)]


def test_a_prompt_that_is_all_known() -> None:
    assert reuse_of([call([1, 2], []), call([1, 2], [])])[1] == Reuse(2, 2, 0)


def test_sessions_are_told_apart() -> None:
    generator = ScriptedGenerator([[1]] * 3)
    sessions = Sessions([generator])
    for name, prompts in (("one", [[1, 2], [1, 2, 3, 4]]), ("two", [[1, 2]])):
        sessions.begin(name)
        for prompt in prompts:
            list(generator.generate_sync(prompt, SamplingParams()))
    sessions.end()
    assert sessions.report == [
        "one: 2 requests, 2 of 4 tokens known after the first: 50.0 % (0/2, 2/4)",
        f"two: {told([Reuse(2, 0, None)])}",
    ]
