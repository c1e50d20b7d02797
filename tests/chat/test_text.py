"""Text from strangers: whatever it holds, only line breaks and tabs are left of what a terminal would obey."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_oss.chat.text import one_line, visible, well_formed


@given(st.text(st.characters(exclude_categories=[])))
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    for char in visible(text):
        assert char in "\n\t" or unicodedata.category(char) not in ("Cc", "Cs", "Zl", "Zp"), repr(char)
        assert unicodedata.bidirectional(char) not in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    assert "\n" not in one_line(text)
    well_formed(text).encode()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", "␛[2J"),
        ("a\r\nb\rc", "a\nb␍c"),
        ("\x9b5n\x7f", "<9B>5n␡"),
        ("\u202eabc", "<U+202E>abc"),
        ("\ud800", "\ufffd"),
        ("Fünf Ćwierć 日本 👩‍👧 עברית\t.", "Fünf Ćwierć 日本 👩‍👧 עברית\t."),
    ],
)
def test_signs_in_place_of_controls(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_one_line_is_cut_where_it_is_told_to() -> None:
    assert one_line("a\n b\t c", 10) == "a b c"
    assert one_line("abcdefgh", 4) == "abc…"
