"""A JSON schema of any draft rewritten in the words of draft 2020-12 that llguidance 1.7 and later understand.

The rewritten schema allows no less than the given one, but for integers beyond 64 bits. What it cannot say is noted.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from gpt_oss.harmony.guidance import fault_of, is_pattern
from gpt_oss.harmony.json_types import LIST, NUMBER
from gpt_oss.harmony.references import References, is_resource
from gpt_oss.harmony.schema import required_names, type_name, type_names

Schema = Mapping[str, Any]

# fmt: off
FORMATS = frozenset({
    "date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri",
})
_NUMBER_FORMATS = frozenset({
    "int8", "int16", "int32", "int64", "uint", "uint8", "uint16", "uint32", "uint64", "float", "double", "decimal",
})

# Assertions that no grammar of ours can hold to. The rest of what is not handled below describes, or is unknown.
_BEYOND = ("contains", "dependentRequired", "dependentSchemas", "dependencies", "disallow", "divisibleBy", "extends")
_DESCRIBING = frozenset({
    "$schema", "$id", "id", "$anchor", "$dynamicAnchor", "$recursiveAnchor", "$vocabulary", "$comment", "$defs",
    "definitions", "title", "description", "default", "examples", "example", "readOnly", "writeOnly", "deprecated",
    "contentMediaType", "contentEncoding", "contentSchema", "discriminator", "xml", "externalDocs", "nullable",
    "then", "else", "minContains", "maxContains", "strict", "optional", "enumNames",
})
_HANDLED = frozenset({
    "type", "enum", "const", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
    "minLength", "maxLength", "pattern", "format", "items", "prefixItems", "additionalItems", "minItems",
    "maxItems", "uniqueItems", "properties", "patternProperties", "additionalProperties", "required",
    "minProperties", "maxProperties", "propertyNames", "unevaluatedProperties", "unevaluatedItems", "anyOf",
    "oneOf", "allOf", "not", "if", "$ref", "$dynamicRef", "$recursiveRef",
})
# fmt: on

# Beyond these llguidance fails, loses digits or takes seconds; docs/structured-output.md has the measurements.
EXACT = 1 << 53  # what floats count exactly up to
WIDEST = 10.0**15  # a bound further out fails for floats
NARROWEST = 10.0**-15  # a bound nearer to zero does
LONGEST_INTEGER = (1 << 63) - 1024  # the last one before 2 ** 63 that a float holds
MOST_MULTIPLE = 10_000  # all multipleOf of a schema together, as the least common multiple
MOST_COUNT = 1 << 31


@dataclass(frozen=True)
class Left:
    """Something that is not enforced.

    place: where it stands in the schema, dotted; empty for the schema itself.
    what: the keyword, with its value where that is short.
    promised: whether a strict schema promises it, rather than merely describing.
    """

    place: str
    what: str
    promised: bool = True

    def __str__(self) -> str:
        return f"{self.place}: {self.what}" if self.place else self.what


@dataclass
class Rewriter:
    """Rewrites one schema.

    root: the schema.
    left: what is not enforced.
    places: where each of the definitions, which get names of their own, stands in the schema.
    """

    root: Schema
    left: list[Left] = field(default_factory=list)
    places: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._references = References(self.root)
        self._names: dict[int, str] = {}
        self._ahead: deque[tuple[str, Any, Schema]] = deque()
        self._multiple = Fraction(1)

    def document(self) -> dict[str, Any]:
        body = self._schema(self.root, self.root, "")
        whole = body if isinstance(body, dict) else {} if body else {"enum": []}
        definitions: dict[str, Any] = {}
        while self._ahead:
            name, target, home = self._ahead.popleft()
            definitions[name] = self._schema(target, home, self.places[name])
        return {**whole, "$defs": definitions} if definitions else whole

    def _leave(self, place: str, what: str, *, promised: bool = True) -> None:
        self.left.append(Left(place, what, promised))

    def _schema(self, node: Any, home: Schema, place: str) -> dict[str, Any] | bool:
        if not isinstance(node, Mapping):
            return node is not False
        home = node if is_resource(node) else home
        given = {key: value for key, value in node.items() if value is not None or key == "const"}
        if _is_everything(given.get("not")):
            return False
        out: dict[str, Any] = {}
        self._types(given, out, place)
        self._values(given, out, place)
        self._numbers(given, out, place)
        self._strings(given, out, place)
        self._items(given, out, home, place)
        self._properties(given, out, home, place)
        self._combined(given, out, home, place)
        self._rest(given, place)
        order = {key: at for at, key in enumerate(given)}
        out = dict(sorted(out.items(), key=lambda item: order.get(item[0], len(order))))
        if given.get("nullable") is True and "null" not in (type_names(given) or ["null"]):
            return {"anyOf": [out, {"type": "null"}]}
        return out

    def _types(self, given: Schema, out: dict[str, Any], place: str) -> None:
        if "type" not in given:
            return
        names = type_names(given)
        if names is not None:
            out["type"] = names[0] if len(names) == 1 else names
            return
        listed = [given["type"]] if isinstance(given["type"], str) else given["type"]
        unknown = [name for name in listed if type_name(name) is None]
        if unknown or not listed:
            self._leave(place, f"type {_short(unknown[0] if unknown else listed)}")

    def _values(self, given: Schema, out: dict[str, Any], place: str) -> None:
        for key in ("const", "enum"):
            if key in given and _is_exact(given[key]):
                out[key] = given[key]
            elif key in given:
                self._leave(place, f"{key} with numbers that have too many digits")

    def _numbers(self, given: Schema, out: dict[str, Any], place: str) -> None:
        for key, sign in (("minimum", -1), ("maximum", 1)):
            exclusive = f"exclusive{key.capitalize()}"
            for name in (key, exclusive):
                value = given.get(name)
                if name == exclusive and isinstance(value, bool):  # as draft 4 has it
                    value = given.get(key) if value else None
                if value is None:
                    continue
                if not NUMBER.holds(value):
                    self._leave(place, f"{name} {_short(value)}")
                    continue
                whole = "number" not in (type_names(given) or ["number"])
                bound = _bound(sign * value, whole=whole)
                if bound is not None:
                    out[name] = sign * bound
                elif sign * value < LONGEST_INTEGER:
                    self._leave(place, f"{name} {_short(value)}")
            if out.get(key) is not None and out.get(exclusive) == out[key]:
                del out[key]
        self._multiples(given, out, place)

    def _multiples(self, given: Schema, out: dict[str, Any], place: str) -> None:
        step = given.get("multipleOf")
        if step is None or step == 1:
            if step == 1:
                out["multipleOf"] = 1
            return
        if NUMBER.holds(step) and step > 0 and float(step) < EXACT:
            exact = Fraction(str(step))
            together = Fraction(
                math.lcm(exact.numerator * self._multiple.denominator, self._multiple.numerator * exact.denominator),
                exact.denominator * self._multiple.denominator,
            )
            if _coefficient(together) <= MOST_MULTIPLE and _coefficient(exact) <= MOST_MULTIPLE:
                self._multiple = together
                out["multipleOf"] = step
                return
        self._leave(place, f"multipleOf {_short(step)}")

    def _count(self, given: Schema, out: dict[str, Any], key: str, place: str) -> int | None:
        """Takes over a keyword that counts something; what it counts to, None where it says nothing."""
        value = given.get(key)
        if value is None or (key.startswith("max") and NUMBER.holds(value) and value >= MOST_COUNT - 1):
            return None
        if not NUMBER.holds(value) or value != int(value) or not 0 <= value < MOST_COUNT:
            self._leave(place, f"{key} {_short(value)}")
            return None
        out[key] = int(value)
        return int(value)

    def _strings(self, given: Schema, out: dict[str, Any], place: str) -> None:
        for key in ("minLength", "maxLength"):
            self._count(given, out, key, place)
        if (pattern := given.get("pattern")) is not None:
            if isinstance(pattern, str) and is_pattern(pattern):
                out["pattern"] = pattern
            else:
                self._leave(place, f"pattern {_short(pattern)}")
        form = given.get("format")
        if form in FORMATS:
            out["format"] = form
        elif form is not None and form not in _NUMBER_FORMATS:
            self._leave(place, f"format {_short(form)}", promised=False)

    def _items(self, given: Schema, out: dict[str, Any], home: Schema, place: str) -> None:
        first, rest, label = given.get("prefixItems"), given.get("items"), "items"
        if isinstance(rest, Sequence):
            first, rest, label = rest, given.get("additionalItems"), "additionalItems"
        if first:
            name = "items" if label == "additionalItems" else "prefixItems"
            out["prefixItems"] = [self._schema(s, home, at(place, f"{name}[{i}]")) for i, s in enumerate(first)]
        if rest is not None:
            out["items"] = self._schema(rest, home, at(place, label))
        for key in ("minItems", "maxItems"):
            self._count(given, out, key, place)
        if given.get("uniqueItems"):
            self._leave(place, "uniqueItems")
        if given.get("unevaluatedItems") is False and rest is None and not _combines(given):
            out["items"] = False
        elif not _is_everything(given.get("unevaluatedItems", True)) and rest is None:
            self._leave(place, "unevaluatedItems")

    def _properties(self, given: Schema, out: dict[str, Any], home: Schema, place: str) -> None:
        properties = given.get("properties") or {}
        if properties:
            base = at(place, "properties")
            out["properties"] = {name: self._schema(s, home, at(base, name)) for name, s in properties.items()}
        if required := required_names(given):
            out["required"] = required
        if "additionalProperties" in given:
            out["additionalProperties"] = self._schema(
                given["additionalProperties"], home, at(place, "additionalProperties")
            )
        elif not _is_everything(given.get("unevaluatedProperties", True)):
            if given["unevaluatedProperties"] is False and not _combines(given):
                out["additionalProperties"] = False
            else:
                self._leave(place, "unevaluatedProperties")
        if patterns := given.get("patternProperties"):
            self._patterns(patterns, out, home, place)
        self._property_names(given.get("propertyNames"), out, place)
        self._property_counts(given, out, place)

    def _patterns(self, patterns: Schema, out: dict[str, Any], home: Schema, place: str) -> None:
        """Patterns of names, which llguidance needs apart from each other. Without them other names must be free."""
        held = {"type": "object", "patternProperties": dict.fromkeys(patterns, True)}
        if all(map(is_pattern, patterns)) and fault_of(held) is None:
            base = at(place, "patternProperties")
            out["patternProperties"] = {name: self._schema(s, home, at(base, name)) for name, s in patterns.items()}
            return
        self._leave(place, "patternProperties")
        out.pop("additionalProperties", None)

    def _property_names(self, names: Any, out: dict[str, Any], place: str) -> None:
        """zod and pydantic write them for maps: nothing but `type: string`, a list of names, or a pattern."""
        if names is None or _is_everything(names):
            return
        said = {k: v for k, v in names.items() if k not in _DESCRIBING} if isinstance(names, Mapping) else {}
        if said.get("type") == "string":
            del said["type"]
            if not said:
                return
        others = out.get("additionalProperties", True)
        free = "patternProperties" not in out
        allowed = [said["const"]] if said.keys() == {"const"} else said.get("enum") if said.keys() == {"enum"} else None
        if free and allowed is not None:
            known = out.get("properties", {})
            out["properties"] = {n: known.get(n, others) for n in allowed if isinstance(n, str)}
            out["properties"] |= {n: False for n in known if n not in allowed}
            out["additionalProperties"] = False
        elif free and said.keys() == {"pattern"} and not out.get("properties") and is_pattern(str(said["pattern"])):
            out["patternProperties"] = {said["pattern"]: others}
            out["additionalProperties"] = False
        else:
            self._leave(place, "propertyNames")

    def _property_counts(self, given: Schema, out: dict[str, Any], place: str) -> None:
        """llguidance counts properties where every named one is required, or up to one."""
        held: dict[str, Any] = {}
        least, most = self._count(given, held, "minProperties", place), self._count(given, held, "maxProperties", place)
        required, named = set(out.get("required", ())), set(out.get("properties", ()))
        closed = out.get("additionalProperties") is False and "patternProperties" not in out
        if least is not None and least <= len(required):
            least = None
        if most is not None and closed and most >= len(named):
            most = None
        if least is None and most is None:
            return
        counted = named <= required or (closed and (least or 0) <= 1 and most in (None, 1))
        for key, value in (("minProperties", least), ("maxProperties", most)):
            if value is not None and counted:
                out[key] = value
            # The names of a map may come twice, and count once.
            if value is not None and (not counted or (key == "minProperties" and value > len(required) + 1)):
                self._leave(place, f"{key} {value}")

    def _combined(self, given: Schema, out: dict[str, Any], home: Schema, place: str) -> None:
        parts = {
            key: [self._schema(s, home, at(place, f"{key}[{i}]")) for i, s in enumerate(given[key])]
            for key in ("anyOf", "oneOf", "allOf")
            if given.get(key)
        }
        also = parts.get("allOf", [])
        if "oneOf" in parts:
            if "discriminator" not in given and not self._are_apart(given["oneOf"], home):
                self._leave(place, "oneOf, which is read as anyOf")
            if "anyOf" in parts:
                also.append({"anyOf": parts["oneOf"]})
            else:
                parts["anyOf"] = parts["oneOf"]
        for key in ("$ref", "$dynamicRef", "$recursiveRef"):
            ref = self._reference(given[key], home, place, key) if isinstance(given.get(key), str) else None
            if ref is not None and "$ref" not in out:
                out["$ref"] = ref
            elif ref is not None:
                also.append({"$ref": ref})
        if isinstance(given.get("$ref"), str) and set(out) == {"type", "$ref"}:
            target = self._resolved(given, home)[0]
            if isinstance(target, Mapping) and type_names(target) == type_names(given):
                del out["type"]  # said already, and llguidance takes nothing next to a reference in a circle
        if "anyOf" in parts:
            out["anyOf"] = parts["anyOf"]
        if also:
            out["allOf"] = also

    def _reference(self, ref: str, home: Schema, place: str, key: str) -> str | None:
        target, its_home = self._references.find(ref, home)
        if target is self.root:
            return "#"
        if not isinstance(target, Mapping | bool):
            self._leave(place, f"{key} {_short(ref)}")
            return None
        if id(target) not in self._names:
            name = f"d{len(self._names)}"
            self._names[id(target)] = name
            self.places[name] = ".".join(ref.partition("#")[2].strip("/").split("/")) or ref
            self._ahead.append((name, target, its_home))
        return f"#/$defs/{self._names[id(target)]}"

    def _are_apart(self, variants: Iterable[Any], home: Schema) -> bool:
        """Whether it is plain that no value fits two of them: other types, or another value of a required property."""
        plain = [self._plain(variant, home) for variant in variants]
        return all(_apart(one, other) for i, one in enumerate(plain) for other in plain[:i])

    def _plain(self, schema: Any, home: Schema) -> Any:
        """A schema, or what it comes to where it only refers."""
        schema, home = self._resolved(schema, home)
        if not isinstance(schema, Mapping):
            return schema
        properties = schema.get("properties") or {}
        return {**schema, "properties": {name: self._resolved(part, home)[0] for name, part in properties.items()}}

    def _resolved(self, schema: Any, home: Schema) -> tuple[Any, Schema]:
        for _ in range(8):
            if not isinstance(schema, Mapping) or not isinstance(schema.get("$ref"), str):
                break
            schema, home = self._references.find(schema["$ref"], home)
        return schema, home

    def _rest(self, given: Schema, place: str) -> None:
        for key in _BEYOND:
            if given.get(key):
                self._leave(place, key)
        if "not" in given and given["not"] is not False:
            self._leave(place, "not")
        if "if" in given and ("then" in given or "else" in given):
            self._leave(place, "if")
        for key in given:
            if key not in _HANDLED and key not in _DESCRIBING and key not in _BEYOND and not key.startswith("x-"):
                self._leave(place, f"{key}, which is unknown", promised=False)


def at(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else f"'{value}'"
    return text if len(text) <= 60 else f"{text[:57]}…"


def _is_everything(schema: object) -> bool:
    """Whether a schema plainly allows anything."""
    return schema is True or (isinstance(schema, Mapping) and all(key in _DESCRIBING for key in schema))


def _combines(schema: Schema) -> bool:
    return any(schema.get(key) for key in ("anyOf", "oneOf", "allOf", "$ref", "$dynamicRef", "if", "dependentSchemas"))


def _is_exact(value: object) -> bool:
    """Whether llguidance, which reads numbers as floats and writes them out, holds to each number of a value."""
    if isinstance(value, Mapping):
        return all(map(_is_exact, value.values()))
    if LIST.holds(value):
        assert isinstance(value, Sequence)
        return all(map(_is_exact, value))
    if isinstance(value, bool) or not isinstance(value, int | float):
        return True
    return value == 0 or (isinstance(value, int) and abs(value) <= EXACT) or NARROWEST <= abs(value) <= EXACT


def _bound(most: float, *, whole: bool) -> float | None:
    """An upper bound that llguidance can hold to and that is no tighter, but for integers beyond 64 bits; or None."""
    if whole and math.inf > most >= LONGEST_INTEGER:
        return LONGEST_INTEGER
    if not -WIDEST <= most <= (LONGEST_INTEGER if whole else WIDEST):
        return None
    if -NARROWEST < most < 0:
        return 0
    return max(most, NARROWEST) if most > 0 else most


def _coefficient(step: Fraction) -> int:
    """What a decimal fraction is without its decimal point: 25 for 0.25."""
    for _ in range(40):
        if step.denominator == 1:
            break
        step *= 10
    return step.numerator


_TYPES = {str: "string", bool: "boolean", int: "number", float: "number", list: "array", dict: "object"}


def _apart(one: Any, other: Any) -> bool:
    """Whether it is plain that no value fits both."""
    if not isinstance(one, Mapping) or not isinstance(other, Mapping):
        return one is False or other is False
    values = _values(one), _values(other)
    if values[0] is not None and values[1] is not None:
        return not any(a == b and isinstance(a, bool) == isinstance(b, bool) for a in values[0] for b in values[1])
    kinds = _kinds(one), _kinds(other)
    if not kinds[0] & kinds[1]:
        return True
    if kinds[0] != {"object"} or kinds[1] != {"object"}:
        return False
    needed = set(required_names(one)) & set(required_names(other))
    mine, theirs = one.get("properties") or {}, other.get("properties") or {}
    return any(_apart(mine[name], theirs[name]) for name in needed if name in mine and name in theirs)


def _values(schema: Schema) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    enum: list[Any] | None = schema.get("enum")
    return enum


def _kinds(schema: Schema) -> set[str]:
    """The types that a schema allows; integers count as numbers."""
    names = set(type_names(schema) or _TYPES_OF_JSON)
    values = _values(schema)
    if values is not None:
        names &= {_TYPES.get(type(value), "null") for value in values} | {"integer"}
    if schema.get("nullable") is True:
        names |= {"null"}
    return {"number" if name == "integer" else name for name in names}


_TYPES_OF_JSON = ("string", "number", "boolean", "null", "array", "object")
