"""JSON schemas as the TypeScript that the models were trained to read.

What openai-harmony renders comes out the same, byte for byte. What it has no form for and renders as `any` becomes the
type that it means: `$ref`, `anyOf`, `allOf`, `const`, tuples, enums of other than strings. What is referred to more
than once gets a name, so that the text grows no faster than the schema.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import unquote

from gpt_oss.errors import HarmonyError
from gpt_oss.harmony.json_types import LIST, OBJECT, STRING, not_json, not_too_deep, optional, wanted
from gpt_oss.harmony.references import References

Schema = Mapping[str, Any]


# How tightly a type's text binds: what is looser than its surroundings needs parentheses.
_UNION, _STRINGS, _INTERSECTION, _ATOM = range(4)


@dataclass(frozen=True)
class _Text:
    """TypeScript of a type. `_STRINGS` is a union of strings, which stays bare inside an array: `"a" | "b"[]` is how
    openai-harmony writes it, and what the models were trained on."""

    text: str
    binds: int = _ATOM

    @property
    def in_array(self) -> str:
        return f"({self.text})" if self.binds in (_UNION, _INTERSECTION) else self.text

    @property
    def in_intersection(self) -> str:
        return f"({self.text})" if self.binds in (_UNION, _STRINGS) else self.text


_ANY = _Text("any")
_NOTHING = _Text("")  # what a definition says by nothing but a reference to itself

# Types inside types beyond this many are named where there is a reference, so that rendering never runs out of stack.
_DEEPEST_INLINE = 16
_TYPESCRIPT = frozenset({"any", "string", "number", "boolean", "null", "object", "Array"})


@dataclass(frozen=True)
class _Scope:
    """Where `$ref`s point and which definitions have a name: those used more than once, the recursive among them.

    Definitions are told apart by identity, for several pointers may name the same one.
    open: definitions that are being written out and to which, here, a reference would mean `type A = A`.
    """

    references: References
    uses: Mapping[int, int]
    taken: set[str]
    names: dict[int, str] = field(default_factory=dict)
    named: list[tuple[str, Schema]] = field(default_factory=list)
    open: frozenset[int] = frozenset()
    depth: int = 0


def function_type(name: str, description: str, parameters: Schema | None, taken: set[str] | None = None) -> str:
    """`// description` and `type name = (_: {…}) => any;`, ready to stand in a namespace, behind the types it needs.

    taken: names that those types must not have; theirs are added.
    Raises HarmonyError for parameters that are no JSON schema, see `check_schema`.
    """
    lines = comment(description)
    if parameters is None:
        return "\n".join([*lines, f"type {name} = () => any;"])
    check_schema(parameters, f"{name}.parameters")
    taken = set() if taken is None else taken
    taken |= {name, *_TYPESCRIPT}
    references = References(parameters)
    scope = _Scope(references, _uses(parameters, references), taken)
    body = _definition(parameters, "Arguments", "", scope).text
    types = []
    for type_name, target in scope.named:  # which grows meanwhile
        text = _type(_without(target, "description"), "", replace(scope, open=frozenset({id(target)}))).text
        types += [*comment(target.get("description")), f"type {type_name} = {text};"]
    return "\n".join([*types, *lines, f"type {name} = (_: {body}) => any;"])


_KEYWORDS = {"$ref": STRING, "enum": LIST}
_MAPS_OF_SCHEMAS = ("properties", "patternProperties", "$defs", "definitions")
_LISTS_OF_SCHEMAS = ("oneOf", "anyOf", "allOf", "prefixItems")
_TYPES = ("string", "number", "integer", "boolean", "null", "array", "object")

# What tools' authors and generators write for JSON Schema's names of types, in lower case; "any" is no type at all.
_OTHER_NAMES = {
    "any": "",
    "str": "string",
    "text": "string",
    "int": "integer",
    "int32": "integer",
    "int64": "integer",
    "long": "integer",
    "float": "number",
    "double": "number",
    "decimal": "number",
    "bool": "boolean",
    "none": "null",
    "list": "array",
    "dict": "object",
    "map": "object",
}


def check_schema(schema: Schema, where: str) -> None:
    """Raises HarmonyError, which names the place, where a schema has a part of the wrong JSON type; null is no value.

    Only what is read as a part counts. What merely describes, and keywords that nobody knows, may hold anything that
    is JSON: generators write all sorts of things. Schemas that were found to be fine are remembered: an agent sends its
    tools again and again, and each is checked wherever it is read.
    """
    mark = _mark_of(schema)
    if mark in _FINE:
        return
    _check(schema, where)
    if mark is not None:
        if len(_FINE) >= _MOST_FINE:
            _FINE.clear()
        _FINE.add(mark)


_FINE: set[bytes] = set()
_MOST_FINE = 10_000


def _mark_of(schema: Schema) -> bytes | None:
    """A digest of what a schema says; None where it is no JSON."""
    try:
        text = json.dumps(schema, default=dict, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError):
        return None
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _check(schema: Schema, where: str) -> None:
    not_too_deep(schema, where)
    _must_be_json(schema, where)
    rest: list[tuple[Any, str]] = [(schema, where)]
    references = References(schema)
    seen: set[int] = set()  # what `$ref`s point to, by identity
    while rest:
        part, here = rest.pop()
        if isinstance(part, bool):
            continue
        wanted(part, OBJECT, here)
        for key, kind in _KEYWORDS.items():
            optional(part, key, kind, here)
        if part.get("type") is not None and not isinstance(part["type"], str):
            wanted(part["type"], LIST, f"{here}.type")
        rest += _parts(part, here)
        target = references.find(part["$ref"])[0] if part.get("$ref") is not None else None
        if isinstance(target, Mapping) and id(target) not in seen:
            seen.add(id(target))
            rest.append((target, _place_of(part["$ref"], where)))


def _must_be_json(schema: Schema, where: str) -> None:
    """Raises HarmonyError for NaN and the like. A bound may be an infinity: so 1.8e308 arrives, which is no bound."""
    rest: list[tuple[Any, str]] = [(schema, where)]
    while rest:
        found, here = rest.pop()
        problem = not_json(found)
        if isinstance(found, Mapping):
            bounds = {key for key in ("maximum", "exclusiveMaximum") if found.get(key) == math.inf}
            bounds |= {key for key in ("minimum", "exclusiveMinimum") if found.get(key) == -math.inf}
            keys = [not_json(key) if isinstance(key, str) else "has a key that is not a string" for key in found]
            problem = next(filter(None, keys), problem)
            rest += [(value, f"{here}.{key}") for key, value in found.items() if key not in bounds]
        elif LIST.holds(found):
            rest += [(value, f"{here}[{i}]") for i, value in enumerate(found)]
        if problem:
            raise HarmonyError(f"{here} {problem}", field=here)


def _parts(schema: Schema, here: str) -> list[tuple[Any, str]]:
    """The schemas within a schema, with their places."""
    parts: list[tuple[Any, str]] = []
    for key in _MAPS_OF_SCHEMAS:
        parts += [(s, f"{here}.{key}.{name}") for name, s in (optional(schema, key, OBJECT, here) or {}).items()]
    for key in _LISTS_OF_SCHEMAS:
        parts += [(s, f"{here}.{key}[{i}]") for i, s in enumerate(optional(schema, key, LIST, here) or [])]
    for key in ("items", "additionalItems", "additionalProperties"):
        value = schema.get(key)
        if key == "items" and isinstance(value, Sequence):  # a tuple, as drafts before 2020 write it
            parts += [(s, f"{here}.items[{i}]") for i, s in enumerate(value)]
        elif value is not None:
            parts.append((value, f"{here}.{key}"))
    return parts


def _place_of(ref: str, where: str) -> str:
    """The dotted place that a reference leads to."""
    pointer = unquote(ref.partition("#")[2]).strip("/")
    return ".".join([where, *(pointer.split("/") if pointer else [])])


def type_names(schema: Schema) -> list[str] | None:
    """The types that a schema names, spelt as JSON Schema does; None where it allows any, or names one that is none."""
    named = schema.get("type")
    names = [named] if isinstance(named, str) else named or []
    found = [type_name(name) for name in names]
    return None if not found or None in found or "" in found else [name for name in dict.fromkeys(found) if name]


def type_name(name: object) -> str | None:
    """A type as JSON Schema calls it, whatever its author calls it: `STRING`, `int`; "" is any, None is no type."""
    if not isinstance(name, str):
        return None
    plain = name.lower()
    return plain if plain in _TYPES else _OTHER_NAMES.get(plain)


def required_names(schema: Schema) -> list[str]:
    """The properties that must be there: those of `required`, and those that say so themselves, as draft 3 has it."""
    required = schema.get("required")
    listed = required if isinstance(required, Sequence) and not isinstance(required, str) else ()
    names = [name for name in listed if isinstance(name, str)]
    properties = schema.get("properties") or {}
    names += [name for name, part in properties.items() if isinstance(part, Mapping) and part.get("required") is True]
    return list(dict.fromkeys(names))


def comment(text: object, indent: str = "") -> list[str]:
    return [f"{indent}// {line}" for line in _words(text).split("\n")] if text else []


def _type(schema: Schema | bool, indent: str, scope: _Scope) -> _Text:
    """The type of a value; of several lines for an object, whose closing brace stands at `indent`."""
    if not isinstance(schema, Mapping):
        return _ANY
    scope = replace(scope, depth=scope.depth + 1)
    said = [_reference(schema["$ref"], indent, scope)] if schema.get("$ref") is not None else []
    for key in ("oneOf", "anyOf"):
        if schema.get(key):
            said.append(_union(_type(part, indent, scope) for part in schema[key]))
    said += [_type(part, indent, scope) for part in schema.get("allOf") or []]
    said = [part for part in dict.fromkeys(said) if part not in (_ANY, _NOTHING)]
    if not said or _has_shape(schema):
        said.append(_own(schema, indent, scope))
    if len(said) == 1:
        return said[0]
    return _Text(" & ".join(part.in_intersection for part in said), _INTERSECTION)


def _union(variants: Iterable[_Text]) -> _Text:
    distinct = [variant for variant in dict.fromkeys(variants) if variant != _NOTHING]
    if not distinct or _ANY in distinct:
        return _ANY
    return distinct[0] if len(distinct) == 1 else _Text(" | ".join(v.text for v in distinct), _UNION)


def _has_shape(schema: Schema) -> bool:
    """Whether a schema says more by itself than the bare name of a type."""
    keys = ("const", "enum", "properties", "items", "prefixItems")
    return any(schema.get(key) is not None for key in keys) or isinstance(schema.get("additionalProperties"), Mapping)


def _own(schema: Schema, indent: str, scope: _Scope) -> _Text:
    """What a schema says by itself, without the schemas that it refers to and combines."""
    if "const" in schema:
        return _Text(_json(schema["const"]))
    if schema.get("enum"):
        values = schema["enum"]
        binds = _ATOM if len(values) == 1 else _STRINGS if all(isinstance(v, str) for v in values) else _UNION
        return _Text(" | ".join(map(_json, values)), binds)
    kinds = type_names(schema) or [""]
    if len(kinds) > 1:
        return _union(_own({**schema, "type": one}, indent, scope) for one in kinds)
    match kinds[0]:
        case "object":
            return _object(schema, indent, scope)
        case "array":
            return _array(schema, indent, scope)
        case "string" | "boolean" | "number" | "null":
            return _Text(kinds[0])
        case "integer":
            return _Text("number")
        case _:
            return _object(schema, indent, scope) if schema.get("properties") else _ANY


def _array(schema: Schema, indent: str, scope: _Scope) -> _Text:
    scope = replace(scope, open=frozenset())
    items = schema.get("items")
    first = schema.get("prefixItems") or (items if isinstance(items, Sequence) else None)
    if first:
        types = [_type(part, indent, scope).text for part in first]
        if isinstance(items, Mapping):
            types.append(f"...{_type(items, indent, scope).in_array}[]")
        return _Text(f"[{', '.join(types)}]")
    if items is None:
        return _Text("Array<any>")
    item = _type(items, indent, scope)
    return _Text(f"{item.in_array}[]", _STRINGS if item.binds == _STRINGS else _ATOM)


def _object(schema: Schema, indent: str, scope: _Scope) -> _Text:
    scope = replace(scope, open=frozenset())
    head = "".join(f"{line}\n" for line in comment(schema.get("description"), indent))
    lines = [f"{head}{{"]
    required = required_names(schema)
    for name, value in (schema.get("properties") or {}).items():
        lines += _property(name, value, name in required, indent, scope)
    extra = schema.get("additionalProperties")
    if isinstance(extra, Mapping) and extra:
        lines.append(f"{indent}[key: string]: {_type(extra, indent + '    ', scope).text},")
    return _Text("\n".join([*lines, f"{indent}}}"]))


def _property(name: str, schema: Schema | bool, required: bool, indent: str, scope: _Scope) -> list[str]:
    if not isinstance(schema, Mapping):
        return [f"{indent}{name}{'' if required else '?'}: any,"]
    lines = []
    if title := schema.get("title"):
        lines += [f"{indent}// {_words(title)}", f"{indent}//"]
    is_union = schema.get("oneOf") and not _has_shape(schema) and not any(map(schema.get, ("$ref", "anyOf", "allOf")))
    if description := schema.get("description"):
        lines += [f"{indent}// {line}" if i == 0 else line for i, line in enumerate(_words(description).split("\n"))]
    if examples := schema.get("examples"):
        examples = examples if LIST.holds(examples) else [examples]
        lines.append(f"{indent}// Examples:")
        if not any(isinstance(example, int | float) for example in examples):
            lines += [f"{indent}// - {_json(example)}" for example in examples]
    mark = f"{indent}{name}{'' if required else '?'}:"
    default = _default(schema)
    if is_union:
        if default:
            lines.append(f"{indent}// default: {_json(schema['default'])}")
        return [*lines, mark, *_variants(schema["oneOf"], indent, scope), f"{indent},"]
    text = _type(schema, indent + "    ", scope).text
    if schema.get("nullable") is True and "null" not in text.split(" | "):
        text += " | null"
    return [*lines, f"{mark} {text},{f' // {default}' if default else ''}"]


def _variants(variants: list[Schema | bool], indent: str, scope: _Scope) -> list[str]:
    lines = []
    for variant in variants:
        if not isinstance(variant, Mapping):
            lines.append(f"{indent} | any")
            continue
        text = _type(_without(variant, "description"), indent + "   ", scope).text
        notes = [_words(variant["description"])] if variant.get("description") else []
        notes += [default] if (default := _default(variant)) else []
        lines.append(f"{indent} | {text}{f' // {chr(32).join(notes)}' if notes else ''}")
    return lines


def _default(schema: Schema) -> str:
    if "default" not in schema:
        return ""
    value = schema["default"]
    bare = isinstance(value, str) and "enum" in schema
    return f"default: {value if bare else json.dumps(value, ensure_ascii=False, separators=(',', ':'))}"


def _reference(ref: str, indent: str, scope: _Scope) -> _Text:
    target, ref = _resolve(scope.references, ref)
    if not isinstance(target, Mapping):
        return _ANY
    word = re.sub(r"\W", "_", ref.rstrip("/").rsplit("/", 1)[-1].lstrip("#"), flags=re.ASCII) or "Arguments"
    return _definition(target, f"_{word}" if word[0].isdigit() else word, indent, scope)


def _definition(target: Schema, name: str, indent: str, scope: _Scope) -> _Text:
    """What a reference to `target` is written as: its name, which is made here, or all of it."""
    key = id(target)
    if key in scope.open:
        return _NOTHING
    if key not in scope.names and (scope.uses.get(key, 0) > 1 or scope.depth > _DEEPEST_INLINE):
        names = itertools.chain([name], (f"{name}{number}" for number in itertools.count(2)))
        scope.names[key] = next(free for free in names if free not in scope.taken)
        scope.taken.add(scope.names[key])
        scope.named.append((scope.names[key], target))
    if key in scope.names:
        return _Text(scope.names[key])
    return _type(target, indent, replace(scope, open=scope.open | {key}))


def _uses(root: Schema, references: References) -> Counter[int]:
    """How often each definition is referred to, by identity. One that leads back to itself is, at least twice."""
    uses = Counter({id(root): 1})
    rest: list[Any] = [root]
    while rest:
        part = rest.pop()
        if not isinstance(part, Mapping):
            continue
        if part.get("$ref") is not None:
            target, _ = _resolve(references, part["$ref"])
            uses[id(target)] += 1
            if uses[id(target)] == 1:
                rest.append(target)
        for key in (*_LISTS_OF_SCHEMAS, "items"):
            value = part.get(key)
            rest += value if isinstance(value, Sequence) else [value]
        rest += [*(part.get("properties") or {}).values(), part.get("additionalProperties")]
    return uses


def _resolve(references: References, ref: str) -> tuple[Any, str]:
    """What a reference comes to in the end, through definitions that only refer to others, and the last pointer.

    (None, …) where there is nothing, or a circle of references.
    """
    seen: set[str] = set()
    while ref not in seen:
        seen.add(ref)
        target = references.find(ref)[0]
        only_refers = isinstance(target, Mapping) and target.get("$ref") is not None and not _combines(target)
        if not only_refers or _has_shape(target):
            return target, ref
        ref = target["$ref"]
    return None, ref


def _combines(schema: Schema) -> bool:
    return any(schema.get(key) for key in ("oneOf", "anyOf", "allOf"))


def _without(schema: Schema, key: str) -> Schema:
    return {k: v for k, v in schema.items() if k != key}


def _words(value: object) -> str:
    """A title or description; generators write other than text there as well."""
    return value if isinstance(value, str) else _json(value)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
