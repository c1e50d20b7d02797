"""Bodies of requests, as JSON that the rest of the server can trust: finite numbers, text that is text."""

from __future__ import annotations

import json
import re
from typing import Any, TypeAlias

from starlette.requests import Request

from gpt_oss.server.core.errors import RequestError

Json: TypeAlias = dict[str, Any]
DEEPEST = 200  # levels of lists and objects
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_SURROGATE = re.compile("[\ud800-\udfff]")


async def read_json(request: Request) -> Any:
    """The body of a request. Raises RequestError for what is no JSON."""
    return parse_json(await request.body())


async def read_object(request: Request) -> Json:
    """The body of a request, where it is an object; an empty body is an empty one. Raises RequestError."""
    raw = await request.body()
    found = parse_json(raw) if raw.strip() else {}
    if not isinstance(found, dict):
        raise RequestError("the body must be an object")
    return found


def parse_json(raw: bytes | str) -> Any:
    """The value of a JSON text. Lone surrogates in its strings become U+FFFD.

    Raises RequestError for what is no JSON, NaN and infinities, integers too long, and nesting too deep.
    """
    try:
        text = raw if isinstance(raw, str) else raw.decode("utf-8-sig")
        found = json.loads(text, parse_constant=_no_number, parse_float=_finite)
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are
        raise RequestError(f"the body is not valid JSON: {_reason(error)}") from None
    return _checked(found, replace="\\u" in text or _SURROGATE.search(text) is not None)


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
