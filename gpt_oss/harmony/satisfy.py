"""Whether anything can meet a rewritten schema, how deep it goes, and what of it makes no grammar."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gpt_oss.harmony.guidance import fault_of
from gpt_oss.harmony.rewrite import Left, Rewriter, at

Schema = Mapping[str, Any]

_MOST_CHECKS = 400  # of a schema that fails as a whole, in search of the part that does


_WITHIN = ("properties", "patternProperties", "additionalProperties", "items", "prefixItems", "anyOf", "allOf")


def _parts(schema: Schema, place: str) -> Iterable[tuple[Any, str]]:
    """The schemas within a rewritten schema, in its order, and their places."""
    for key in schema:
        if key in ("properties", "patternProperties"):
            yield from ((part, at(at(place, key), name)) for name, part in schema[key].items())
        elif key in ("prefixItems", "anyOf", "allOf"):
            yield from ((part, at(place, f"{key}[{i}]")) for i, part in enumerate(schema[key]))
        elif key in _WITHIN:
            yield schema[key], at(place, key)


def depth(root: Schema) -> int:
    """How deep schemas lie inside schemas, as llguidance walks them: into a definition where it first meets it."""
    seen: set[str] = set()
    deepest = 0
    walk = [_next_ones(root, root, seen)]
    while walk:
        part = next(walk[-1], None)
        if part is None:
            walk.pop()
        elif isinstance(part, Mapping):
            walk.append(_next_ones(part, root, seen))
            deepest = max(deepest, len(walk))
    return deepest


def _next_ones(schema: Schema, root: Schema, seen: set[str]) -> Iterator[Any]:
    yield from (part for part, _ in _parts(schema, ""))
    ref = schema.get("$ref")
    if ref is not None and ref not in seen:
        seen.add(ref)
        yield root if ref == "#" else root["$defs"][ref.removeprefix("#/$defs/")]


def finish(root: dict[str, Any]) -> bool:
    """Whether some JSON that ends may fit a schema. Definitions that none can fit are replaced by false."""
    definitions = root.get("$defs", {})
    able: set[str] = set()
    grows = True
    while grows:
        found = {f"#/$defs/{name}" for name, part in definitions.items() if _canfinish(part, able)}
        found |= {"#"} if _canfinish(root, able) else set()
        grows, able = found > able, able | found
    if "#" in able:
        _bury(root, {name for name in definitions if f"#/$defs/{name}" not in able})
    return "#" in able


def bury_unmet(root: dict[str, Any]) -> None:
    """Makes every reference to a definition that nothing can meet say so where it stands, where it may be optional."""
    definitions = root.get("$defs", {})
    _bury(root, {name for name, part in definitions.items() if _cannot_be(part, root)})


def _bury(root: dict[str, Any], dead: set[str]) -> None:
    for name in dead:
        del root["$defs"][name]
    rest: list[Any] = [root, *root.get("$defs", {}).values()]
    while rest:
        part = rest.pop()
        if isinstance(part, dict):
            if part.get("$ref", "").removeprefix("#/$defs/") in dead:
                part.clear()
                part["enum"] = []
            rest += [inner for inner, _ in _parts(part, "")]


def _canfinish(schema: Any, able: set[str]) -> bool:
    """Whether a schema is met by something that ends where the references in `able` are. When in doubt it is."""
    if not isinstance(schema, Mapping):
        return schema is not False
    if "$ref" in schema and schema["$ref"] not in able:
        return False
    if "anyOf" in schema and not any(_canfinish(part, able) for part in schema["anyOf"]):
        return False
    if not all(_canfinish(part, able) for part in schema.get("allOf", ())):
        return False
    if schema.get("type") == "object":
        properties = schema.get("properties", {})
        return all(_canfinish(properties[n], able) for n in schema.get("required", ()) if n in properties)
    if schema.get("type") == "array":
        first = schema.get("prefixItems", [])
        needed = [*first, *([schema.get("items", True)] * (schema.get("minItems", 0) > len(first)))]
        return all(_canfinish(part, able) for part in needed[: schema.get("minItems", 0)])
    return True


def contradiction(root: Schema, places: Mapping[str, str]) -> str:
    """The place of the innermost part that nothing can meet, though its surroundings need it."""
    node, place = root, ""
    for _ in range(_MOST_CHECKS):
        inner = [*_needed(node, place)]
        if node.get("$ref", "#") != "#":
            name = node["$ref"].removeprefix("#/$defs/")
            inner.append((root["$defs"][name], places[name]))
        found = next((pair for pair in inner if _cannot_be(pair[0], root)), None)
        if found is None:
            break
        place = found[1]
        if not isinstance(found[0], Mapping):
            break
        node = found[0]
    return place


def _cannot_be(schema: Any, root: Schema) -> bool:
    if not isinstance(schema, Mapping):
        return schema is False
    fault = fault_of({**schema, "$defs": root.get("$defs", {})})
    return fault is not None and unmet(fault)


def _needed(schema: Schema, place: str) -> Iterable[tuple[Any, str]]:
    """The parts of a schema that what fits it must fit, or have a part that does."""
    properties = schema.get("properties", {})
    base = at(place, "properties")
    yield from ((properties[name], at(base, name)) for name in schema.get("required", ()) if name in properties)
    yield from ((part, at(place, f"allOf[{i}]")) for i, part in enumerate(schema.get("allOf", ())))
    if schema.get("minItems", 0) > len(schema.get("prefixItems", ())) and "items" in schema:
        yield schema["items"], at(place, "items")


@dataclass
class Widener:
    """Leaves out of a rewritten schema what llguidance cannot make a grammar of, as little as it can find.

    schema: the rewritten schema, which is changed.
    rewriter: what it comes from, and where what is left out is written down.
    """

    schema: dict[str, Any]
    rewriter: Rewriter
    checks: int = _MOST_CHECKS

    def widened(self) -> dict[str, Any]:
        while self.checks > 0 and self._fails(self.schema):
            node, place = self._smallest(self.schema, "", frozenset())
            self._loosen(node, place)
        if self.checks > 0:
            return self.schema
        self.rewriter.left.append(Left("", "all but the type, for it is too complex"))
        return _only_type(self.schema)

    def _fails(self, node: Any) -> bool:
        self.checks -= 1
        if not isinstance(node, Mapping):
            return False
        fault = fault_of({**node, "$defs": self.schema.get("$defs", {})})
        return fault is not None and not unmet(fault)

    def _smallest(self, node: dict[str, Any], place: str, seen: frozenset[int]) -> tuple[dict[str, Any], str]:
        """A part that fails by itself, though none of its own parts does, and its place."""
        seen |= {id(node)}
        for inner, its_place in self._inner(node, place):
            if isinstance(inner, dict) and id(inner) not in seen and self._fails(inner):
                return self._smallest(inner, its_place, seen)
        return node, place

    def _inner(self, node: dict[str, Any], place: str) -> Iterable[tuple[Any, str]]:
        yield from _parts(node, place)
        name = node.get("$ref", "#").removeprefix("#/$defs/")
        if name != "#":
            yield self.schema["$defs"][name], self.rewriter.places[name]

    def _loosen(self, node: dict[str, Any], place: str) -> None:
        """Drops from a part what stands next to a reference, or the first keyword without which it does not fail, or
        all but its type."""
        others = [key for key in node if key not in ("$ref", "$defs")]
        if "$ref" in node and others:
            self.rewriter.left.append(Left(place, f"{', '.join(others)} next to a $ref"))
            for key in others:
                del node[key]
            return
        for key in (key for key in reversed(node) if key not in ("type", "properties", "required", "items", "$defs")):
            dropped = {key, "additionalProperties"} if key == "patternProperties" else {key}
            if not self._fails({k: v for k, v in node.items() if k not in dropped}):
                for gone in dropped & node.keys():
                    del node[gone]
                self.rewriter.left.append(Left(place, f"{key}, which is too complex"))
                return
        kept = _only_type(node)
        self.rewriter.left.append(Left(place, "all but the type, for it is too complex"))
        for key in [key for key in node if key not in kept and key != "$defs"]:
            del node[key]


def _only_type(schema: Schema) -> dict[str, Any]:
    return {"type": schema["type"]} if "type" in schema else {}


def unmet(fault: str) -> bool:
    """Whether what llguidance says of a schema is that nothing can meet it."""
    return "nsatisfiable" in fault
