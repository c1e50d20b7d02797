"""Bodies of requests, as JSON that the rest of the server can trust: finite numbers, text that is text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias

import numpy as np
import pydantic
from starlette.requests import Request

from gpt_oss.server.core.aside import aside
from gpt_oss.server.core.errors import RequestError

Json: TypeAlias = dict[str, Any]
DEEPEST = 200  # levels of lists and objects
AT_ONCE = 20_000  # characters, or bytes: some milliseconds of parsing
MOST_CONTAINERS = 100_000
MOST_VALUES = 1_000_000  # of lists and objects together: a prompt of token ids has a hundred thousand
MOST_ITEMS = 20_000  # messages; more than the longest context has room for
MOST_TOOLS = 2_000
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_SURROGATE = re.compile("[\ud800-\udfff]")


async def read_json(request: Request) -> Any:
    """The body of a request. Raises RequestError for what is no JSON."""
    return await parsed(await request.body())


async def parsed(raw: bytes | str) -> Any:
    """See `parse_json`; a long text is read on a thread."""
    if len(raw) <= AT_ONCE:
        return parse_json(raw)
    return await aside(lambda: parse_json(raw))


async def read_object(request: Request) -> Json:
    """The body of a request, where it is an object; an empty body is an empty one. Raises RequestError."""
    raw = await request.body()
    found = await parsed(raw) if raw.strip() else {}
    if not isinstance(found, dict):
        raise RequestError("the body must be an object")
    return found


def parse_json(raw: bytes | str) -> Any:
    """The value of a JSON text. Lone surrogates in its strings become U+FFFD.

    Raises RequestError for what is no JSON, NaN and infinities, integers too long, nesting too deep, and too many
    values.
    """
    _not_too_many(raw)
    try:
        text = raw if isinstance(raw, str) else raw.decode("utf-8-sig")
        found = json.loads(text, parse_constant=_no_number, parse_float=_finite)
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are
        raise RequestError(f"the body is not valid JSON: {_reason(error)}") from None
    return _checked(found, replace="\\u" in text or _SURROGATE.search(text) is not None)


def _not_too_many(raw: bytes | str) -> None:
    """Raises RequestError, before anything is parsed, where a text has so many values that parsing them would hold up
    everybody: thirty megabytes of `[],[],` take seventeen seconds and 765 MB, those of one string a tenth of a second.
    """
    if len(raw) <= MOST_CONTAINERS or not _has_too_many(raw):
        return
    data = raw.encode("utf-8", "surrogatepass") if isinstance(raw, str) else raw
    if _has_too_many(_outside_strings(data)):
        sentence = f"the body has more than {MOST_CONTAINERS:,} objects and lists, or {MOST_VALUES:,} values"
        raise RequestError(sentence, status=413)


def _has_too_many(text: bytes | str) -> bool:
    # Counting a character of a text is done at gigabytes a second.
    if isinstance(text, str):
        opened, parted = text.count("[") + text.count("{"), text.count(",")
    else:
        opened, parted = text.count(b"[") + text.count(b"{"), text.count(b",")
    return opened > MOST_CONTAINERS or parted > MOST_VALUES


def _outside_strings(data: bytes) -> bytes:
    """What of a JSON text stands outside its strings, quotes included."""
    plain = np.frombuffer(data.replace(b"\\\\", b"").replace(b'\\"', b""), np.uint8)
    within = np.cumsum(plain == ord('"'), dtype=np.uint8) & 1
    outside: bytes = plain[within == 0].tobytes()
    return outside


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:20]} is out of range")
    return number


def _reason(error: ValueError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is no UTF-8"
    if "Exceeds the limit" in str(error):
        return "an integer has too many digits"
    return str(error)


def _too_deep() -> RequestError:
    return RequestError(f"the body is nested more than {DEEPEST} deep")


def _checked(value: Any, *, replace: bool) -> Any:
    """The value, with its strings mended where `replace`. Raises RequestError where it is nested too deep."""
    whole = [value]
    rest: list[tuple[Any, Any, int]] = [(whole, 0, 0)]
    while rest:
        parent, key, depth = rest.pop()
        part = parent[key]
        if depth > DEEPEST:
            raise _too_deep()
        if isinstance(part, str):
            if replace:
                parent[key] = mended(part)
        elif isinstance(part, list):
            rest += [(part, number, depth + 1) for number in range(len(part))]
        elif isinstance(part, dict):
            if replace and any(_SURROGATE.search(name) for name in part):
                part = parent[key] = {mended(name): inner for name, inner in part.items()}
            rest += [(part, name, depth + 1) for name in part]
    return whole[0]


def mended(text: str) -> str:
    """The text with U+FFFD in place of each surrogate that is half of nothing."""
    if not _SURROGATE.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


# Fail fast: a hundred thousand errors, of which one is told, take seconds to put together.
Items: TypeAlias = Annotated[list[Json], pydantic.Field(max_length=MOST_ITEMS, fail_fast=True)]
Tools: TypeAlias = Annotated[list[Json], pydantic.Field(max_length=MOST_TOOLS, fail_fast=True)]


class Fields:
    """An object of a request, read field by field with the type that each has.

    `text`, `object` and `objects` raise RequestError, which names the field, for another type than theirs; null is no
    value. `word`, `inner` and `flag` give nothing then: what stands in a history is no reason to lose a session.

    value: the object. where: its place in the request.
    """

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, Mapping):
            raise RequestError(f"{where} must be an object", param=where)
        self.value: Mapping[str, Any] = value
        self.where = where

    def __contains__(self, name: str) -> bool:
        return name in self.value

    def __getitem__(self, name: str) -> Any:
        """The field as it is; None where it is missing."""
        return self.value.get(name)

    @property
    def kind(self) -> str:
        """Its `type`; "" where it has none."""
        return self.word("type")

    def at(self, name: str) -> str:
        """The place of a field."""
        return f"{self.where}.{name}"

    def refuse(self, name: str, what: str) -> RequestError:
        """The error of a field that is not what it must be."""
        return RequestError(f"{self.at(name)} {what}", param=self.at(name))

    def text(self, name: str) -> str:
        found = self[name]
        if found is not None and not isinstance(found, str):
            raise self.refuse(name, "must be a string")
        return found or ""

    def object(self, name: str) -> Fields | None:
        found = self[name]
        if found is not None and not isinstance(found, Mapping):
            raise self.refuse(name, "must be an object")
        return Fields(found, self.at(name)) if found else None

    def objects(self, name: str) -> list[Fields]:
        found = self[name]
        if found is None:
            return []
        if not isinstance(found, list):
            raise self.refuse(name, "must be a list")
        return [Fields(each, f"{self.at(name)}[{number}]") for number, each in enumerate(found)]

    def word(self, *names: str) -> str:
        """The first of these fields that is a string and says something."""
        return next((found for name in names if isinstance(found := self[name], str) and found), "")

    def inner(self, name: str) -> Fields:
        """The object in a field; an empty one where there is none."""
        found = self[name]
        return Fields(found if isinstance(found, Mapping) else {}, self.at(name))

    def inners(self, name: str) -> list[Fields]:
        """The objects in a field that is a list of them; others are left out."""
        found = self[name]
        listed = found if isinstance(found, list) else []
        return [Fields(each, self.at(name)) for each in listed if isinstance(each, Mapping)]

    def flag(self, name: str) -> bool:
        return self[name] is True
