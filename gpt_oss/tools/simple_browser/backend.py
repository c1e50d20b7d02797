"""Where pages come from: Exa, You.com, a SearXNG instance, or a folder on this machine (local.py).

Every failure is a BackendError of one sentence, which the model gets to read. Knows nothing of cursors and lines.
"""

from __future__ import annotations

import asyncio
import html
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from gpt_oss.errors import GptOssError, ParameterError
from gpt_oss.tools.simple_browser.page import Page, Snippet, page_of_html, page_of_text

VIEW_SOURCE = "view-source:"
TIMEOUT_S = 30.0
LARGEST_BODY = 20 << 20  # bytes of an answer of an API
ATTEMPTS = 4
LONGEST_WAIT_S = 20.0  # for a server that says when to come back


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
    async def search(self, query: str, topn: int) -> Page:
        """A page of at most `topn` links. Raises BackendError."""

    @abstractmethod
    async def fetch(self, url: str) -> Page:
        """A page as text; `view-source:` before the URL asks for it as it is. Raises BackendError."""

    async def close(self) -> None:
        return None


def results_page(query: str, results: Sequence[Result]) -> Page:
    """What a search shows: a list of links with their snippets."""
    items = "".join(
        f"<li><a href='{html.escape(result.url)}'>{html.escape(result.title or result.url)}</a> "
        f"{html.escape(result.snippet)}</li>"
        for result in results
    )
    body = f"<ul>{items}</ul>" if items else "<p>No results.</p>"
    page = page_of_html(f"<html><body><h1>Search Results</h1>{body}</body></html>", "", query)
    snippets = {result.url: Snippet(result.snippet) for result in reversed(results)}
    return Page(
        "", page.title, page.text, page.urls, {n: snippets[url] for n, url in page.urls.items() if url in snippets}
    )


class Api:
    """JSON over HTTP with retries: 429 and 5xx, with backoff or when the server says; refused and cut connections."""

    def __init__(self, name: str, base_url: str, headers: Mapping[str, str], *, backoff_s: float = 0.5) -> None:
        self._name = name
        self._backoff_s = backoff_s
        self._client = httpx.AsyncClient(
            base_url=base_url, headers=dict(headers), timeout=TIMEOUT_S, follow_redirects=False
        )

    async def call(self, method: str, path: str, **arguments: Any) -> Mapping[str, Any]:
        """Raises BackendError."""
        for attempt in range(ATTEMPTS):
            last = attempt + 1 == ATTEMPTS
            try:
                response, body = await self._once(method, path, arguments)
            except httpx.TimeoutException:
                raise BackendError(f"{self._name} did not answer in {TIMEOUT_S:.0f} s") from None
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
        body = bytearray()
        async with asyncio.timeout(2 * TIMEOUT_S), self._client.stream(method, path, **arguments) as response:
            async for part in response.aiter_bytes():
                body += part
                if len(body) > LARGEST_BODY:
                    raise BackendError(f"{self._name} answered with more than {LARGEST_BODY >> 20} MiB")
        return response, bytes(body)

    def _pause(self, response: httpx.Response, attempt: int) -> float:
        after = response.headers.get("retry-after", "")
        return min(float(after), LONGEST_WAIT_S) if after.isdigit() else self._backoff_s * 2**attempt

    def _read(self, response: httpx.Response, body: bytes) -> Mapping[str, Any]:
        if response.status_code in (401, 403):
            raise BackendError(f"{self._name} refused the key ({response.status_code}): check it")
        if response.status_code != 200:
            raise BackendError(f"{self._name} answered {response.status_code}")
        try:
            answer = httpx.Response(200, content=body).json()
        except (ValueError, RecursionError):
            raise BackendError(f"{self._name} answered with something that is not JSON") from None
        if not isinstance(answer, dict):
            raise BackendError(f"{self._name} answered with JSON that is no object")
        return answer


class ExaBackend(Backend):
    """Exa's search and contents. api_key: from EXA_API_KEY unless given; needed when the first call is made."""

    def __init__(
        self, source: str = "web", *, api_key: str | None = None, base_url: str = "https://api.exa.ai", **options: float
    ) -> None:
        self.source = source
        self._key = api_key
        self._base_url = base_url
        self._options = options
        self._opened: Api | None = None

    @property
    def _api(self) -> Api:
        if self._opened is None:
            key = _key("Exa", "EXA_API_KEY", self._key)
            self._opened = Api("Exa", self._base_url, {"x-api-key": key}, **self._options)
        return self._opened

    async def search(self, query: str, topn: int) -> Page:
        wanted = {"query": query, "numResults": topn, "contents": {"text": True, "summary": True}}
        answer = await self._api.call("POST", "/search", json=wanted)
        hits = _rows(answer, "results", "Exa")
        return results_page(query, [Result(_str(h, "title"), _str(h, "url"), _str(h, "summary")) for h in hits][:topn])

    async def fetch(self, url: str) -> Page:
        raw = url.startswith(VIEW_SOURCE)
        target = url.removeprefix(VIEW_SOURCE)
        wanted = {"urls": [target], "text": {"includeHtmlTags": True}}
        hits = _rows(await self._api.call("POST", "/contents", json=wanted), "results", "Exa")
        if not hits or not _str(hits[0], "text"):
            raise BackendError(f"Exa has no contents for {target}")
        text, title = _str(hits[0], "text"), _str(hits[0], "title")
        return page_of_text(text, url, title) if raw else page_of_html(text, target, title)

    async def close(self) -> None:
        if self._opened is not None:
            await self._opened.close()
            self._opened = None


class YouComBackend(Backend):
    """You.com's search and contents. api_key: from YDC_API_KEY unless given; needed when the first call is made."""

    def __init__(
        self,
        source: str = "web",
        *,
        api_key: str | None = None,
        base_url: str = "https://api.ydc-index.io",
        **options: float,
    ) -> None:
        self.source = source
        self._key = api_key
        self._base_url = base_url
        self._options = options
        self._opened: Api | None = None

    @property
    def _api(self) -> Api:
        if self._opened is None:
            key = _key("You.com", "YDC_API_KEY", self._key)
            self._opened = Api("You.com", self._base_url, {"X-API-Key": key}, **self._options)
        return self._opened

    async def search(self, query: str, topn: int) -> Page:
        answer = await self._api.call("GET", "/v1/search", params={"query": query, "count": topn})
        kinds = answer.get("results")
        if not isinstance(kinds, dict):
            raise BackendError("You.com answered without results")
        hits = [hit for kind in ("web", "news") if kinds.get(kind) for hit in _rows(kinds, kind, "You.com")]
        return results_page(query, [Result(_str(h, "title"), _str(h, "url"), _you_snippet(h)) for h in hits][:topn])

    async def fetch(self, url: str) -> Page:
        raw = url.startswith(VIEW_SOURCE)
        target = url.removeprefix(VIEW_SOURCE)
        wanted = {"urls": [target], "livecrawl_formats": "html"}
        answer = await self._api.call("POST", "/v1/contents", json=wanted)
        hits = _rows(answer, "results", "You.com")
        if not hits or not _str(hits[0], "html"):
            raise BackendError(f"You.com has no contents for {target}")
        text, title = _str(hits[0], "html"), _str(hits[0], "title")
        return page_of_text(text, url, title) if raw else page_of_html(text, target, title)

    async def close(self) -> None:
        if self._opened is not None:
            await self._opened.close()
            self._opened = None


class SearxngBackend(Backend):
    """A SearXNG instance of one's own (its settings must allow the json format) for searching; pages come directly.

    url: of the instance, which may be on a private address. fetcher: see fetch.Fetcher.
    """

    def __init__(self, url: str, *, fetcher: Any = None, **options: float) -> None:
        from gpt_oss.tools.simple_browser.fetch import Fetcher

        if not url.startswith(("http://", "https://")):
            raise ParameterError(f"SEARXNG_URL must be the http address of an instance, not {url!r}")
        self.source = url
        self._api = Api("SearXNG", url.rstrip("/"), {}, **options)
        self._fetcher = fetcher or Fetcher()

    async def search(self, query: str, topn: int) -> Page:
        answer = await self._api.call("GET", "/search", params={"q": query, "format": "json"})
        hits = _rows(answer, "results", "SearXNG")
        return results_page(query, [Result(_str(h, "title"), _str(h, "url"), _str(h, "content")) for h in hits][:topn])

    async def fetch(self, url: str) -> Page:
        page: Page = await self._fetcher.page(url)
        return page

    async def close(self) -> None:
        await self._api.close()
        await self._fetcher.close()


def choose_backend(name: str | None = None) -> Backend:
    """exa, youcom, searxng or local; None is BROWSER_BACKEND, or else the first that the environment has settings for:
    EXA_API_KEY, YDC_API_KEY, SEARXNG_URL, BROWSER_LOCAL_DIR. The one place that reads them, keys apart.

    Raises ParameterError, which says what to set.
    """
    from gpt_oss.tools.simple_browser.local import LocalBackend

    settings = {"exa": "EXA_API_KEY", "youcom": "YDC_API_KEY", "searxng": "SEARXNG_URL", "local": "BROWSER_LOCAL_DIR"}
    name = (
        name
        or os.environ.get("BROWSER_BACKEND")
        or next((n for n, key in settings.items() if os.environ.get(key)), None)
    )
    if name is None:
        raise ParameterError(
            "the browser has no backend",
            hint="set EXA_API_KEY, YDC_API_KEY, SEARXNG_URL (no key) or BROWSER_LOCAL_DIR (a folder of pages, offline)",
        )
    if name not in settings:
        raise ParameterError(f"there is no browser backend {name!r}; choose one of {', '.join(settings)}")
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
    key = given or os.environ.get(variable)
    if not key:
        raise BackendError(f"{name} needs a key: set {variable}")
    return key


def _rows(answer: Mapping[str, Any], name: str, who: str) -> list[Mapping[str, Any]]:
    rows = answer.get(name)
    if not isinstance(rows, list):
        raise BackendError(f"{who} answered without {name}")
    return [row for row in rows if isinstance(row, dict)]


def _str(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    return value if isinstance(value, str) else ""


def _you_snippet(row: Mapping[str, Any]) -> str:
    snippets = row.get("snippets")
    first = next((text for text in snippets if isinstance(text, str)), "") if isinstance(snippets, list) else ""
    return first or _str(row, "description")
