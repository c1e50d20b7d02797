"""Print the parity table and the mutation check: `python -m tests.parity.table`. Exit code 1 where something is off."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from tests.parity.backends import BACKENDS, RUN
from tests.parity.checks import CHECKS, CONFIG, Parity
from tests.parity.defects import CONTROL, DEFECTS, PARALLEL_DEFECTS
from tests.parity.test_defects import EXACT, distance_in_processes, distance_with


def main() -> int:
    start = time.monotonic()
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        parity = Parity(Path(folder))
        print(f"Distance of logits (standard deviation {parity.oracle.std():.1f}) on a random checkpoint:\n{CONFIG}\n")
        print(
            f"The largest; for backends marked * the median of the worst {RUN} tokens. Limits stand in parentheses.\n"
        )
        headings = [backend.name + "*" * backend.rounds for backend in BACKENDS]
        print(f"{'':42}" + "".join(f"{heading:>20}" for heading in headings))
        for check in CHECKS:
            print(f"{check.name:42}", end="", flush=True)
            for backend in BACKENDS:
                limit = check.limit(backend)
                if limit is None:
                    print(f"{'-':>20}", end="", flush=True)
                    continue
                distance = check.measure(parity, backend)
                failures += not distance <= limit
                verdict = "" if distance <= limit else " FAILED"
                print(f"{f'{distance:.1e} ({limit:.1g}){verdict}':>20}", end="", flush=True)
            print()

        print(
            f"\nMutation check: {EXACT.name} with one defect at a time against the reference, limit {EXACT.near:.0e}\n"
        )
        rows = [(defect.name, distance_with(defect, parity)) for defect in (CONTROL, *DEFECTS)]
        rows += [
            (f"{defect.name} (of two)", distance_in_processes(number, parity))
            for number, defect in enumerate(PARALLEL_DEFECTS)
        ]
        for name, distance in rows:
            noticed = not distance <= EXACT.near
            right = noticed == (name != CONTROL.name)
            failures += not right
            print(f"{name:42}{distance:>12.1e}  {'noticed' if noticed else 'passes'}{'' if right else '  WRONG'}")
    print(f"\n{failures} failures, {time.monotonic() - start:.0f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
