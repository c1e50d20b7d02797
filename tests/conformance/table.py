"""The table of what each backend supports, from the suite itself: `python -m tests.conformance.table`.

Runs every check over every subject that can run here and writes the result between the markers of docs/backends.md.
Exit code 1 where a check fails. LLAMA_SERVER and LLAMA_CPP_PYTHON name a llama-server, and a Python that has
llama-cpp-python[server].
"""

from __future__ import annotations

import sys
import tempfile
import traceback
from contextlib import ExitStack
from pathlib import Path

from benchmarks.machine import replace_section
from tests.conformance.checks import CHECKS
from tests.conformance.subjects import SUBJECTS, Bench, Subject

PAGE = Path(__file__).parent.parent.parent / "docs" / "backends.md"
YES, NO, FAILED = "yes", "no", "**failed**"


def row(subject: Subject, bench: Bench) -> list[str]:
    """A cell for each check; what went wrong goes to stderr."""
    cells = []
    with ExitStack() as stack:
        opened = subject.open(bench, stack)
        for check in CHECKS:
            if not check.applies(subject):
                cells.append(NO)
                continue
            try:
                check.run(subject, opened, bench)
                cells.append(YES)
            except Exception:
                print(f"{subject.name}: {check.name}", file=sys.stderr)
                traceback.print_exc()
                cells.append(FAILED)
    return cells


def main() -> int:
    headings = ["backend", "ids", "grammar", *(check.column for check in CHECKS)]
    lines = [line(headings), line(["---"] * len(headings))]
    absent = []
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        with bench.stack:
            for subject in SUBJECTS:
                reason = subject.missing()
                if reason is not None:
                    absent.append(f"- {subject.name}: {reason}")
                    continue
                cells = row(subject, bench)
                failures += cells.count(FAILED)
                name = subject.name if subject.real else f"{subject.name} *"
                lines.append(line([name, subject.tokens, YES if subject.grammar else NO, *cells]))
                print(lines[-1], flush=True)
    table = "\n".join(lines)
    if absent:
        table += "\n\nNot run where this table was made:\n\n" + "\n".join(absent)
    replace_section(PAGE, "tests.conformance.table", table)
    print(f"{failures} failures")
    return 1 if failures else 0


def line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    sys.exit(main())
