"""Drafts without a draft model: what followed the last three tokens when they came before (prompt lookup).

A draft is only ever a guess: the engine draws every position from the model's own logits and keeps drafted tokens while
they equal the draws, so the answer is the one that would have come without. What speculation costs is time, and it is
used where it pays: verifying k tokens costs about 1 + COST * k single steps on a mixture of experts (each token brings
experts of its own), and gives (1 - a^(k + 1)) / (1 - a) tokens when each is right with probability a.
"""

from __future__ import annotations

from collections.abc import Sequence

NGRAM = 3
MAX_DRAFT = 12
COST = 0.25  # measured on the cpu backend, 20b: 2, 4, 8 tokens cost 1.3, 1.9, 2.9 steps
SMOOTHING = 0.15  # of the acceptance rate, a draft's weight


class Drafter:
    """Drafts for one sequence. Everything is O(1) a token."""

    def __init__(self) -> None:
        self._last: dict[tuple[int, ...], int] = {}  # an n-gram's latest end: the index of the token behind it
        self._indexed = NGRAM - 1
        self._found: int | None = None  # where the last n-gram's earlier occurrence ended
        self._acceptance = 0.6

    def draft(self, tokens: Sequence[int], limit: int) -> list[int]:
        """At most `limit` tokens that may follow `tokens`."""
        source = self._index(tokens)
        if source is None:
            return []
        length = min(limit, self._best_length())
        guess: list[int] = []
        for at in range(source, source + length):  # may run on into the guess itself: a loop repeats
            guess.append(tokens[at] if at < len(tokens) else guess[at - len(tokens)])
        return guess

    def learn(self, drafted: int, accepted: int) -> None:
        """Of `drafted` tokens, the first `accepted` were right."""
        tried = min(drafted, accepted + 1)
        for i in range(tried):
            right = 1.0 if i < accepted else 0.0
            self._acceptance += SMOOTHING * (right - self._acceptance)

    def _index(self, tokens: Sequence[int]) -> int | None:
        """Take in new tokens; where the sequence's last n-gram stood before, the index of what followed it."""
        for end in range(self._indexed + 1, len(tokens) + 1):
            key = tuple(tokens[end - NGRAM : end])
            self._found = self._last.get(key)
            self._last[key] = end
        self._indexed = max(self._indexed, len(tokens))
        return self._found

    def _best_length(self) -> int:
        """The length that gives the most tokens for the time; 0 where not drafting does."""
        best, best_rate = 0, 1.0
        expected, chance = 1.0, 1.0
        for length in range(1, MAX_DRAFT + 1):
            chance *= self._acceptance
            expected += chance
            rate = expected / (1 + COST * length)
            if rate > best_rate:
                best, best_rate = length, rate
        if best == 0:
            self._acceptance += 0.002  # so that a later passage gets another try
        return best
