"""The browser as a model uses it, over a folder of pages."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai_harmony import Message, Role

from gpt_oss.errors import ParameterError
from gpt_oss.tools.simple_browser import SimpleBrowserTool
from gpt_oss.tools.simple_browser.backend import Backend, choose_backend, results_page
from gpt_oss.tools.simple_browser.local import LocalBackend
from gpt_oss.tools.simple_browser.page import Page
from gpt_oss.tools.tool import text_of
from gpt_oss.vocabulary import encode_ordinary

WHALES = "# Whales\n\nThe blue whale is the largest animal. See [seas](seas.html) and [more](https://whales.org/).\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "whales.md").write_text(
        WHALES + "".join(f"Line {i} tells of oceans.\n" for i in range(400)) + "A narwhal has a tusk.\n"
    )
    (tmp_path / "seas.html").write_text('<title>The seas</title><p>Salt water, see <a href="whales.md">whales</a>.</p>')
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "index.html").write_text("<title>Notes</title>Nothing about animals.")
    return tmp_path


@pytest.fixture
def browser(folder: Path) -> SimpleBrowserTool:
    return SimpleBrowserTool(LocalBackend(folder))


async def call(browser: SimpleBrowserTool, function: str, arguments: Any = None) -> str:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments or {})
    message = (
        Message.from_role_and_content(Role.ASSISTANT, text)
        .with_recipient(f"browser.{function}")
        .with_channel("analysis")
    )
    answers = await browser.process(message)
    assert len(answers) == 1
    assert (answers[0].author.role, answers[0].author.name) == (Role.TOOL, f"browser.{function}")
    assert (answers[0].channel, answers[0].recipient) == ("analysis", "assistant")
    return text_of(answers[0])


async def test_search_open_find_and_go_back(browser: SimpleBrowserTool) -> None:
    assert await call(browser, "search", {"query": "salt water"}) == (
        "[0] salt water\n**viewing lines [0 - 2] of 2**\n\n"
        "L0: # Search Results\nL1: \nL2:   * 【0†The seas】 Salt water, see whales."
    )
    assert await call(browser, "open", {"id": 0}) == (
        "[1] The seas (local:///seas.html)\n**viewing lines [0 - 0] of 0**\n\nL0: Salt water, see 【0†whales】."
    )
    page = await call(browser, "open", {"id": 0, "num_lines": 3})
    assert page == (
        "[2] Whales (local:///whales.md)\n**viewing lines [0 - 2] of 403**\n\n"
        "L0: # Whales\nL1: \nL2: The blue whale is the largest animal. See 【0†seas】 and 【1†more†whales.org】."
    )
    found = await call(browser, "find", {"pattern": "NARWHAL"})
    assert found == (
        "[3] Find results for text: `NARWHAL` in `Whales` (local:///whales.md/find?pattern=NARWHAL)\n"
        "**viewing lines [0 - 1] of 1**\n\nL0: # 【0†match at L403】\nL1: A narwhal has a tusk."
    )
    assert (await call(browser, "open", {"id": 0})).startswith(
        "[4] Whales (local:///whales.md)\n**viewing lines [399 - 403] of 403**"
    )
    assert (await call(browser, "open", {"cursor": 2, "loc": 10, "num_lines": 1})).endswith(
        "L10: Line 7 tells of oceans."
    )
    assert (await call(browser, "find", {"pattern": "nowhere", "cursor": 2})).endswith(
        "L0: No `find` results for pattern: `nowhere`"
    )


async def test_about_a_thousand_tokens_are_shown_and_scrolling_goes_on(browser: SimpleBrowserTool) -> None:
    first = await call(browser, "open", {"id": "local:///whales.md"})
    body = first.split("\n\n", 1)[1]
    lines = [line.split(": ", 1)[-1] for line in body.split("\n")]
    assert 900 < len(encode_ordinary("\n".join(lines))) <= 1024
    last = int(first.split(" - ")[1].split("]")[0])
    second = await call(browser, "open", {"loc": last + 1})
    assert second.split("\n")[3].startswith(f"L{last + 1}: ")


async def test_a_result_opens_near_its_snippet(browser: SimpleBrowserTool) -> None:
    await call(browser, "search", {"query": "narwhal tusk"})
    page = await call(browser, "open", {"id": 0})
    assert "A narwhal has a tusk." in page
    assert "L0:" not in page


async def test_source_and_raw_text(browser: SimpleBrowserTool) -> None:
    raw = await call(browser, "open", {"id": "local:///seas.html", "view_source": True})
    assert "<title>The seas</title>" in raw
    assert raw.startswith("[0] The seas (view-source:local:///seas.html)")


async def test_a_folder_is_a_page(browser: SimpleBrowserTool) -> None:
    assert (await call(browser, "open", {"id": "local:///notes/"})).startswith("[0] Notes")


@pytest.mark.parametrize(
    ("function", "arguments", "said"),
    [
        ("search", {}, "search needs a query"),
        ("search", {"query": ["x"]}, "query must be a string"),
        ("search", "{not json", "the arguments are not valid JSON"),
        ("search", "[1]", "the arguments must be a JSON object"),
        ("search", {"query": "?!"}, "the query holds no word"),
        ("open", {}, "no page is open yet"),
        ("open", {"id": 0}, "no page is open yet"),
        ("open", {"id": {"a": 1}}, "open's id must be"),
        ("open", {"id": ""}, "open needs"),
        ("open", {"id": "https://whales.org/"}, "not among the local pages"),
        ("open", {"id": "local:///../secret.txt"}, "there is no local page"),
        ("find", {}, "find needs a pattern"),
        ("find", {"pattern": "x"}, "no page is open yet"),
        ("dance", {}, "browser has search, open and find"),
        ("open", "[" * 100_000, "the arguments are not valid JSON"),
    ],
)
async def test_what_cannot_be_done_is_an_answer(
    browser: SimpleBrowserTool, function: str, arguments: Any, said: str
) -> None:
    text = await call(browser, function, arguments)
    assert text.startswith("Error: ")
    assert said in text


async def test_bad_cursors_links_and_lines_say_what_there_is(browser: SimpleBrowserTool) -> None:
    await call(browser, "open", {"id": "local:///seas.html"})
    assert await call(browser, "open", {"id": 7}) == "Error: page 0 has no link 7: its links are 0 to 0"
    assert await call(browser, "open", {"cursor": 5}) == "Error: there is no cursor 5: they go from 0 to 0"
    assert await call(browser, "open", {"loc": 50}) == "Error: loc 50 is behind the page's end: its last line is 0"
    assert await call(browser, "open", {"loc": "many"}) == "Error: loc must be a number, not 'many'"


async def test_numbers_as_strings_and_nulls_are_understood(browser: SimpleBrowserTool) -> None:
    await call(browser, "open", {"id": "local:///seas.html", "cursor": None, "loc": "0"})
    assert (await call(browser, "open", {"id": "0", "num_lines": "2", "cursor": "0"})).startswith("[1] Whales")


async def test_links_cannot_leave_the_folder(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside") / "secret.txt"
    outside.write_text("secret")
    (folder / "link.txt").symlink_to(outside)
    browser = SimpleBrowserTool(LocalBackend(folder))
    assert (await call(browser, "open", {"id": "local:///link.txt"})).startswith("Error")
    assert "No results." in await call(browser, "search", {"query": "secret"})


async def test_the_index_follows_the_files(browser: SimpleBrowserTool, folder: Path) -> None:
    assert "No results." in await call(browser, "search", {"query": "zebra"})
    (folder / "zebra.txt").write_text("A zebra has stripes.")
    assert "stripes" in await call(browser, "search", {"query": "zebra"})
    (folder / "zebra.txt").write_text("A zebra has none.")
    os.utime(folder / "zebra.txt", (1, 1))
    assert "none" in await call(browser, "search", {"query": "zebra"})
    (folder / "zebra.txt").unlink()
    assert "No results." in await call(browser, "search", {"query": "zebra"})


async def test_a_page_is_fetched_once() -> None:
    class Counting(Backend):
        source = "counting"
        fetched = 0
        asked: int

        async def search(self, query: str, topn: int) -> Page:
            self.asked = topn
            return results_page(query, [])

        async def fetch(self, url: str) -> Page:
            self.fetched += 1
            await asyncio.sleep(0)
            return Page(url, "T", "text")

    backend = Counting()
    browser = SimpleBrowserTool(backend, max_search_results=5)
    for _ in range(3):
        await call(browser, "open", {"id": "https://example.org/"})
    assert backend.fetched == 1
    await call(browser, "search", {"query": "x", "topn": 3})
    assert backend.asked == 3
    await call(browser, "search", {"query": "x", "topn": 99})
    assert backend.asked == 5


async def test_citations_resolve_to_the_pages_that_were_shown(browser: SimpleBrowserTool) -> None:
    await call(browser, "open", {"id": "local:///seas.html"})
    text, found, partial = browser.normalize_citations("Salt【0†L0-L3】, and 【7†L1】.")
    assert (text, partial) == ("Salt【0†L0-L3】, and 【7†L1】.", False)
    assert found == [
        {"type": "url_citation", "start_index": 4, "end_index": 13, "title": "The seas", "url": "local:///seas.html"}
    ]
    assert browser.normalize_citations("Salt【0†L0", hide_partial_citations=True) == ("Salt", [], True)


@given(
    st.lists(st.sampled_from(["word ", "【0†L1】", "【0†L1-L22】", "【9†L1】", "【", "†L2", "】", "【0†"]), max_size=8),
    st.data(),
)
def test_citations_are_the_same_however_the_text_is_cut(parts: list[str], data: st.DataObject) -> None:
    browser = SimpleBrowserTool(Backend.__new__(_Nothing))
    browser._shown.append(Page("https://example.org/", "T", "x"))
    text = "".join(parts)
    reader = browser.citations()
    pieces = []
    rest = text
    while rest:
        cut = data.draw(st.integers(1, len(rest)))
        pieces += reader.push(rest[:cut])
        rest = rest[cut:]
    pieces += reader.finish()
    assert "".join(piece for piece in pieces if isinstance(piece, str)) == text
    found = [piece for piece in pieces if not isinstance(piece, str)]
    assert [text[c.start : c.end] for c in found] == [
        part for part in parts if part in ("【0†L1】", "【0†L1-L22】")
    ] or "【0†" in parts


class _Nothing(Backend):
    async def search(self, query: str, topn: int) -> Page:
        raise NotImplementedError

    async def fetch(self, url: str) -> Page:
        raise NotImplementedError


def test_the_backend_is_chosen_by_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("BROWSER_BACKEND", "EXA_API_KEY", "YDC_API_KEY", "SEARXNG_URL", "BROWSER_LOCAL_DIR"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ParameterError, match="no backend"):
        choose_backend()
    with pytest.raises(ParameterError, match="needs SEARXNG_URL"):
        choose_backend("searxng")
    with pytest.raises(ParameterError, match="choose one of exa, youcom, searxng, local"):
        choose_backend("bing")
    monkeypatch.setenv("BROWSER_LOCAL_DIR", str(tmp_path))
    assert isinstance(choose_backend(), LocalBackend)
    monkeypatch.setenv("EXA_API_KEY", "key")
    assert type(choose_backend()).__name__ == "ExaBackend"
    monkeypatch.setenv("BROWSER_BACKEND", "local")
    assert isinstance(choose_backend(), LocalBackend)
    monkeypatch.setenv("BROWSER_LOCAL_DIR", str(tmp_path / "none"))
    with pytest.raises(ParameterError, match="is not a folder"):
        choose_backend()
