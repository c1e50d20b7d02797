"""The socket: connections that say nothing are bounded, and the end of the server is in order.

uvicorn speaks HTTP; what it does not do is here: a deadline and a size for the head of a request, a bound for silent
connections by address and in all, and an end that waits for what is under way, no longer than it may.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from gpt_oss.server.apis.responses.socket import MOST_WAITING_FRAMES

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from gpt_oss.server.service import Service

HEAD_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
HEAD_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
WANTED_DESCRIPTORS = 65_536
KEPT_DESCRIPTORS = 128  # for the database, sandboxes, files
CUT_S = 2.0  # for the last events of what is cut off at the end
log = logging.getLogger("gpt_oss.server")


@dataclass(frozen=True)
class Limits:
    """How much connections may take before they have asked for anything.

    head_s: seconds for the head of a request.
    head_bytes: its size.
    silent: connections without a request, in all.
    silent_by_address: those of one address.
    connections: of all kinds.
    """

    head_s: float = 10.0
    head_bytes: int = 64 << 10
    silent: int = 512
    silent_by_address: int = 256
    connections: int = 4096


USUAL_LIMITS = Limits()


def limits_of_this_process() -> Limits:
    """Limits below the number of descriptors that the process may have, which is raised as far as that is allowed."""
    if sys.platform == "win32":
        return USUAL_LIMITS
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = WANTED_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, WANTED_DESCRIPTORS)
    if soft < most:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            soft = most
        except (OSError, ValueError):  # a sandbox may forbid it
            pass
    connections = max(16, soft - KEPT_DESCRIPTORS)
    silent = max(8, min(USUAL_LIMITS.silent, connections // 2))
    return Limits(silent=silent, silent_by_address=max(4, silent // 2), connections=connections)


class Connections:
    """Those that are open. When one too many comes, the one that has been silent for longest has to go."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._all: set[Guarded] = set()
        self._silent: OrderedDict[Guarded, str] = OrderedDict()
        self._by_address: defaultdict[str, OrderedDict[Guarded, None]] = defaultdict(OrderedDict)

    def __len__(self) -> int:
        return len(self._all)

    @property
    def silent(self) -> int:
        return len(self._silent)

    def add(self, connection: Guarded, address: str) -> None:
        self._all.add(connection)
        self.fell_silent(connection, address)
        mine = self._by_address[address]
        if len(mine) > self.limits.silent_by_address:
            next(iter(mine)).turn_away()
        if len(self._silent) > self.limits.silent or len(self._all) > self.limits.connections:
            next(iter(self._silent)).turn_away()

    def fell_silent(self, connection: Guarded, address: str) -> None:
        """It has no request any more."""
        self._silent[connection] = address
        self._by_address[address][connection] = None

    def asked(self, connection: Guarded) -> None:
        """It has a request."""
        address = self._silent.pop(connection, None)
        if address is None:
            return
        self._by_address[address].pop(connection, None)
        if not self._by_address[address]:
            del self._by_address[address]

    def remove(self, connection: Guarded) -> None:
        self.asked(connection)
        self._all.discard(connection)


class Guarded(AutoHTTPProtocol):  # type: ignore[misc,valid-type]  # a class that is chosen when uvicorn is imported
    """A connection of uvicorn's with a deadline and a size for the head of each request."""

    open_connections: Connections  # of the server that it belongs to; set by `guarded`

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._address = str(self.client[0]) if self.client else ""
        self._head = 0  # bytes
        self._deadline: asyncio.TimerHandle | None = None
        self._set_deadline()
        self.open_connections.add(self, self._address)

    def data_received(self, data: bytes) -> None:
        if self._has_request():
            super().data_received(data)
            return
        self._head += len(data)
        if self._deadline is None:
            self._set_deadline()
        super().data_received(data)
        if self._has_request():
            self._asked()
        elif self._head > self.open_connections.limits.head_bytes:
            self.turn_away(HEAD_TOO_LARGE)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport is not None and not self.transport.is_closing() and not self._has_request():
            self.open_connections.fell_silent(self, self._address)

    def handle_websocket_upgrade(self, *args: Any) -> None:
        """The connection is another protocol's from here on."""
        self._asked()
        self.open_connections.remove(self)
        super().handle_websocket_upgrade(*args)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_deadline()
        self.open_connections.remove(self)
        super().connection_lost(exc)

    def turn_away(self, answer: bytes = b"") -> None:
        """Close it, as it has asked for nothing."""
        self._end_deadline()
        self.open_connections.remove(self)
        if self.transport is not None and not self.transport.is_closing():
            if answer:
                self.transport.write(answer)
            self.transport.close()

    def _has_request(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _asked(self) -> None:
        self._end_deadline()
        self._head = 0
        self.open_connections.asked(self)

    def _set_deadline(self) -> None:
        self._deadline = self.loop.call_later(self.open_connections.limits.head_s, self.turn_away, HEAD_TOO_SLOW)

    def _end_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def guarded(connections: Connections) -> type[Guarded]:
    """The protocol of a server with these connections."""
    return type("Guarded", (Guarded,), {"open_connections": connections})


class OrderlyServer(uvicorn.Server):
    """Ends in order: takes nothing more, waits for what is under way, gives the rest its last event, and closes.

    drain_s: how long it waits, all in all. SIGINT, SIGTERM and SIGHUP begin the end; a second one ends it at once.
    """

    def __init__(self, config: uvicorn.Config, service: Service, drain_s: float) -> None:
        super().__init__(config)
        self._service = service
        self._drain_s = drain_s

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            self.force_exit = True
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: Any = None) -> None:
        deadline = time.monotonic() + self._drain_s
        runner = self._service.runner
        runner.draining = True
        for server in self.servers:
            server.close()
        await _until(lambda: self.force_exit or runner.idle, deadline)
        if not runner.idle:
            log.warning("%d answers are cut off", runner.running + runner.waiting)
            runner.cut()
            await _until(lambda: self.force_exit or runner.idle, time.monotonic() + CUT_S)
        self.config.timeout_graceful_shutdown = 1 + int(CUT_S)
        await super().shutdown(sockets)


async def _until(ready: Callable[[], bool], deadline: float) -> None:
    while not ready() and time.monotonic() < deadline:
        await asyncio.sleep(0.05)


def make_server(
    app: ASGIApp,
    service: Service,
    *,
    drain_s: float,
    limits: Limits = USUAL_LIMITS,
    largest_frame: int = 32 << 20,
    **config: Any,
) -> OrderlyServer:
    """The server of an application, ready to run. config: of uvicorn, such as host and port."""
    connections = Connections(limits)
    settings = uvicorn.Config(
        app,
        http=guarded(connections),
        log_level="warning",
        h11_max_incomplete_event_size=limits.head_bytes,
        ws_max_size=largest_frame,
        ws_max_queue=MOST_WAITING_FRAMES,
        **config,
    )
    return OrderlyServer(settings, service, drain_s)


def hang_up_drains(server: OrderlyServer) -> None:
    """Lets SIGHUP, which a terminal sends when it closes, begin an orderly end as well."""
    hang_up = getattr(signal, "SIGHUP", None)  # not on Windows
    if hang_up is not None:
        signal.signal(hang_up, server.handle_exit)
