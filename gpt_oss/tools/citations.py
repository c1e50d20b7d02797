"""Citations in an answer, `【3†L9-L11】`, found as the text streams; what may become one is held back until whole.

The mark is what the models were trained to write (shared by every page-reading tool): a cursor, `†`, a line or a range
of lines. A mark that is never closed, or whose cursor is unknown, is ordinary text and loses nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

OPEN, CLOSE = "【", "】"
_WHOLE = re.compile(r"【(?P<cursor>\d{1,6})†L(?P<first>\d{1,7})(?:-L?(?P<last>\d{1,7}))?】")
# Every beginning of a whole mark; anything else is text at once.
_PART = re.compile(r"【(\d{0,6}|\d{1,6}†(L(\d{1,7}(-(L?\d{0,7})?)?)?)?)\Z")


@dataclass(frozen=True)
class Source:
    title: str
    url: str


@dataclass(frozen=True)
class Citation:
    """start, end: offsets in characters of the mark in the answer's whole text. Lines as the page was numbered."""

    text: str
    cursor: int
    first_line: int
    last_line: int
    source: Source
    start: int
    end: int


Piece: TypeAlias = str | Citation


class CitationReader:
    """Push an answer's text piece by piece; text comes out in order, each whole citation right behind its mark's text.

    resolve: the page that a cursor shows, or None where there is no such page.
    """

    def __init__(self, resolve: Callable[[int], Source | None]) -> None:
        self._resolve = resolve
        self._held = ""
        self._position = 0

    def push(self, text: str) -> list[Piece]:
        self._held += text
        return self._take(final=False)

    def finish(self) -> list[Piece]:
        """The end of the answer: what was held back is text."""
        return self._take(final=True)

    def _take(self, *, final: bool) -> list[Piece]:
        out: list[Piece] = []
        while self._held:
            start = self._held.find(OPEN)
            if start < 0:
                self._emit(len(self._held), out)
                break
            self._emit(start, out)
            whole = _WHOLE.match(self._held)
            if whole:
                self._emit(whole.end(), out)
                self._cite(whole, out)
            elif _PART.match(self._held) and not final:
                break
            else:
                self._emit(1, out)
        return out

    def _emit(self, count: int, out: list[Piece]) -> None:
        if not count:
            return
        text, self._held = self._held[:count], self._held[count:]
        self._position += count
        if out and isinstance(out[-1], str):
            out[-1] += text
        else:
            out.append(text)

    def _cite(self, mark: re.Match[str], out: list[Piece]) -> None:
        source = self._resolve(int(mark["cursor"]))
        if source is None:
            return
        first = int(mark["first"])
        last = int(mark["last"] or first)
        end = self._position
        out.append(Citation(mark[0], int(mark["cursor"]), first, max(first, last), source, end - len(mark[0]), end))
