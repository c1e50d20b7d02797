"""The HTTP application: routes, keys, limits, and every error in OpenAI's shape."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gpt_oss import __version__
from gpt_oss.errors import GptOssError
from gpt_oss.server import anthropic, conversations, docs_page, ollama, page, page_api
from gpt_oss.server.apis import tokenizer
from gpt_oss.server.apis.completions import routes as completions_routes
from gpt_oss.server.chat_completions import routes as chat_routes
from gpt_oss.server.errors import RequestError, as_response
from gpt_oss.server.responses import routes as responses_routes
from gpt_oss.server.responses import socket as responses_socket
from gpt_oss.server.service import Service
from gpt_oss.server.sse import GoneError
from gpt_oss.server.state.store import Store, StoreError

OPEN_PATHS = frozenset({"/", "/health", "/docs", "/openapi.json"})  # without a key
CLIENT_CLOSED = 499
FORGET_EVERY_S = 3600.0
OLLAMA_SAYS = "Ollama is running"
log = logging.getLogger("gpt_oss.server")


@dataclass(frozen=True)
class ServerOptions:
    """largest_body: of a request, in bytes. drain_s: how long the end waits for answers under way. origins: of web
    pages that may ask. ollama: whether its API is there as well. log_prompts: requests' bodies go into the log."""

    largest_body: int = 32 << 20
    drain_s: float = 30.0
    origins: tuple[str, ...] = ()
    ollama: bool = False
    log_prompts: bool = False


def create_app(service: Service, options: ServerOptions = ServerOptions()) -> FastAPI:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        housekeeping = None
        if service.store is not None:
            await service.store.mark_interrupted()
            housekeeping = asyncio.ensure_future(_housekeeping(service.store))
        yield
        if housekeeping is not None:
            housekeeping.cancel()
        await service.runner.drain(options.drain_s)
        for live in list(service.live.values()):
            await live.stop()

    app = FastAPI(title="gpt-oss", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service = service
    app.include_router(chat_routes.router)
    app.include_router(responses_routes.router)
    app.include_router(responses_socket.router)
    app.include_router(conversations.router)
    app.include_router(completions_routes.router)
    app.include_router(tokenizer.router)
    app.include_router(anthropic.router)
    app.include_router(docs_page.router)
    app.include_router(page_api.router)
    app.include_router(page.page_router(to_programs=OLLAMA_SAYS if options.ollama else None))
    if options.ollama:
        app.include_router(ollama.router)

    @app.get("/v1/models")
    async def models() -> dict[str, object]:
        names = service.names if options.ollama else [service.model]
        return {"object": "list", "data": [_model(service, name) for name in names]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, object]:
        if name not in service.names:
            raise RequestError(f"there is no model {name!r} here, only {service.model}", status=404, param="model")
        return _model(service, name)

    @app.get("/health")
    async def health() -> dict[str, object]:
        runner = service.runner
        return {"status": "ok", "model": service.model, "running": runner.running, "waiting": runner.waiting}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.runner.metrics.page(), media_type=CONTENT_TYPE_LATEST)

    async def failed(request: Request, error: Exception) -> Response:
        status, body, headers = as_response(error)
        if status >= 500:
            log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return JSONResponse(body, status, headers)

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        wrong = RequestError(f"{request.method} {request.url.path}: {error.detail}", status=error.status_code)
        return JSONResponse(as_response(wrong)[1], error.status_code)

    async def hung_up(request: Request, error: Exception) -> Response:
        return Response(status_code=CLIENT_CLOSED)

    async def no_json(request: Request, error: Exception) -> Response:
        return JSONResponse(as_response(RequestError(f"the body is not valid JSON: {error}"))[1], 400)

    async def invalid(request: Request, error: Exception) -> Response:
        """Of a path or a query; bodies are read by their routes."""
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        name = str(first["loc"][-1])
        return JSONResponse(as_response(RequestError(f"{name}: {first['msg']}", param=name))[1], 400)

    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(GoneError, hung_up)
    app.add_exception_handler(json.JSONDecodeError, no_json)
    app.add_exception_handler(UnicodeDecodeError, no_json)
    app.add_exception_handler(GptOssError, failed)
    app.add_exception_handler(Exception, failed)
    app.add_middleware(Gate, service=service, options=options)
    if options.origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(options.origins), allow_methods=["*"], allow_headers=["*"]
        )
    return app


async def _housekeeping(store: Store) -> None:
    while True:
        try:
            await store.forget_old()
        except StoreError:
            log.exception("old responses could not be deleted")
        await asyncio.sleep(FORGET_EVERY_S)


def _model(service: Service, name: str) -> dict[str, object]:
    return {
        "id": name,
        "object": "model",
        "created": service.started,
        "owned_by": "gpt-oss",
        "context_length": service.runner.generator.context_tokens,
    }


def route_of(scope: Scope) -> str:
    """The path as it was declared; paths that are not known count as one."""
    route = scope.get("route")
    return getattr(route, "path", "other")


class _TooLargeError(Exception):
    pass


class Gate:
    """Who may come in, and how much they may bring; gives every request an id and writes a line about it."""

    def __init__(self, app: ASGIApp, service: Service, options: ServerOptions) -> None:
        self._app = app
        self._service = service
        self._largest = options.largest_body
        self._log_prompts = options.log_prompts
        self._origins = options.origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        identity = f"req_{uuid.uuid4().hex}"
        started = time.monotonic()
        status = 0
        begun = False
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if self._log_prompts and message.get("body"):
                log.info("%s body %s", identity, message["body"].decode(errors="replace"))
            if size > self._largest:
                raise _TooLargeError
            return message

        async def tagged(message: Message) -> None:
            nonlocal status, begun
            if message["type"] == "http.response.start":
                begun, status = True, message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", identity.encode())]
            await send(message)

        refused = self._refusal(scope["path"], headers)
        if scope["type"] == "websocket":
            log.info("%s WebSocket %s %s", identity, scope["path"], "opened" if refused is None else refused)
            if refused is None:
                await self._app(scope, receive, send)
            else:  # before it is accepted, so that the client sees an answer with status 403
                await receive()
                await send({"type": "websocket.close", "code": 1008, "reason": str(refused)})
            return
        try:
            if refused is None:
                await self._app(scope, counted, tagged)
            else:
                await self._answer(refused, scope, receive, tagged)
        except _TooLargeError:
            error = RequestError(f"the body is larger than {self._largest >> 20} MiB", status=413)
            if not begun:
                await self._answer(error, scope, receive, tagged)
        finally:
            known = route_of(scope)
            self._service.runner.metrics.requests.labels(known, str(status)).inc()
            milliseconds = round(1000 * (time.monotonic() - started))
            log.info("%s %s %s %s %d ms", identity, scope["method"], scope["path"], status, milliseconds)

    def _refusal(self, path: str, headers: dict[str, str]) -> RequestError | None:
        origin = headers.get("origin")
        if origin is not None and not self._may_ask(origin, headers.get("host", "")):
            return RequestError(f"pages of {origin} may not ask here; --cors allows them", status=403)
        if not self._service.keys or path in OPEN_PATHS or path.startswith(page.PREFIX):
            return None
        shown = headers.get("authorization", "").removeprefix("Bearer ").strip() or headers.get("x-api-key", "")
        if self._service.keys.allow(shown):
            return None
        return RequestError("a valid API key is needed", status=401, code="invalid_api_key")

    def _may_ask(self, origin: str, host: str) -> bool:
        """Whether a web page may: one of this server's own, or of an origin that was named. Programs have none."""
        return origin in self._origins or "*" in self._origins or urlsplit(origin).netloc == host

    async def _answer(self, error: RequestError, scope: Scope, receive: Receive, send: Send) -> None:
        await JSONResponse(as_response(error)[1], error.status)(scope, receive, send)
