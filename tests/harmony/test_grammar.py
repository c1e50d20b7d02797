"""The decode-time grammar: whatever is sampled under it parses without repairs and is what was asked for."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import jsonschema
import numpy as np
import pytest

from gpt_oss.errors import HarmonyError
from gpt_oss.harmony.events import ParsedMessage
from gpt_oss.harmony.grammar import FunctionSchema, answer_grammar
from gpt_oss.harmony.parser import parse
from gpt_oss.params import Grammar, SamplingParams
from gpt_oss.vocabulary import CALL, END, ENDOFTEXT, RETURN, encode_with_special, text_tokens, token_bytes

WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "unit": {"enum": ["celsius", "fahrenheit"]},
        "days": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "near": {"anyOf": [{"$ref": "#/$defs/Point"}, {"type": "null"}]},
    },
    "required": ["city"],
    "additionalProperties": False,
    "$defs": {"Point": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}},
}
FUNCTIONS = [
    FunctionSchema("get_weather", WEATHER),
    FunctionSchema("get", {"type": "object", "properties": {"key": {"type": "string"}}}),
    FunctionSchema("no-arguments"),
    FunctionSchema("patch", argument="lark", definition='start: "*** Begin" line+ "*** End"\nline: /[+-][a-z]*\\n/'),
    FunctionSchema("date", argument="regex", definition=r"\d{4}/\d\d"),
    FunctionSchema("note", argument="text"),
]
BUILT_IN = ["browser.search", "python"]
STRICT = frozenset({"get_weather", "no-arguments"})
TOOLS: dict[str, Any] = {"functions": FUNCTIONS, "builtin": BUILT_IN, "strict": STRICT}
ENDS = [END, RETURN, CALL]
CLOSINGS = [token for token, text in enumerate(text_tokens()) if text in (b'"', b"}", b"]", b"\n", b"***")]


def bits_of(grammar: Grammar) -> Any:
    """For each token whether it may come next."""
    mask = grammar.mask()
    assert mask is not None
    assert mask.dtype == np.uint32
    return np.unpackbits(mask.view(np.uint8), bitorder="little")


def allowed_by(grammar: Grammar) -> list[int]:
    return list(np.flatnonzero(bits_of(grammar)))


def walk(new_grammar: Callable[[], Grammar], draw: random.Random) -> list[int]:
    """An answer of tokens drawn from all that are allowed, as if by a model that knows nothing but tends to end."""
    grammar = new_grammar()
    tokens: list[int] = []
    while not tokens or tokens[-1] not in (RETURN, CALL):
        allowed = bits_of(grammar)
        tired = len(tokens) > 50 or draw.random() < 0.4
        endings = [t for t in ENDS if allowed[t]] or [t for t in CLOSINGS if allowed[t]]
        tokens.append(int(draw.choice(endings if tired and endings else np.flatnonzero(allowed))))
        grammar.accept(tokens[-1])
        assert len(tokens) < 5000
    assert list(allowed_by(grammar)) == [ENDOFTEXT]
    return tokens


def walks(count: int, **options: Any) -> list[list[ParsedMessage]]:
    new_grammar = answer_grammar(**options)
    draw = random.Random(1)
    parsed = [parse(walk(new_grammar, draw)) for _ in range(count)]
    assert [parser.repairs for parser in parsed] == [[]] * count
    return [parser.messages for parser in parsed]


def refuses(new_grammar: Callable[[], Grammar], text: str) -> int | None:
    """The first token of a text that a grammar forbids, by its place; None where all of it is allowed."""
    grammar = new_grammar()
    for place, token in enumerate(encode_with_special(text)):
        if token not in allowed_by(grammar):
            return place
        grammar.accept(token)
    return None


def check_call(message: ParsedMessage) -> str:
    """Checks a call's header and content; the recipient."""
    header = message.header
    assert message.ended_by == CALL
    assert header.is_call
    assert header.content_type in (None, "json", "code", "<|constrain|>json")
    assert header.recipient is not None
    if header.recipient in BUILT_IN:
        assert header.channel == "analysis"
        return header.recipient
    assert header.channel == "commentary"
    function = next(f for f in FUNCTIONS if header.recipient == f"functions.{f.name}")
    if function.name == "patch":
        assert message.content.startswith("*** Begin")
        assert message.content.endswith("\n*** End")
    elif function.name == "date":
        year, month = message.content.split("/")
        assert (len(year), len(month)) == (4, 2)
    elif function.argument == "json":
        arguments = json.loads(message.content)
        assert isinstance(arguments, dict)
        if function.name in STRICT:
            jsonschema.validate(arguments, {"additionalProperties": False, **(function.parameters or {})})
    return header.recipient


def test_random_answers_are_well_formed_and_hold_to_what_is_declared() -> None:
    called = set()
    for *before, last in walks(150, **TOOLS):
        for message in before:
            assert message.header.channel in ("analysis", "commentary")
            assert message.header.recipient is None
            assert message.ended_by == END
        if last.header.is_call:
            called.add(check_call(last))
        else:
            assert (last.header.channel, last.ended_by) == ("final", RETURN)
    assert called == {*BUILT_IN, *(f"functions.{f.name}" for f in FUNCTIONS)}


@pytest.mark.parametrize("choice", ["get_weather", "no-arguments", "patch", "date", "python", "required"])
def test_a_forced_choice_ends_in_such_a_call(choice: str) -> None:
    wanted = {"required": {*BUILT_IN, *(f"functions.{f.name}" for f in FUNCTIONS)}, "python": {"python"}}
    for *before, last in walks(15, tool_choice=choice, **TOOLS):
        assert check_call(last) in wanted.get(choice, {f"functions.{choice}"})
        assert all(not message.header.is_call for message in before)


@pytest.mark.parametrize("options", [{"tool_choice": "none", **TOOLS}, {}])
def test_without_tools_there_are_thoughts_and_an_answer(options: dict[str, Any]) -> None:
    for *before, last in walks(20, **options):
        assert (last.header.channel, last.ended_by) == ("final", RETURN)
        assert {message.header.channel for message in before} <= {"analysis"}


@pytest.mark.parametrize(
    "schema",
    [
        WEATHER,
        {"type": "array", "items": {"enum": ["é", 1, None]}, "maxItems": 3},
        {"oneOf": [{"type": "boolean"}, {"const": {"a": [1]}}]},
    ],
)
def test_an_answer_fits_its_schema(schema: dict[str, Any]) -> None:
    for *_, last in walks(15, response_schema=schema, tool_choice="none", **TOOLS):
        assert last.header.content_type in (None, "<|constrain|>json")
        jsonschema.validate(json.loads(last.content), schema)


def test_an_answer_is_any_json_object() -> None:
    assert all(isinstance(json.loads(last.content), dict) for *_, last in walks(30, json_object=True))


CALLS = [
    '<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"city": "Bern"}<|call|>',
    ' to=functions.get_weather<|channel|>commentary json<|message|>{"city":"Bern","unit":"celsius"}<|call|>',
    '<|channel|>commentary to=functions.get<|message|>{\n  "anything": [1, 2]\n}<|call|>',
    '<|channel|>analysis to=browser.search code<|message|>{"query": "x"}<|call|>',
    " to=python<|channel|>analysis code<|message|>print('<|constrain'  )<|call|>",
    "<|channel|>commentary to=functions.patch<|message|>*** Begin+a\n-b\n*** End<|call|>",
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("before", ["", "<|channel|>analysis<|message|>Hm.\n\n{<|end|><|start|>assistant"])
def test_what_the_model_writes_by_itself_is_allowed(call: str, before: str) -> None:
    assert refuses(answer_grammar(**TOOLS), before + call) is None
    preamble = "<|channel|>commentary<|message|>I shall look.<|end|><|start|>assistant"
    assert refuses(answer_grammar(tool_choice="required", **TOOLS), before + preamble + call) is None


FORBIDDEN = [
    ("<|channel|>commentary to=functions.delete", "delete"),
    ("<|channel|>commentary to=python code", "python"),
    ("<|channel|>final to=python", " to"),
    ("<|channel|>final <|constrain|>json", " "),
    ("<|channel|>thoughts", "thought"),
    ("<|channel|>analysis<|channel|>", "<|channel|>"),
    ("<|channel|>analysis<|message|>x<|return|>", "<|return|>"),
    ("<|channel|>analysis<|message|>x<|call|>", "<|call|>"),
    ("<|channel|>analysis<|message|>x<|end|>x", "x"),
    ("<|channel|>final<|message|>x<|end|>", "<|end|>"),
    ("<|channel|>final<|message|>x<|start|>", "<|start|>"),
    ("<|channel|>final<|message|>x<|endoftext|>", "<|endoftext|>"),
    ("<|channel|>commentary to=functions.get <|constrain|><|message|>", "<|message|>"),
    ("<|channel|>commentary to=functions.get<|message|>[", "["),
    ("<|channel|>commentary to=functions.get<|message|>{}<|end|>", "<|end|>"),
    ('<|channel|>commentary to=functions.no-arguments<|message|>{"a', '"'),
    ("<|message|>", "<|message|>"),
    ("Hello", "Hello"),
]


@pytest.mark.parametrize(("text", "forbidden"), FORBIDDEN)
def test_what_breaks_the_format_is_forbidden_where_it_begins(text: str, forbidden: str) -> None:
    place = refuses(answer_grammar(**TOOLS), text)
    assert place is not None
    assert token_bytes(encode_with_special(text)[place]).decode().endswith(forbidden)


def test_calls_are_forbidden_where_there_are_to_be_none() -> None:
    for call in CALLS:
        assert refuses(answer_grammar(tool_choice="none", **TOOLS), call) is not None
        assert refuses(answer_grammar(), call) is not None
    assert refuses(answer_grammar(tool_choice="get", **TOOLS), CALLS[0]) is not None
    assert refuses(answer_grammar(tool_choice="get", **TOOLS), CALLS[2]) is None


def test_each_answer_has_a_grammar_of_its_own() -> None:
    new_grammar = answer_grammar()
    first, second = new_grammar(), new_grammar()
    for token in encode_with_special("<|channel|>final<|message|>x<|return|>"):
        first.accept(token)
    assert list(allowed_by(first)) == [ENDOFTEXT]
    assert list(allowed_by(second)) == encode_with_special("<|channel|>")
    assert SamplingParams(grammar=new_grammar).grammar is new_grammar


def test_a_token_that_was_not_allowed_ends_the_answer() -> None:
    grammar = answer_grammar()()
    for token in encode_with_special("Hello there"):
        grammar.accept(token)
        assert list(allowed_by(grammar)) == [ENDOFTEXT]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"tool_choice": "f"}, "tool_choice names 'f'"),
        ({"tool_choice": "required"}, "no tools are declared"),
        ({"functions": [FunctionSchema("a b")]}, "no spaces"),
        (
            {"functions": [FunctionSchema("f", {"not": {}})], "strict": frozenset({"f"})},
            "f.parameters can be met by no",
        ),
        (
            {"functions": [FunctionSchema("f", {"type": ["null", "array"]})], "strict": frozenset({"f"})},
            "f.parameters.type must be object",
        ),
        (
            {"functions": [FunctionSchema("f", {"properties": 5})], "strict": frozenset({"f"})},
            "f.parameters.properties",
        ),
        ({"functions": [FunctionSchema("f", argument="lark", definition="start: x")]}, "f.definition cannot be made"),
        ({"functions": [FunctionSchema("f", argument="regex", definition="(")]}, "f.definition cannot be made"),
        ({"response_schema": {"type": "string", "maxLength": 1, "minLength": 2}}, "response_schema can be met by no"),
    ],
)
def test_what_cannot_be_followed_is_named(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(HarmonyError, match=sentence):
        answer_grammar(**options)
