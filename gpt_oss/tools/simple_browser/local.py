"""A folder of pages as the web: full-text search in SQLite, no network. The default where nothing else is configured.

HTML, Markdown and text files become pages with the address `local:///their/path`; links between them work, links out of
the folder lead nowhere. The index lives in memory and follows the files: what has changed is read before a search.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from gpt_oss.errors import ParameterError
from gpt_oss.tools.simple_browser.backend import VIEW_SOURCE, Backend, BackendError, Result, results_page
from gpt_oss.tools.simple_browser.page import LOCAL, Page, page_of_html, page_of_text, without_links

HTML = frozenset({".html", ".htm", ".xhtml"})
TEXT = frozenset({".md", ".markdown", ".txt", ".rst", ".text"})
LARGEST_FILE = 10 << 20  # bytes
_WORD = re.compile(r"\w+")
_MARKDOWN_LINK = re.compile(r"\[([^\]\n]+)\]\(([^)\s]+)\)")


class LocalBackend(Backend):
    """Raises ParameterError where `folder` is none."""

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder).resolve()
        if not self._folder.is_dir():
            raise ParameterError(f"{folder} is not a folder of pages")
        self.source = str(folder)
        self._lock = threading.Lock()
        self._index = sqlite3.connect(":memory:", check_same_thread=False)
        self._index.execute(
            "CREATE VIRTUAL TABLE pages USING fts5(title, body, path UNINDEXED, tokenize='porter unicode61')"
        )
        self._seen: dict[str, tuple[int, int]] = {}  # path: (modified, size)

    async def search(self, query: str, topn: int) -> Page:
        return await asyncio.to_thread(self._search, query, topn)

    async def fetch(self, url: str) -> Page:
        return await asyncio.to_thread(self._fetch, url)

    async def close(self) -> None:
        with self._lock:
            self._index.close()

    def _search(self, query: str, topn: int) -> Page:
        words = [f'"{word}"' for word in _WORD.findall(query)][:32]
        if not words:
            raise BackendError("the query holds no word to search for")
        with self._lock:
            self._update()
            # All of the words first; where nothing has them all, any of them.
            rows = self._match(" AND ".join(words), topn) or self._match(" OR ".join(words), topn)
        return results_page(query, [Result(title, self._url(path), snippet) for title, path, snippet in rows])

    def _match(self, expression: str, topn: int) -> list[tuple[str, str, str]]:
        return self._index.execute(
            "SELECT title, path, snippet(pages, 1, '', '', '…', 24) FROM pages WHERE pages MATCH ? "
            "ORDER BY bm25(pages, 4.0, 1.0), path LIMIT ?",
            (expression, topn),
        ).fetchall()

    def _update(self) -> None:
        """Bring the index up to the files as they are."""
        now = dict(self._files())
        gone = [path for path in self._seen if now.get(path) != self._seen[path]]
        self._index.executemany("DELETE FROM pages WHERE path = ?", [(path,) for path in gone])
        for path in now:
            if now[path] != self._seen.get(path):
                page = self._read(self._folder / path)
                self._index.execute("INSERT INTO pages VALUES (?, ?, ?)", (page.title, without_links(page.text), path))
        self._seen = now

    def _files(self) -> Iterator[tuple[str, tuple[int, int]]]:
        for file in sorted(self._folder.rglob("*")):
            if file.suffix.lower() not in HTML | TEXT or not self._is_inside(file):
                continue
            stat = file.stat()
            if stat.st_size <= LARGEST_FILE:
                yield file.relative_to(self._folder).as_posix(), (stat.st_mtime_ns, stat.st_size)

    def _is_inside(self, file: Path) -> bool:
        return file.is_file() and file.resolve().is_relative_to(self._folder)

    def _url(self, path: str) -> str:
        return f"{LOCAL}:///{quote(path)}"

    def _fetch(self, url: str) -> Page:
        raw = url.startswith(VIEW_SOURCE)
        target = url.removeprefix(VIEW_SOURCE)
        parts = urlsplit(target)
        if parts.scheme not in (LOCAL, ""):
            raise BackendError(f"{target} is not among the local pages, and there is no network")
        file = self._folder / unquote(parts.path).lstrip("/")
        if file.is_dir():
            file = next(
                (file / name for name in ("index.html", "index.md", "README.md") if (file / name).is_file()), file
            )
        if file.suffix.lower() not in HTML | TEXT or not self._is_inside(file):
            raise BackendError(f"there is no local page {target}")
        page = self._read(file)
        return page_of_text(file.read_text(errors="replace"), url, page.title) if raw else page

    def _read(self, file: Path) -> Page:
        url = self._url(file.relative_to(self._folder).as_posix())
        text = file.read_text(errors="replace")
        if file.suffix.lower() in HTML:
            return page_of_html(text, url)
        title = next((line.lstrip("# ").strip() for line in text.splitlines() if line.strip()), file.stem)
        if file.suffix.lower() in (".md", ".markdown"):
            return _markdown_page(text, url, title)
        return page_of_text(text, url, title)


def _markdown_page(text: str, url: str, title: str) -> Page:
    """Markdown reads well as it is; only its links become marks, by the way that HTML's do."""
    plain = page_of_text(text, url, title)
    links: dict[int, str] = {}
    numbers: dict[str, int] = {}

    def mark(found: re.Match[str]) -> str:
        page = page_of_html(f'<a href="{found[2]}">x</a>', url)
        if not page.urls:
            return found[0]
        target = page.urls[0]
        number = numbers.setdefault(target, len(numbers))
        links[number] = target
        elsewhere = f"†{urlsplit(target).netloc}" if urlsplit(target).netloc != urlsplit(url).netloc else ""
        return f"【{number}†{found[1].replace('†', '‡')}{elsewhere}】"

    return Page(url, plain.title, _MARKDOWN_LINK.sub(mark, plain.text), links)
