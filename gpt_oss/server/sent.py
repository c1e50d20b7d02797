"""How much of a prompt its sender has sent before, or was answered: what they may be told of the prefix cache.

The cache is one for all keys. How many of a prompt's tokens it had would tell one key what another has asked; so a key
is told of no more tokens than it has sent itself. Kept are hashes of beginnings, one for every block of tokens.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import replace

from gpt_oss.backends.base import SampledToken

BLOCK = 16  # tokens: what is left of a whole number of blocks is not counted
MOST = 1 << 18  # beginnings, which are four million tokens


class Sent:
    """Beginnings by their hashes, of all senders; those not sent for longest are forgotten. most: beginnings."""

    def __init__(self, most: int = MOST) -> None:
        self._hashes: OrderedDict[bytes, None] = OrderedDict()
        self._most = most

    def add(self, whose: str, tokens: Sequence[int]) -> int:
        """Notes what this sender has sent, and gives how many of the first tokens they had sent before."""
        known, is_known = 0, True
        for each in _beginnings(whose, tokens):
            is_known = is_known and each in self._hashes
            known += BLOCK * is_known
            self._hashes[each] = None
            self._hashes.move_to_end(each)
        while len(self._hashes) > self._most:
            self._hashes.popitem(last=False)
        return known


def _beginnings(whose: str, tokens: Sequence[int]) -> Iterator[bytes]:
    raw = array("i", tokens).tobytes()
    size = BLOCK * array("i").itemsize
    running = hashlib.blake2b(whose.encode(errors="surrogatepass"), digest_size=16)
    for first in range(0, len(raw) - size + 1, size):
        running.update(raw[first : first + size])
        yield running.digest()


class Known:
    """One sender's rounds: what they are told of the cache. whose: "" is told everything."""

    def __init__(self, sent: Sent, whose: str) -> None:
        self._sent = sent
        self._whose = whose
        self._tokens: list[int] = []
        self._length = 0

    def prompt(self, tokens: Sequence[int]) -> None:
        """A round begins."""
        self.end()
        if self._whose:
            self._tokens = list(tokens)
            self._length = self._sent.add(self._whose, tokens)

    def sampled(self, token: SampledToken) -> SampledToken:
        """The token as its sender may see it."""
        if not self._whose:
            return token
        self._tokens.append(token.id)
        if token.cached_tokens <= self._length:
            return token
        return replace(token, cached_tokens=self._length)

    def end(self) -> None:
        """The round is over: its prompt and what was sampled have been seen."""
        if self._tokens:
            self._sent.add(self._whose, self._tokens)
            self._tokens = []
