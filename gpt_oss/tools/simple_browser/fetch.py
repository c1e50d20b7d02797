"""Pages fetched directly from the web, and from nowhere else: the guard against requests to the machine's own network.

Each hop of a redirect is resolved once, every address is checked, and the connection goes to the very address that was
checked, so that a name cannot point elsewhere a moment later.
"""

from __future__ import annotations

import asyncio
import codecs
import ipaddress
import re
import socket
import ssl
from collections.abc import Collection
from typing import TypeAlias
from urllib.parse import urljoin

import httpx

from gpt_oss.tools.simple_browser.backend import ENCODINGS, VIEW_SOURCE, BackendError, read_body
from gpt_oss.tools.simple_browser.page import PageContents, page_of_html, page_of_source, page_of_text

LARGEST_PAGE = 10 << 20  # bytes, after decompression
TIMEOUT_S = 20.0  # of a step; a whole fetch may take three times that
REDIRECTS = 8
_HTML = ("text/html", "application/xhtml+xml")
_TEXT = ("text/", "application/json", "application/xml", "application/javascript", "application/x-yaml")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
# What counts as public, here or in some Python, and is not: metadata of cloud machines that is not link-local (Azure,
# Oracle), relays of 6to4, local NAT64, documentation.
_REFUSED = tuple(
    map(ipaddress.ip_network, ("168.63.129.16/32", "192.0.0.0/24", "192.88.99.0/24", "64:ff9b:1::/48", "3fff::/20"))
)
# Character sets of the web, by Python's names for them. Python has others, which take quadratic time or give no text.
_CHARSETS = re.compile(
    r"utf-8(-sig)?|utf-16(-[bl]e)?|ascii|iso8859-\d+|cp(866|874|932|949|950|125\d)|koi8-[rtu]|gbk?|gb2312|gb18030|hz|"
    r"big5(hkscs)?|shift_jis(_2004|x0213)?|euc_(jp|kr)|iso2022_(jp|kr)|mac-(roman|cyrillic)|tis-620"
)
_META = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?([A-Za-z0-9_:.-]{1,40})""", re.IGNORECASE)
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


class Fetcher:
    """allowed: hosts (`host:port`) whose addresses are not checked, for tests and for one's own intranet.

    tls: whom to trust; None is the usual authorities.
    """

    def __init__(
        self,
        *,
        allowed: Collection[str] = (),
        timeout_s: float = TIMEOUT_S,
        largest: int = LARGEST_PAGE,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._allowed = frozenset(allowed)
        self._timeout_s = timeout_s
        self._largest = largest
        # No environment: a proxy would resolve names itself. No pool: it is keyed by address, not by name.
        self._client = httpx.AsyncClient(
            timeout=timeout_s,
            follow_redirects=False,
            trust_env=False,
            limits=httpx.Limits(max_keepalive_connections=0),
            verify=tls or True,
        )

    async def page(self, url: str) -> PageContents:
        """A page as text, or as it is behind `view-source:`. Raises BackendError."""
        raw = url.startswith(VIEW_SOURCE)
        try:
            async with asyncio.timeout(3 * self._timeout_s):
                where, kind, text = await self._follow(url.removeprefix(VIEW_SOURCE))
        except TimeoutError:
            raise BackendError(f"{url} took longer than {3 * self._timeout_s:g} s") from None
        if raw:
            return page_of_source(text, VIEW_SOURCE + where)
        # Parsing a huge page takes seconds, in which others shall be served.
        return await asyncio.to_thread(page_of_html if kind in _HTML else page_of_text, text, where)

    async def close(self) -> None:
        await self._client.aclose()

    async def _follow(self, url: str) -> tuple[str, str, str]:
        """(final URL, content type, text)."""
        for _ in range(REDIRECTS + 1):
            target = _parse(url)
            try:
                response = await self._send(target)
                try:
                    if not response.has_redirect_location:
                        return await self._read(str(target), response)
                    url = _next(target, response)
                finally:
                    await response.aclose()
            except httpx.TimeoutException:
                raise BackendError(f"{target} did not answer in {self._timeout_s:g} s") from None
            except httpx.HTTPError as error:
                raise BackendError(f"{target} cannot be fetched: {error or type(error).__name__}") from None
        raise BackendError(f"{url}: more than {REDIRECTS} redirects")

    async def _send(self, target: httpx.URL) -> httpx.Response:
        """From an address that was checked, to a request under the name that was asked for. Raises httpx.HTTPError."""
        name = target.raw_host.decode("ascii")
        addresses = await self._resolve(name, target.port or (443 if target.scheme == "https" else 80))
        headers = {
            "host": target.netloc.decode("ascii"),
            "accept": "text/html,text/*;q=0.9,*/*;q=0.1",
            "accept-encoding": ENCODINGS,
            "user-agent": "gpt-oss-browser",
        }
        for address in addresses:
            request = self._client.build_request(
                "GET", target.copy_with(host=str(address)), headers=headers, extensions={"sni_hostname": name}
            )
            try:
                return await self._client.send(request, stream=True)
            except httpx.ConnectError:
                if address == addresses[-1]:
                    raise
        raise AssertionError("the last address returns or raises")

    async def _resolve(self, name: str, port: int) -> list[_Address]:
        """Addresses to try in order. Raises BackendError where a single one of them is not public."""
        try:
            found = await asyncio.get_running_loop().getaddrinfo(name, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise BackendError(f"there is no host {name!r}") from None
        addresses = [ipaddress.ip_address(str(info[4][0]).partition("%")[0]) for info in found]
        if f"{name}:{port}" not in self._allowed and not all(map(is_public, addresses)):
            raise BackendError(f"{name} is on a private or reserved address, which is not fetched")
        if not addresses:
            raise BackendError(f"there is no host {name!r}")
        return list(dict.fromkeys(addresses))

    async def _read(self, url: str, response: httpx.Response) -> tuple[str, str, str]:
        if response.status_code != 200:
            raise BackendError(f"{url} answered {response.status_code}")
        kind = response.headers.get("content-type", "text/html").partition(";")[0].strip().lower()
        if not kind.startswith(_TEXT) and not kind.endswith(("+xml", "+json")):
            raise BackendError(f"{url} is {kind}, which is not text")
        body = await read_body(response, self._largest, url)
        charset = _charset(body, response.charset_encoding, html=kind in _HTML)
        if b"\0" in body[:1024] and not charset.startswith("utf-16"):
            raise BackendError(f"{url} is binary, which is not text")
        return url, kind, body.decode(charset, "replace")


def _parse(url: str) -> httpx.URL:
    """Without its fragment, its host in ASCII. Raises BackendError for what is not fetched."""
    try:
        target = httpx.URL(url.strip()).copy_with(fragment=None)
    except (httpx.InvalidURL, ValueError):
        raise BackendError(f"{url!r} is not a URL") from None
    if target.scheme not in ("http", "https"):
        raise BackendError(f"only http and https pages can be opened, not {url!r}")
    if target.port is not None and not 0 < target.port < 1 << 16:
        raise BackendError(f"{url!r} is not a URL: there is no port {target.port}")
    if not target.host or target.userinfo:
        raise BackendError(f"{url!r} needs a plain host name")
    return target


def _next(target: httpx.URL, response: httpx.Response) -> str:
    location = response.headers["location"]
    try:
        return urljoin(str(target), location)
    except ValueError:
        raise BackendError(f"{target} redirects to {location!r}, which is no address") from None


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
    if any(address in network for network in _REFUSED):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def _charset(body: bytes, stated: str | None, *, html: bool) -> str:
    """By a mark at the body's beginning, the header, a page's own `<meta charset>`, else UTF-8."""
    mark = next((name for bytes_, name in _BOMS if body.startswith(bytes_)), None)
    meta = _META.search(body[:2048]) if html else None
    for name in (mark, stated, meta and meta[1].decode("ascii")):
        try:
            known = codecs.lookup(name).name if name else ""
        except (LookupError, ValueError):
            continue
        if _CHARSETS.fullmatch(known):
            # What calls itself ASCII or Latin-1 on the web is Windows-1252.
            return "cp1252" if known in ("ascii", "iso8859-1") else known
    return "utf-8"
