"""The page at `/`: files that `make web` builds out of web/ into static/ beside this file, and what they may do.

Where they are not, `/` says how to get them; the server does not need them.
"""

from __future__ import annotations

import gzip
import mimetypes
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, Response

from gpt_oss.server.core.errors import RequestError

FOLDER = Path(__file__).parent / "static"
PREFIX = "/page/"  # of everything but the page itself; needs no key, as it holds nothing of anybody
# Nothing from elsewhere, nothing inline: what a model writes cannot run, and cannot make the browser tell others of it.
POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "font-src 'self'",
        "connect-src 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types dompurify",
    ]
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
FOR_EVER = "public, max-age=31536000, immutable"  # a file's name changes with what is in it
LEAST_GZIPPED = 512  # bytes
NO_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>gpt-oss</title>
<h1>The server is running</h1>
<p>Its web page has not been built. It needs Node.js 18 or newer and npm, once:</p>
<pre>make web</pre>
<p>in the source folder, then reload. Packages from <code>pip</code> bring the page with them.</p>
<p>The API is at <code>/v1</code>; <a href="/docs">/docs</a> lists every route.</p>
</html>"""


@dataclass(frozen=True)
class _File:
    kind: str
    plain: bytes
    packed: bytes | None


def page_router(*, to_programs: str | None = None) -> APIRouter:
    """to_programs: what `/` says to those who do not ask for HTML, where clients expect something there."""
    router = APIRouter(include_in_schema=False)

    @router.api_route("/", methods=["GET", "HEAD"])
    def page(request: Request) -> Response:
        if to_programs is not None and "text/html" not in request.headers.get("accept", ""):
            return PlainTextResponse(to_programs)
        file = _read("index.html")
        if file is None:
            return HTMLResponse(NO_PAGE, headers={**HEADERS, "Cache-Control": "no-store"})
        return _sent(file, request, "no-cache")

    @router.api_route(PREFIX + "{name}", methods=["GET", "HEAD"])
    def part(request: Request, name: str) -> Response:
        file = _read(name)
        if file is None:
            raise RequestError(f"the page has no file {name!r}; reload it", status=404)
        return _sent(file, request, FOR_EVER)

    return router


def _read(name: str) -> _File | None:
    path = FOLDER / name
    try:
        if path.parent != FOLDER or name.startswith(".") or not path.is_file():
            return None
    except OSError:  # a name too long for a file
        return None
    return _packed(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _packed(path: Path, _: int) -> _File:
    """Read and compressed once, and again when it is rebuilt."""
    plain = path.read_bytes()
    kind = "text/javascript" if path.suffix == ".js" else mimetypes.guess_type(path.name)[0]
    packed = gzip.compress(plain, mtime=0) if len(plain) >= LEAST_GZIPPED else None
    return _File(kind or "application/octet-stream", plain, packed)


def _sent(file: _File, request: Request, caching: str) -> Response:
    headers = {**HEADERS, "Cache-Control": caching, "Vary": "Accept-Encoding"}
    body = file.plain
    if file.packed is not None and "gzip" in request.headers.get("accept-encoding", ""):
        body = file.packed
        headers["Content-Encoding"] = "gzip"
    return Response(body, media_type=file.kind, headers=headers)
