"""What is enforced of a schema: judged by jsonschema, on answers drawn at random from what the grammar allows."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_oss.errors import HarmonyError
from gpt_oss.harmony.enforce import Enforced, enforceable
from gpt_oss.harmony.grammar import FunctionSchema, answer_grammar, can_follow
from gpt_oss.harmony.schema import check_schema, function_type
from gpt_oss.vocabulary import RETURN, encode_with_special, text_tokens, token_bytes

TEXTS = text_tokens()
ENDINGS = [token for token, text in enumerate(TEXTS) if text in (b'"', b"}", b"]", b"0", b'":', b"null", b"\n")]


def of(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def answer(schema: dict[str, Any], draw: random.Random, most: int = 120) -> str | None:
    """The content of a final message of random tokens; None where it has not ended after `most`, or broke off."""
    grammar = answer_grammar(response_schema=schema)()
    for token in encode_with_special("<|channel|>final<|message|>"):
        grammar.accept(token)
    tokens: list[int] = []
    while len(tokens) < most:
        allowed = np.unpackbits(grammar.mask().view(np.uint8), bitorder="little")
        if allowed[RETURN]:
            grammar.accept(RETURN)
            assert grammar.whole
            return b"".join(map(token_bytes, tokens)).decode()
        closing = [token for token in ENDINGS if allowed[token]]
        token = int(draw.choice(closing if closing and draw.random() < 0.7 else np.flatnonzero(allowed)))
        grammar.accept(token)
        assert not grammar.whole
        if token not in range(len(TEXTS)):
            return None  # <|endoftext|>, which an answer that is not whole ends with as cut off
        tokens.append(token)
    return None


def held(schema: dict[str, Any]) -> Enforced:
    return enforceable(schema, "W")


def held_or_refused(schema: dict[str, Any]) -> Enforced | HarmonyError:
    try:
        return held(schema)
    except HarmonyError as error:
        return error


ACCEPTED = [  # a schema, what is left out of it, whether strict refuses it
    (of(a={"type": "string", "examples": "one"}), [], False),
    (of(a={"type": "string", "title": 5, "description": ["x"], "default": {"odd": 1}}), [], False),
    (of(a={"type": "string", "format": "week"}), ["properties.a: format 'week'"], False),
    (of(a={"type": "integer", "format": "int64", "minimum": -(2**63), "maximum": 2**63 - 1}), [], False),
    (of(a={"type": "integer", "minimum": 0, "maximum": 2**64 - 1}), [], False),
    (of(a={"type": "number", "minimum": -1.7976931348623157e308, "maximum": float("inf")}), [], False),
    (of(a={"type": "number", "minimum": 5e-324}), [], False),
    (of(a={"type": "integer", "minimum": 10**18}), ["properties.a: minimum 1000000000000000000"], True),
    (of(a={"type": "any"}, b={"type": "STRING"}), [], False),
    (of(a={"type": "file"}), ["properties.a: type 'file'"], True),
    (of(a={"const": None}, b={"enum": ["a", 1, None, {"x": [1.5]}]}), [], False),
    (of(a={"enum": [2**60]}), ["properties.a: enum with numbers that have too many digits"], True),
    (of(a={"type": "string", "nullable": True, "discriminator": {}, "readOnly": True, "x-order": 1}), [], False),
    ({"$schema": "urn:none", "$id": "http://a", **of(a={"$ref": "b#/c"})}, ["properties.a: $ref 'b#/c'"], True),
    ({"$id": "http://a", **of(a={"$ref": "http://a#/definitions/c"}), "definitions": {"c": {}}}, [], False),
    (of(a={"$ref": "#c"}) | {"$defs": {"x": {"$anchor": "c", "type": "null"}}}, [], False),
    ({"$dynamicAnchor": "n", **of(a={"type": "array", "items": {"$dynamicRef": "#n"}})}, [], False),
    (of(a={"$ref": "http://elsewhere/x"}), ["properties.a: $ref 'http://elsewhere/x'"], True),
    (of(a={"not": {"type": "null"}}), ["properties.a: not"], True),
    (of(a={"not": {}}, b={"type": "null"}), [], False),
    ({"type": "object", "if": {"required": ["a"]}, "then": {"required": ["b"]}}, ["if"], True),
    ({"type": "object", "if": {"required": ["a"]}}, [], False),
    (of(a={"type": "array", "uniqueItems": True}), ["properties.a: uniqueItems"], True),
    (of(a={"type": "array", "contains": {"const": 1}}), ["properties.a: contains"], True),
    ({"type": "object", "dependentRequired": {"a": ["b"]}}, ["dependentRequired"], True),
    ({"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": {}}, [], False),
    ({"type": "object", "propertyNames": {"enum": ["a", "b"]}, "additionalProperties": {"type": "null"}}, [], False),
    ({"type": "object", "propertyNames": {"pattern": "^x"}}, [], False),
    ({"type": "object", "propertyNames": {"minLength": 3}}, ["propertyNames"], True),
    ({"type": "object", "patternProperties": {"^a": {"type": "null"}}, "additionalProperties": False}, [], False),
    ({"type": "object", "patternProperties": {"^a": {}, "b$": {}}}, ["patternProperties"], True),
    (of(a={"pattern": "^(?=x)"}), ["properties.a: pattern '^(?=x)'"], True),
    (of(a={"multipleOf": 999_983}), ["properties.a: multipleOf 999983"], True),
    (of(a={"multipleOf": 9973}, b={"multipleOf": 9967}), ["properties.b: multipleOf 9967"], True),
    (of(a={"maxLength": 2**31 - 1, "minLength": 2.0}), [], False),
    (of(a={"maxLength": "10"}), ["properties.a: maxLength '10'"], True),
    ({**of(a={}, b={}), "minProperties": 2}, ["minProperties 2"], True),
    ({**of(a={}, b={}), "minProperties": 1, "additionalProperties": False}, [], False),
    ({"allOf": [of(a={})], "unevaluatedProperties": False}, ["unevaluatedProperties"], True),
    ({**of(a={}), "unevaluatedProperties": False}, [], False),
    ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, ["oneOf, which is read as anyOf"], True),
    ({"oneOf": [{**of(k={"const": k}), "required": ["k"]} for k in "ab"]}, [], False),
    (of(a={"$ref": "#", "type": "object"}), [], False),
    (of(a={"minLenght": 3}), ["properties.a: minLenght, which is unknown"], False),
    ({"type": "array", "items": [{"type": "null"}], "additionalItems": False}, [], False),
]  # fmt: skip  # one case a line


@pytest.mark.parametrize(("schema", "left_out", "refused"), ACCEPTED, ids=str)
def test_a_schema_is_held_to_as_far_as_can_be_and_the_rest_is_named(
    schema: dict[str, Any], left_out: list[str], refused: bool
) -> None:
    enforced = held(schema)
    assert list(enforced.left_out) == left_out
    draw = random.Random(1)
    answers = [text for text in (answer(schema, draw) for _ in range(4)) if text is not None]
    assert answers
    for text in answers:
        jsonschema.validate(json.loads(text), enforced.schema)
    assert "type f = " in function_type("f", "", schema)
    assert can_follow(schema) or schema.get("type") == "array" or "oneOf" in schema
    if refused:
        place = "W." + left_out[0].rpartition(": ")[0] if ": " in left_out[0] else "W"
        with pytest.raises(HarmonyError) as caught:
            enforceable(schema, "W", strict=True)
        assert caught.value.field == place
        assert str(caught.value).startswith(f"{place} has {left_out[0].rpartition(': ')[2]}")
    else:
        assert enforceable(schema, "W", strict=True) == enforced


def deep(count: int, refer: Any) -> dict[str, Any]:
    names = {f"D{i}": refer({"$ref": f"#/$defs/D{i + 1}"}) for i in range(count)}
    return {"$ref": "#/$defs/D0", "$defs": {**names, f"D{count}": {"type": "null"}}}


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


REFUSED = [
    (of(a={"default": float("nan")}), "W.properties.a.default", "is nan"),
    (of(a={"minimum": float("inf")}), "W.properties.a.minimum", "is inf"),
    (of(a={"const": "\ud800"}), "W.properties.a.const", "half of a surrogate pair"),
    (of(a={"maximum": 10**400}), "W.properties.a.maximum", "beyond what computers count with"),
    (of(a={"enum": "x"}), "W.properties.a.enum", "must be a list"),
    ({"properties": []}, "W.properties", "must be an object"),
    (nested(100), "W", "nested more than 64 deep"),
    (deep(3000, lambda to: to), "W", "more than 256 schemas deep"),
    (deep(3000, lambda to: of(a=to)), "W", "more than 256 schemas deep"),
    ({"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}}, "W", "needs itself"),
    ({**of(a={"$ref": "#"}), "required": ["a"]}, "W", "needs itself"),
    ({"type": "array", "minItems": 1, "items": {"$ref": "#"}}, "W", "needs itself"),
    ({"enum": []}, "W", "met by no JSON"),
    ({"type": "array", "minItems": 3, "maxItems": 2}, "W", "met by no JSON"),
    ({**of(a={"enum": []}), "required": ["a"]}, "W.properties.a", "met by no JSON"),
    ({**of(a=False), "required": ["a"]}, "W.properties.a", "met by no JSON"),
    ({"allOf": [{"type": "string"}, {"type": "null"}]}, "W", "met by no JSON"),
    ({"type": "string", "pattern": "^ab$", "minLength": 5}, "W", "met by no JSON"),
    ({"type": "integer", "minimum": 1, "maximum": 4, "multipleOf": 5}, "W", "met by no JSON"),
    ({**of(a={"type": "string"}), "patternProperties": {"^a": {"type": "null"}}, "required": ["a"]}, "W", "met by no"),
    (
        {**of(a={"$ref": "#/$defs/x"}), "required": ["a"], "$defs": {"x": {"enum": []}}},
        "W.properties.a",
        "met by no JSON",
    ),
]


@pytest.mark.parametrize(("schema", "field", "sentence"), REFUSED, ids=lambda value: str(value)[:60])
def test_what_is_no_schema_or_can_be_met_by_nothing_is_refused(
    schema: dict[str, Any], field: str, sentence: str
) -> None:
    with pytest.raises(HarmonyError, match=sentence) as caught:
        held(schema)
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field} ")
    with pytest.raises(HarmonyError, match=sentence):
        answer_grammar(response_schema=schema)


def test_what_nothing_can_meet_is_no_harm_where_it_is_optional() -> None:
    dead = {"endless": {**of(i={"$ref": "#/$defs/endless"}), "required": ["i"]}, "empty": {"enum": []}}
    schema = of(a={"$ref": "#/$defs/endless"}, b={"$ref": "#/$defs/empty"}) | {"$defs": dead}
    draw = random.Random(2)
    texts = [answer({**schema, "additionalProperties": False}, draw) for _ in range(3)]
    assert [json.loads(text or "") for text in texts] == [{}] * 3


def test_a_part_that_makes_no_grammar_is_left_out_and_the_rest_holds() -> None:
    """Eight unions of ten objects intersect in 10 ** 8 ways."""
    unions = [{"anyOf": [of(**{f"x{i}{j}": {}}) for j in range(10)]} for i in range(8)]
    schema = {**of(a={"allOf": unions}, b={"type": "null"}), "required": ["b"], "additionalProperties": False}
    assert held(schema).left_out == ("properties.a: allOf, which is too complex",)
    with pytest.raises(HarmonyError, match="W cannot be made a grammar"):
        enforceable(schema, "W", strict=True)
    grammar = answer_grammar(response_schema=schema)()
    for token in encode_with_special('<|channel|>final<|message|>{"b": null}<|return|>'):
        grammar.accept(token)
    assert grammar.whole


def allows(schema: dict[str, Any], text: str, *, json_object: bool = False) -> bool:
    grammar = answer_grammar(response_schema=schema, json_object=json_object)()
    for token in encode_with_special(f"<|channel|>final<|message|>{text}<|return|>"):
        if not np.unpackbits(grammar.mask().view(np.uint8), bitorder="little")[token]:
            return False
        grammar.accept(token)
    return True


def test_a_number_of_a_promised_property_is_exact() -> None:
    assert not allows({"const": 2**53 - 1}, str(2**53))
    assert allows({"const": 2**53 - 1}, str(2**53 - 1))
    assert not allows({"type": "integer", "maximum": 2**63 - 1}, str(2**64))
    assert not allows({"type": "integer", "minimum": 0, "exclusiveMinimum": True}, "0")


FLAT = {**of(a={"type": "integer"}, b={"type": "string"}), "required": ["a", "b"], "additionalProperties": False}


def tower(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(levels):
        schema = {**of(a=schema), "required": ["a"], "additionalProperties": False}
    return schema


@pytest.mark.parametrize("colon", [":", ": "])
@pytest.mark.parametrize("indent", [None, 0, 1, 2, 3, 4, "\t"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_space_as_trained_models_write_it_is_allowed(colon: str, indent: int | str | None, line_end: str) -> None:
    separators = (", " if indent is None and colon == ": " else ",", colon)
    cases = [(FLAT, {"a": 1, "b": "x"}), (tower(1), {"a": 1}), (tower(6), {"a": {"a": {"a": {"a": {"a": {"a": 1}}}}}})]
    free = {"deep": {"er": [1, {"x": 2}]}} if indent in (None, 0, 1, 2) else {"deep": {"er": 1}}
    for schema, value in [*cases, ({"type": "object"}, free)]:
        text = json.dumps(value, indent=indent, separators=separators).replace("\n", line_end)
        assert allows(schema, text), text


@pytest.mark.parametrize(
    "space", ["  ", "\n\n", "\n     ", "\n\t\t", " \n", "\t", "\n" + " " * 40, "\r", "\n \t"], ids=repr
)
def test_a_model_in_doubt_cannot_fill_an_answer_with_space(space: str) -> None:
    """FLAT has one level: four spaces or a tab after a line's end, or one space, is all that fits between two parts."""
    for text in ('{%s"a":1,"b":""}', '{"a"%s:1,"b":""}', '{"a":%s1,"b":""}', '{"a":1%s,"b":""}', '{"a":1,"b":""%s}'):
        assert not allows(FLAT, text % space)
        assert allows(FLAT, text % " ")
        assert allows(FLAT, text % "\n    ")


def test_errors_name_the_clients_place() -> None:
    bad = {"type": "object", "properties": {"x": 5}}
    function = FunctionSchema("f", bad, where="tools[2].function.parameters")
    for options, field in [
        ({"functions": [function], "strict": frozenset({"f"})}, "tools[2].function.parameters.properties.x"),
        ({"response_schema": bad, "response_where": "text.format.schema"}, "text.format.schema.properties.x"),
        ({"response_schema": bad}, "response_schema.properties.x"),
        ({"functions": [FunctionSchema("f", argument="regex", definition="(", where="tools[0].g")]}, "tools[0].g"),
        ({"tool_choice": "f"}, "tool_choice"),
    ]:
        with pytest.raises(HarmonyError) as caught:
            answer_grammar(**options)  # type: ignore[arg-type]
        assert caught.value.field == field
        assert str(caught.value).startswith(field)


def test_a_json_object_with_a_schema_fits_it() -> None:
    schema = {"properties": {"a": {"type": "null"}}}
    for text, fits in [('{"a": null}', True), ('{"a": 1}', False), ("[1]", False)]:
        assert allows(schema, text, json_object=True) is fits
    assert allows(schema, "[1]")


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**65), 2**65),
    st.floats(width=32),
    st.sampled_from(["a", "", "é", "x y", '"']),
)
KEYWORDS: dict[str, Any] = {
    "type": st.sampled_from(
        ["object", "array", "string", "number", "integer", "null", ["string", "null"], "any", "int"]
    ),
    "const": SCALARS,
    "enum": st.lists(SCALARS, max_size=3),
    "minimum": SCALARS,
    "maximum": SCALARS,
    "exclusiveMinimum": SCALARS,
    "multipleOf": st.sampled_from([0.5, 3, 0, -1, 7, 1e9, "3"]),
    "minLength": st.integers(-1, 3),
    "maxLength": st.sampled_from([0, 2, 4.0, 2**31, 10**30, "4"]),
    "pattern": st.sampled_from(["^a", "b+$", "(", "(?!a)", "^[a-z]{1,3}$"]),
    "format": st.sampled_from(["date", "uuid", "week", "int64", 5]),
    "minItems": st.integers(0, 3),
    "maxItems": st.integers(0, 3),
    "uniqueItems": st.booleans(),
    "required": st.sampled_from([True, ["x"], ["x", "z"], "x"]),
    "minProperties": st.integers(0, 3),
    "maxProperties": st.integers(0, 3),
    "nullable": st.sampled_from([True, False, "yes"]),
    "examples": SCALARS,
    "title": SCALARS,
    "$anchor": st.sampled_from("ab"),
    "$id": st.sampled_from(["http://a/b", "c", "#d", "http://[", ""]),
    "$ref": st.sampled_from(["#", "#/$defs/A", "#/$defs/B", "#a", "c", "http://x", "", "#/properties/x", "#/~2/%zz"]),
}


def with_parts(inner: Any) -> Any:
    maps = st.dictionaries(st.sampled_from("xyz"), inner, max_size=2)
    lists = st.lists(inner, min_size=1, max_size=2)
    parts = {
        **dict.fromkeys(("properties", "$defs"), maps),
        **dict.fromkeys(("anyOf", "oneOf", "allOf", "prefixItems"), lists),
        **dict.fromkeys(("items", "additionalProperties", "not", "propertyNames", "unevaluatedProperties"), inner),
        "patternProperties": st.dictionaries(st.sampled_from(["^x", "y$", "("]), inner, max_size=2),
    }
    both = {**parts, **KEYWORDS}
    chosen = st.lists(st.sampled_from(sorted(both)), max_size=4, unique=True)
    return chosen.flatmap(lambda keys: st.fixed_dictionaries({key: both[key] for key in keys})) | st.booleans()


SCHEMAS = st.recursive(st.fixed_dictionaries({}, optional=KEYWORDS) | st.booleans(), with_parts, max_leaves=6)


@settings(max_examples=200, deadline=None)
@given(
    st.fixed_dictionaries({"$defs": st.fixed_dictionaries({"A": SCHEMAS, "B": SCHEMAS})}), SCHEMAS, st.integers(0, 99)
)
def test_any_schema_is_held_to_or_refused_in_a_sentence(definitions: dict[str, Any], schema: Any, seed: int) -> None:
    schema = {**schema, **definitions} if isinstance(schema, dict) else definitions
    enforced = held_or_refused(schema)
    if isinstance(enforced, HarmonyError):
        assert enforced.field is not None
        assert str(enforced).startswith(enforced.field)
        return
    check_schema(schema, "W")
    function_type("f", "", schema)
    text = answer(schema, random.Random(seed), 40)
    if text is not None:
        jsonschema.validate(json.loads(text), enforced.schema)
