"""Reading JSON that others wrote: a value is of the type that it must be, or HarmonyError names it.

Knows nothing of what the JSON means.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from gpt_oss.errors import HarmonyError

# Python's own limit is 1,000 calls, of which rendering a schema takes up to four for each level of its JSON.
DEEPEST = 64


Json: TypeAlias = Mapping[str, Any]  # an object of JSON


@dataclass(frozen=True)
class Kind:
    """A JSON type: how an error calls it, and Python's types of it."""

    name: str
    types: tuple[type, ...]

    def holds(self, value: object) -> bool:
        if isinstance(value, str):
            return str in self.types  # a string is a sequence as well
        return isinstance(value, self.types) and (not isinstance(value, bool) or bool in self.types)


STRING = Kind("a string", (str,))
LIST = Kind("a list", (Sequence,))
OBJECT = Kind("an object", (Mapping,))
BOOLEAN = Kind("true or false", (bool,))
NUMBER = Kind("a number", (int, float))
_KINDS = (STRING, LIST, OBJECT, BOOLEAN, NUMBER)


def kind_of(value: object) -> str:
    """What an error calls a value."""
    if value is None:
        return "null"
    return next((kind.name for kind in _KINDS if kind.holds(value)), type(value).__name__)


def shown(value: object) -> str:
    """A value in an error: a string as it is, cut where it is long; of anything else its kind."""
    return reprlib.repr(value) if isinstance(value, str) else kind_of(value)


def wanted(value: Any, kind: Kind, where: str) -> Any:
    """The value. Raises HarmonyError where it is of another kind."""
    if not kind.holds(value):
        raise HarmonyError(f"{where} must be {kind.name}, not {kind_of(value)}", field=where)
    return value


def needed(parent: Mapping[str, Any], key: str, kind: Kind, where: str) -> Any:
    """A field of `parent`, which `where` names. Raises HarmonyError where it is missing or of another kind."""
    if key not in parent:
        raise HarmonyError(f"{where} needs {key}, {kind.name}", field=f"{where}.{key}")
    return wanted(parent[key], kind, f"{where}.{key}")


def optional(parent: Mapping[str, Any], key: str, kind: Kind, where: str) -> Any:
    """A field of `parent`, None where it is missing or null. Raises HarmonyError where it is of another kind."""
    value = parent.get(key)
    return None if value is None else wanted(value, kind, f"{where}.{key}")


def not_too_deep(value: object, where: str) -> None:
    """Raises HarmonyError for JSON that recursive code could not walk."""
    rest = [(value, 0)]
    while rest:
        found, depth = rest.pop()
        if depth > DEEPEST:
            raise HarmonyError(f"{where} is nested more than {DEEPEST} deep", field=where)
        if isinstance(found, Mapping):
            rest += [(part, depth + 1) for part in found.values()]
        elif LIST.holds(found):
            assert isinstance(found, Sequence)
            rest += [(part, depth + 1) for part in found]


def not_json(value: object) -> str:
    """What JSON has no form for in a value by itself, though Python's reader lets it pass; empty where it is fine."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return "holds half of a surrogate pair, which is no text"
    elif isinstance(value, float) and not math.isfinite(value):
        return f"is {value}, which JSON has no number for"
    elif isinstance(value, int) and abs(value) >= 1 << 1023:
        return "is a number beyond what computers count with"
    elif value is not None and not any(kind.holds(value) for kind in _KINDS):
        return f"is of {type(value).__name__}, which JSON does not have"
    return ""
