"""Ollama's API, for clients that look for it on port 11434: chat, generate, tags, show, version, ps, pull.

Answers are lines of JSON. The one model here answers to every name.
"""

from __future__ import annotations

import datetime
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from gpt_oss.events import Usage
from gpt_oss.server.apis.ollama.read import OllamaOptions, OllamaRequest, read_conversation
from gpt_oss.server.apis.ollama.write import Clock, LineWriter
from gpt_oss.server.core.answer import Answer, parts_of
from gpt_oss.server.core.aside import aside
from gpt_oss.server.core.ask import Ask
from gpt_oss.server.core.body import Json, read_json
from gpt_oss.server.core.continuation import Continuation
from gpt_oss.server.core.errors import RequestError, Shape, as_response
from gpt_oss.server.core.sampling import sampling_params, stop_texts
from gpt_oss.server.core.stream import line, merged, streamed, warning_headers, whole
from gpt_oss.server.openapi import body_of, read_as
from gpt_oss.server.service import Service, service_of
from gpt_oss.vocabulary import ENDOFTEXT, RETURN, encode_with_special

VERSION = "0.13.5"  # whose API this is; clients refuse older ones
NAME = "gpt-oss"
router = APIRouter()


async def _parse(request: Request) -> tuple[OllamaRequest, OllamaOptions]:
    given = await read_json(request)

    def read() -> tuple[OllamaRequest, OllamaOptions]:
        wanted = read_as(OllamaRequest, given)
        return wanted, read_as(OllamaOptions, wanted.options or {})

    return await aside(read)


@router.post("/api/chat", openapi_extra=body_of(OllamaRequest))
async def chat(request: Request) -> Response:
    wanted, options = await _parse(request)
    if not wanted.messages:  # asked only to load the model
        message = {"role": "assistant", "content": ""}
        return JSONResponse({**_stamp(wanted), "message": message, "done": True, "done_reason": "load"})
    messages, recall = wanted.messages, service_of(request).memory.recall
    ask = await aside(lambda: read_conversation(wanted, options, messages, recall))
    return await _answered(request, wanted, ask, as_chat=True)


@router.post("/api/generate", openapi_extra=body_of(OllamaRequest))
async def generate(request: Request) -> Response:
    wanted, options = await _parse(request)
    if wanted.suffix:
        raise RequestError("gpt-oss writes on, it does not fill in", param="suffix")
    if wanted.images:
        raise RequestError("gpt-oss reads text, not images; leave them out", param="images")
    if not wanted.prompt:
        return JSONResponse({**_stamp(wanted), "response": "", "done": True, "done_reason": "load"})
    if wanted.raw:
        return await _continued(request, wanted, options)
    system = [{"role": "system", "content": wanted.system}] if wanted.system else []
    messages = [*system, {"role": "user", "content": wanted.prompt}]
    ask = await aside(lambda: read_conversation(wanted, options, messages))
    return await _answered(request, wanted, ask, as_chat=False)


async def _answered(request: Request, wanted: OllamaRequest, ask: Ask, *, as_chat: bool) -> Response:
    writer = LineWriter(as_chat=as_chat)
    lines = _lines(service_of(request), ask, writer)
    return await _sent(request, wanted, lines, writer.whole, warning_headers(ask.warnings))


async def _lines(service: Service, ask: Ask, writer: LineWriter) -> AsyncGenerator[Json, None]:
    async for _, part in merged([parts_of(service.asker, ask, Answer(ask.tools, ask.stop_texts))]):
        for each in writer.push(part):
            yield each
    service.memory.remember([call["id"] for call in writer.calls], writer.reasoning)


async def _continued(request: Request, wanted: OllamaRequest, options: OllamaOptions) -> Response:
    """raw: the prompt as it is, special tokens written out in it."""
    if wanted.format or wanted.tools:
        raise RequestError("format and tools need a conversation: leave raw out", param="raw")
    service = service_of(request)
    params = sampling_params(options.as_fields(), max_tokens=options.max_tokens, stop_token_ids=(ENDOFTEXT, RETURN))
    prompt = await aside(lambda: encode_with_special(wanted.prompt))
    choice = Continuation(prompt, stop_texts(options, "options.stop"))
    clock = Clock()
    last: Json = {}

    async def lines() -> AsyncGenerator[Json, None]:
        async for _, text in merged([choice.run(service.asker, params)]):
            clock.tick()
            yield {"response": text, "done": False}
        usage = Usage(prompt_tokens=len(choice.prompt), output_tokens=len(choice.tokens))
        last.update({"done": True, "done_reason": choice.finish_reason, **clock.counts(usage)})
        yield {"response": "", **last}

    return await _sent(request, wanted, lines(), lambda: {"response": choice.text, **last}, {})


async def _sent(
    request: Request, wanted: OllamaRequest, lines: AsyncGenerator[Json, None], body: Any, headers: Mapping[str, str]
) -> Response:
    """As lines, or all of them in one. The first line tells whether the request can be served at all."""
    if not wanted.stream:
        return await whole(request, lines, lambda: {**_stamp(wanted), **body()}, headers)

    async def written() -> AsyncGenerator[bytes, None]:
        async for each in lines:
            yield line({**_stamp(wanted), **each})

    return await streamed(
        request,
        written(),
        lambda error: line(as_response(error, Shape.OLLAMA)[1]),
        keep_alive=lambda: b"",
        media_type="application/x-ndjson",
        headers=headers,
    )


def _stamp(wanted: OllamaRequest) -> Json:
    return {"model": wanted.model or NAME, "created_at": _now()}


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat().replace("+00:00", "Z")


# ---- what there is --------------------------------------------------------------------------------------------------


@router.get("/")
@router.head("/")
async def here() -> Response:
    return PlainTextResponse("Ollama is running")


@router.get("/api/version")
async def version() -> Json:
    return {"version": VERSION}


@router.get("/api/tags")
async def tags(request: Request) -> Json:
    return {"models": [_model(name, service_of(request)) for name in names(service_of(request))]}


@router.get("/api/ps")
async def ps(request: Request) -> Json:
    service = service_of(request)
    return {"models": [_model(service.model, service) | {"expires_at": _now(), "size_vram": 0}]}


@router.post("/api/show")
async def show(request: Request) -> Json:
    service = service_of(request)
    context = service.runner.generator.context_tokens
    return {
        "license": "Apache-2.0",
        "modelfile": "",
        "parameters": "temperature 1",
        "template": "{{ .Prompt }}",
        "details": _details(service),
        "model_info": {"general.architecture": "gptoss", "gptoss.context_length": context},
        "capabilities": ["completion", "tools", "thinking"],
        "modified_at": _at(service),
    }


@router.post("/api/pull", openapi_extra=body_of(OllamaRequest))
async def pull(request: Request) -> Response:
    """The model is there, whatever it is called."""
    wanted, _ = await _parse(request)
    if not wanted.stream:
        return JSONResponse({"status": "success"})
    return Response(line({"status": "success"}), media_type="application/x-ndjson")


def names(service: Service) -> list[str]:
    """The model's own name, and the one that Ollama has for its size."""
    usual = f"{NAME}:120b" if "120b" in service.model else f"{NAME}:20b"
    return list(dict.fromkeys([service.model, usual]))


def _model(name: str, service: Service) -> Json:
    digest = f"{sum(name.encode()):064x}"
    return {
        "name": name,
        "model": name,
        "modified_at": _at(service),
        "size": 0,
        "digest": digest,
        "details": _details(service),
    }


def _details(service: Service) -> Json:
    sizes = {"120b": "120B", "20b": "20B"}
    size = next((shown for name, shown in sizes.items() if name in service.model), "")
    family = {"family": "gptoss", "families": ["gptoss"], "format": "safetensors", "parent_model": ""}
    return {**family, "parameter_size": size, "quantization_level": "MXFP4"}


def _at(service: Service) -> str:
    return datetime.datetime.fromtimestamp(service.started, datetime.UTC).isoformat().replace("+00:00", "Z")
