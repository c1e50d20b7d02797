"""Who may come in, and how much they may bring. Gives every request an id, and writes a line about it."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gpt_oss.server import page
from gpt_oss.server.core.errors import ENDS, RequestError, as_response, shape_of
from gpt_oss.server.service import Service

OPEN_PATHS = frozenset({"/", "/health", "/docs", "/openapi.json"})  # without a key
# Origins that Ollama lets in without being told, because programs of this machine have them.
LOCAL_ORIGIN = (
    r"(?:app|file|tauri|vscode-webview|vscode-file)://.*"
    r"|https?://(?:localhost|127\.0\.0\.1|0\.0\.0\.0|\[::1\])(?::\d+)?"
)
log = logging.getLogger("gpt_oss.server")


@dataclass(frozen=True)
class ServerOptions:
    """How a server behaves.

    largest_body: of a request, in bytes.
    drain_s: how long the end waits for answers under way.
    origins: of web pages that may ask.
    ollama: whether its API is there as well.
    log_prompts: requests' bodies go into the log.
    hosts: the names by which the server may be asked, in lower case and without a port; None for any.
    """

    largest_body: int = 32 << 20
    drain_s: float = 30.0
    origins: tuple[str, ...] = ()
    ollama: bool = False
    log_prompts: bool = False
    hosts: frozenset[str] | None = None


class Gate:
    """The outermost middleware: every request passes here first, and every failure of the inside last."""

    def __init__(self, app: ASGIApp, service: Service, options: ServerOptions) -> None:
        self._app = app
        self._service = service
        self._options = options
        self._guesses = Guesses()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        passage = _Passage(scope, headers, receive, send, self._options)
        refused = self._refusal(scope, headers)
        shown = shown_keys(headers)
        if refused is not None and refused.status == 401 and shown:
            await self._guesses.slow_down(address_of(scope), shown)
        if scope["type"] == "websocket":
            await self._open_socket(passage, refused)
        else:
            await self._answer(passage, refused)

    async def _open_socket(self, passage: _Passage, refused: RequestError | None) -> None:
        state = "opened" if refused is None else refused
        log.info("%s WebSocket %s %s", passage.identity, one_line(passage.scope["path"]), one_line(str(state)))
        if refused is None:
            await self._app(passage.scope, passage.receive, passage.send)
            return
        await passage.receive()  # before it is accepted, so that the client sees an answer with status 403
        await passage.send({"type": "websocket.close", "code": 1008, "reason": str(refused)})

    async def _answer(self, passage: _Passage, refused: RequestError | None) -> None:
        started = time.monotonic()
        scope = passage.scope
        try:
            if refused is None:
                await self._app(scope, passage.counted, passage.tagged)
            else:
                await passage.refuse(refused)
        except ENDS:
            raise
        except _TooLargeError:
            most = self._options.largest_body >> 20
            await passage.refuse(RequestError(f"the body is larger than {most} MiB", status=413))
        except Exception:  # told and written down by the handlers inside
            if not passage.begun:
                raise
        except BaseException as error:  # a library's panic, which no handler inside takes
            log.error("%s %s failed", scope["method"], one_line(scope["path"]), exc_info=error)
            await passage.refuse(error)
        finally:
            known = route_of(scope)
            self._service.runner.metrics.requests.labels(known, str(passage.status)).inc()
            milliseconds = round(1000 * (time.monotonic() - started))
            path = one_line(scope["path"])
            log.info("%s %s %s %s %d ms", passage.identity, scope["method"], path, passage.status, milliseconds)

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> RequestError | None:
        path = scope["path"]
        keys = self._service.keys
        if not keys and not self._is_known(headers.get("host", "")):
            # A page of a foreign name that leads here has the same rights as ours, but no key.
            name = one_line(headers.get("host", ""))[:100]
            return RequestError(f"this server is not called {name!r}; --allow-host says otherwise", status=403)
        origin = headers.get("origin")
        if origin is not None and not self._may_ask(origin, headers.get("host", "")):
            return RequestError(f"pages of {one_line(origin)[:100]} may not ask here; --cors allows them", status=403)
        if not keys or path in OPEN_PATHS or path.startswith(page.PREFIX):
            return None
        owner = next((owner for shown in shown_keys(headers) if (owner := keys.owner(shown)) is not None), None)
        scope.setdefault("state", {})["owner"] = owner
        if owner is not None:
            return None
        return RequestError("a valid API key is needed", status=401, code="invalid_api_key")

    def _is_known(self, host: str) -> bool:
        """Whether a request was meant for this server, by the name that it asks for."""
        return self._options.hosts is None or name_of(host) in self._options.hosts

    def _may_ask(self, origin: str, host: str) -> bool:
        """Whether a web page may: one of this server's own, or of an origin that was named. Programs have none."""
        allowed = self._options.origins
        if origin in allowed or "*" in allowed:
            return True
        if self._options.ollama and re.fullmatch(LOCAL_ORIGIN, origin):
            return True
        try:
            netloc = urlsplit(origin).netloc
        except ValueError:
            return False
        return bool(netloc) and netloc == host


def shown_keys(headers: Mapping[str, str]) -> list[str]:
    """The keys that a request shows: as a bearer token, in any case, and in `x-api-key`, which may stand next to it."""
    scheme, _, token = headers.get("authorization", "").strip().partition(" ")
    shown = [token.strip()] if scheme.lower() == "bearer" else []
    return [key for key in (*shown, headers.get("x-api-key", "").strip()) if key]


def name_of(host: str) -> str:
    """The name in a `Host` header, without its port and in lower case; "" for what is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def known_hosts(bound: str, more: Iterable[str] = ()) -> frozenset[str] | None:
    """The names by which a server that listens on `bound` may be asked; more: those that the user allows.

    None, for any, where "*" is among them.
    """
    if "*" in more:
        return None
    names = {"localhost", "127.0.0.1", "::1", bound.lower(), *(name.lower() for name in more)}
    if bound in ("0.0.0.0", "::"):
        own = socket.gethostname().lower()
        names |= {own, f"{own}.local", *_own_addresses(own)}
    return frozenset(names)


def _own_addresses(name: str) -> set[str]:
    try:
        return {str(found[4][0]).partition("%")[0] for found in socket.getaddrinfo(name, None)}
    except OSError:
        return set()


def address_of(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else ""


def one_line(text: str) -> str:
    """Text of a client's as a log may have it: in one line, without control characters."""
    return text.encode("unicode_escape").decode("ascii")


class Guesses:
    """Makes whoever shows wrong keys wait: longer with each of them, by address.

    A right key is never made to wait, so that nobody is locked out by others at the same address; nor is the same wrong
    key again, which is a client that was set up wrong and guesses nothing.
    """

    FIRST_S = 0.05
    LONGEST_S = 4.0
    FORGOTTEN_S = 60.0
    MOST = 10_000  # addresses
    KNOWN = 16  # wrong keys of an address that are remembered

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._wrong: dict[str, _Wrong] = {}

    def wait_s(self, address: str, shown: str) -> float:
        """Counts a wrong key, and gives the seconds that it has to wait for its answer."""
        now = self._clock()
        wrong = self._wrong.pop(address, None)
        if wrong is None or now - wrong.last > self.FORGOTTEN_S:
            wrong = _Wrong()
        self._wrong[address] = wrong
        wrong.last = now
        if len(self._wrong) > self.MOST:
            self._wrong.pop(next(iter(self._wrong)))
        mark = hash(shown)
        if mark in wrong.known:
            return 0.0
        wrong.known.append(mark)
        wrong.count += 1
        return min(self.LONGEST_S, self.FIRST_S * float(2 ** min(wrong.count - 1, 10)))

    async def slow_down(self, address: str, shown: Sequence[str]) -> None:
        await asyncio.sleep(max(self.wait_s(address, key) for key in shown))


@dataclass
class _Wrong:
    """The wrong keys of an address: how many, when the last one came, and marks of the latest."""

    count: int = 0
    last: float = 0.0
    known: deque[int] = field(default_factory=lambda: deque(maxlen=Guesses.KNOWN))


class _TooLargeError(Exception):
    pass


class _Passage:
    """One request on its way through the gate."""

    def __init__(
        self, scope: Scope, headers: dict[str, str], receive: Receive, send: Send, options: ServerOptions
    ) -> None:
        self.scope = scope
        self.receive = receive
        self.send = send
        self.identity = f"req_{uuid.uuid4().hex}"
        self.status = 0
        self.begun = False
        self._shape = shape_of(scope["path"], headers)
        self._options = options
        self._size = 0

    async def counted(self) -> Message:
        """What the client sends, up to the largest body."""
        message = await self.receive()
        self._size += len(message.get("body", b""))
        if self._options.log_prompts and message.get("body"):
            log.info("%s body %s", self.identity, message["body"].decode(errors="replace"))
        if self._size > self._options.largest_body:
            raise _TooLargeError
        return message

    async def tagged(self, message: Message) -> None:
        """What is sent to the client, with the request's id."""
        if message["type"] == "http.response.start":
            self.begun, self.status = True, message["status"]
            message["headers"] = [*message["headers"], (b"x-request-id", self.identity.encode())]
        await self.send(message)

    async def refuse(self, error: BaseException) -> None:
        """Answer with an error, where nothing was sent yet."""
        if self.begun:
            return
        status, body, headers = as_response(error, self._shape)
        await JSONResponse(body, status, headers)(self.scope, self.receive, self.tagged)


def route_of(scope: Scope) -> str:
    """The path as it was declared; paths that are not known count as one."""
    route = scope.get("route")
    return getattr(route, "path", "other")
