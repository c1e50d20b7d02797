"""Pages fetched directly from the web, and from nowhere else: the guard against requests to the machine's own network.

Each hop of a redirect is resolved once, every address is checked, and the connection goes to the very address that was
checked, so that a name cannot point elsewhere a moment later.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Collection
from urllib.parse import urljoin, urlsplit, urlunsplit

import httpx

from gpt_oss.tools.simple_browser.backend import VIEW_SOURCE, BackendError
from gpt_oss.tools.simple_browser.page import Page, page_of_html, page_of_text

LARGEST_PAGE = 10 << 20  # bytes, after decompression
TIMEOUT_S = 20.0  # of a step; a whole fetch may take three times that
REDIRECTS = 8
_HTML = ("text/html", "application/xhtml+xml")
_TEXT = ("text/", "application/json", "application/xml", "application/javascript", "application/x-yaml")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Fetcher:
    """allowed: hosts (`host:port`) whose addresses are not checked, for tests and for one's own intranet."""

    def __init__(
        self, *, allowed: Collection[str] = (), timeout_s: float = TIMEOUT_S, largest: int = LARGEST_PAGE
    ) -> None:
        self._allowed = frozenset(allowed)
        self._timeout_s = timeout_s
        self._largest = largest
        # No environment: a proxy would resolve names itself. No pool: it is keyed by address, not by name.
        self._client = httpx.AsyncClient(
            timeout=timeout_s, follow_redirects=False, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0)
        )

    async def page(self, url: str) -> Page:
        """A page as text, or as it is behind `view-source:`. Raises BackendError."""
        raw = url.startswith(VIEW_SOURCE)
        try:
            async with asyncio.timeout(3 * self._timeout_s):
                where, kind, body = await self._follow(url.removeprefix(VIEW_SOURCE))
        except TimeoutError:
            raise BackendError(f"{url} took longer than {3 * self._timeout_s:.0f} s") from None
        if raw:
            return page_of_text(body, VIEW_SOURCE + where)
        return page_of_html(body, where) if kind in _HTML else page_of_text(body, where)

    async def close(self) -> None:
        await self._client.aclose()

    async def _follow(self, url: str) -> tuple[str, str, str]:
        """(final URL, content type, text)."""
        for _ in range(REDIRECTS + 1):
            request = await self._request(url)
            try:
                response = await self._client.send(request, stream=True)
            except httpx.TimeoutException:
                raise BackendError(f"{url} did not answer in {self._timeout_s:.0f} s") from None
            except httpx.HTTPError as error:
                raise BackendError(f"{url} cannot be fetched: {error or type(error).__name__}") from None
            try:
                if response.is_redirect:
                    url = self._next(url, response.headers["location"])
                    continue
                if response.status_code != 200:
                    raise BackendError(f"{url} answered {response.status_code}")
                return await self._read(url, response)
            except httpx.TimeoutException:
                raise BackendError(f"{url} stalled for {self._timeout_s:.0f} s") from None
            except httpx.HTTPError as error:
                raise BackendError(f"{url} broke off: {error or type(error).__name__}") from None
            finally:
                await response.aclose()
        raise BackendError(f"{url}: more than {REDIRECTS} redirects")

    def _next(self, url: str, location: str) -> str:
        try:
            return urljoin(url, location)
        except ValueError:
            raise BackendError(f"{url} redirects to {location!r}, which is no address") from None

    async def _request(self, url: str) -> httpx.Request:
        """A request to the address that was checked, under the name that was asked for."""
        try:
            parts = urlsplit(url.strip())
            port = parts.port
        except ValueError:
            raise BackendError(f"{url!r} is not a URL") from None
        if parts.scheme not in ("http", "https"):
            raise BackendError(f"only http and https pages can be opened, not {url!r}")
        if not parts.hostname or parts.username is not None or parts.password is not None:
            raise BackendError(f"{url!r} needs a plain host name")
        port = port or (443 if parts.scheme == "https" else 80)
        address = await self._resolve(parts.hostname, port)
        literal = f"[{address}]" if address.version == 6 else str(address)
        target = urlunsplit((parts.scheme, f"{literal}:{port}", parts.path or "/", parts.query, ""))
        headers = {"host": parts.netloc, "accept": "text/html,text/*;q=0.9,*/*;q=0.1", "user-agent": "gpt-oss-browser"}
        try:
            return self._client.build_request(
                "GET", target, headers=headers, extensions={"sni_hostname": parts.hostname}
            )
        except (httpx.InvalidURL, UnicodeError, ValueError):
            raise BackendError(f"{url!r} is not a URL") from None

    async def _resolve(self, host: str, port: int) -> _Address:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise BackendError(f"there is no host {host!r}") from None
        addresses = [ipaddress.ip_address(str(info[4][0]).split("%")[0]) for info in found]
        if f"{host}:{port}" not in self._allowed:
            for address in addresses:
                if not is_public(address):
                    raise BackendError(f"{host} is on a private or reserved address, which is not fetched")
        if not addresses:
            raise BackendError(f"there is no host {host!r}")
        return addresses[0]

    async def _read(self, url: str, response: httpx.Response) -> tuple[str, str, str]:
        kind = response.headers.get("content-type", "text/html").split(";")[0].strip().lower()
        if not kind.startswith(_TEXT) and not kind.endswith(("+xml", "+json")):
            raise BackendError(f"{url} is {kind}, which is not text")
        body = bytearray()
        async for part in response.aiter_bytes(1 << 16):
            body += part
            if len(body) > self._largest:
                raise BackendError(f"{url} is larger than {self._largest / 2**20:g} MiB")
        if b"\0" in body[:1024]:
            raise BackendError(f"{url} is binary, which is not text")
        return url, kind, _decode(bytes(body), response.charset_encoding, html=kind in _HTML)


def is_public(address: _Address) -> bool:
    """Whether an address is one of the open internet, also one that another address is wrapped in."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
        if address.is_site_local:
            return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def _decode(body: bytes, charset: str | None, *, html: bool) -> str:
    """By the header, a page's own `<meta charset>`, or UTF-8; what does not fit is replaced, never an error."""
    if charset is None and html:
        head = body[:2048].decode("latin-1").lower()
        _, found, rest = head.partition("charset=")
        charset = (
            rest.lstrip("\"' ").split(">")[0].split('"')[0].split("'")[0].split(";")[0].strip(" /") if found else None
        )
    try:
        return body.decode(charset or "utf-8", "replace")
    except LookupError:
        return body.decode("utf-8", "replace")
