"""Markdown as it grows: nothing is lost, nothing that was printed changes, and no text can break the rendering."""

from __future__ import annotations

import io
import random

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from gpt_oss.chat.markdown import ModelMarkdown, split_blocks
from gpt_oss.chat.text import visible

PIECES = [
    "word ", "**bold** ", "`code` ", "\n", "\n\n", "- item\n", "  - nested\n", "3. three\n", "> quote\n", "# Title\n",
    "===\n", "```python\n", "```\n", "~~~\n", "| a | b |\n|---|---|\n| 1 | 2 |\n", "[link](http://x.y)", "![image](z)",
    "<b>", "<!-- ", "[x]: http://a.b\n", "***\n", "    indented\n", "\\", "&amp;", "[bold]", "[/]", ":smile:", "*", "_",
    "~~", "日本語", "e\u0301", "\t",
]  # fmt: skip
written = st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=40).map("".join).map(visible)


def rendered(text: str, width: int = 60) -> str:
    console = Console(file=io.StringIO(), width=width, markup=False, emoji=False, highlight=False)
    console.print(ModelMarkdown(text))
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue()


def test_blocks_are_an_empty_line_apart() -> None:
    text = "# Title\ntext\n\n\n- one\n- two\n```\ncode\n```\n| a | b |\n|---|---|\n| 1 | 2 |\n"
    lines = [line.rstrip() for line in rendered(text).split("\n")]
    assert (
        lines
        == ["# Title", "", "text", "", " • one", " • two", "", "  code", "", " a  b", " ────", " 1  2", "", ""][:-1]
    )


def test_html_and_console_markup_are_text() -> None:
    assert rendered("<script>x</script> [bold]y[/bold] :smile:").strip() == "<script>x</script> [bold]y[/bold] :smile:"


def test_definitions_of_links_are_shown() -> None:
    assert "[1]: http://a.example" in rendered("As told [there][1].\n\n[1]: http://a.example\n")


def test_a_link_shows_where_it_leads() -> None:
    assert rendered("[safe](http://elsewhere.example)").strip() == "safe (http://elsewhere.example)"


@given(written, st.integers(1, 100))
@settings(max_examples=300, deadline=None)
def test_any_text_can_be_shown_at_any_width(text: str, width: int) -> None:
    rendered(text, width)


@given(written)
@settings(max_examples=300, deadline=None)
def test_blocks_put_together_are_the_text(text: str) -> None:
    assert "".join(split_blocks(text)) == text


def test_deep_nesting_can_be_shown() -> None:
    for text in (
        "> " * 200 + "x",
        "- " * 200 + "x",
        "[" * 2000,
        "*" * 2001 + "x",
        "`" * 999,
        "| a " * 500 + "\n" + "|---" * 500,
    ):
        for width in (5, 80):
            rendered(text, width)


def test_what_was_printed_as_finished_does_not_change() -> None:
    """Streamed in pieces or whole, the same blocks come out."""
    text = "Intro\n\n- a\n- b\n\n1. x\n2. y\n\n```python\na = 1\n\nb = 2\n```\nEnd\n\n> quote\n> more\n\n# Done\n"
    for seed in range(20):
        draw, tail, finished = random.Random(seed), "", []
        position = 0
        while position < len(text):
            size = draw.randrange(1, 9)
            tail += text[position : position + size]
            position += size
            *done, tail = split_blocks(tail)
            finished += done
        assert [rendered(block) for block in [*finished, tail]] == [rendered(block) for block in split_blocks(text)]
