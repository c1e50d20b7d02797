"""llguidance with our tokens: grammars made of its JSON form, and what it finds wrong with them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from gpt_oss.vocabulary import ENDOFTEXT, PATTERN, VOCABULARY_SIZE, special_tokens, text_tokens

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

# Between two parts of JSON stands nothing, a space, or a line's end with the indentation of the next line. That is all
# that trained models write, and a model in doubt, which writes space for ever, comes through it in a few tokens. Lines
# are indented by up to four spaces or a tab for each level that the schema declares.
_SPACE = r"( |\r?\n( {{0,{spaces}}}|\t{{0,{levels}}}))"
DEEPEST_INDENTED = 6
_FREE_LEVELS = 2  # where a schema leaves open what stands in a place

_INWARDS = ("properties", "patternProperties", "items", "additionalProperties", "prefixItems")


def json_grammar(schema: Mapping[str, Any]) -> dict[str, Any]:
    """llguidance's form of a grammar of the JSON that fits a schema. oneOf is read as anyOf."""
    levels = declared_levels(schema)
    options = {"whitespace_pattern": _SPACE.format(spaces=4 * levels, levels=levels), "coerce_one_of": True}
    return {"json_schema": {**schema, "x-guidance": options}}


def declared_levels(schema: Mapping[str, Any]) -> int:
    """How many levels of JSON inside JSON a schema declares, from 1 to DEEPEST_INDENTED."""
    level: list[Any] = [schema]
    for depth in range(DEEPEST_INDENTED):
        here = _at_one_level(schema, level)
        deeper = [part for found in here for key in _INWARDS for part in schemas_under(found, key)]
        if any(_says_nothing(found) for found in here):
            return min(depth + _FREE_LEVELS, DEEPEST_INDENTED)
        if not deeper:
            return max(1, depth)
        level = deeper
    return DEEPEST_INDENTED


def _at_one_level(root: Mapping[str, Any], level: Sequence[Any]) -> list[Mapping[str, Any]]:
    """The schemas of one level of JSON, with those that they refer to and combine."""
    found: dict[int, Mapping[str, Any]] = {}
    rest = list(level)
    while rest:
        part = rest.pop()
        if not isinstance(part, Mapping) or id(part) in found:
            continue
        found[id(part)] = part
        if isinstance(part.get("$ref"), str):
            name = part["$ref"].removeprefix("#/$defs/")
            rest.append(root if name == "#" else root.get("$defs", {}).get(name))
        rest += [inner for key in ("anyOf", "oneOf", "allOf") for inner in schemas_under(part, key)]
    return list(found.values())


def _says_nothing(schema: Mapping[str, Any]) -> bool:
    """Whether a schema leaves open what there is: nothing at all, or an object or array of anything."""
    open_object = schema.get("type") == "object" and not schema.keys() & {"properties", "additionalProperties"}
    open_array = schema.get("type") == "array" and not schema.keys() & {"items", "prefixItems"}
    return not schema.keys() - {"$defs"} or open_object or open_array


def schemas_under(schema: Mapping[str, Any], key: str) -> list[Any]:
    """The schemas that a keyword of a schema holds."""
    value = schema.get(key)
    if key in ("properties", "patternProperties"):
        return list((value or {}).values())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return list(value)
    return [] if value is None else [value]


def fault_of(schema: Mapping[str, Any]) -> str | None:
    """What llguidance cannot do with a schema, in its own words; None where it can."""
    return fault(matcher_of(grammar_text(json_grammar(schema))))


@lru_cache(maxsize=4096)
def is_pattern(pattern: str) -> bool:
    """Whether a regular expression of a schema is one for llguidance, which has no lookarounds or references."""
    return fault_of({"type": "string", "pattern": pattern}) is None


def regex_grammar(pattern: str) -> dict[str, Any]:
    """llguidance's form of a grammar of the texts that a regular expression matches."""
    from llguidance import regex_to_lark

    return {"lark_grammar": f"start: /{regex_to_lark(pattern)}/"}


def grammar_text(grammar: Mapping[str, Any], *others: Mapping[str, Any]) -> str:
    """A grammar as llguidance reads it; it may name others."""
    return json.dumps({"grammars": [grammar, *others]})


def matcher_of(text: str) -> LLMatcher:
    """A matcher of a `grammar_text`. It never raises: see `fault`."""
    from llguidance import LLMatcher

    return LLMatcher(_tokenizer(), text, log_level=0)


def fault(made: LLMatcher) -> str | None:
    """What is wrong with a matcher that was just made: a mask is computed from a copy of it as well."""
    if not made.is_error():
        copy = made.deep_copy()
        copy.compute_bitmask()
        made = copy
    return " ".join(made.get_error().split())[:200] if made.is_error() else None


def warm() -> None:
    """Builds the token table, which takes a second or two, now rather than with the first grammar."""
    _tokenizer()


@lru_cache(maxsize=1)
def _tokenizer() -> LLTokenizer:
    from llguidance import LLTokenizer

    ranks = {token: rank for rank, token in enumerate(text_tokens())}
    tokenizer: LLTokenizer = LLTokenizer.from_tiktoken(  # type: ignore[attr-defined]  # as llguidance.tiktoken does
        encoder=ranks,
        special_tokens=dict(special_tokens()),
        pattern=PATTERN,
        eos_token=ENDOFTEXT,
        n_vocab=VOCABULARY_SIZE,
        slices=None,
    )
    return tokenizer
