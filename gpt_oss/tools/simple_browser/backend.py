"""Where pages come from: Exa, You.com, a SearXNG instance, or a folder on this machine (local.py).

Every failure is a BackendError of one sentence, which the model gets to read. Knows nothing of cursors and lines.
"""

from __future__ import annotations

import asyncio
import html
import json
import os
import time
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from gpt_oss.errors import GptOssError, ParameterError
from gpt_oss.tools.simple_browser.page import PageContents, Snippet, page_of_html, page_of_source

if TYPE_CHECKING:
    from gpt_oss.tools.simple_browser.fetch import Fetcher

VIEW_SOURCE = "view-source:"
DEMO_PAGES = Path(__file__).parents[2] / "demo" / "pages"  # what the demo model reads; of use to others as a test
ENCODINGS = "gzip, deflate"  # what `read_body` undoes
TIMEOUT_S = 30.0  # of a step; a whole answer may take twice that
LARGEST_BODY = 20 << 20  # bytes of an answer of an API
ATTEMPTS = 4
LONGEST_WAIT_S = 20.0  # for a server that says when to come back
LONGEST_QUERY = 2000  # characters


class BackendError(GptOssError):
    """A search or a page could not be had; the message says why."""


@dataclass(frozen=True)
class Result:
    """One hit of a search. snippet: plain text."""

    title: str
    url: str
    snippet: str


class Backend(ABC):
    """source: for people, what is searched."""

    source: str

    @abstractmethod
    async def search(self, query: str, topn: int) -> PageContents:
        """A page of at most `topn` links. Raises BackendError."""

    @abstractmethod
    async def fetch(self, url: str) -> PageContents:
        """A page as text; `view-source:` before the URL asks for it as it is. Raises BackendError."""

    async def close(self) -> None:
        """Give back connections. It may be called twice."""
        return None


def results_page(query: str, results: Sequence[Result]) -> PageContents:
    """What a search shows: a list of links with their snippets. It has no address."""
    items = "".join(
        f"<li><a href='{html.escape(result.url)}'>{html.escape(result.title or result.url)}</a> "
        f"{html.escape(result.snippet)}</li>"
        for result in results
    )
    body = f"<ul>{items}</ul>" if items else "<p>No results.</p>"
    page = page_of_html(f"<html><body><h1>Search Results</h1>{body}</body></html>", "", query)
    texts = {result.url: result.snippet for result in reversed(results)}
    snippets = {link: Snippet(texts[url]) for link, url in page.urls.items() if url in texts}
    return PageContents("", page.title, page.text, page.urls, snippets)


async def read_body(response: httpx.Response, largest: int, who: str) -> bytes:
    """The body of a streamed response, of at most `largest` bytes.

    Decompressed by ourselves: httpx inflates what came, or encodings within encodings, to any size before one can look.
    Raises BackendError, whose message begins with `who`, and httpx.HTTPError.
    """
    encoding = response.headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity", "gzip", "x-gzip", "deflate"):
        raise BackendError(f"{who} sent an encoding that was not asked for: {encoding[:40]}")
    # 32: either header, gzip's or zlib's, by what the data begins with.
    inflate = zlib.decompressobj(zlib.MAX_WBITS | 32) if encoding not in ("", "identity") else None
    body = bytearray()
    async for part in response.aiter_raw():
        try:
            body += inflate.decompress(part, largest + 1 - len(body)) if inflate else part
        except zlib.error:
            raise BackendError(f"{who} sent what cannot be decompressed") from None
        if len(body) > largest:
            raise BackendError(f"{who} sent more than {largest / 2**20:g} MiB")
    if inflate and body and not inflate.eof:
        raise BackendError(f"{who} sent a compressed body that ends too early")
    return bytes(body)


class Api:
    """JSON over HTTP with retries: 429 and 5xx, with backoff or when the server says; refused and cut connections.

    refused: what to do about an answer of 401 or 403.
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        headers: Mapping[str, str],
        *,
        refused: str = "check its key",
        backoff_s: float = 0.5,
    ) -> None:
        self._name = name
        self._refused = refused
        self._backoff_s = backoff_s
        self._client = httpx.AsyncClient(
            base_url=base_url,
            headers={"accept": "application/json", "accept-encoding": ENCODINGS, **headers},
            timeout=TIMEOUT_S,
            follow_redirects=False,
        )

    async def call(self, method: str, path: str, **arguments: Any) -> Any:
        """The JSON of an answer. Raises BackendError."""
        for attempt in range(ATTEMPTS):
            last = attempt + 1 == ATTEMPTS
            try:
                response, body = await self._once(method, path, arguments)
            except (httpx.TimeoutException, TimeoutError):
                raise BackendError(f"{self._name} did not answer in {TIMEOUT_S:g} s: try again later") from None
            except httpx.HTTPError as error:
                if last:
                    raise BackendError(f"{self._name} cannot be reached: {error or type(error).__name__}") from error
                await asyncio.sleep(self._backoff_s * 2**attempt)
                continue
            if response.status_code == 429 or response.status_code >= 500:
                if last:
                    raise BackendError(
                        f"{self._name} answered {response.status_code} {ATTEMPTS} times: try again later"
                    )
                await asyncio.sleep(self._pause(response, attempt))
                continue
            return self._read(response, body)
        raise AssertionError("the last attempt returns or raises")

    async def close(self) -> None:
        await self._client.aclose()

    async def _once(self, method: str, path: str, arguments: Mapping[str, Any]) -> tuple[httpx.Response, bytes]:
        async with asyncio.timeout(2 * TIMEOUT_S), self._client.stream(method, path, **arguments) as response:
            if response.status_code != 200:
                return response, b""
            return response, await read_body(response, LARGEST_BODY, self._name)

    def _pause(self, response: httpx.Response, attempt: int) -> float:
        """Seconds to wait: what Retry-After says, in seconds or as a date, within bounds; else the backoff."""
        after = response.headers.get("retry-after", "").strip()
        try:
            wanted = float(after) if after.isascii() and after.isdigit() else _seconds_until(after)
        except (ValueError, OverflowError):
            wanted = self._backoff_s * 2**attempt
        return max(0.0, min(wanted, LONGEST_WAIT_S))

    def _read(self, response: httpx.Response, body: bytes) -> Any:
        if response.status_code in (401, 403):
            raise BackendError(f"{self._name} refused the request ({response.status_code}): {self._refused}")
        if response.status_code != 200:
            raise BackendError(f"{self._name} answered {response.status_code}")
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            raise BackendError(f"{self._name} answered with something that is not JSON") from None


class ExaBackend(Backend):
    """Exa's search and contents. api_key: from EXA_API_KEY unless given; needed when the first call is made."""

    def __init__(
        self,
        source: str = "web",
        *,
        api_key: str | None = None,
        base_url: str = "https://api.exa.ai",
        backoff_s: float = 0.5,
    ) -> None:
        self.source = source
        self._key = api_key
        self._base_url = base_url
        self._backoff_s = backoff_s
        self._opened: Api | None = None

    @property
    def _api(self) -> Api:
        if self._opened is None:
            key = _key("Exa", "EXA_API_KEY", self._key)
            self._opened = Api("Exa", self._base_url, {"x-api-key": key}, backoff_s=self._backoff_s)
        return self._opened

    async def search(self, query: str, topn: int) -> PageContents:
        wanted = {"query": query[:LONGEST_QUERY], "numResults": topn, "contents": {"text": True, "summary": True}}
        answer = await self._api.call("POST", "/search", json=wanted)
        hits = _rows(_part(answer, "results"), "Exa")
        return results_page(query, [Result(_str(h, "title"), _str(h, "url"), _str(h, "summary")) for h in hits][:topn])

    async def fetch(self, url: str) -> PageContents:
        wanted = {"urls": [url.removeprefix(VIEW_SOURCE)], "text": {"includeHtmlTags": True}}
        hits = _rows(_part(await self._api.call("POST", "/contents", json=wanted), "results"), "Exa")
        return await _page(hits, "text", url, "Exa")

    async def close(self) -> None:
        if self._opened is not None:
            await self._opened.close()
            self._opened = None


class YouComBackend(Backend):
    """You.com's search and contents, as its documentation of 2026 has them.

    api_key: from YDC_API_KEY unless given; needed when the first call is made.
    """

    def __init__(
        self,
        source: str = "web",
        *,
        api_key: str | None = None,
        base_url: str = "https://ydc-index.io",
        backoff_s: float = 0.5,
    ) -> None:
        self.source = source
        self._key = api_key
        self._base_url = base_url
        self._backoff_s = backoff_s
        self._opened: Api | None = None

    @property
    def _api(self) -> Api:
        if self._opened is None:
            key = _key("You.com", "YDC_API_KEY", self._key)
            self._opened = Api("You.com", self._base_url, {"X-API-Key": key}, backoff_s=self._backoff_s)
        return self._opened

    async def search(self, query: str, topn: int) -> PageContents:
        answer = await self._api.call("GET", "/v1/search", params={"query": query[:LONGEST_QUERY], "count": topn})
        kinds = _part(answer, "results")
        if not isinstance(kinds, dict):
            raise BackendError("You.com answered without results")
        hits = [hit for kind in ("web", "news") if kinds.get(kind) for hit in _rows(kinds[kind], "You.com")]
        return results_page(query, [Result(_str(h, "title"), _str(h, "url"), _you_snippet(h)) for h in hits][:topn])

    async def fetch(self, url: str) -> PageContents:
        wanted = {"urls": [url.removeprefix(VIEW_SOURCE)], "formats": ["html"]}
        hits = _rows(await self._api.call("POST", "/v1/contents", json=wanted), "You.com")
        return await _page(hits, "html", url, "You.com")

    async def close(self) -> None:
        if self._opened is not None:
            await self._opened.close()
            self._opened = None


class SearxngBackend(Backend):
    """A SearXNG instance of one's own (its settings must allow the json format) for searching; pages come directly.

    url: of the instance, which may be on a private address. fetcher: see fetch.Fetcher.
    """

    def __init__(self, url: str, *, fetcher: Fetcher | None = None, backoff_s: float = 0.5) -> None:
        from gpt_oss.tools.simple_browser.fetch import Fetcher

        if not url.startswith(("http://", "https://")):
            raise ParameterError(f"SEARXNG_URL must be the http address of an instance, not {url!r}")
        self.source = url
        refused = "allow the json format in its settings (search.formats)"
        self._api = Api("SearXNG", url.rstrip("/"), {}, refused=refused, backoff_s=backoff_s)
        self._fetcher = fetcher or Fetcher()

    async def search(self, query: str, topn: int) -> PageContents:
        answer = await self._api.call("GET", "/search", params={"q": query[:LONGEST_QUERY], "format": "json"})
        hits = _rows(_part(answer, "results"), "SearXNG")
        return results_page(query, [Result(_str(h, "title"), _str(h, "url"), _str(h, "content")) for h in hits][:topn])

    async def fetch(self, url: str) -> PageContents:
        return await self._fetcher.page(url)

    async def close(self) -> None:
        await self._api.close()
        await self._fetcher.close()


def choose_backend(name: str | None = None) -> Backend:
    """exa, youcom, searxng, local or demo (the few pages of this package); None is BROWSER_BACKEND, or else the first
    that the environment has settings for: EXA_API_KEY, YDC_API_KEY, SEARXNG_URL, BROWSER_LOCAL_DIR. The one place that
    reads them, keys apart.

    Raises ParameterError, which says what to set.
    """
    from gpt_oss.tools.simple_browser.local import LocalBackend

    settings = {"exa": "EXA_API_KEY", "youcom": "YDC_API_KEY", "searxng": "SEARXNG_URL", "local": "BROWSER_LOCAL_DIR"}
    name = (
        name
        or os.environ.get("BROWSER_BACKEND")
        or next((n for n, key in settings.items() if os.environ.get(key)), None)
    )
    if name == "demo":
        return LocalBackend(DEMO_PAGES)
    if name is None:
        raise ParameterError(
            "the browser has no backend",
            hint="set EXA_API_KEY, YDC_API_KEY, SEARXNG_URL (no key) or BROWSER_LOCAL_DIR (a folder of pages, offline)",
        )
    if name not in settings:
        raise ParameterError(f"there is no browser backend {name!r}; choose one of {', '.join(settings)}, demo")
    value = os.environ.get(settings[name])
    if not value:
        raise ParameterError(f"the browser backend {name} needs {settings[name]} to be set")
    match name:
        case "exa":
            return ExaBackend(source="web")
        case "youcom":
            return YouComBackend(source="web")
        case "searxng":
            return SearxngBackend(value)
        case _:
            return LocalBackend(Path(value))


def _key(name: str, variable: str, given: str | None) -> str:
    key = (given or os.environ.get(variable, "")).strip()
    if not key:
        raise BackendError(f"{name} needs a key: set {variable}")
    if not (key.isascii() and key.isprintable()):  # httpx would print it in its error
        raise BackendError(f"the key in {variable} holds characters that no key has")
    return key


async def _page(hits: Sequence[Mapping[str, Any]], kind: str, url: str, who: str) -> PageContents:
    """The page that an answer holds; parsing a huge one takes seconds, in which others shall be served."""
    text = _str(hits[0], kind) if hits else ""
    target = url.removeprefix(VIEW_SOURCE)
    if not text:
        raise BackendError(f"{who} has no contents for {target}")
    if url.startswith(VIEW_SOURCE):
        return page_of_source(text, url, _str(hits[0], "title"))
    return await asyncio.to_thread(page_of_html, text, target, _str(hits[0], "title"))


def _part(answer: Any, name: str) -> Any:
    return answer.get(name) if isinstance(answer, dict) else None


def _rows(rows: Any, who: str) -> list[Mapping[str, Any]]:
    if not isinstance(rows, list):
        raise BackendError(f"{who} answered without results")
    return [row for row in rows if isinstance(row, dict)]


def _str(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    return value if isinstance(value, str) else ""


def _you_snippet(row: Mapping[str, Any]) -> str:
    snippets = row.get("snippets")
    first = next((text for text in snippets if isinstance(text, str)), "") if isinstance(snippets, list) else ""
    return first or _str(row, "description")


def _seconds_until(date: str) -> float:
    """Raises ValueError for what is no date of HTTP's."""
    return parsedate_to_datetime(date).timestamp() - time.time()
