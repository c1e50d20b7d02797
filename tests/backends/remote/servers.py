"""Servers that speak the wires of others and compute with an engine of ours: what the remote backends are tested on.

Each is written from its original's own source or documentation, named where it stands, and is as strict: it refuses
fields that the original would refuse, and hides what it would hide.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from gpt_oss.backends.base import SampledToken, TokenGenerator
from gpt_oss.errors import GptOssError
from gpt_oss.params import SamplingParams
from gpt_oss.vocabulary import (
    CALL,
    ENDOFTEXT,
    NUM_TEXT_TOKENS,
    RETURN,
    StreamDecoder,
    decode,
    encode_with_special,
    special_name,
    token_bytes,
)

Json = dict[str, Any]
END_TOKENS = (RETURN, CALL, ENDOFTEXT)  # where these servers end by themselves


@dataclass
class Seen:
    """requests: their bodies. cancelled: set when a client left in the middle of an answer."""

    requests: list[Json] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)
    finished: int = 0


class Engine:
    """What the routes have in common: they ask a generator of ours."""

    def __init__(self, generator: TokenGenerator, model: str = "gpt-oss-20b") -> None:
        self.generator = generator
        self.model = model
        self.seen = Seen()

    async def tokens(self, prompt: Sequence[int], params: SamplingParams) -> AsyncIterator[SampledToken]:
        whole = False
        try:
            stream = self.generator.generate(prompt, params)
            async with aclosing(stream) as tokens:  # type: ignore[type-var]
                async for token in tokens:
                    yield token
            whole = True
            self.seen.finished += 1
        finally:
            if not whole:
                self.seen.cancelled.set()

    async def body(self, request: Request) -> Json:
        content: Json = await request.json()
        self.seen.requests.append(content)
        return content


def events(parts: AsyncIterator[Json | str]) -> Response:
    async def encoded() -> AsyncIterator[str]:
        async with aclosing(parts) as each:  # type: ignore[type-var]
            async for part in each:
                text = part if isinstance(part, str) else json.dumps(part, ensure_ascii=False, separators=(",", ":"))
                yield f"data: {text}\n\n"

    return StreamingResponse(encoded(), media_type="text/event-stream")


def lines(parts: AsyncIterator[Json]) -> Response:
    async def encoded() -> AsyncIterator[str]:
        async with aclosing(parts) as each:  # type: ignore[type-var]
            async for part in each:
                yield json.dumps(part, ensure_ascii=False, separators=(",", ":")) + "\n"

    return StreamingResponse(encoded(), media_type="application/x-ndjson")


def refusing(handle: Callable[[Request], Any], form: Callable[[str], Any]) -> Callable[[Request], Any]:
    """An error of ours before the first token as a 400 in the server's form."""

    async def handled(request: Request) -> Response:
        try:
            response: Response = await handle(request)
            return response
        except (GptOssError, AssertionError) as error:
            return JSONResponse(form(str(error)), 400)

    return handled


def openai_error(message: str) -> Json:
    return {"error": {"message": message, "type": "BadRequestError", "param": None, "code": 400}}


# ---- vLLM 0.33: vllm/entrypoints/openai/completion/{protocol,serving}.py --------------------------------------------

VLLM_FIELDS = frozenset(
    (
        "model",
        "prompt",
        "max_tokens",
        "stream",
        "stream_options",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "seed",
        "stop",
        "stop_token_ids",
        "ignore_eos",
        "logprobs",
        "logit_bias",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "skip_special_tokens",
        "spaces_between_special_tokens",
        "add_special_tokens",
        "return_token_ids",
        "return_tokens_as_token_ids",
        "n",
        "echo",
    )
)


def vllm_server(engine: Engine) -> Starlette:
    async def completions(request: Request) -> Response:
        body = await engine.body(request)
        unknown = set(body) - VLLM_FIELDS
        assert not unknown, f"extra fields not permitted: {unknown}"
        assert body["model"] == engine.model, f"The model `{body['model']}` does not exist."
        prompt = body["prompt"]
        assert isinstance(prompt, list), "this test server takes ids"
        stops = list(body.get("stop_token_ids") or [])
        if not body.get("ignore_eos"):
            stops += [RETURN, ENDOFTEXT]
        params = SamplingParams(
            temperature=body["temperature"],
            top_p=body["top_p"],
            top_k=max(0, body["top_k"]),
            min_p=body["min_p"],
            seed=None if body["seed"] is None else body["seed"] % 2**64,
            max_tokens=16 if body["max_tokens"] is None else body["max_tokens"],
            stop_token_ids=tuple(stops),
            logprobs=body["logprobs"],
            logit_bias={int(token): bias for token, bias in (body["logit_bias"] or {}).items()},
            presence_penalty=body["presence_penalty"],
            frequency_penalty=body["frequency_penalty"],
        )
        if not body.get("stream"):
            found = [token async for token in engine.tokens(prompt, params)]
            return JSONResponse(whole(found))
        return events(chunks(body, prompt, params))

    def whole(tokens: list[SampledToken]) -> Json:
        ids = [token.id for token in tokens]
        choice = {"index": 0, "text": decode(ids), "finish_reason": tokens[-1].finish_reason, "token_ids": ids}
        return {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": engine.model, "choices": [choice]}

    async def chunks(body: Json, prompt: list[int], params: SamplingParams) -> AsyncIterator[Json | str]:
        decoder = StreamDecoder()
        first = True
        async with aclosing(engine.tokens(prompt, params)) as tokens:
            async for token in tokens:
                stopped = token.finish_reason == "stop"
                choice = {
                    "index": 0,
                    "text": "" if stopped else decoder.push(token.id),
                    "logprobs": logprobs(body, token),
                    "finish_reason": token.finish_reason,
                    "stop_reason": token.id if stopped and token.id != RETURN else None,
                    "prompt_token_ids": prompt if first and body.get("return_token_ids") else None,
                    "token_ids": [token.id] if body.get("return_token_ids") else None,
                    "weight_versions": None,
                }
                first = False
                yield {
                    "id": "cmpl-1",
                    "object": "text_completion",
                    "created": 1,
                    "model": engine.model,
                    "choices": [choice],
                    "kv_transfer_params": None,
                }
        yield "[DONE]"

    def logprobs(body: Json, token: SampledToken) -> Json | None:
        if body["logprobs"] is None:
            return None
        as_ids = body.get("return_tokens_as_token_ids")
        name = (lambda i: f"token_id:{i}") if as_ids else (lambda i: token_bytes(i).decode(errors="replace"))
        top = {name(token.id): token.logprob} | {name(i): value for i, value in token.top_logprobs}
        return {
            "text_offset": [0],
            "token_logprobs": [token.logprob],
            "tokens": [name(token.id)],
            "top_logprobs": [top],
        }

    async def models(request: Request) -> Response:
        card = {
            "id": engine.model,
            "object": "model",
            "created": 1,
            "owned_by": "vllm",
            "root": "openai/gpt-oss-20b",
            "parent": None,
            "max_model_len": engine.generator.context_tokens,
            "permission": [],
        }
        return JSONResponse({"object": "list", "data": [card]})

    return Starlette(
        routes=[
            Route("/v1/completions", refusing(completions, openai_error), methods=["POST"]),
            Route("/v1/models", models),
        ]
    )


# ---- llama.cpp: tools/server/server-context.cpp and server-task.cpp -------------------------------------------------


def llama_cpp_server(engine: Engine) -> Starlette:
    async def completion(request: Request) -> Response:
        body = await engine.body(request)
        assert body["stream"], "this test server streams"
        assert body["return_tokens"], "this test server gives ids"
        assert body["samplers"] == ["temperature", "top_k", "top_p", "min_p"], "other samplers are on"
        seed = body["seed"]
        params = SamplingParams(
            temperature=body["temperature"],
            top_p=body["top_p"],
            top_k=body["top_k"],
            min_p=body["min_p"],
            seed=None if seed == -1 else seed,
            max_tokens=body["n_predict"],
            stop_token_ids=END_TOKENS,
            logprobs=body["n_probs"] or None,
            logit_bias={int(token): bias for token, bias in body["logit_bias"]},
        )
        return events(parts(body, params))

    async def parts(body: Json, params: SamplingParams) -> AsyncIterator[Json | str]:
        prompt = body["prompt"]
        count, held = 0, b""
        last = None
        common = {"index": 0, "id_slot": 0, "tokens_evaluated": len(prompt)}
        async with aclosing(engine.tokens(prompt, params)) as tokens:
            async for token in tokens:
                if count == 0 and body.get("return_progress"):
                    progress = {"total": len(prompt), "cache": token.cached_tokens, "processed": len(prompt)}
                    head = common | {"content": "", "tokens": [], "stop": False, "tokens_predicted": 0}
                    yield head | {"prompt_progress": progress | {"time_ms": 1}}
                count += 1
                last = token
                held += b"" if token.id >= NUM_TEXT_TOKENS else token_bytes(token.id)
                try:
                    text = held.decode()
                except UnicodeDecodeError as error:
                    if error.reason == "unexpected end of data":
                        continue  # the server waits for the rest of the character
                    text = held.decode(errors="replace")
                held = b""
                event = common | {
                    "content": text,
                    "tokens": [token.id],
                    "stop": False,
                    "tokens_predicted": count,
                }
                if body["n_probs"]:
                    event["completion_probabilities"] = [probability(token)]
                yield event
        assert last is not None
        yield common | {
            "content": "",
            "tokens": [],
            "stop": True,
            "model": engine.model,
            "tokens_predicted": count,
            "truncated": False,
            "stop_type": "eos" if last.finish_reason == "stop" else "limit",
            "stopping_word": "",
        }

    def probability(token: SampledToken) -> Json:
        def entry(i: int, logprob: float | None) -> Json:
            raw = token_bytes(i)
            return {"id": i, "token": raw.decode(errors="ignore"), "bytes": list(raw), "logprob": logprob}

        return entry(token.id, token.logprob) | {"top_logprobs": [entry(i, value) for i, value in token.top_logprobs]}

    async def models(request: Request) -> Response:
        meta = {"n_ctx": engine.generator.context_tokens, "n_ctx_train": 131072}
        return JSONResponse(
            {"object": "list", "data": [{"id": engine.model, "aliases": [], "owned_by": "llamacpp", "meta": meta}]}
        )

    async def props(request: Request) -> Response:
        return JSONResponse({"default_generation_settings": {"n_ctx": engine.generator.context_tokens}})

    return Starlette(
        routes=[
            Route("/completion", refusing(completion, openai_error), methods=["POST"]),
            Route("/v1/models", models),
            Route("/props", props),
        ]
    )


# ---- SGLang 0.5: srt/managers/tokenizer_manager.py, srt/sampling/sampling_params.py ---------------------------------

SGLANG_FIELDS = frozenset(
    (
        "max_new_tokens",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "stop_token_ids",
        "ignore_eos",
        "no_stop_trim",
        "skip_special_tokens",
        "spaces_between_special_tokens",
        "sampling_seed",
        "logit_bias",
    )
)


def sglang_server(engine: Engine, *, incremental: bool = False) -> Starlette:
    async def generate(request: Request) -> Response:
        body = await engine.body(request)
        asked = body["sampling_params"]
        assert set(asked) <= SGLANG_FIELDS, f"Unexpected keyword argument {set(asked) - SGLANG_FIELDS}"
        params = SamplingParams(
            temperature=asked["temperature"],
            top_p=asked["top_p"],
            top_k=max(0, asked["top_k"]),
            min_p=asked["min_p"],
            seed=asked.get("sampling_seed"),
            max_tokens=asked["max_new_tokens"],
            stop_token_ids=(*asked["stop_token_ids"], *(() if asked["ignore_eos"] else (RETURN, ENDOFTEXT))),
            logprobs=body["top_logprobs_num"] if body.get("return_logprob") else None,
            logit_bias={int(token): bias for token, bias in asked.get("logit_bias", {}).items()},
            presence_penalty=asked["presence_penalty"],
            frequency_penalty=asked["frequency_penalty"],
        )
        return events(parts(body, params))

    async def parts(body: Json, params: SamplingParams) -> AsyncIterator[Json | str]:
        ids: list[int] = []
        values: list[list[Any]] = []
        tops: list[list[Any]] = []
        async with aclosing(engine.tokens(body["input_ids"], params)) as tokens:
            async for token in tokens:
                ids.append(token.id)
                values.append([token.logprob, token.id, None])
                tops.append([[value, i, None] for i, value in token.top_logprobs])
                reason: Json | None = None
                if token.finish_reason == "stop":
                    reason = {"type": "stop", "matched": token.id}
                elif token.finish_reason == "length":
                    reason = {"type": "length", "length": params.max_tokens}
                shown = slice(-1 if incremental else 0, None)
                meta: Json = {
                    "id": "1",
                    "finish_reason": reason,
                    "prompt_tokens": len(body["input_ids"]),
                    "completion_tokens": len(ids),
                    "cached_tokens": token.cached_tokens,
                }
                if params.logprobs is not None:
                    meta["output_token_logprobs"] = values[shown]
                    if params.logprobs:
                        meta["output_top_logprobs"] = tops[shown]
                yield {"text": decode(ids[shown]) if reason else None, "output_ids": ids[shown], "meta_info": meta}
        yield "[DONE]"

    async def models(request: Request) -> Response:
        card = {"id": engine.model, "owned_by": "sglang", "max_model_len": engine.generator.context_tokens}
        return JSONResponse({"object": "list", "data": [card]})

    def error(message: str) -> Json:
        return {"error": {"message": message}}

    return Starlette(
        routes=[
            Route("/generate", refusing(generate, error), methods=["POST"]),
            Route("/v1/models", models),
        ]
    )


# ---- Completions with text: LM Studio, llama-cpp-python -------------------------------------------------------------


def text_server(engine: Engine, *, hides: bool, owner: str = "organization_owner") -> Starlette:
    """hides: special tokens are left out of the answer, as llama.cpp's engine does without --special."""

    async def completions(request: Request) -> Response:
        body = await engine.body(request)
        assert isinstance(body["prompt"], str), "prompt: Input should be a valid string"
        params = SamplingParams(
            temperature=body["temperature"],
            top_p=body["top_p"],
            top_k=body["top_k"],
            min_p=body["min_p"],
            seed=body.get("seed"),
            max_tokens=body["max_tokens"],
            stop_token_ids=END_TOKENS,
        )
        return events(parts(encode_with_special(body["prompt"]), params))

    async def parts(prompt: list[int], params: SamplingParams) -> AsyncIterator[Json | str]:
        decoder = StreamDecoder()
        common = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": engine.model}
        async with aclosing(engine.tokens(prompt, params)) as tokens:
            async for token in tokens:
                text = "" if token.finish_reason == "stop" else shown(token.id, decoder, hides=hides)
                if text:
                    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": None}
                    yield common | {"choices": [choice]}
        choice = {"index": 0, "text": "", "logprobs": None, "finish_reason": token.finish_reason}
        yield common | {"choices": [choice]}
        yield "[DONE]"

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": engine.model, "object": "model", "owned_by": owner}]})

    async def own_models(request: Request) -> Response:
        card = {"id": engine.model, "state": "loaded", "max_context_length": 131072}
        return JSONResponse({"data": [card | {"loaded_context_length": engine.generator.context_tokens}]})

    return Starlette(
        routes=[
            Route("/v1/completions", refusing(completions, openai_error), methods=["POST"]),
            Route("/v1/models", models),
            Route("/api/v0/models", own_models),
        ]
    )


def shown(token: int, decoder: StreamDecoder, *, hides: bool) -> str:
    return "" if hides and token >= NUM_TEXT_TOKENS else decoder.push(token)


# ---- Ollama: docs/api.md; the types are held against its own Python package -----------------------------------------

OLLAMA_OPTIONS = frozenset(
    (
        "num_ctx",
        "num_predict",
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "repeat_penalty",
        "seed",
        "stop",
        "num_keep",
        "typical_p",
        "repeat_last_n",
        "presence_penalty",
        "frequency_penalty",
    )
)


def ollama_server(engine: Engine) -> Starlette:
    async def generate(request: Request) -> Response:
        body = await engine.body(request)
        options = body["options"]
        assert set(options) <= OLLAMA_OPTIONS, f"invalid option {set(options) - OLLAMA_OPTIONS}"
        if body["model"] != engine.model:
            return JSONResponse({"error": f"model '{body['model']}' not found"}, 404)
        assert body["raw"], "this test server continues raw prompts"
        prompt = encode_with_special(body["prompt"])
        assert len(prompt) < options["num_ctx"], "the input length exceeds the context length"
        params = SamplingParams(
            temperature=options["temperature"],
            top_p=options["top_p"],
            top_k=options["top_k"],
            min_p=options["min_p"],
            seed=options.get("seed"),
            max_tokens=min(options["num_predict"], options["num_ctx"] - len(prompt)),
            stop_token_ids=END_TOKENS,
            logprobs=body["top_logprobs"] if body.get("logprobs") else None,
        )
        return lines(parts(prompt, params))

    async def parts(prompt: list[int], params: SamplingParams) -> AsyncIterator[Json]:
        decoder = StreamDecoder()
        held: list[SampledToken] = []
        count = 0
        common = {"model": engine.model, "created_at": "2026-11-26T04:00:00.000000Z"}
        async with aclosing(engine.tokens(prompt, params)) as tokens:
            async for token in tokens:
                count += 1
                if token.finish_reason == "stop":
                    break  # the token that ends is kept back
                held.append(token)
                text = decoder.push(token.id)
                if text:
                    event = common | {"response": text, "done": False}
                    if params.logprobs is not None:
                        event["logprobs"] = [logprob(each) for each in held]
                    held = []
                    yield event
            async for _ in tokens:
                pass
        last = common | {"response": "", "done": True, "done_reason": token.finish_reason}
        yield last | {"total_duration": 1, "load_duration": 1, "prompt_eval_count": len(prompt), "eval_count": count}

    def logprob(token: SampledToken) -> Json:
        def text(i: int) -> str:
            return special_name(i) if i >= NUM_TEXT_TOKENS else token_bytes(i).decode(errors="replace")

        top = [{"token": text(i), "logprob": value} for i, value in token.top_logprobs]
        return {"token": text(token.id), "logprob": token.logprob, "top_logprobs": top}

    async def show(request: Request) -> Response:
        body = await request.json()
        if body["model"] != engine.model:
            return JSONResponse({"error": f"model '{body['model']}' not found"}, 404)
        info = {"general.architecture": "gptoss", "gptoss.context_length": engine.generator.context_tokens}
        return JSONResponse({"modelfile": "", "template": "", "details": {}, "model_info": info})

    async def version(request: Request) -> Response:
        return JSONResponse({"version": "0.13.5"})

    def error(message: str) -> Json:
        return {"error": message}

    return Starlette(
        routes=[
            Route("/api/generate", refusing(generate, error), methods=["POST"]),
            Route("/api/show", show, methods=["POST"]),
            Route("/api/version", version),
        ]
    )


@dataclass
class Slowed:
    """A generator with a pause before each token, for tests that leave in the middle."""

    inner: TokenGenerator
    seconds: float = 0.02

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def context_tokens(self) -> int:
        return self.inner.context_tokens

    async def generate(self, prompt: Sequence[int], params: SamplingParams) -> AsyncIterator[SampledToken]:
        async with aclosing(self.inner.generate(prompt, params)) as tokens:  # type: ignore[type-var]
            async for token in tokens:
                await asyncio.sleep(self.seconds)
                yield token

    def generate_sync(self, prompt: Sequence[int], params: SamplingParams) -> Iterator[SampledToken]:
        for token in self.inner.generate_sync(prompt, params):
            time.sleep(self.seconds)
            yield token

    def close(self) -> None:
        """The inner one stays its owner's."""


@dataclass
class Remembering:
    """A generator that computes an answer once: the same question again gives the same tokens at no cost."""

    inner: TokenGenerator
    answers: dict[str, list[SampledToken]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def context_tokens(self) -> int:
        return self.inner.context_tokens

    async def generate(self, prompt: Sequence[int], params: SamplingParams) -> AsyncIterator[SampledToken]:
        for token in await asyncio.to_thread(self.answer, prompt, params):
            await asyncio.sleep(0)
            yield token

    def generate_sync(self, prompt: Sequence[int], params: SamplingParams) -> Iterator[SampledToken]:
        return iter(self.answer(prompt, params))

    def answer(self, prompt: Sequence[int], params: SamplingParams) -> list[SampledToken]:
        asked = f"{list(prompt)} {replace(params, stop_token_ids=tuple(sorted(set(params.stop_token_ids))))}"
        if params.seed is None and params.temperature > 0:
            return list(self.inner.generate_sync(prompt, params))
        if asked not in self.answers:
            self.answers[asked] = list(self.inner.generate_sync(prompt, params))
        return self.answers[asked]

    def close(self) -> None:
        """The inner one stays its owner's."""
