"""What the page asks beyond OpenAI's API: the server's facts and figures, conversations' turns, answers' tokens."""

from __future__ import annotations

import os
import platform
import sys
import time
from pathlib import Path

import pydantic
from fastapi import APIRouter, Request

from gpt_oss import __version__
from gpt_oss.doctor import processor_name
from gpt_oss.memory import memory_bytes
from gpt_oss.server.core.body import Json, read_object
from gpt_oss.server.core.errors import RequestError
from gpt_oss.server.core.hosted import public_url
from gpt_oss.server.openapi import body_of, read_as
from gpt_oss.server.service import Service, service_of
from gpt_oss.server.state.store import Store
from gpt_oss.server.state.turns import add_turns, trace_of, turns_of
from gpt_oss.server.trace import readable, timing

router = APIRouter()


class _Turn(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="ignore")
    response: str


@router.get("/v1/server")
async def server(request: Request) -> Json:
    """What runs here, what it may be asked to do, and its figures at this moment."""
    service = service_of(request)
    return {
        "object": "server",
        "version": __version__,
        "model": {"id": service.model, **_model(service)},
        "backend": service.runner.generator.name,
        "context_tokens": service.runner.generator.context_tokens,
        "stores": service.store is not None,
        "tools": {
            "web_search": service.hosted.web_search is not None,
            "code_interpreter": service.hosted.code_interpreter is not None,
            "mcp": [public_url(url) for url in service.hosted.mcp],
        },
        "machine": {"processor": processor_name(), "system": platform.system(), "cores": os.cpu_count()},
        "started": service.started,
        "now": _now(service),
    }


def _model(service: Service) -> Json:
    """The network's shape, where it is computed here."""
    config = getattr(getattr(service.runner.generator, "model", None), "config", None)
    if config is None:
        return {}
    names = ("num_hidden_layers", "num_experts", "experts_per_token", "hidden_size", "num_attention_heads")
    return {"shape": {name: getattr(config, name) for name in names}}


def _now(service: Service) -> Json:
    generator, count = service.runner.generator, service.runner.metrics.registry.get_sample_value
    total, available = memory_bytes()
    figures: Json = {
        "time": time.time(),
        "running": service.runner.running,
        "waiting": service.runner.waiting,
        "prompt_tokens": count("gpt_oss_prompt_tokens_total") or 0,
        "cached_tokens": count("gpt_oss_prompt_tokens_cached_total") or 0,
        "output_tokens": count("gpt_oss_output_tokens_total") or 0,
        "memory": {"process_bytes": _resident_bytes(), "total_bytes": total, "available_bytes": available},
        "cache": None,
    }
    stats, model = getattr(generator, "stats", None), getattr(generator, "model", None)
    if stats is not None and model is not None:
        free = min(stats().free_blocks, model.cache_blocks)
        figures["cache"] = {
            "used_tokens": (model.cache_blocks - free) * model.block_tokens,
            "total_tokens": model.cache_blocks * model.block_tokens,
        }
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        free_bytes, all_bytes = torch.cuda.mem_get_info()
        figures["memory"]["gpu"] = {"free_bytes": free_bytes, "total_bytes": all_bytes}
    return figures


def _resident_bytes() -> int | None:
    """The memory of this process; weights that are mapped from a file count as far as they are in memory."""
    status = Path("/proc/self/statm")
    if status.exists():
        return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # the most so far is the best that others tell
    return most if sys.platform == "darwin" else most * 1024


def _store(request: Request) -> Store:
    store = service_of(request).store
    if store is None:
        raise RequestError("this server keeps no conversations", status=501)
    return store


@router.get("/v1/conversations/{identity}/turns")
async def turns(request: Request, identity: str) -> Json:
    """The responses of a conversation's tree, oldest first, each with what its request brought and how long it took."""
    store = _store(request)
    found = await store.conversation(identity)
    if found is None:
        raise RequestError(f"there is no conversation {identity!r}", param="conversation_id", status=404)
    service = service_of(request)
    data = []
    for stored, trace in await turns_of(store, identity):
        under_way = service.live_response(stored.body["id"])
        body = under_way.response() if under_way else stored.body
        data.append({"response": body, "input": stored.input_items, "timing": timing(trace) if trace else None})
    return {"object": "list", "conversation": found, "data": data}


@router.post("/v1/conversations/{identity}/turns", openapi_extra=body_of(_Turn))
async def branch(request: Request, identity: str) -> Json:
    """Let a conversation begin with a response of another one and all that came before it."""
    store = _store(request)
    body = read_as(_Turn, await read_object(request))
    chain = await store.chain(body.response)
    if chain is None:
        raise RequestError(f"there is no response {body.response!r} with everything before it", param="response")
    if not await add_turns(store, identity, [each.body["id"] for each in chain]):
        raise RequestError(f"there is no conversation {identity!r}", param="conversation_id", status=404)
    return {"object": "list", "data": [each.body["id"] for each in chain]}


@router.get("/v1/responses/{identity}/trace")
async def trace(request: Request, identity: str) -> Json:
    """Every token of an answer, prompts included, as Harmony's messages; and when what happened. Of turns only."""
    kept = await trace_of(_store(request), identity)
    if kept is None:
        raise RequestError(f"the tokens of response {identity!r} are not kept", param="response_id", status=404)
    return {"object": "response.trace", **readable(kept), **timing(kept)}
