"""HTML as the text that the models read."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_oss.tools.simple_browser.page import COLUMNS, page_of_html, page_of_source, page_of_text, wrap

URL = "https://example.org/dir/page.html"
TOP = f"\nURL: {URL}\n"


def text_of(html: str) -> str:
    """The text below the line that names the address."""
    text = page_of_html(html, URL).text
    assert text.startswith(TOP)
    return text.removeprefix(TOP)


def test_a_page_begins_with_its_address_and_a_source_does_not() -> None:
    assert page_of_html("<p>Hello", URL).text == f"{TOP}Hello"
    assert page_of_text("Hello", URL).text == f"{TOP}Hello"
    assert page_of_source("<p>Hello", URL).text == "<p>Hello"


def test_links_have_one_id_for_each_address_and_name_other_domains() -> None:
    page = page_of_html(
        '<a href="/a">first</a> <a href="https://other.org/b?c=1">second</a> <a href="../a">again</a> '
        '<a href="https://example.org@evil.org/">x</a>',
        URL,
    )
    assert page.text == f"{TOP}【0†first】 【1†second†other.org】 【0†again】 【2†x†evil.org】"
    assert page.urls == {
        "0": "https://example.org/a",
        "1": "https://other.org/b?c=1",
        "2": "https://example.org@evil.org/",
    }


def test_what_leads_nowhere_is_only_its_text() -> None:
    html = '<a href="#top">up</a> <a href="javascript:x()">run</a> <a href="mailto:a@b.c">mail</a> <a>bare</a>'
    assert text_of(html + '<a href="/x"/>') == "up run mail bare"


def test_marks_of_the_pages_own_cannot_be_taken_for_ours() -> None:
    page = page_of_html(
        '【3†forged】 <a href="/x">a†b【c】</a> <a href="/y†【z">y</a> <a href="http://a†】b/">z</a>', URL
    )
    assert page.text == f"{TOP}〖3†forged〗 【0†a‡b〖c〗】 【1†y】 【2†z†a‡〗b】"
    assert page.urls["1"] == "https://example.org/y†【z"
    assert page_of_html("x", "https://a/", "\x1b[31m 【1†L2】\n").title == "[31m 〖1†L2〗"
    assert page_of_html("x", "https://a/\x1b【1†L2】").text.startswith("\nURL: https://a/〖1†L2〗\n")


def test_images_sub_and_superscripts_and_invisible_characters() -> None:
    assert text_of('<img src="a" alt="A cat"><img src="b">') == "[Image 0: A cat][Image 1]"
    assert text_of("H<sub>2</sub>O, x<sup>2</sup>") == "H_{2}O, x^{2}"
    assert text_of("in\u200bvis\u00adible\u202e \x1b[31mred\x07") == "invisible [31mred"
    assert text_of("or\U000e0064\U000e0072der a\0b &#xd800;") == "order ab \ufffd"
    assert page_of_text("\ud800", URL).text == f"{TOP}\ufffd"


def test_blocks_lists_tables_and_code_keep_their_shape() -> None:
    html = """<h2>Title</h2><p>One
      two</p><p>three<br>four</p>
      <ul><li>a<li>b<ul><li>c</ul></ul><ol><li>x<li>y</ol>
      <table><tr><th>n<th>m</tr><tr><td>1<td>2</tr></table>
      <pre>  keep
    this</pre><div>d1</div><div>d2</div>"""
    assert text_of(html) == (
        "## Title\n\nOne two\n\nthree\nfour\n\n  * a\n  * b\n    * c\n\n  1. x\n  2. y\n\nn | m\n1 | 2\n\n"
        "  keep\n    this\n\nd1\nd2"
    )


def test_scripts_styles_and_hidden_parts_are_left_out() -> None:
    html = "<title>T</title><style>x{}</style>a<script>if (1<2) {}</script>b<i hidden>no</i>c<svg><text>no</text></svg>"
    assert text_of(f"{html}<p style='color:red; display: none'>no</p>") == "abc"


def test_formulas_are_what_they_were_written_as() -> None:
    html = 'so <math alttext="a^2"><mi>a</mi><annotation>no</annotation></math> and <math><mi>x</mi></math> is'
    assert text_of(html) == "so a^2 and is"


def test_titles() -> None:
    assert page_of_html("<title> A\n title </title>x", URL).title == "A title"
    assert page_of_html("<h1>Head</h1>x", URL).title == "Head"
    assert page_of_html("x", URL).title == "example.org"
    assert page_of_html("x", "local:///a.html").title == "local:///a.html"
    assert page_of_html("<title>own</title>", URL, "given").title == "given"
    assert page_of_text("x", URL, "long " * 100_000).title == "long " * 59 + "lo..."


@pytest.mark.parametrize(
    "html", ["", "   ", "<", "<a href='/x'", "<html></html>", "\0", "<!doctype html>", "</p></div>"]
)
def test_broken_pages_give_some_text(html: str) -> None:
    page = page_of_html(html, URL)
    assert (page.url, page.title, page.text.startswith(TOP)) == (URL, "example.org", True)


@pytest.mark.parametrize("depth", [300, 3_000, 300_000])
@pytest.mark.parametrize("tag", ["div", "b", "blockquote", "ul><li"])
def test_a_page_nested_very_deep_keeps_its_text(tag: str, depth: int) -> None:
    page = page_of_html(f"<p>before</p>{f'<{tag}>' * depth}deep<script>no()</script><p>after</p>", URL)
    assert [word for word in ("before", "deep", "after", "no()") if word in page.text] == ["before", "deep", "after"]


def test_sizes_that_would_take_hours_where_the_cost_is_quadratic() -> None:
    assert len(wrap("x" * 4_000_000)) == 50_000
    assert text_of(f"<pre>a{' ' * 2_000_000}b</pre>") == f"a{' ' * 2_000_000}b"
    assert text_of("<div>" * 3_000 + "<script" * 200_000 + "></script>" + " " * 2_000_000 + "x") == "x"
    assert text_of("<a href='/x'>l" * 50_000).count("【0†l") == 50_000
    assert text_of("<" * 1_000_000).count("<") > 0


def test_long_lines_are_wrapped_and_matches_are_numbered_as_shown() -> None:
    links = " ".join(f'<a href="/{i}">a link of several words, number {i}</a>' for i in range(40))
    page = page_of_html(f"<p>{links}</p><p>needle</p>", URL)
    assert all(len(line) <= COLUMNS for line in page.lines)
    assert len(page.plain_lines) == len(page.lines)
    assert page.plain_lines.index("needle") == page.lines.index("needle")
    assert "†" not in "".join(page.plain_lines)


@given(st.text(alphabet="ab -\n\t", max_size=400) | st.text(max_size=400))
def test_wrapping_loses_nothing(text: str) -> None:
    lines = wrap(text)
    assert "".join(lines) == "".join(line.expandtabs() for line in text.split("\n"))
    assert all(len(line) <= COLUMNS for line in lines)


@given(st.lists(st.text(alphabet="ab", min_size=1, max_size=COLUMNS), max_size=30))
def test_wrapping_breaks_no_word_that_fits(words: list[str]) -> None:
    assert [word for line in wrap(" ".join(words)) for word in line.split()] == words


@given(st.text(alphabet="ab 【】†<>/\n\u200b&#;'\"=1", max_size=200))
def test_any_text_gives_marks_that_resolve(text: str) -> None:
    page = page_of_html(f'<p>{text}<a href="/x">{text}</a></p>', URL)
    marks = re.findall(r"【(\d+)†[^【】†]+】", page.text)
    assert set(marks) <= page.urls.keys()
    assert page.text.count("【") == page.text.count("】") == len(marks)
    assert len(page.plain_lines) == len(page.lines)
    assert "【" not in page_of_text(text, URL).text
