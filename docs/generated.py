"""What the scripts of this folder share: files that are computed are written, or with `--check` compared.

A script gives every file that it makes with its content; `make docs` writes them all, tests/docs compares them all.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

DOCS = Path(__file__).parent
REPOSITORY = DOCS.parent


def between(path: Path, name: str, content: str) -> str:
    """The file's text with `content` between the marks `<!-- begin: name -->` and `<!-- end -->`."""
    begin, end = f"<!-- begin: {name} -->\n", "<!-- end -->"
    before, rest = path.read_text(encoding="utf-8").split(begin)
    return f"{before}{begin}\n{content.strip()}\n\n{rest[rest.index(end) :]}"


def stale(files: Mapping[Path, str]) -> list[Path]:
    return [path for path, text in files.items() if not path.exists() or path.read_text(encoding="utf-8") != text]


def main(files: Mapping[Path, str]) -> int:
    wrong = stale(files)
    if "--check" in sys.argv:
        for path in wrong:
            print(f"{path.relative_to(REPOSITORY)} is out of date: run `make docs`", file=sys.stderr)
        return int(bool(wrong))
    for path in wrong:
        path.parent.mkdir(exist_ok=True)
        path.write_text(files[path], encoding="utf-8")
        print(path.relative_to(REPOSITORY))
    return 0
