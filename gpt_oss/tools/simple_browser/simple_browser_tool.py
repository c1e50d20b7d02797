"""`browser` as the models know it: pages in numbered lines, a stack of what was shown, links and matches to open.

Knows nothing of where pages come from (backend.py) and how they become text (page.py).
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, TypedDict
from urllib.parse import quote, unquote

from openai_harmony import Message, ToolNamespaceConfig

from gpt_oss.tools.citations import Citation, CitationReader, Source
from gpt_oss.tools.simple_browser.backend import Backend, BackendError
from gpt_oss.tools.simple_browser.page import Page, Snippet, lines_without_links, one_line, without_links, wrap
from gpt_oss.tools.tool import Tool, answer, text_of
from gpt_oss.vocabulary import encode_ordinary

VIEW_SOURCE = "view-source:"
MATCHES, LINES_PER_MATCH = 50, 4
LINES_BEFORE_SNIPPET = 4
LONGEST_URL_SHOWN = 256


class Annotation(TypedDict):
    """A citation as the Responses API has it: offsets in characters of the whole text."""

    type: str
    start_index: int
    end_index: int
    title: str
    url: str


class _RefusedError(Exception):
    """What the model asked for cannot be done; the text is for the model."""


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
        self._shown: list[Page] = []
        self._cache: dict[str, Page] = {}

    @property
    def tool_config(self) -> ToolNamespaceConfig:
        config = ToolNamespaceConfig.browser()
        config.name = self.name
        return config

    def citations(self) -> CitationReader:
        return CitationReader(self.source)

    def source(self, cursor: int) -> Source | None:
        """The page that a cursor shows."""
        if not 0 <= cursor < len(self._shown):
            return None
        page = self._shown[cursor]
        return Source(page.title, page.url)

    def normalize_citations(
        self, old_content: str, hide_partial_citations: bool = False
    ) -> tuple[str, list[Annotation], bool]:
        """(text, its citations, whether it ends in what may become one); such an end is left out where it shall be."""
        reader = self.citations()
        pieces = reader.push(old_content)
        text = "".join(piece for piece in pieces if isinstance(piece, str))
        partial = len(text) < len(old_content)
        found = [_annotation(piece) for piece in pieces if isinstance(piece, Citation)]
        return text if hide_partial_citations else old_content, found, partial

    async def close(self) -> None:
        await self._backend.close()

    async def _process(self, message: Message) -> AsyncIterator[Message]:
        try:
            yield answer(message, await self._do(message.recipient or "", text_of(message)))
        except (_RefusedError, BackendError) as error:
            yield answer(message, f"Error: {error}")

    async def _do(self, recipient: str, text: str) -> str:
        function = recipient.removeprefix("functions.").removeprefix(self.name).lstrip(".")
        try:
            given = json.loads(text or "{}", strict=False)
        except (ValueError, RecursionError) as error:
            raise _RefusedError(f"the arguments are not valid JSON: {error}") from None
        if not isinstance(given, dict):
            raise _RefusedError("the arguments must be a JSON object")
        match function:
            case "search":
                query = _text(given, "query")
                if not query.strip():
                    raise _RefusedError("search needs a query")
                topn = _number(given, "topn", 10)
                return await self._search(query, max(1, min(topn, self._max_search_results)))
            case "open":
                return await self._open(given)
            case "find":
                pattern = _text(given, "pattern")
                if not pattern.strip():
                    raise _RefusedError("find needs a pattern")
                return self._find(pattern, _number(given, "cursor", -1))
            case _:
                raise _RefusedError(f"{self.name} has search, open and find, not {recipient!r}")

    async def _search(self, query: str, topn: int) -> str:
        return self._show(await self._backend.search(query, topn), 0, None)

    async def _open(self, given: Mapping[str, Any]) -> str:
        target, cursor = given.get("id", -1), _number(given, "cursor", -1)
        loc, lines = _number(given, "loc", -1), _number(given, "num_lines", -1)
        raw = given.get("view_source") in (True, "true", "True", 1)
        if isinstance(target, str) and target.strip().lstrip("-").isdigit():
            target = int(target)
        snippet = None
        if isinstance(target, str):
            if not target.strip():
                raise _RefusedError("open needs the id of a link or a URL")
            url = target.strip()
        elif isinstance(target, bool) or not isinstance(target, int | float):
            raise _RefusedError("open's id must be the number of a link or a URL")
        elif target >= 0:
            page = self._page(cursor)
            found = page.urls.get(int(target))
            if found is None:
                last = f"its links are 0 to {max(page.urls)}" if page.urls else "it has no links"
                raise _RefusedError(f"page {self._index(cursor)} has no link {int(target)}: {last}")
            url, snippet = found, page.snippets.get(int(target))
        else:
            page = self._page(cursor)
            if not raw:
                return self._show(page, max(loc, 0), lines)
            url = page.url
        page = await self._fetch(VIEW_SOURCE + url if raw and not url.startswith(VIEW_SOURCE) else url)
        if loc < 0:
            loc = _place(page, snippet) if snippet else 0
        return self._show(page, loc, lines)

    async def _fetch(self, url: str) -> Page:
        if url not in self._cache:
            self._cache[url] = await self._backend.fetch(url)
        return self._cache[url]

    def _find(self, pattern: str, cursor: int) -> str:
        page = self._page(cursor)
        wanted = pattern.casefold()
        lines = lines_without_links(page.text)
        shown: list[str] = []
        snippets: dict[int, Snippet] = {}
        line = 0
        while line < len(lines) and len(shown) < MATCHES:
            if wanted in lines[line].casefold():
                text = "\n".join(lines[line : line + LINES_PER_MATCH])
                shown.append(f"# 【{len(shown)}†match at L{line}】\n{text}")
                snippets[len(snippets)] = Snippet(text, line)
                line += LINES_PER_MATCH
            else:
                line += 1
        text = "\n\n".join(shown) or f"No `find` results for pattern: `{pattern}`"
        title = f"Find results for text: `{one_line(pattern)}` in `{page.title}`"
        urls = dict.fromkeys(snippets, page.url)
        self._cache.setdefault(page.url, page)
        return self._show(Page(f"{page.url}/find?pattern={quote(pattern)}", title, text, urls, snippets), 0, None)

    def _index(self, cursor: int) -> int:
        return cursor if cursor >= 0 else len(self._shown) - 1

    def _page(self, cursor: int) -> Page:
        if not self._shown:
            raise _RefusedError("no page is open yet: search, or open a URL")
        index = self._index(cursor)
        if index >= len(self._shown):
            raise _RefusedError(f"there is no cursor {cursor}: they go from 0 to {len(self._shown) - 1}")
        return self._shown[index]

    def _show(self, page: Page, loc: int, num_lines: int | None) -> str:
        """Push a page and show it from line `loc` on; num_lines: None or below 1 is as many as view_tokens hold."""
        lines = wrap(page.text)
        if loc >= len(lines):
            raise _RefusedError(f"loc {loc} is behind the page's end: its last line is {len(lines) - 1}")
        end = loc
        if num_lines is not None and num_lines > 0:
            end = min(len(lines), loc + num_lines)
        else:
            tokens = 0
            while end < len(lines) and (end == loc or tokens < self._view_tokens):
                tokens += len(encode_ordinary(f"{lines[end]}\n"))
                end += 1
            if tokens > self._view_tokens and end > loc + 1:
                end -= 1
        self._shown.append(page)
        url = unquote(page.url)
        url = f" ({url if len(url) <= LONGEST_URL_SHOWN else url[: LONGEST_URL_SHOWN - 1] + '…'})" if url else ""
        head = f"[{len(self._shown) - 1}] {page.title}{one_line(url) and ' ' + one_line(url)}"
        body = "\n".join(f"L{number}: {lines[number]}" for number in range(loc, end))
        return f"{head}\n**viewing lines [{loc} - {end - 1}] of {len(lines) - 1}**\n\n{body}"


def _place(page: Page, snippet: Snippet) -> int:
    """The line to open a page at so that a snippet can be read."""
    line = snippet.line
    if line is None:
        words = one_line(without_links(snippet.text)).casefold().strip("…. ")
        lines = [one_line(text).casefold() for text in lines_without_links(page.text)]
        for start in (words[:60], words[:30]):
            near = (" ".join(lines[number : number + 3]) for number in range(len(lines)))
            line = next((number for number, text in enumerate(near) if start and start in text), None)
            if line is not None:
                break
    last = len(wrap(page.text)) - 1
    return 0 if line is None else min(max(0, line - LINES_BEFORE_SNIPPET), last)


def _annotation(citation: Citation) -> Annotation:
    return Annotation(
        type="url_citation",
        start_index=citation.start,
        end_index=citation.end,
        title=citation.source.title,
        url=citation.source.url,
    )


def _text(given: Mapping[str, Any], name: str) -> str:
    value = given.get(name, "")
    if not isinstance(value, str | int | float):
        raise _RefusedError(f"{name} must be a string")
    return str(value)


def _number(given: Mapping[str, Any], name: str, default: int) -> int:
    value = given.get(name, default)
    try:
        return default if value is None or isinstance(value, bool) else int(float(value))
    except (TypeError, ValueError, OverflowError):
        raise _RefusedError(f"{name} must be a number, not {value!r}") from None
