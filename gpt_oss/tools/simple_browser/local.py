"""A folder of pages as the web: full-text search in SQLite, no network. What works offline, and in tests.

HTML, Markdown and text files become pages with the address `local:///their/path`; links between them work, links out of
the folder lead nowhere. A sitemap gives the files beside it the addresses under which they are published. The index
lives in memory and follows the files: what has changed is read before a search.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from pathlib import Path
from urllib.parse import quote, unquote, urldefrag, urlsplit

from lxml import etree

from gpt_oss.errors import ParameterError
from gpt_oss.tools.simple_browser.backend import VIEW_SOURCE, Backend, BackendError, Result, results_page
from gpt_oss.tools.simple_browser.page import (
    LOCAL,
    PageContents,
    link_mark,
    page_of_html,
    page_of_source,
    page_of_text,
    top_lines,
    without_links,
)

HTML = frozenset({".html", ".htm", ".xhtml"})
MARKDOWN = frozenset({".md", ".markdown"})
PAGES = HTML | MARKDOWN | {".txt", ".rst", ".text"}
LARGEST_FILE = 10 << 20  # bytes
MOST_WORDS = 32  # of a query
_INDEXES = ("index.html", "index.htm", "index.md", "README.md")
_WORD = re.compile(r"\w+")
_MARKDOWN_LINK = re.compile(r"\[([^\]\n]{1,500})\]\(([^)\s]{1,2000})\)")
_Stamp = tuple[int, int]  # of a file: when it was modified, its size


class LocalBackend(Backend):
    """pages: a folder, or a sitemap of a site that lies around it (see `read_sitemap`). Raises ParameterError."""

    def __init__(self, pages: str | Path) -> None:
        given = Path(pages).resolve()
        self._folder = given.parent if given.is_file() else given
        if not self._folder.is_dir():
            raise ParameterError(f"{pages} is not a folder of pages, and no sitemap")
        self._addresses = read_sitemap(given) if given.is_file() else {}
        self.source = str(pages)
        self._lock = threading.Lock()
        self._index = sqlite3.connect(":memory:", check_same_thread=False)
        self._index.execute(
            "CREATE VIRTUAL TABLE pages USING fts5(title, body, path UNINDEXED, tokenize='porter unicode61')"
        )
        self._seen: dict[str, _Stamp] = {}  # by path

    async def search(self, query: str, topn: int) -> PageContents:
        return await asyncio.to_thread(self._search, query, topn)

    async def fetch(self, url: str) -> PageContents:
        return await asyncio.to_thread(self._fetch, url)

    async def close(self) -> None:
        with self._lock:
            self._index.close()

    def _search(self, query: str, topn: int) -> PageContents:
        words = [f'"{word}"' for word in _WORD.findall(query)][:MOST_WORDS]
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
        changed = [path for path in now if now[path] != self._seen.get(path)]
        gone = [path for path in self._seen if path not in now]
        self._index.executemany("DELETE FROM pages WHERE path = ?", [(path,) for path in changed + gone])
        for path in changed:
            try:
                page = self._read(self._folder / path)
            except OSError:
                now.pop(path)  # vanished or unreadable: as if it were not there
                continue
            body = without_links(page.text.removeprefix(top_lines(page.url)))
            self._index.execute("INSERT INTO pages VALUES (?, ?, ?)", (page.title, body, path))
        self._seen = now

    def _files(self) -> Iterator[tuple[str, _Stamp]]:
        """The paths of pages, in order. Hidden files and folders (.git) hold none."""
        for path in self._addresses or _walk(self._folder):
            file = self._folder / path
            try:
                stat = file.stat()
            except OSError:
                continue
            if _is_page(file, self._folder) and stat.st_size <= LARGEST_FILE:
                yield path, (stat.st_mtime_ns, stat.st_size)

    def _url(self, path: str) -> str:
        return self._addresses.get(path) or f"{LOCAL}:///{quote(path)}"

    def _fetch(self, url: str) -> PageContents:
        target = url.removeprefix(VIEW_SOURCE)
        file = self._file(target)
        if file is None:
            raise BackendError(f"there is no local page {target}, and no network: search for what there is")
        try:
            if file.stat().st_size > LARGEST_FILE:
                raise BackendError(f"{target} is larger than {LARGEST_FILE >> 20} MiB")
            page = self._read(file)
            return page if target == url else page_of_source(file.read_text(errors="replace"), url, page.title)
        except OSError as error:
            raise BackendError(f"{target} cannot be read: {error.strerror}") from None

    def _file(self, url: str) -> Path | None:
        """The file of an address; None where there is none in this folder."""
        wanted = urldefrag(url).url.rstrip("/")
        published = next((path for path, address in self._addresses.items() if address.rstrip("/") == wanted), None)
        if published is not None:
            file = self._folder / published
            return file if _is_page(file, self._folder) else None
        try:
            parts = urlsplit(url)
        except ValueError:
            return None
        if parts.scheme not in (LOCAL, "") or self._addresses:
            return None
        found = _page_at(self._folder, unquote(parts.path))
        return self._folder / found if found else None

    def _read(self, file: Path) -> PageContents:
        """Raises OSError."""
        url = self._url(file.relative_to(self._folder).as_posix())
        text = file.read_text(errors="replace")
        if file.suffix.lower() in HTML:
            return page_of_html(text, url)
        title = next((line.lstrip("# ").strip() for line in text.splitlines() if line.strip()), file.stem)
        make = _page_of_markdown if file.suffix.lower() in MARKDOWN else page_of_text
        return make(text, url, title)


def read_sitemap(file: Path) -> Mapping[str, str]:
    """The files that a sitemap names, as paths from its folder, and their addresses.

    It is sitemaps.org's XML, or a text with an address a line. `https://site.org/docs/a` is docs/a, docs/a.html or
    docs/a/index.html, or that without folders that all addresses begin with. Raises ParameterError.
    """
    if file.suffix.lower() == ".xml":
        parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
        try:
            root = etree.parse(str(file), parser).getroot()
        except (etree.XMLSyntaxError, OSError):
            raise ParameterError(f"{file} is not a sitemap: it is no XML") from None
        named: Iterable[str | None] = (element.text for element in root.iterfind(".//{*}loc"))
    else:
        named = file.read_text(errors="replace").splitlines()
    addresses = [
        address.strip() for address in named if address and address.strip().startswith(("http://", "https://"))
    ]
    paths = {address: unquote(urlsplit(address).path).lstrip("/") for address in addresses}
    found: dict[str, str] = {}
    for skipped in range(_common_folders(list(paths.values())) + 1):
        here = {}
        for address, path in paths.items():
            page = _page_at(file.parent, "/".join(path.split("/")[skipped:]))
            if page is not None:
                here[page] = address
        if len(here) > len(found):
            found = here
    if not found:
        raise ParameterError(f"{file} names no page that lies in its folder")
    return found


def _common_folders(paths: list[str]) -> int:
    folders = [path.split("/")[:-1] for path in paths]
    alike = [len(set(level)) == 1 for level in zip(*folders, strict=False)]
    return alike.index(False) if False in alike else len(alike)


def _page_at(folder: Path, path: str) -> str | None:
    """The page in `folder` that a path of an address means, as a path from there."""
    path = path.strip("/")
    for name in (path, f"{path}.html", *(f"{path}/{index}".lstrip("/") for index in _INDEXES)):
        if name and _is_page(folder / name, folder):
            return (folder / name).relative_to(folder).as_posix()
    return None


def _walk(folder: Path) -> Iterator[str]:
    for file in sorted(folder.rglob("*")):
        path = file.relative_to(folder)
        if not any(part.startswith(".") for part in path.parts):
            yield path.as_posix()


def _is_page(file: Path, folder: Path) -> bool:
    """Whether a file is one to read, and lies in the folder, links followed."""
    try:
        return file.suffix.lower() in PAGES and file.is_file() and file.resolve().is_relative_to(folder)
    except OSError:  # a name that is too long, a folder that may not be entered, links in a ring
        return False


def _page_of_markdown(text: str, url: str, title: str) -> PageContents:
    """Markdown reads well as it is; only its links become marks, by the way that HTML's do."""
    plain = page_of_text(text, url, title)
    urls: dict[str, str] = {}
    numbers: dict[str, int] = {}

    def mark(found: re.Match[str]) -> str:
        links = page_of_html(f'<a href="{escape(found[2])}">x</a>', url).urls
        if not links:
            return found[0]
        target = links["0"]
        number = numbers.setdefault(target, len(numbers))
        urls[str(number)] = target
        return link_mark(number, found[1], target, url)

    return PageContents(url, plain.title, _MARKDOWN_LINK.sub(mark, plain.text), urls)
