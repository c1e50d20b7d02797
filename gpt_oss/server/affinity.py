"""Which replica should answer a request: the one that has its prompt's beginning in its cache, unless it is busy.

Pure: reads the JSON of requests and counts; knows nothing of Ray, of HTTP or of tokens. Prefixes are compared as text,
in blocks, which stands close enough for tokens: a wrong guess costs a prompt computed again, never a wrong answer.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

BLOCK_CHARACTERS = 512  # about 128 tokens: eight blocks of the engine's cache
MOST_BLOCKS = 8192  # remembered of a replica: about a million tokens, more than most caches hold
# What stands in the prompt before the messages, in every API that the server speaks.
BEFORE_MESSAGES = ("instructions", "system", "tools", "functions", "response_format", "text", "format")
MESSAGES = ("messages", "input", "prompt")


@dataclass(frozen=True)
class Affinity:
    """session: what requests of one conversation have in common. blocks: names of the prompt's beginnings, each of one
    block more. response: the id of a response that it follows or is about. pinned: only the replica that computes
    `response` can do it, busy or not."""

    session: str
    blocks: tuple[int, ...] = ()
    response: str | None = None
    pinned: bool = False


def affinity_of(method: str, path: str, body: bytes) -> Affinity:
    """The affinity of a request as it came in. What is no JSON object goes anywhere; the replica says what is wrong."""
    parts = path.strip("/").split("/")
    if len(parts) >= 3 and parts[1] == "responses" and parts[2].startswith("resp_"):
        return Affinity(parts[2], response=parts[2], pinned=True)
    if len(parts) >= 3 and parts[1] == "conversations":
        return Affinity(parts[2])
    asked = _asked(body) if method == "POST" else None
    return Affinity(f"{method} {path}") if asked is None else _of_prompt(asked)


def _asked(body: bytes) -> dict[str, Any] | None:
    """The object of a body; None where it is none."""
    try:
        asked = json.loads(body) if body else None
    except (ValueError, RecursionError):
        return None
    return asked if isinstance(asked, dict) else None


def _of_prompt(asked: Mapping[str, Any]) -> Affinity:
    head = [f"{name}:{_text(asked[name])}" for name in BEFORE_MESSAGES if asked.get(name)]
    given: Any = next((asked[name] for name in MESSAGES if asked.get(name)), [])
    if not isinstance(given, list) or all(isinstance(each, int) for each in given):  # one text, or token ids
        given = [given]
    messages = [_text(each) for each in given]
    response = _name(asked.get("previous_response_id"))
    named = _name(asked.get("prompt_cache_key")) or _conversation(asked.get("conversation")) or response
    opening = [*head, *_opening(given, messages)]
    return Affinity(named or _digest("\n".join(opening)), _blocks([*head, *messages]), response)


def _opening(given: Sequence[Any], messages: Sequence[str]) -> Sequence[str]:
    """The messages up to the first of a user: the same in every turn of a conversation, rarely in two of them."""
    of_users = (isinstance(message, dict) and message.get("role") == "user" for message in given)
    return messages[: next((number for number, is_it in enumerate(of_users, 1) if is_it), 1)]


def _blocks(parts: Iterable[str]) -> tuple[int, ...]:
    data = "\n".join(parts).encode(errors="replace")
    names = []
    running = hashlib.blake2b(digest_size=8)
    for end in range(BLOCK_CHARACTERS, len(data) + 1, BLOCK_CHARACTERS):
        running.update(data[end - BLOCK_CHARACTERS : end])
        names.append(int.from_bytes(running.digest(), "big"))
    return tuple(names)


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _name(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _conversation(value: object) -> str | None:
    return _name(value.get("id")) if isinstance(value, dict) else _name(value)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(errors="replace"), digest_size=16).hexdigest()


class Placement:
    """What was sent where, and where the next one goes. Of one router.

    A replica takes no more than `slack` times its fair share of what is under way (consistent hashing with bounded
    loads, Mirrokni et al. 2016, arXiv:1608.01350), or `spare` requests, whichever is more. Among those with room the
    one that answered before comes first, then the longest known beginning, then the rendezvous hash of the session:
    a router that knows nothing yet sends a conversation where any other router would.
    """

    def __init__(self, *, slack: float = 1.25, spare: int = 2) -> None:
        if slack < 1 or spare < 1:
            raise ValueError(f"slack and spare must be 1 or more, not {slack} and {spare}")
        self._slack = slack
        self._spare = spare
        self._blocks: dict[str, OrderedDict[int, None]] = {}

    def ranked(self, wanted: Affinity, loads: Mapping[str, int], home: str | None = None) -> list[str]:
        """Replicas in the order to try them. loads: requests under way by replica. home: the one that
        computed `wanted.response`, where it is known."""
        bound = max(self._spare, ceil(self._slack * (sum(loads.values()) + 1) / max(1, len(loads))))

        def order(replica: str) -> tuple[object, ...]:
            at_home = replica == home
            if wanted.pinned and at_home:
                return (False,)
            full = loads[replica] >= bound
            return (True, full, loads[replica] if full else 0, not at_home, -self.known(wanted, replica),
                    -_score(wanted.session, replica))  # fmt: skip

        return sorted(loads, key=order)

    def known(self, wanted: Affinity, replica: str) -> int:
        """How many of its blocks the replica has been sent before."""
        seen = self._blocks.get(replica, ())
        return next((number for number, block in enumerate(wanted.blocks) if block not in seen), len(wanted.blocks))

    def sent(self, wanted: Affinity, replica: str) -> None:
        seen = self._blocks.setdefault(replica, OrderedDict())
        for block in reversed(wanted.blocks):  # so that a beginning outlives what follows it
            seen[block] = None
            seen.move_to_end(block)
        while len(seen) > MOST_BLOCKS:
            seen.popitem(last=False)

    def keep(self, replicas: Iterable[str]) -> None:
        """Forget all but these."""
        kept = set(replicas)
        self._blocks = {name: seen for name, seen in self._blocks.items() if name in kept}


def _score(session: str, replica: str) -> int:
    return int.from_bytes(
        hashlib.blake2b(f"{session} {replica}".encode(errors="replace"), digest_size=8).digest(), "big"
    )
