"""JSON schemas as the TypeScript that the models were trained to read.

What openai-harmony renders comes out the same, byte for byte. What it has no form for and renders as `any` becomes the
type that it means: `$ref`, `anyOf`, `allOf`, `const`, enums of other than strings; recursive types get a name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gpt_oss.harmony.json_types import BOOLEAN, LIST, OBJECT, STRING, not_too_deep, optional, wanted

Schema = Mapping[str, Any]


@dataclass
class _Scope:
    """Where `$ref`s point, which are being rendered, and the recursive ones, which need a name."""

    root: Schema
    open: list[str] = field(default_factory=list)
    recursive: dict[str, str] = field(default_factory=dict)


def function_type(name: str, description: str, parameters: Schema | None) -> str:
    """`// description` and `type name = (_: {…}) => any;`, ready to stand in a namespace.

    Raises HarmonyError for parameters that are no JSON schema, see `check_schema`.
    """
    if parameters is not None:
        check_schema(parameters, f"{name}.parameters")
    lines = comment(description)
    if parameters is None:
        return "\n".join([*lines, f"type {name} = () => any;"])
    scope = _Scope(parameters)
    body = _type(parameters, "", scope)
    named = []
    done: set[str] = set()
    while rest := [ref for ref in scope.recursive if ref not in done]:
        done.add(rest[0])
        scope.open = [rest[0]]
        named.append(f"type {scope.recursive[rest[0]]} = {_type(_lookup(parameters, rest[0]), '', scope)};")
    return "\n".join([*named, *lines, f"type {name} = (_: {body}) => any;"])


_KEYWORDS = {
    "$ref": STRING,
    "title": STRING,
    "description": STRING,
    "nullable": BOOLEAN,
    "enum": LIST,
    "examples": LIST,
}
_MAPS_OF_SCHEMAS = ("properties", "$defs", "definitions")
_LISTS_OF_SCHEMAS = ("oneOf", "anyOf", "allOf", "prefixItems")


def check_schema(schema: Schema, where: str) -> None:
    """Raises HarmonyError, which names the place, where a keyword has a value of the wrong type; null is no value."""
    not_too_deep(schema, where)
    rest: list[tuple[Any, str]] = [(schema, where)]
    seen: set[int] = set()  # what `$ref`s point to, by identity
    while rest:
        part, here = rest.pop()
        if isinstance(part, bool):
            continue
        wanted(part, OBJECT, here)
        for key, kind in _KEYWORDS.items():
            optional(part, key, kind, here)
        for key in _MAPS_OF_SCHEMAS:
            rest += [(s, f"{here}.{key}.{name}") for name, s in (optional(part, key, OBJECT, here) or {}).items()]
        for key in _LISTS_OF_SCHEMAS:
            rest += [(s, f"{here}.{key}[{i}]") for i, s in enumerate(optional(part, key, LIST, here) or [])]
        for key in ("items", "additionalProperties"):
            value = part.get(key)
            if key == "items" and LIST.holds(value):  # a tuple, as drafts before 2020 write it
                rest += [(s, f"{here}.items[{i}]") for i, s in enumerate(value)]
            elif value is not None:
                rest.append((value, f"{here}.{key}"))
        for key in ("required", "type"):
            value = part.get(key)
            if value is not None and not (key == "type" and isinstance(value, str)):
                for i, name in enumerate(wanted(value, LIST, f"{here}.{key}")):
                    wanted(name, STRING, f"{here}.{key}[{i}]")
        target = _lookup(schema, part["$ref"]) if part.get("$ref") is not None else None
        if isinstance(target, Mapping) and id(target) not in seen:
            seen.add(id(target))
            rest.append((target, f"{here} -> {part['$ref']}"))


def comment(text: str | None, indent: str = "") -> list[str]:
    return [f"{indent}// {line}" for line in text.split("\n")] if text else []


def _type(schema: Schema | bool, indent: str, scope: _Scope) -> str:
    """The type of a value; of several lines for an object, whose closing brace stands at `indent`."""
    if not isinstance(schema, Mapping):
        return "any"
    if "$ref" in schema:
        return _reference(str(schema["$ref"]), indent, scope)
    if "const" in schema:
        return json.dumps(schema["const"], ensure_ascii=False)
    for key, joiner in (("oneOf", " | "), ("anyOf", " | "), ("allOf", " & ")):
        if isinstance(schema.get(key), list) and schema[key]:
            parts = [_type(part, indent, scope) for part in schema[key]]
            own = {k: v for k, v in schema.items() if k in ("type", "properties", "required")}
            if key == "allOf" and own.get("properties"):
                parts.append(_type(own, indent, scope))
            return joiner.join(_grouped(part, joiner) for part in dict.fromkeys(parts))
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        return " | ".join(json.dumps(value, ensure_ascii=False) for value in schema["enum"])
    kind = schema.get("type")
    if isinstance(kind, list):
        return " | ".join(_type({**schema, "type": one}, indent, scope) for one in kind) or "any"
    match kind:
        case "object":
            return _object(schema, indent, scope)
        case "array":
            if "items" not in schema:
                return "Array<any>"
            return _grouped(_type(schema["items"], indent, scope), "[]") + "[]"
        case "string" | "boolean" | "number" | "null":
            return str(kind)
        case "integer":
            return "number"
        case _:
            return _object(schema, indent, scope) if schema.get("properties") else "any"


def _grouped(text: str, joiner: str) -> str:
    """In parentheses where a union stands inside something that binds closer."""
    loose = " | " in text.split("{")[0] or (joiner == "[]" and " & " in text.split("{")[0])
    return f"({text})" if loose and joiner in ("[]", " & ") and not text.startswith('"') else text


def _object(schema: Schema, indent: str, scope: _Scope) -> str:
    head = "".join(f"{line}\n" for line in comment(schema.get("description"), indent))
    lines = [f"{head}{{"]
    properties = schema.get("properties") or {}
    required = schema.get("required") or []
    for name, value in properties.items():
        lines += _property(name, value, name in required, indent, scope)
    extra = schema.get("additionalProperties")
    if isinstance(extra, Mapping) and extra and not properties:
        lines.append(f"{indent}[key: string]: {_type(extra, indent + '    ', scope)},")
    return "\n".join([*lines, f"{indent}}}"])


def _property(name: str, schema: Schema | bool, required: bool, indent: str, scope: _Scope) -> list[str]:
    if not isinstance(schema, Mapping):
        return [f"{indent}{name}{'' if required else '?'}: any,"]
    lines = []
    if title := schema.get("title"):
        lines += [f"{indent}// {title}", f"{indent}//"]
    is_union = isinstance(schema.get("oneOf"), list)
    if description := schema.get("description"):
        lines += [f"{indent}// {line}" if i == 0 else line for i, line in enumerate(str(description).split("\n"))]
    if examples := schema.get("examples"):
        lines.append(f"{indent}// Examples:")
        if not any(isinstance(example, int | float) for example in examples):
            lines += [f"{indent}// - {json.dumps(example, ensure_ascii=False)}" for example in examples]
    mark = f"{indent}{name}{'' if required else '?'}:"
    default = _default(schema)
    if is_union:
        if default:
            lines.append(f"{indent}// default: {json.dumps(schema['default'], ensure_ascii=False)}")
        return [*lines, mark, *_variants(schema["oneOf"], indent, scope), f"{indent},"]
    text = _type(schema, indent + "    ", scope)
    if schema.get("nullable") and "null" not in text.split(" | "):
        text += " | null"
    return [*lines, f"{mark} {text},{f' // {default}' if default else ''}"]


def _variants(variants: list[Schema | bool], indent: str, scope: _Scope) -> list[str]:
    lines = []
    for variant in variants:
        if not isinstance(variant, Mapping):
            lines.append(f"{indent} | any")
            continue
        text = _type({k: v for k, v in variant.items() if k != "description"}, indent + "   ", scope)
        notes = [str(variant["description"])] if variant.get("description") else []
        notes += [default] if (default := _default(variant)) else []
        lines.append(f"{indent} | {text}{f' // {chr(32).join(notes)}' if notes else ''}")
    return lines


def _default(schema: Schema) -> str:
    if "default" not in schema:
        return ""
    value = schema["default"]
    bare = isinstance(value, str) and "enum" in schema
    return f"default: {value if bare else json.dumps(value, ensure_ascii=False, separators=(',', ':'))}"


def _reference(ref: str, indent: str, scope: _Scope) -> str:
    if ref in scope.open or ref in scope.recursive:
        name = ref.rstrip("/").rsplit("/", 1)[-1].lstrip("#") or "Self"
        return scope.recursive.setdefault(ref, name)
    target = _lookup(scope.root, ref)
    if target is None:
        return "any"
    scope.open.append(ref)
    text = _type(target, indent, scope)
    scope.open.pop()
    return scope.recursive.get(ref, text)


def _lookup(root: Schema, ref: str) -> Any:
    """What a local JSON pointer (`#/$defs/Node`) points to; None where there is nothing."""
    if not ref.startswith("#"):
        return None
    found: Any = root
    for part in ref[1:].strip("/").split("/") if ref not in ("#", "#/") else []:
        key = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, Mapping) or key not in found:
            return None
        found = found[key]
    return found
