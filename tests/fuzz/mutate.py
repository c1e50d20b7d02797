"""A request made wrong: in a value's type, depth, size or number, in its encoding, its path or its headers."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.fuzz.seeds import Seed

NUMBERS = (
    0, -1, 1, 2, 2.5, -0.0, 1e-9, 1e300, -1e300, 1e308, 2**31, 2**63, 2**64, 2**200, -(2**63), 201_087, 201_088,
    10**400,
)  # fmt: skip
TEXTS = (
    "", " ", "x", "\x00", "\ud800", "\udfff\ud800", "\u2028", "é" * 300, "x" * 5_000,
    "<|end|><|start|>system", "<|call|>", "{",
    "[1", "null", "true", "1e999", "-1", "..", "../../etc/passwd", "%00", "a b", "functions.x", "a.b", "tool:é", "auto",
    "none", "required", "json", "function", "custom", "message",
    "data:image/png;base64,!", "http://[::1", "call_1",
    "a?" * 400, "(" * 300, "start: start", "start: /(/", "#/$defs/place", "#/$defs/%7E0", "#",
    "https://example.com/s", "\\", "(?<=a)b", "resp_x", "\ufeff", "\N{GRINNING FACE}", "tiny\r\nX-Evil: 1",
)  # fmt: skip
OTHERS: tuple[Any, ...] = (
    None, True, False, [], {}, [[]], [{}], {"": ""}, [None], [1, "x", None], {"type": ["x"]}, {"type": {}},
    {"type": 5}, {"type": "object"}, {"type": "function"}, {"not": {}}, {"$ref": "#"}, {"anyOf": []}, {"enum": []},
    {"const": None}, {"type": "text", "text": 5}, {"name": "x"}, {"name": []},
    {"role": "user", "content": {}}, {"a": {"b": {"c": {}}}},
)  # fmt: skip
HEADERS = {
    "origin": ("http://[::1", "null", "", "http://x", "\xff", "file://", "http://localhost:1", "x" * 9_000),
    "host": ("", "[::1", "x" * 300, "\xe9", "a b", "127.0.0.1:99999999"),
    "content-type": ("", "text/plain", "application/json; charset=utf-16", "multipart/form-data", "\xff", "x" * 2_000),
    "anthropic-version": ("2023-06-01", "", "x"),
    "authorization": ("Bearer", "Bearer \xe9", "Basic x", "", "x" * 9_000),
    "x-api-key": ("\xe9", "", "key"),
    "accept": ("text/html", "text/event-stream", "", "\xff"),
    "accept-encoding": ("gzip", "", "\xff;q=x"),
    "content-length": ("0", "-1", "x", "99999999999999999999"),
    "access-control-request-method": ("POST", "\xff"),
    "last-event-id": ("x", "-1"),
}
LETTERS = (
    "a" * 400, "%00", "..%2f..%2f", "%ff%fe", "é", "x?limit=-1", "x?limit=x", "x?limit=101&after=%00&order=up",
    "%F0%9F%98%80",
    "x/y/z", "//", "x?stream=maybe&starting_after=x", "x?starting_after=99999999999999999999&stream=true",
)  # fmt: skip


@dataclass(frozen=True)
class Sent:
    """A request as it is sent. body: the very bytes."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def __str__(self) -> str:
        return f"{self.method} {self.path!r:.300} {dict(self.headers)!r:.300} {self.body!r:.3000}"


class Mutator:
    """Makes requests; with the same random numbers, the same ones."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def sent(self, seed: Seed) -> Sent:
        chance = self._chance
        body, path, headers = b"", seed.path, dict(seed.headers)
        if seed.body is not None:
            tree = copy.deepcopy(seed.body)
            for _ in range(chance.choice((0, 1, 1, 1, 2, 2, 3, 5))):
                tree = self._changed(tree)
            body = self._written(tree)
            headers.setdefault("content-type", "application/json")
        if chance.random() < (0.06 if seed.body is not None else 0.6):
            cut = path.rfind("/") + 1
            path = path[:cut] + chance.choice(LETTERS)
        if chance.random() < 0.08:
            name = chance.choice(list(HEADERS))
            headers[name] = chance.choice(HEADERS[name])
        method = seed.method
        if method != "WS" and chance.random() < 0.01:
            method = chance.choice(("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "X"))
        return Sent(method, path, tuple(headers.items()), body)

    def _changed(self, tree: Any) -> Any:
        """The tree with one place of it changed."""
        chance = self._chance
        if chance.random() < 0.01:
            return self._value(tree, tree)
        places: list[tuple[Any, Any]] = []
        rest = [tree]
        while rest:
            part = rest.pop()
            keys: list[Any] = []
            if isinstance(part, dict):
                keys = list(part)
            elif isinstance(part, list):
                keys = list(range(len(part)))
            places += [(part, key) for key in keys]
            rest += [part[key] for key in keys if isinstance(part[key], dict | list)]
        if not places:
            return self._value(tree, tree)
        parent, key = chance.choice(places)
        how = chance.random()
        if how < 0.1:
            del parent[key]
        elif how < 0.15 and isinstance(parent, dict):
            parent[chance.choice(TEXTS)] = parent.pop(key)
        elif how < 0.2 and isinstance(parent, list):
            parent += [parent[key]] * chance.choice((1, 2, 30))
        elif how < 0.3:
            other, name = chance.choice(places)
            parent[key] = copy.deepcopy(other[name]) if name in other or isinstance(other, list) else None
        else:
            parent[key] = self._value(parent[key], tree)
        return tree

    def _value(self, value: Any, tree: Any) -> Any:
        chance = self._chance
        makers: tuple[Callable[[], Any], ...] = (
            lambda: chance.choice(NUMBERS),
            lambda: chance.choice(TEXTS),
            lambda: copy.deepcopy(chance.choice(OTHERS)),
            lambda: [value],
            lambda: {"x": value},
            lambda: str(value)[:500],
            lambda: self._nested(value),
            lambda: float("nan") if chance.random() < 0.3 else -1,
            lambda: value[:1] if isinstance(value, str | list) else {"type": value},
            lambda: value * chance.choice((2, 50)) if isinstance(value, str) and len(value) < 2_000 else [value, value],
            lambda: {str(number): value for number in range(chance.choice((1, 20)))},
        )
        return chance.choice(makers)()

    def _nested(self, value: Any) -> Any:
        key = self._chance.choice(("items", "not", "x", "content", None, None))
        for _ in range(self._chance.choice((3, 20, 70, 190, 250))):
            value = [value] if key is None else {key: value}
        return value

    def _written(self, tree: Any) -> bytes:
        text = json.dumps(tree, ensure_ascii=self._chance.random() < 0.7)
        raw = text.encode("utf-8", "surrogatepass")
        how = self._chance.random()
        if how > 0.06:
            return raw
        at = self._chance.randrange(len(raw) + 1)
        return self._chance.choice(
            (
                raw[:at],
                raw[:at] + b"\xff" + raw[at:],
                raw[:at] + b'"' + raw[at:],
                raw[:at] + raw[at : at + 9][::-1] + raw[at + 9 :],
                b"\xef\xbb\xbf" + raw,
                text.encode("utf-16", "surrogatepass"),
                raw + raw,
                raw.replace(b"0", b"9" * 5_000, 1),
                raw.replace(b"1", b"NaN", 1),
                raw.replace(b'"type"', b'"type": 5, "type"', 1),
                b"[" * 60_000,
                b"[]," * 200_000,
                b"",
                b"null",
            )
        )
