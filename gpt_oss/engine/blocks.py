"""Cache blocks: who holds which, and what may be used again. Knows token ids and block numbers, no model.

A full block's name is a digest of all tokens up to its end (chained), so equal names mean equal contents. Blocks that
nobody holds and that have a name stay cached until their room is needed, the least recently used first.

Layers with a sliding window have a pool of their own. A sequence gives their blocks back once its window has passed
them. They are kept for reuse around resume points only: the ends of prompts and of requests, where the next turn goes
on, and every RESUME_STRIDE tokens, for prompts that share only their beginning.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from gpt_oss.backends.base import FREED, Int32

RESUME_STRIDE = 1024  # tokens; a window of 128 every 1024 costs an eighth of keeping all
SLACK_BLOCKS = 2  # kept before a resume point as well: a next prompt may part from this one a little earlier


class BlockPool:
    """Physical blocks 0 .. size - 1, each free, held by some sequences, or cached under its name."""

    def __init__(self, size: int) -> None:
        self._free = list(range(size - 1, -1, -1))
        self._holders = [0] * size
        self._names: list[bytes | None] = [None] * size
        self._by_name: dict[bytes, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()  # cached and held by nobody, least recently used first

    @property
    def available(self) -> int:
        """Blocks that `take` could hand out, cached ones included."""
        return len(self._free) + len(self._idle)

    def take(self) -> int:
        """A block with nothing in it, held once. The caller has checked `available`."""
        if self._free:
            block = self._free.pop()
        else:
            block, _ = self._idle.popitem(last=False)
            self._forget(block)
        self._holders[block] = 1
        return block

    def __contains__(self, name: bytes) -> bool:
        return name in self._by_name

    def hold(self, name: bytes) -> int:
        """The block that is cached under `name`, held once more."""
        block = self._by_name[name]
        self._holders[block] += 1
        self._idle.pop(block, None)
        return block

    def publish(self, block: int, name: bytes) -> None:
        """Offer a held block, now complete, for reuse. Where the name is taken, the first block keeps it."""
        if self._names[block] is None and name not in self._by_name:
            self._names[block] = name
            self._by_name[name] = block

    def release(self, block: int) -> None:
        self._holders[block] -= 1
        assert self._holders[block] >= 0
        if self._holders[block] == 0:
            if self._names[block] is None:
                self._free.append(block)
            else:
                self._idle[block] = None

    def cached(self) -> list[tuple[bytes, int]]:
        """(name, block) of every idle cached block, least recently used first."""
        return [(name, block) for block in self._idle if (name := self._names[block]) is not None]

    def held(self) -> int:
        return sum(count > 0 for count in self._holders)

    def _forget(self, block: int) -> None:
        name = self._names[block]
        if name is not None:
            self._names[block] = None
            del self._by_name[name]


@dataclass
class Lease:
    """One sequence's blocks. `computed` tokens have their keys and values in them."""

    blocks: list[int] = field(default_factory=list)
    window_blocks: list[int] = field(default_factory=list)
    names: list[bytes] = field(default_factory=list)  # of the full blocks of tokens[: computed]
    computed: int = 0
    passed: int = 0  # window blocks before this index were given back


class PagedCache:
    """Leases over the two pools of one model, and the prefix cache that lives in them. One thread at a time."""

    def __init__(self, size: int, window_size: int, block_tokens: int, window: int, salt: bytes = b"") -> None:
        self.full = BlockPool(size)
        self.windowed = BlockPool(window_size)
        self.block_tokens = block_tokens
        self._window = window
        self._root = hashlib.blake2b(salt, digest_size=16).digest()

    def open(self, tokens: Sequence[int]) -> Lease:
        """A lease on the longest cached prefix of `tokens`; the last token is always left to compute."""
        lease = Lease()
        names: list[bytes] = []
        for index in range((len(tokens) - 1) // self.block_tokens):
            name = self._name(names[-1] if names else self._root, tokens, index)
            if name not in self.full:
                break
            names.append(name)
        count = next((n for n in range(len(names), 0, -1) if self._window_is_cached(names, n)), 0)
        first = self._first_seen(count * self.block_tokens)
        lease.blocks = [self.full.hold(name) for name in names[:count]]
        lease.window_blocks = [FREED] * first + [self.windowed.hold(name) for name in names[first:count]]
        lease.names = names[:count]
        lease.computed = count * self.block_tokens
        lease.passed = first
        return lease

    def has_room(self, lease: Lease, end: int, *, spare: int) -> bool:
        """Whether the lease could grow to position `end` and leave `spare` blocks of each pool to others."""
        missing = max(0, -(-end // self.block_tokens) - len(lease.blocks))
        at_once = 2 * self._window // self.block_tokens + SLACK_BLOCKS  # of a windowed layer, if cut into small pieces
        return missing + spare <= self.full.available and min(missing, at_once) + spare <= self.windowed.available

    def extend(self, lease: Lease, end: int) -> bool:
        """Make room up to position `end`; False, and nothing done, where a pool has too few blocks."""
        missing = max(0, -(-end // self.block_tokens) - len(lease.blocks))
        if missing > min(self.full.available, self.windowed.available):
            return False
        lease.blocks += [self.full.take() for _ in range(missing)]
        lease.window_blocks += [self.windowed.take() for _ in range(missing)]
        return True

    def tables(self, lease: Lease, position: int, end: int) -> tuple[Int32, Int32]:
        """Block tables for computing positions position .. end - 1."""
        count = -(-end // self.block_tokens)
        window_blocks = np.array(lease.window_blocks[:count], np.int32)
        window_blocks[: self._first_seen(position)] = FREED
        return np.array(lease.blocks[:count], np.int32), window_blocks

    def advance(self, lease: Lease, tokens: Sequence[int], computed: int, prompt_length: int) -> None:
        """`computed` tokens now lie in the cache for good: name full blocks, and let passed window blocks go."""
        for index in range(len(lease.names), computed // self.block_tokens):
            name = self._name(lease.names[-1] if lease.names else self._root, tokens, index)
            lease.names.append(name)
            self.full.publish(lease.blocks[index], name)
        lease.computed = computed
        first = min(self._first_seen(computed), len(lease.names))
        for index in range(lease.passed, first):
            if self._near_resume_point(index, prompt_length):
                self.windowed.publish(lease.window_blocks[index], lease.names[index])
            self.windowed.release(lease.window_blocks[index])
            lease.window_blocks[index] = FREED
        lease.passed = max(lease.passed, first)

    def close(self, lease: Lease, *, keep: bool = True) -> None:
        """Give everything back. With `keep`, the end of the lease becomes a resume point."""
        for index, block in enumerate(lease.window_blocks):
            if block != FREED:
                if keep and index < len(lease.names):
                    self.windowed.publish(block, lease.names[index])
                self.windowed.release(block)
        for block in reversed(lease.blocks):  # so that a chain loses its end first
            self.full.release(block)
        lease.blocks, lease.window_blocks, lease.names, lease.computed, lease.passed = [], [], [], 0, 0

    def _first_seen(self, position: int) -> int:
        """Index of the first block that a token at `position` sees through the window."""
        return max(0, position - self._window + 1) // self.block_tokens

    def _window_is_cached(self, names: Sequence[bytes], count: int) -> bool:
        return all(name in self.windowed for name in names[self._first_seen(count * self.block_tokens) : count])

    def _near_resume_point(self, index: int, prompt_length: int) -> bool:
        end = (index + 1) * self.block_tokens
        prompt_end = prompt_length // self.block_tokens * self.block_tokens
        points = (-(-end // RESUME_STRIDE) * RESUME_STRIDE, prompt_end if prompt_end >= end else 0)
        reach = self._window + SLACK_BLOCKS * self.block_tokens
        return any(end <= point < end + reach for point in points)

    def _name(self, parent: bytes, tokens: Sequence[int], index: int) -> bytes:
        block = tokens[index * self.block_tokens : (index + 1) * self.block_tokens]
        return hashlib.blake2b(parent + np.asarray(block, np.int32).tobytes(), digest_size=16).digest()
