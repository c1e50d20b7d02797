"""Grammars that would end the process, or never end: refused by a worker that dies of them, and by name."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from gpt_oss.errors import CapacityError, HarmonyError
from gpt_oss.harmony import enforce, grammar
from gpt_oss.harmony import trials as module
from gpt_oss.harmony.enforce import enforceable
from gpt_oss.harmony.grammar import AnswerGrammar, FunctionSchema, answer_grammar
from gpt_oss.harmony.trials import Kept, TrialLimits, Trials, in_turn, is_simple, on_large_stack

CHAIN = "start: r0\n" + "\n".join(f"r{i}: r{i + 1}" for i in range(20_000)) + '\nr20000: "x"'
ENDLESS = "a?" * 50_000


@pytest.fixture(scope="module")
def workers() -> Iterator[Trials]:
    made = Trials(TrialLimits(workers=1, waiting=1))
    yield made
    made.close()


@pytest.fixture
def contained(workers: Trials, monkeypatch: pytest.MonkeyPatch) -> Trials:
    monkeypatch.setattr(module._Containment, "trials", workers)
    monkeypatch.setattr(enforce, "_KEPT", Kept(1 << 20))
    monkeypatch.setattr(grammar, "_KEPT", Kept(1 << 20))
    return workers


def of(kind: Any, definition: str) -> Any:
    return answer_grammar(functions=[FunctionSchema("f", None, kind, definition, where="tools[2].custom.format")])


@pytest.mark.parametrize(
    ("kind", "definition", "said"),
    [
        ("lark", CHAIN, "nested too deep"),
        ("lark", f"start: /{ENDLESS}/", "more than (2 seconds|512 MB)"),
        ("regex", ENDLESS, "more than (2 seconds|512 MB)"),
        ("regex", "(" * 5_000 + ")" * 5_000, "cannot be made a grammar"),
        ("lark", "start: nowhere", "cannot be made a grammar"),
        ("lark", "start: x\n" * 200_000, "more than 1,048,576 characters"),
    ],
    ids=["stack", "time", "regex", "parentheses", "wrong", "size"],
)
def test_a_hostile_grammar_is_refused_at_its_place(contained: Trials, kind: str, definition: str, said: str) -> None:
    for _ in range(2):  # the second time from memory
        with pytest.raises(HarmonyError, match=said) as caught:
            of(kind, definition)
        assert caught.value.field == "tools[2].custom.format"
        assert str(caught.value).startswith("tools[2].custom.format ")
    allowed = of("lark", 'start: "yes"')()
    assert allowed.mask().any()


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    few = Trials(TrialLimits(seconds=30, wall_seconds=60, bytes=8 << 20))  # so that memory is what ends it
    try:
        words = " | ".join(f'"w{i}"' for i in range(40_000))
        text = grammar.grammar_text({"lark_grammar": f"start: {words}"})
        with pytest.raises(HarmonyError, match="8 MB"):
            few.found("compile", text)
        assert few.found("compile", grammar.grammar_text({"lark_grammar": 'start: "a"'}))["fault"] is None
    finally:
        few.close()


def test_a_schema_is_enforced_alike_wherever_it_is_compiled(contained: Trials, monkeypatch: pytest.MonkeyPatch) -> None:
    schemas: list[dict[str, Any]] = [
        {"type": "object", "properties": {"a": {"type": "string", "pattern": "^x+$"}}, "required": ["a"]},
        {"$ref": "#/$defs/t", "$defs": {"t": {"type": "array", "items": {"$ref": "#/$defs/t"}}}},
        {"type": "object", "properties": {"w": {"type": "string", "format": "week"}}},
        {"allOf": [{"type": "string"}, {"type": "integer"}]},
    ]

    def found(schema: dict[str, Any]) -> Any:
        try:
            return enforceable(schema, "parameters")
        except HarmonyError as error:
            return str(error), error.field

    elsewhere = [found(schema) for schema in schemas]
    monkeypatch.setattr(module._Containment, "trials", None)
    monkeypatch.setattr(enforce, "_KEPT", Kept(1 << 20))
    assert [found(schema) for schema in schemas] == elsewhere
    assert isinstance(elsewhere[-1], tuple)


def test_a_worker_that_is_gone_is_replaced(contained: Trials) -> None:
    of("lark", 'start: "first"')
    for worker in contained._idle:
        worker._process.kill()
        worker._process.wait()
    assert of("lark", 'start: "second"')().mask().any()


def test_too_many_that_wait_are_refused(contained: Trials, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def slow(job: list[str]) -> dict[str, Any]:
        entered.set()
        go_on.wait(20)
        return {"found": {"fault": None, "bytes": 0}}

    monkeypatch.setattr(contained, "_asked", slow)
    waiting = [threading.Thread(target=contained.found, args=("compile", f"{i}")) for i in range(2)]
    for thread in waiting:
        thread.start()
    entered.wait(20)
    while contained._waiting._value:
        entered.wait(0.01)
    with pytest.raises(CapacityError, match="too many"):
        contained.found("compile", "one more")
    go_on.set()
    for thread in waiting:
        thread.join()


def test_who_waits_for_a_worker_lets_others_compute() -> None:
    met = threading.Barrier(4)

    def work() -> None:
        with in_turn():
            on_large_stack(lambda: met.wait(20))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not met.broken
    assert not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize(
    ("schema", "simple"),
    [
        ({"type": "object", "properties": {"pattern": {"type": "string"}}, "required": ["pattern"]}, True),
        ({"type": "object", "properties": {"a": {"anyOf": [{"type": "null"}, {"enum": [1, 2]}]}}}, True),
        ({"type": "object", "properties": {"a": {"type": "string", "pattern": "a?"}}}, False),
        ({"type": "array", "items": {"$ref": "#"}}, False),
        ({"type": "object", "additionalProperties": {"allOf": []}}, False),
        ({"type": "array", "items": {"type": "string"}, "maxItems": 10**9}, False),
    ],
)
def test_what_needs_no_trial(schema: dict[str, Any], simple: bool) -> None:
    assert is_simple(schema, "x") is simple
    assert not is_simple(schema, "x" * 8_001)


def test_what_is_kept_is_bounded_by_its_size() -> None:
    kept: Kept[int] = Kept(10)
    for number in range(5):
        kept.put(str(number), number, 4)
    assert [kept.get(str(number)) for number in range(5)] == [None, None, None, 3, 4]
    kept.put("3", 33, 9)
    assert (kept.get("3"), kept.get("4")) == (33, None)


def test_an_answer_whose_masks_are_slow_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ambiguous grammar takes a second for a mask; an answer has two for all of them."""
    monkeypatch.setattr(grammar, "SLOW_S", 0.0)
    monkeypatch.setattr(grammar, "MOST_SLOW_S", 0.0)
    answer = answer_grammar(json_object=True)()
    assert isinstance(answer, AnswerGrammar)
    answer.mask()
    assert not answer.whole
    assert np_count(answer) == 1


def np_count(answer: AnswerGrammar) -> int:
    """How many tokens it allows."""
    return int(sum(bin(word).count("1") for word in answer.mask().tolist()))
