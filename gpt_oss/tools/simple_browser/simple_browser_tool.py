"""`browser` as the models know it: pages in numbered lines, a stack of what was shown, links and matches to open.

Knows nothing of where pages come from (backend.py) and how they become text (page.py).
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict
from urllib.parse import quote, unquote

from openai_harmony import Message, ToolNamespaceConfig

from gpt_oss.tools.citations import Citation, CitationReader, Source
from gpt_oss.tools.simple_browser.backend import VIEW_SOURCE, Backend, BackendError
from gpt_oss.tools.simple_browser.page import PageContents, Snippet, clean, host_of, one_line, without_links
from gpt_oss.tools.tool import Tool, answer, text_of
from gpt_oss.vocabulary import encode_ordinary

MATCHES, LINES_PER_MATCH = 50, 4
LINES_BEFORE_SNIPPET = 4
LONGEST_URL = 1024  # characters of it that are shown
LONGEST_ERROR = 1000  # characters
LARGEST_VIEW = 16  # times view_tokens: what `num_lines` may ask for
_NUMBER = re.compile(r"-?[0-9]{1,9}")


class Annotation(TypedDict):
    """A citation as the Responses API has it: offsets in characters of the whole text."""

    type: str
    start_index: int
    end_index: int
    title: str
    url: str


class _RefusedError(Exception):
    """What the model asked for cannot be done; the text is for the model."""


@dataclass(frozen=True)
class _Shown:
    """A page that was shown. found_in: of a list of matches, the page that they are on."""

    page: PageContents
    found_in: PageContents | None = None


class SimpleBrowserTool(Tool):
    """One object a conversation: it holds the pages that were shown, whose index is their cursor, and a cache of pages.

    view_tokens: how much of a page is shown at a time, unless the call says how many lines.
    """

    def __init__(
        self, backend: Backend, *, name: str = "browser", view_tokens: int = 1024, max_search_results: int = 20
    ) -> None:
        self.name = name
        self._backend = backend
        self._view_tokens = view_tokens
        self._max_search_results = max_search_results
        self._shown: list[_Shown] = []
        self._cache: dict[str, PageContents] = {}

    @property
    def tool_config(self) -> ToolNamespaceConfig:
        config = ToolNamespaceConfig.browser()
        config.name = self.name
        return config

    def citations(self) -> CitationReader:
        return CitationReader(self.source)

    def source(self, cursor: int) -> Source | None:
        """The page that a cursor shows; None where there is none, or it has no address to cite (a search)."""
        if not 0 <= cursor < len(self._shown):
            return None
        shown = self._shown[cursor]
        page = shown.found_in or shown.page
        return Source(page.title, page.url.removeprefix(VIEW_SOURCE)) if page.url else None

    def normalize_citations(
        self, old_content: str, hide_partial_citations: bool = False
    ) -> tuple[str, list[Annotation], bool]:
        """(text in which every citation is a Markdown link, where these links stand, whether the text ends in what may
        become a citation). Such an end is left out of the text where it shall be.
        """
        reader = self.citations()
        pieces = reader.push(old_content)
        rest = reader.finish()
        text = ""
        found: list[Annotation] = []
        for piece in pieces:
            if isinstance(piece, Citation):
                text = text.removesuffix(piece.text)
                link = _markdown_link(piece.source.url)
                found.append(_annotation(piece.source, len(text), len(text) + len(link)))
                text += link
            else:
                text += piece
        held = "".join(piece for piece in rest if isinstance(piece, str))
        return text if hide_partial_citations else text + held, found, bool(held)

    async def close(self) -> None:
        await self._backend.close()

    async def _process(self, message: Message) -> AsyncIterator[Message]:
        try:
            yield answer(message, await self._do(message.recipient or "", text_of(message)))
        except (_RefusedError, BackendError) as error:
            # A part of it may come from a server.
            yield answer(message, f"Error: {one_line(clean(str(error)))[:LONGEST_ERROR]}", failed=True)

    async def _do(self, recipient: str, text: str) -> str:
        try:
            given = json.loads(text or "{}", strict=False)
        except (ValueError, RecursionError) as error:
            raise _RefusedError(f"the arguments are not valid JSON: {error}") from None
        if not isinstance(given, dict):
            raise _RefusedError("the arguments must be a JSON object")
        function = recipient.removeprefix("functions.").removeprefix(self.name).removeprefix(".")
        if not function:  # `browser` alone, the function among the arguments
            function = _text(given, "function").removeprefix(f"{self.name}.")
            inner = given.get("arguments", given)
            given = inner if isinstance(inner, dict) else given
        match function:
            case "search":
                query = _text(given, "query")
                if not query.strip():
                    raise _RefusedError("search needs a `query`: what to search for")
                topn = _number(given, "topn", 10)
                return await self._search(query, max(1, min(topn, self._max_search_results)))
            case "open":
                return await self._open(given)
            case "find":
                pattern = _text(given, "pattern")
                if not pattern.strip():
                    raise _RefusedError("find needs a `pattern`: the text to look for")
                return self._find(pattern, _number(given, "cursor", -1))
            case _:
                raise _RefusedError(
                    f"{recipient!r} is not known: call {self.name}.search, {self.name}.open or {self.name}.find"
                )

    async def _search(self, query: str, topn: int) -> str:
        return self._show(_Shown(await self._backend.search(query, topn)), 0)

    async def _open(self, given: Mapping[str, Any]) -> str:
        target, cursor = given.get("id", -1), _number(given, "cursor", -1)
        loc, lines = _number(given, "loc", -1), _number(given, "num_lines", -1)
        raw = given.get("view_source") in (True, "true", "True", 1)
        snippet = None
        if isinstance(target, str) and not _NUMBER.fullmatch(target.strip()):
            url = _text(given, "id").strip()
            if not url:
                raise _RefusedError("open needs an `id`: the number of a link, or a URL")
        elif (link := _number(given, "id", -1)) >= 0:
            shown = self._at(cursor)
            url, snippet = self._link(shown, link, cursor), shown.page.snippets.get(str(link))
            if shown.found_in and not raw:
                return self._show(_Shown(shown.found_in), _place(shown.found_in, snippet) if loc < 0 else loc, lines)
        else:
            shown = self._at(cursor)
            if not raw:
                return self._show(shown, max(loc, 0), lines)
            url = (shown.found_in or shown.page).url
        if raw:
            if not url:
                raise _RefusedError("a search has no source: open one of its links first")
            url = VIEW_SOURCE + url.removeprefix(VIEW_SOURCE)
        page = await self._fetch(url)
        return self._show(_Shown(page), _place(page, snippet) if loc < 0 else loc, lines)

    def _link(self, shown: _Shown, link: int, cursor: int) -> str:
        url = shown.page.urls.get(str(link))
        if url is None:
            count = len(shown.page.urls)
            there = f"its links are 0 to {count - 1}" if count else "it has no links"
            raise _RefusedError(f"page {self._index(cursor)} has no link {link}: {there}")
        return url

    async def _fetch(self, url: str) -> PageContents:
        if url not in self._cache:
            page = await self._backend.fetch(url)
            await asyncio.to_thread(lambda: page.lines)  # takes seconds for a huge page
            self._cache[url] = page
        return self._cache[url]

    def _find(self, pattern: str, cursor: int) -> str:
        shown = self._at(cursor)
        page = shown.found_in or shown.page
        wanted = pattern.casefold()
        lines = page.plain_lines
        chunks: list[str] = []
        snippets: dict[str, Snippet] = {}
        line = 0
        while line < len(lines) and len(chunks) < MATCHES:
            if wanted in lines[line].casefold():
                text = "\n".join(lines[line : line + LINES_PER_MATCH])
                snippets[str(len(chunks))] = Snippet(text, line)
                chunks.append(f"# 【{len(chunks)}†match at L{line}】\n{text}")
                line += LINES_PER_MATCH
            else:
                line += 1
        said = one_line(clean(pattern))
        text = "\n\n".join(chunks) or f"No `find` results for pattern: `{said}`"
        title = f"Find results for text: `{said}` in `{page.title}`"
        urls = dict.fromkeys(snippets, page.url)
        found = PageContents(f"{page.url}/find?pattern={quote(pattern)}", title, text, urls, snippets)
        return self._show(_Shown(found, page), 0)

    def _index(self, cursor: int) -> int:
        return cursor if cursor >= 0 else len(self._shown) - 1

    def _at(self, cursor: int) -> _Shown:
        if not self._shown:
            raise _RefusedError("no page is open yet: search, or open a URL")
        index = self._index(cursor)
        if index >= len(self._shown):
            raise _RefusedError(f"there is no cursor {cursor}: they go from 0 to {len(self._shown) - 1}")
        return self._shown[index]

    def _show(self, shown: _Shown, loc: int, num_lines: int = -1) -> str:
        """Push a page and show it from line `loc` on: `num_lines` lines, or as many as view_tokens hold."""
        page, lines = shown.page, shown.page.lines
        if loc >= len(lines):
            raise _RefusedError(f"loc {loc} is behind the page's end: its last line is {len(lines) - 1}")
        last = min(len(lines), loc + num_lines) if num_lines > 0 else len(lines)
        limit = self._view_tokens * (LARGEST_VIEW if num_lines > 0 else 1)
        body: list[str] = []
        tokens = 0
        for number in range(loc, last):
            line = f"L{number}: {lines[number]}"
            tokens += len(encode_ordinary(f"{line}\n"))
            if body and tokens > limit:
                break
            body.append(line)
        self._shown.append(shown)
        where = one_line(clean(unquote(page.url)))
        where = where if len(where) <= LONGEST_URL else f"{where[: LONGEST_URL - 3]}..."
        head = f"[{len(self._shown) - 1}] {page.title}" + (f" ({where})" if where else "")
        scrollbar = f"**viewing lines [{loc} - {loc + len(body) - 1}] of {len(lines) - 1}**"
        return f"{head}\n{scrollbar}\n\n" + "\n".join(body)


def _place(page: PageContents, snippet: Snippet | None) -> int:
    """The line to open a page at so that a snippet can be read; the first one without it."""
    if snippet is None:
        return 0
    line = snippet.line
    if line is None:
        words = one_line(without_links(snippet.text)).casefold().strip("…. ")
        lines = [one_line(text).casefold() for text in page.plain_lines]
        for start in (words[:60], words[:30]):
            near = (" ".join(lines[number : number + 3]) for number in range(len(lines)))
            line = next((number for number, text in enumerate(near) if start and start in text), None)
            if line is not None:
                break
    return 0 if line is None else max(0, min(line, len(page.lines) - 1) - LINES_BEFORE_SNIPPET)


def _annotation(source: Source, start: int, end: int) -> Annotation:
    return Annotation(type="url_citation", start_index=start, end_index=end, title=source.title, url=source.url)


def _markdown_link(url: str) -> str:
    """Set apart by spaces, and no parenthesis of the address's ends it."""
    try:
        words = host_of(url) or unquote(url)
    except ValueError:
        words = url
    return f" ([{one_line(clean(words))}]({url.replace('(', '%28').replace(')', '%29')})) "


def _text(given: Mapping[str, Any], name: str) -> str:
    """An argument as text that can be encoded: JSON can hold halves of surrogate pairs."""
    value = given.get(name, "")
    if not isinstance(value, str | int | float):
        raise _RefusedError(f"{name} must be a string")
    return str(value).encode("utf-8", "replace").decode()


def _number(given: Mapping[str, Any], name: str, default: int) -> int:
    value = given.get(name, default)
    if value is None or isinstance(value, bool):
        return default
    try:
        return int(float(value))
    except (TypeError, ValueError, OverflowError):
        raise _RefusedError(f"{name} must be a number, not {str(value)[:40]!r}") from None
