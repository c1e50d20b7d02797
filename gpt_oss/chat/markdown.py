"""Markdown that is still being written: which of its blocks are finished, and how they look on a terminal.

The text is a model's: HTML stays text, links are shown with their addresses and never made clickable.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import ClassVar

from markdown_it import MarkdownIt
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import CodeBlock, Heading, Markdown, MarkdownElement
from rich.segment import Segment
from rich.syntax import Syntax
from rich.text import Text

# Without link references: their definitions would vanish, and stand in a block that is often still to come.
_PARSER = MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"]).disable("reference")


def split_blocks(text: str) -> list[str]:
    """The text cut before each block but the first (paragraph, list, table, code …); never empty."""
    tokens = _PARSER.parse(text)
    starts = [token.map[0] for token in tokens if token.level == 0 and token.map and token.nesting >= 0]
    lines = text.split("\n")
    cuts = [0, *starts[1:], len(lines)]
    pieces = ["\n".join(lines[start:end]) for start, end in pairwise(cuts)]
    return [*(f"{piece}\n" for piece in pieces[:-1]), pieces[-1]]


class ModelMarkdown:
    """A model's text for Rich: blocks one empty line apart, none at either end."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        first = True
        for block in split_blocks(self._text):
            lines = _trimmed(Segment.split_lines(console.render(_Block(block), options)))
            if lines and not first:
                yield Segment.line()
            for line in lines:
                yield from line
                yield Segment.line()
                first = False


def _trimmed(lines: Iterable[list[Segment]]) -> list[list[Segment]]:
    every = list(lines)
    shown = [i for i, line in enumerate(every) if any(segment.text.strip() for segment in line)]
    return every[shown[0] : shown[-1] + 1] if shown else []


class _Heading(Heading):
    """Bold, at the left, with its hashes: a heading that reads the same when it is copied."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        hashes = Text("#" * int(self.tag[1:]) + " ")
        yield Text.assemble(hashes, self.text, style="bold")


class _CodeBlock(CodeBlock):
    """Indented, in the terminal's own colours, without empty lines around it."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Syntax(str(self.text).rstrip("\n"), self.lexer_name, theme=self.theme, word_wrap=True, padding=(0, 2))


class _Block(Markdown):
    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "heading_open": _Heading,
        "fence": _CodeBlock,
        "code_block": _CodeBlock,
    }

    def __init__(self, text: str) -> None:
        super().__init__("", code_theme="ansi_dark", hyperlinks=False)
        self.markup = text
        self.parsed = _PARSER.parse(text)
