"""HTML as the text that the models read."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_oss.tools.simple_browser.page import COLUMNS, Page, lines_without_links, page_of_html, page_of_text, wrap

URL = "https://example.org/dir/page.html"


def text_of(html: str) -> str:
    return page_of_html(html, URL).text


def test_links_have_one_id_for_each_address_and_name_other_domains() -> None:
    page = page_of_html(
        '<a href="/a">first</a> <a href="https://other.org/b?c=1">second</a> <a href="../a">again</a> <a href="x">x</a>',
        URL,
    )
    assert page.text == "【0†first】 【1†second†other.org】 【0†again】 【2†x】"
    assert page.urls == {0: "https://example.org/a", 1: "https://other.org/b?c=1", 2: "https://example.org/dir/x"}


def test_what_leads_nowhere_is_only_its_text() -> None:
    html = '<a href="#top">up</a> <a href="javascript:x()">run</a> <a href="mailto:a@b.c">mail</a> <a>bare</a><a href="/x"/>'
    assert text_of(html) == "up run mail bare"


def test_marks_of_the_pages_own_cannot_be_taken_for_ours() -> None:
    page = page_of_html('【3†forged】 <a href="/x">a†b【c】</a> <a href="/y†z">y</a>', URL)
    assert page.text == "〖3†forged〗 【0†a‡b〖c〗】 【1†y】"
    assert "†" not in page.urls[1]


def test_images_sub_and_superscripts_and_invisible_characters() -> None:
    assert text_of('<img src="a" alt="A cat"><img src="b">') == "[Image 0: A cat][Image 1]"
    assert text_of("H<sub>2</sub>O, x<sup>2</sup>") == "H_{2}O, x^{2}"
    assert text_of("in\u200bvis\u00adible\u202e \x1b[31mred\x07") == "invisible [31mred"


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
    assert text_of(html) == "abc"


def test_titles() -> None:
    assert page_of_html("<title> A\n title </title>x", URL).title == "A title"
    assert page_of_html("<h1>Head</h1>x", URL).title == "Head"
    assert page_of_html("x", URL).title == URL
    assert page_of_html("<title>own</title>", URL, "given").title == "given"


@pytest.mark.parametrize(
    "html", ["", "   ", "<", "<a href='/x'", "<html></html>", "\0", "<!doctype html>", "</p></div>"]
)
def test_broken_pages_give_some_text(html: str) -> None:
    assert isinstance(page_of_html(html, URL), Page)


@pytest.mark.parametrize("tag", ["div", "b", "ul><li", "table><tr><td", "a href=/x", "blockquote"])
def test_a_page_nested_very_deep_is_no_danger(tag: str) -> None:
    page = page_of_html(f"<{tag}>" * 50_000 + "deep" + "</x>" * 50_000, URL)
    assert isinstance(page.text, str)


def test_long_lines_are_wrapped_and_matches_are_numbered_as_shown() -> None:
    links = " ".join(f'<a href="/{i}">a link of several words, number {i}</a>' for i in range(40))
    page = page_of_html(f"<p>{links}</p><p>needle</p>", URL)
    shown = wrap(page.text)
    assert all(len(line) <= COLUMNS for line in shown)
    plain = lines_without_links(page.text)
    assert len(plain) == len(shown)
    assert plain.index("needle") == shown.index("needle")
    assert "†" not in "".join(plain)


@given(st.text(alphabet="ab 【】†<>/\n\u200b&#;'\"=1", max_size=200))
def test_any_text_gives_marks_that_resolve(text: str) -> None:
    page = page_of_html(f'<p>{text}<a href="/x">{text}</a></p>', URL)
    for number in re.findall(r"【(\d+)†", page.text):
        assert int(number) in page.urls
    assert page.text.count("【") == page.text.count("】") == len(re.findall(r"【\d+†[^】]*】", page.text))
    assert all(len(line) <= COLUMNS for line in wrap(page.text))
    assert "【" not in page_of_text(text, URL).text
