"""The HTTP application: its routes, what is done while it runs, and its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.middleware.cors import CORSMiddleware

from gpt_oss import __version__
from gpt_oss.harmony.trials import contain
from gpt_oss.server import docs_page, models, page, page_api
from gpt_oss.server.apis import tokenizer
from gpt_oss.server.apis.anthropic import routes as anthropic
from gpt_oss.server.apis.chat import routes as chat
from gpt_oss.server.apis.completions import routes as completions
from gpt_oss.server.apis.ollama import routes as ollama
from gpt_oss.server.apis.responses import conversations
from gpt_oss.server.apis.responses import routes as responses
from gpt_oss.server.apis.responses import socket as responses_socket
from gpt_oss.server.gate import LOCAL_ORIGIN, Gate, ServerOptions
from gpt_oss.server.handlers import add_handlers
from gpt_oss.server.service import Service
from gpt_oss.server.state.store import Store, StoreError

FORGET_EVERY_S = 3600.0
AGAIN_S = 60.0
OLLAMA_SAYS = "Ollama is running"
USUAL = ServerOptions()
log = logging.getLogger("gpt_oss.server")


def create_app(service: Service, options: ServerOptions = USUAL) -> FastAPI:
    """The application that serves a model."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        housekeeping = None
        if service.store is not None:
            await _mark(service.store)
            housekeeping = asyncio.ensure_future(_housekeeping(service.store))
        yield
        if housekeeping is not None:
            housekeeping.cancel()
        await service.runner.drain(0 if service.runner.was_cut else options.drain_s)
        for live in list(service.live.values()):
            await live.stop()
        await service.owed.settle()

    contain()
    service.listed = service.names if options.ollama else [service.model]
    app = FastAPI(title="gpt-oss", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service = service
    for router in (chat.router, responses.router, responses_socket.router, conversations.router, completions.router):
        app.include_router(router)
    for router in (tokenizer.router, anthropic.router, models.router, docs_page.router, page_api.router):
        app.include_router(router)
    app.include_router(page.page_router(to_programs=OLLAMA_SAYS if options.ollama else None))
    if options.ollama:
        app.include_router(ollama.router)

    @app.get("/health")
    async def health() -> dict[str, object]:
        runner = service.runner
        return {"status": "ok", "model": service.model, "running": runner.running, "waiting": runner.waiting}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.runner.metrics.page(), media_type=CONTENT_TYPE_LATEST)

    add_handlers(app)
    app.add_middleware(Gate, service=service, options=options)
    if options.origins or options.ollama:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(options.origins),
            allow_origin_regex=LOCAL_ORIGIN if options.ollama else None,
            allow_methods=["*"],
            allow_headers=["*"],
        )
    return app


async def _mark(store: Store) -> bool:
    """Whether what other servers have left unfinished is marked so."""
    try:
        count = await store.mark_interrupted()
    except StoreError as error:
        log.warning("responses that were interrupted could not be marked: %s", error)
        return False
    if count:
        log.info("%d responses of servers that have ended are incomplete", count)
    return True


async def _housekeeping(store: Store) -> None:
    """Marks and deletes, hour by hour, and sooner again where that was not possible."""
    while True:
        done = store.is_gone is None or await _mark(store)
        try:
            gone = await store.forget_old()
            if gone:
                told = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in sorted(gone.items()))
                log.info("past their time, and deleted: %s", told)
        except StoreError:
            log.exception("what is past its time could not be deleted")
            done = False
        await asyncio.sleep(FORGET_EVERY_S if done else AGAIN_S)
