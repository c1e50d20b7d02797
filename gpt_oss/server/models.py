"""/v1/models, for clients of OpenAI's and Anthropic's APIs. The one model here answers to any name."""

from __future__ import annotations

import datetime

from fastapi import APIRouter, Request

from gpt_oss.server.core.body import Json
from gpt_oss.server.service import Service, service_of

ANTHROPIC = "anthropic-version"  # the header by which its clients are known
router = APIRouter(prefix="/v1/models")


@router.get("")
async def models(request: Request) -> Json:
    service = service_of(request)
    data = [_model(request, name) for name in service.listed]
    if ANTHROPIC not in request.headers:
        return {"object": "list", "data": data}
    return {"data": data, "has_more": False, "first_id": data[0]["id"], "last_id": data[-1]["id"]}


@router.get("/{name:path}")
async def model(request: Request, name: str) -> Json:
    return _model(request, name)


def _model(request: Request, name: str) -> Json:
    service = service_of(request)
    if ANTHROPIC in request.headers:
        made = datetime.datetime.fromtimestamp(service.started, datetime.UTC).isoformat().replace("+00:00", "Z")
        return {"type": "model", "id": name, "display_name": name, "created_at": made}
    return _as_openai(service, name)


def _as_openai(service: Service, name: str) -> Json:
    context = service.runner.generator.context_tokens
    return {
        "id": name,
        "object": "model",
        "created": service.started,
        "owned_by": "gpt-oss",
        "context_length": context,
        "max_model_len": context,
    }
