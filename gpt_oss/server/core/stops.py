"""Stop texts: what of an answer may be sent while one of them could still begin in it. Linear in its length."""

from __future__ import annotations

from collections.abc import Sequence

MOST = 16
LONGEST = 1000  # characters


class StopTexts:
    """Reads an answer piece by piece and finds the stop text in it that ends first (Aho and Corasick, 1975).

    stops: the texts, none of them empty. found: the one that was found.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self.found: str | None = None
        self._next: list[dict[str, int]] = [{}]  # state: character: state
        self._fallback = [0]
        self._depth = [0]
        self._ends: list[str | None] = [None]  # the longest stop text that a state ends in
        for stop in stops:
            self._add(stop)
        self._link()
        self._state = 0
        self._held = ""

    def _add(self, stop: str) -> None:
        state = 0
        for character in stop:
            if character not in self._next[state]:
                self._next[state][character] = len(self._next)
                self._next.append({})
                self._depth.append(self._depth[state] + 1)
                self._fallback.append(0)
                self._ends.append(None)
            state = self._next[state][character]
        self._ends[state] = stop

    def _link(self) -> None:
        """Gives each state the longest other one whose text its own text ends in."""
        row = list(self._next[0].values())
        while row:
            state = row.pop(0)
            for character, after in self._next[state].items():
                self._fallback[after] = self._step(self._fallback[state], character)
                self._ends[after] = self._ends[after] or self._ends[self._fallback[after]]
                row.append(after)

    def _step(self, state: int, character: str) -> int:
        while state and character not in self._next[state]:
            state = self._fallback[state]
        return self._next[state].get(character, 0)

    def push(self, text: str) -> str:
        """What may be sent now; nothing after a stop text was found."""
        if self.found is not None:
            return ""
        if len(self._next) == 1:  # there are none
            return text
        held = self._held + text
        for number, character in enumerate(text, len(self._held) + 1):
            self._state = self._step(self._state, character)
            stop = self._ends[self._state]
            if stop is not None:
                self.found, self._held = stop, ""
                return held[: number - len(stop)]
        keep = self._depth[self._state]
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def release(self) -> str:
        """What is still held back, at the end of a message; the next one begins afresh."""
        held, self._held, self._state = self._held, "", 0
        return held
