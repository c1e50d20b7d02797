"""How much of a session a prefix cache has computed before: what a client that changes an early word costs.

`python -m tests.clients.table --reuse` prints it for every session of a coding agent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gpt_oss.backends.scripted import Call, ScriptedGenerator


@dataclass(frozen=True)
class Reuse:
    """Of one request's prompt: its tokens, and how many of them an earlier request's tokens begin with.

    follows: the request whose beginning it shares, by its number; None where there is none.
    """

    tokens: int
    shared: int
    follows: int | None


def reuse_of(calls: Sequence[Call]) -> list[Reuse]:
    """For each request of a session, in order. Earlier tokens are a prompt and its answer, as a cache keeps both."""
    known: list[list[int]] = []
    found = []
    for call in calls:
        lengths = [_common(call.prompt, earlier) for earlier in known]
        shared = max(lengths, default=0)
        follows = None if not shared else len(lengths) - 1 - lengths[::-1].index(shared)
        found.append(Reuse(len(call.prompt), shared, follows))
        known.append([*call.prompt, *call.delivered])
    return found


def told(found: Sequence[Reuse]) -> str:
    """The same in a line: all tokens but those of the first request, and the share of them that was known."""
    tokens, shared = sum(each.tokens for each in found[1:]), sum(each.shared for each in found[1:])
    share = f"{100 * shared / tokens:.1f} %" if tokens else "nothing to share"
    each = ", ".join(f"{one.shared}/{one.tokens}" for one in found)
    return f"{len(found)} requests, {shared} of {tokens} tokens known after the first: {share} ({each})"


class Sessions:
    """What some generators are asked in each session, of which `report` is told."""

    def __init__(self, generators: Sequence[ScriptedGenerator]) -> None:
        self._generators = generators
        self._starts: list[int] | None = None
        self._name = ""
        self.report: list[str] = []

    def begin(self, name: str) -> None:
        self.end()
        self._name, self._starts = name, [len(generator.calls) for generator in self._generators]

    def end(self) -> None:
        for generator, start in zip(self._generators, self._starts or [], strict=False):
            calls = generator.calls[start:]
            if calls:
                self.report.append(f"{self._name}: {told(reuse_of(calls))}")
        self._starts = None


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """The length of the longest beginning that both have."""
    most = min(len(one), len(other))
    if list(one[:most]) == list(other[:most]):
        return most
    low, high = 0, most  # the first `low` are alike, the first `high` are not
    while high - low > 1:
        middle = (low + high) // 2
        if list(one[low:middle]) == list(other[low:middle]):
            low = middle
        else:
            high = middle
    return low
