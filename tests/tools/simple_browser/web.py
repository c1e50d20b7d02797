"""A real HTTP server on this machine that answers as a test says."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Answer:
    """cut: close the connection before the promised length. then: run before answering, to be slow for instance.

    pause_s: between the bytes of the body.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: bool = False
    then: Callable[[], None] | None = None
    pause_s: float = 0.0


@dataclass
class Web:
    url: str
    host: str
    requests: list[Request]


@contextmanager
def serve(answer: Callable[[Request], Answer], tls: ssl.SSLContext | None = None) -> Iterator[Web]:
    requests: list[Request] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            request = Request(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body)
            requests.append(request)
            reply = answer(request)
            if reply.then:
                reply.then()
            try:
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(reply.body) + (1000 if reply.cut else 0)))
                self.end_headers()
                parts = [reply.body[i : i + 1] for i in range(len(reply.body))] if reply.pause_s else [reply.body]
                for part in parts:
                    self.wfile.write(part)
                    time.sleep(reply.pause_s)
            except (BrokenPipeError, ConnectionResetError, ssl.SSLError):
                pass  # the client has seen enough
            self.close_connection = True

        do_POST = do_GET  # noqa: N815

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    host = f"127.0.0.1:{server.server_port}"
    try:
        yield Web(f"{'https' if tls else 'http'}://{host}", host, requests)
    finally:
        server.shutdown()
        server.server_close()
