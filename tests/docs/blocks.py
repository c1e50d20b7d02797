"""Reads the code blocks of a Markdown page, fenced and indented, with what stands around them. Runs nothing.

A block that cannot run has a line above it that says why: `<!-- not run: the reason -->`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PAGES = [Path("README.md"), *sorted(path.relative_to(REPOSITORY) for path in (REPOSITORY / "docs").glob("*.md"))]

FENCE = re.compile(r"(?P<indent> *)(?P<ticks>```+)(?P<language>[\w+-]*)\s*$")
NOT_RUN = re.compile(r"<!-- not run: (.{5,}) -->")
CONTAINER = re.compile(r"(===|!!!|\?\?\?) ")  # of Material: what is indented below is prose


@dataclass(frozen=True)
class Block:
    """language: of the fence; "shell" for an indented block, which on these pages is always commands. line: its first,
    from 1. not_run: the reason that the page gives."""

    page: Path
    line: int
    language: str
    text: str
    not_run: str | None

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: Path) -> list[Block]:
    lines = (REPOSITORY / page).read_text(encoding="utf-8").split("\n")
    return list(_blocks(page, lines))


def _blocks(page: Path, lines: list[str]) -> Iterator[Block]:
    number = 0
    in_container = False
    before = ""  # the last line that is not blank
    while number < len(lines):
        line = lines[number]
        reason = NOT_RUN.search(before)
        if fence := FENCE.match(line):
            end = number + 1
            while lines[end].strip() != fence["ticks"]:
                end += 1
            inner = [text.removeprefix(fence["indent"]) for text in lines[number + 1 : end]]
            yield Block(page, number + 2, fence["language"], "\n".join(inner), reason and reason[1])
            number, before = end + 1, "```"
            continue
        starts = line.startswith("    ") and (number == 0 or not lines[number - 1].strip())
        if starts and not in_container and not re.match(r"\s*([-*]|\d+\.) ", before):
            end = number
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            inner = [text.removeprefix("    ") for text in lines[number:end]]
            yield Block(page, number + 1, "shell", "\n".join(inner).rstrip(), reason and reason[1])
            number, before = end, ""
            continue
        if line.strip():
            in_container = bool(CONTAINER.match(line)) or (in_container and line.startswith(" "))
            before = line
        number += 1
