"""`make fuzz`, or `python -m tests.fuzz`: wrong requests for every route, until the time is over.

    --seconds N     how long (FUZZ_SECONDS, 300)
    --seed N        the random numbers; the time of day without
    --requests N    stop after so many

An answer of 500 or above, none in time, an error in another API's shape and a stream that cannot be read are faults:
each is printed once for what it is, with the request that shows it.
The last line is JSON; the exit status is 1 with faults.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import random
import re
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.harness import harness
from tests.fuzz.mutate import Mutator, Sent
from tests.fuzz.seeds import SEEDS


@dataclass
class Found:
    """What a run came to.

    requests: how many were sent.
    faults: each kind of fault, with the first request that shows it and how many did.
    slowest: seconds of the slowest answer, and its request.
    """

    requests: int = 0
    faults: dict[str, tuple[Sent, int]] = field(default_factory=dict)
    slowest: tuple[float, Sent | None] = (0.0, None)

    def add(self, sent: Sent, fault: str) -> None:
        kind = f"{sent.method} {sent.path.split('?')[0][:40]}: {re.sub('[0-9a-f]{8,}|[0-9]+', '#', fault)[:160]}"
        first, count = self.faults.get(kind, (sent, 0))
        self.faults[kind] = first, count + 1


async def run(folder: Path, seed: int, *, seconds: float, most: int = 10**12) -> Found:
    """Sends requests one after the other."""
    found = Found()
    chance = random.Random(seed)
    mutator = Mutator(chance)
    deadline = time.monotonic() + seconds
    async with harness(folder) as application:
        while time.monotonic() < deadline and found.requests < most:
            sent = mutator.sent(chance.choice(SEEDS))
            began = time.monotonic()
            fault = await application.fault(sent)
            taken = time.monotonic() - began
            found.requests += 1
            if taken > found.slowest[0]:
                found.slowest = taken, sent
            if fault is not None:
                found.add(sent, fault)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--seconds", type=float, default=float(os.environ.get("FUZZ_SECONDS", "300")))
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--requests", type=int, default=10**12)
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        found = asyncio.run(run(Path(folder), args.seed, seconds=args.seconds, most=args.requests))
    for kind, (sent, count) in found.faults.items():
        print(f"{count} x {kind}\n    {sent}\n")
    print(f"slowest: {found.slowest[0]:.1f} s for {found.slowest[1]!s:.400}")
    said = {"seed": args.seed, "requests": found.requests, "faults": len(found.faults)}
    print(json.dumps({**said, "seconds": round(time.monotonic() - began)}))
    return 1 if found.faults else 0


if __name__ == "__main__":
    sys.exit(main())
