"""Which of several servers with the same model a prompt goes to: the one that has its beginning in its prefix cache.

Every server remembers here the blocks that it was sent; the longest beginning wins. Where none knows more than another,
rendezvous hashing of the first blocks decides, which gives the same server in every process and moves few prompts when
one is added. No server gets more than its share of what is running (consistent hashing with bounded loads), and one
that does not answer is left alone for a while. Knows nothing of HTTP. One event loop uses it, without locks.
"""

from __future__ import annotations

import hashlib
import time
from array import array
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

BLOCK_TOKENS = 64
FIRST_BLOCKS = 4  # decide where a prompt goes that nobody knows: system and developer message, the user's first words
MOST_BLOCKS = 1024  # of a prompt that are compared: 65,536 tokens
REMEMBERED = 65_536  # blocks of one server: a prefix cache of four million tokens, in a few MB here
SHARE = 1.25  # of the mean load, what one server may have
FEW = 4  # answers that any server computes at once, whatever the others do
AWAY_S = (2.0, 60.0)  # how long a server is left alone: at first, and at most


@dataclass
class Server:
    url: str
    running: int = 0
    away_until: float = 0.0
    failures: int = 0  # in a row
    blocks: OrderedDict[bytes, None] = field(default_factory=OrderedDict)

    def known(self, blocks: Sequence[bytes]) -> int:
        """How many blocks from the first on it was sent before."""
        return next((i for i, block in enumerate(blocks) if block not in self.blocks), len(blocks))


class Fleet:
    """urls: of the servers, each once."""

    def __init__(self, urls: Sequence[str], *, clock: Callable[[], float] = time.monotonic) -> None:
        self.servers = [Server(url) for url in dict.fromkeys(urls)]
        self._clock = clock

    def choose(self, prompt: Sequence[int], tried: Collection[str] = ()) -> Server | None:
        """The best of those whose URL is not among `tried`; those that are away come last. None when all were."""
        left = [server for server in self.servers if server.url not in tried]
        if len(left) <= 1:
            return left[0] if left else None
        blocks = _blocks(prompt)
        now = self._clock()
        most = SHARE * (sum(server.running for server in self.servers) + 1) / len(self.servers)

        def rank(server: Server) -> tuple[bool, bool, int, bytes]:
            full = server.running + 1 > max(FEW, most)
            return server.away_until > now, full, -server.known(blocks), _rendezvous(server.url, blocks[:FIRST_BLOCKS])

        return min(left, key=rank)

    @contextmanager
    def sent(self, server: Server, prompt: Sequence[int]) -> Iterator[None]:
        """While the server computes this prompt's answer."""
        if len(self.servers) > 1:
            for block in _blocks(prompt):
                server.blocks[block] = None
                server.blocks.move_to_end(block)
            while len(server.blocks) > REMEMBERED:
                server.blocks.popitem(last=False)
        server.running += 1
        try:
            yield
        finally:
            server.running -= 1

    def failed(self, server: Server) -> None:
        """Nobody is there: its cache is gone, and it is left alone, longer each time."""
        server.blocks.clear()
        server.failures += 1
        server.away_until = self._clock() + min(AWAY_S[1], AWAY_S[0] * 2 ** (server.failures - 1))

    def answered(self, server: Server) -> None:
        server.failures = 0
        server.away_until = 0.0


def _blocks(prompt: Sequence[int]) -> list[bytes]:
    """A hash for each whole block, of it and all that come before; of a prompt shorter than a block, that of all."""
    hashes: list[bytes] = []
    end = min(len(prompt), MOST_BLOCKS * BLOCK_TOKENS)
    for start in range(0, end - BLOCK_TOKENS + 1, BLOCK_TOKENS):
        before = hashes[-1] if hashes else b""
        hashes.append(_digest(before + array("i", prompt[start : start + BLOCK_TOKENS]).tobytes()))
    return hashes or [_digest(array("i", prompt).tobytes())]


def _rendezvous(url: str, blocks: Sequence[bytes]) -> bytes:
    return _digest(blocks[-1] + url.encode())


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=12).digest()
