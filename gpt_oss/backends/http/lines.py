"""From the bytes of a response to its events: server-sent events, or a JSON object a line."""

from __future__ import annotations

import codecs
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Literal

LONGEST_LINE = 16 << 20  # characters: a line beyond it is no event of any server we know


class MalformedError(Exception):
    """What came is no event. The message shows its beginning."""


DONE = object()  # server-sent events end with [DONE]


async def events(chunks: AsyncIterator[bytes], framing: Literal["events", "lines"]) -> AsyncGenerator[Any, None]:
    """Each event's JSON, then DONE where the server says it. Raises MalformedError.

    A line that the connection cuts off is no event: whether that is a fault, the caller knows.
    """
    data: list[str] = []
    async for line in _lines(chunks):
        if framing == "lines":
            if line.strip():
                yield _parsed(line)
        elif line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif not line and data:  # an empty line ends an event
            text = "\n".join(data)
            data.clear()
            if text.strip() == "[DONE]":
                yield DONE
                return
            yield _parsed(text)
        elif line.startswith("{"):  # an error as plain JSON in the middle of events
            yield _parsed(line)
        # else: an event's name or id, or a comment that keeps the connection alive


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncGenerator[str, None]:
    """Whole lines, also where a chunk ends within a character."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    rest = ""
    async for chunk in chunks:
        *lines, rest = (rest + decoder.decode(chunk)).split("\n")
        for line in lines:
            yield line.removesuffix("\r")
        if len(rest) > LONGEST_LINE:
            raise MalformedError(_beginning(rest))
    if rest.startswith("data: [DONE]") or _is_object(rest):  # some leave out the last newline
        yield rest
        yield ""


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _parsed(text: str) -> dict[str, Any]:
    try:
        event = json.loads(text)
    except ValueError:
        raise MalformedError(_beginning(text)) from None
    if not isinstance(event, dict):
        raise MalformedError(_beginning(text))
    return event


def _beginning(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:80] + "…")
