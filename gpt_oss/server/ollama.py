"""Ollama's API, for clients that look for it on port 11434: chat, generate, tags, show, version, ps, pull.

Answers are lines of JSON. The one model here answers to every name.
"""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pydantic
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from gpt_oss.params import SamplingParams
from gpt_oss.server.chat_completions.inbound import inbound, parse_request
from gpt_oss.server.chat_completions.outbound import ChoiceFold
from gpt_oss.server.chat_completions.routes import deltas, with_reasoning
from gpt_oss.server.core.continuation import Continuation
from gpt_oss.server.errors import RequestError, as_response
from gpt_oss.server.openapi import body_of, read_as
from gpt_oss.server.service import Service, service_of
from gpt_oss.server.sse import LineStream, ahead, begun, unless_gone
from gpt_oss.vocabulary import ENDOFTEXT, RETURN, encode_with_special

Json = dict[str, Any]
VERSION = "0.13.5"  # whose API this is; clients refuse older ones
NAME = "gpt-oss"
router = APIRouter()


class OllamaRequest(pydantic.BaseModel):
    """Of /api/chat (messages, tools) and /api/generate (prompt, system, raw)."""

    model_config = pydantic.ConfigDict(extra="ignore")

    model: str = ""
    messages: list[dict[str, Any]] | None = None
    prompt: str = ""
    system: str | None = None
    raw: bool = False
    suffix: str | None = None
    images: list[Any] | None = None
    tools: list[dict[str, Any]] | None = None
    format: str | dict[str, Any] | None = None
    options: dict[str, Any] | None = None
    stream: bool = True
    think: bool | str | None = None


class _Options(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="ignore")

    temperature: float | None = pydantic.Field(None, ge=0)
    top_p: float | None = pydantic.Field(None, gt=0, le=1)
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    num_predict: int | None = None
    stop: str | list[str] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None


def _parse(body: Any) -> tuple[OllamaRequest, _Options]:
    wanted = read_as(OllamaRequest, body)
    return wanted, read_as(_Options, wanted.options or {})


@router.post("/api/chat", openapi_extra=body_of(OllamaRequest))
async def chat(request: Request) -> Response:
    wanted, options = _parse(await request.json())
    if not wanted.messages:  # asked only to load the model
        message = {"role": "assistant", "content": ""}
        return JSONResponse({**_stamp(wanted), "message": message, "done": True, "done_reason": "load"})
    return await _answered(request, wanted, options, wanted.messages, as_chat=True)


@router.post("/api/generate", openapi_extra=body_of(OllamaRequest))
async def generate(request: Request) -> Response:
    wanted, options = _parse(await request.json())
    if wanted.suffix:
        raise RequestError("gpt-oss writes on, it does not fill in", param="suffix")
    if not wanted.prompt:
        return JSONResponse({**_stamp(wanted), "response": "", "done": True, "done_reason": "load"})
    if wanted.raw:
        return await _continued(request, wanted, options)
    system = [{"role": "system", "content": wanted.system}] if wanted.system else []
    messages = [*system, {"role": "user", "content": wanted.prompt}]
    return await _answered(request, wanted, options, messages, as_chat=False)


async def _answered(
    request: Request, wanted: OllamaRequest, options: _Options, messages: list[Json], *, as_chat: bool
) -> Response:
    service = service_of(request)
    if wanted.images or any(message.get("images") for message in messages):
        raise RequestError("gpt-oss reads text, not images", param="images")
    body: Json = {
        "messages": [_message(message, number) for number, message in enumerate(messages)],
        "tools": wanted.tools,
        "response_format": _format(wanted.format),
        "reasoning_effort": wanted.think if isinstance(wanted.think, str) else "low" if wanted.think is False else None,
        "max_tokens": options.num_predict if (options.num_predict or 0) > 0 else None,
        **options.model_dump(exclude={"num_predict", "top_k"}, exclude_none=True),
        "top_k": options.top_k if (options.top_k or 0) > 0 else None,
    }
    body["temperature"] = min(2.0, body["temperature"]) if "temperature" in body else None
    plan = inbound(with_reasoning(service, parse_request(body))).plans[0]
    fold = ChoiceFold(plan.aliases, plan.stop_texts)

    async def lines() -> AsyncGenerator[Json, None]:
        clock = _Clock()
        async with aclosing(deltas(service, plan, fold)) as parts:
            async for delta in parts:
                clock.tick()
                said = _said(delta, as_chat=as_chat)
                if said is not None or not delta:
                    yield {**_stamp(wanted), **(said or _said({"content": ""}, as_chat=as_chat) or {}), "done": False}
        last: Json = {"message": {"role": "assistant", "content": ""}} if as_chat else {"response": ""}
        calls = [
            {"function": {**call["function"], "arguments": _object(call)}, "id": call["id"]} for call in fold.calls
        ]
        if calls and as_chat:
            yield {
                **_stamp(wanted),
                "message": {"role": "assistant", "content": "", "tool_calls": calls},
                "done": False,
            }
        reason = "length" if fold.finish_reason == "length" else "stop"
        counts = clock.counts(fold.usage.prompt_tokens, fold.usage.output_tokens)
        yield {**_stamp(wanted), **last, "done": True, "done_reason": reason, **counts}

    return await _sent(request, wanted, lines())


async def _continued(request: Request, wanted: OllamaRequest, options: _Options) -> Response:
    """raw: the prompt as it is, special tokens written out in it."""
    service = service_of(request)
    stops = [options.stop] if isinstance(options.stop, str) else options.stop or []
    choice = Continuation(encode_with_special(wanted.prompt), stops)
    params = SamplingParams(
        temperature=1.0 if options.temperature is None else options.temperature,
        top_p=options.top_p or 1.0,
        top_k=max(0, options.top_k or 0),
        seed=options.seed,
        max_tokens=options.num_predict if (options.num_predict or 0) > 0 else None,
        stop_token_ids=(ENDOFTEXT, RETURN),
    )

    async def lines() -> AsyncGenerator[Json, None]:
        clock = _Clock()
        async with aclosing(ahead(choice.run(service.runner, params))) as texts:
            async for text in texts:
                clock.tick()
                yield {**_stamp(wanted), "response": text, "done": False}
        counts = clock.counts(len(choice.prompt), len(choice.tokens))
        yield {**_stamp(wanted), "response": "", "done": True, "done_reason": choice.finish_reason, **counts}

    return await _sent(request, wanted, lines())


async def _sent(request: Request, wanted: OllamaRequest, lines: AsyncGenerator[Json, None]) -> Response:
    """As lines, or all of them in one. The first line tells whether the request can be served at all."""
    if not wanted.stream:
        return JSONResponse(await unless_gone(request, _joined(lines)))
    sure = await begun(request, lines, lambda error: {"error": as_response(error)[1]["error"]["message"]})

    async def written() -> AsyncGenerator[bytes, None]:
        async with aclosing(sure):
            async for line in sure:
                yield _line(line)

    return LineStream(written())


async def _joined(lines: AsyncGenerator[Json, None]) -> Json:
    whole: Json = {}
    message: Json = {"role": "assistant", "content": ""}
    texts = {"response": "", "thinking": ""}
    async with aclosing(lines):
        async for line in lines:
            part = line.get("message") or {}
            for name in ("content", "thinking"):
                if part.get(name):
                    message[name] = message.get(name, "") + part[name]
            message |= {"tool_calls": part["tool_calls"]} if "tool_calls" in part else {}
            texts = {name: text + line.get(name, "") for name, text in texts.items()}
            whole = line
    if "message" in whole:
        return whole | {"message": message}
    return whole | {name: text for name, text in texts.items() if text or name == "response"}


def _said(delta: Json, *, as_chat: bool) -> Json | None:
    """A delta of Chat Completions; calls are sent when they are whole."""
    if "content" in delta:
        text = delta["content"]
        return {"message": {"role": "assistant", "content": text}} if as_chat else {"response": text}
    if "reasoning" in delta:
        text = delta["reasoning"]
        thinking = {"role": "assistant", "content": "", "thinking": text}
        return {"message": thinking} if as_chat else {"response": "", "thinking": text}
    return None


def _message(message: Json, number: int) -> Json:
    """Ollama's message as OpenAI's: thinking, calls with objects for arguments, answers named by their tool."""
    own = {name: value for name, value in message.items() if name not in ("thinking", "tool_calls", "tool_name")}
    if message.get("thinking"):
        own["reasoning"] = message["thinking"]
    calls = message.get("tool_calls")
    if isinstance(calls, list):
        own["tool_calls"] = [_call(call, f"messages[{number}].tool_calls[{i}]") for i, call in enumerate(calls)]
    if message.get("role") == "tool" and message.get("tool_name"):
        own.setdefault("name", message["tool_name"])
    return own


def _call(call: Any, where: str) -> Json:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        raise RequestError(f"{where}.function is missing", param=where)
    arguments = function.get("arguments")
    text = arguments if isinstance(arguments, str) else json.dumps(arguments or {}, ensure_ascii=False)
    return {"id": call.get("id") or "", "type": "function", "function": {**function, "arguments": text}}


def _object(call: Json) -> Any:
    """What is no JSON, which can only be where nothing was constrained, is told as it is."""
    try:
        return json.loads(call["function"]["arguments"])
    except ValueError:
        return {"arguments": call["function"]["arguments"]}


def _format(given: str | Json | None) -> Json | None:
    if isinstance(given, dict):
        return {"type": "json_schema", "json_schema": {"name": "answer", "schema": given}}
    if given in (None, ""):
        return None
    if given != "json":
        raise RequestError("format is json or a JSON schema", param="format")
    return {"type": "json_object"}


class _Clock:
    """Nanoseconds, as Ollama counts them."""

    def __init__(self) -> None:
        self._start = time.monotonic_ns()
        self._first: int | None = None

    def tick(self) -> None:
        self._first = self._first or time.monotonic_ns()

    def counts(self, prompt: int, output: int) -> Json:
        now = time.monotonic_ns()
        first = self._first or now
        return {
            "total_duration": now - self._start,
            "load_duration": 0,
            "prompt_eval_count": prompt,
            "prompt_eval_duration": first - self._start,
            "eval_count": output,
            "eval_duration": now - first,
        }


def _stamp(wanted: OllamaRequest) -> Json:
    return {"model": wanted.model or NAME, "created_at": _now()}


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat().replace("+00:00", "Z")


def _line(data: Json) -> bytes:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


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
    wanted, _ = _parse(await request.json())
    if not wanted.stream:
        return JSONResponse({"status": "success"})

    async def lines() -> AsyncGenerator[bytes, None]:
        yield _line({"status": "success"})

    return LineStream(lines())


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
    size = "120B" if "120b" in service.model else "20B" if "20b" in service.model else ""
    family = {"family": "gptoss", "families": ["gptoss"], "format": "safetensors", "parent_model": ""}
    return {**family, "parameter_size": size, "quantization_level": "MXFP4"}


def _at(service: Service) -> str:
    return datetime.datetime.fromtimestamp(service.started, datetime.UTC).isoformat().replace("+00:00", "Z")
