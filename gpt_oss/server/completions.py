"""POST /v1/completions: text or token ids continued as they are, without Harmony. Ids also come back, on request."""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

import pydantic
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from gpt_oss.backends.base import SampledToken
from gpt_oss.errors import ParameterError
from gpt_oss.params import SamplingParams
from gpt_oss.server.core.errors import RequestError, as_response
from gpt_oss.server.core.stream import EventStream, begun, event, together, unless_gone
from gpt_oss.server.openapi import body_of, read_as
from gpt_oss.server.runner import Runner
from gpt_oss.server.service import Service, service_of
from gpt_oss.vocabulary import ENDOFTEXT, RETURN, decode, encode_with_special, special_tokens, token_bytes

Json = dict[str, Any]
MOST_CHOICES = 128
LARGEST_TOKEN = max(special_tokens().values())
router = APIRouter()


class CompletionRequest(pydantic.BaseModel):
    """OpenAI's fields, and vLLM's for token ids."""

    model_config = pydantic.ConfigDict(extra="ignore")

    model: str = ""
    prompt: str | list[int] | list[str] | list[list[int]] = "<|endoftext|>"
    max_tokens: int | None = pydantic.Field(16, ge=1)
    temperature: float | None = pydantic.Field(1.0, ge=0, le=2)
    top_p: float | None = pydantic.Field(1.0, gt=0, le=1)
    top_k: int | None = pydantic.Field(None, ge=-1)
    min_p: float | None = pydantic.Field(None, ge=0, le=1)
    n: int = pydantic.Field(1, ge=1, le=16)
    best_of: int | None = None
    suffix: str | None = None
    stream: bool | None = False
    stream_options: dict[str, Any] | None = None
    logprobs: int | None = pydantic.Field(None, ge=0, le=20)
    echo: bool | None = False
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    presence_penalty: float | None = pydantic.Field(0.0, ge=-2, le=2)
    frequency_penalty: float | None = pydantic.Field(0.0, ge=-2, le=2)
    logit_bias: dict[int, float] | None = None
    seed: int | None = None
    return_token_ids: bool | None = False


@dataclass
class Continuation:
    """One continuation under way. Text is given out as soon as no stop text can begin in it."""

    prompt: list[int]
    stops: Sequence[str]
    finish_reason: str | None = None
    text: str = ""
    tokens: list[SampledToken] = field(default_factory=list)
    cached: int = 0
    _held: str = ""
    _decoder: Any = field(default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace"))

    async def run(self, runner: Runner, params: SamplingParams) -> AsyncGenerator[str, None]:
        """Compute it; texts as they can be given out."""
        async with aclosing(runner.tokens(self.prompt, params)) as tokens:
            async for token in tokens:
                yield self.push(token)
                if self.finish_reason is not None:
                    return

    def push(self, token: SampledToken) -> str:
        """What can be given out now."""
        self.tokens.append(token)
        self.cached += token.cached_tokens
        ended = token.finish_reason
        shown = b"" if ended == "stop" else token_bytes(token.id)
        self._held += self._decoder.decode(shown, final=ended is not None)
        found = min((at for stop in self.stops if (at := self._held.find(stop)) >= 0), default=None)
        if found is not None:
            self.finish_reason = "stop"
            return self._give(found)
        self.finish_reason = ended
        keep = 0
        if ended is None:
            ends = (n for stop in self.stops for n in range(1, len(stop)) if self._held.endswith(stop[:n]))
            keep = max(ends, default=0)
        return self._give(len(self._held) - keep)

    def _give(self, count: int) -> str:
        given, self._held = self._held[:count], self._held[count:]
        self.text += given
        return given


@router.post("/v1/completions", openapi_extra=body_of(CompletionRequest))
async def create(request: Request) -> Response:
    """A text for each prompt and each of `n`, or with `stream` its parts."""
    service = service_of(request)
    wanted = _parse(await request.json())
    prompts, params = _prompts(wanted), _params(wanted)
    stops = (wanted.stop,) if isinstance(wanted.stop, str) else tuple(wanted.stop or ())
    choices = [Continuation(prompt, [stop for stop in stops if stop]) for prompt in prompts for _ in range(wanted.n)]
    if len(choices) > MOST_CHOICES:
        raise RequestError(f"at most {MOST_CHOICES} texts are made at a time", param="prompt")
    identity = service.identity("cmpl-") | {"object": "text_completion"}
    if not wanted.stream:
        await unless_gone(request, _all(service, choices, params))
        body = [_body(wanted, index, choice) for index, choice in enumerate(choices)]
        return JSONResponse({**identity, "choices": body, "usage": _usage(choices)})
    parts = _stream(service, wanted, choices, params, identity)
    return EventStream(await begun(request, parts, lambda error: event(as_response(error)[1])))


async def _all(service: Service, choices: Sequence[Continuation], params: SamplingParams) -> None:
    async def one(number: int, choice: Continuation) -> None:
        async for _ in choice.run(service.runner, _numbered(params, number)):
            pass

    await together(one(number, choice) for number, choice in enumerate(choices))


async def _stream(
    service: Service, wanted: CompletionRequest, choices: list[Continuation], params: SamplingParams, identity: Json
) -> AsyncGenerator[bytes, None]:
    parts: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()

    async def one(index: int, choice: Continuation) -> None:
        sent = 0
        if wanted.echo:
            parts.put_nowait(_part(wanted, identity, index, choice, decode(choice.prompt), 0))
        async for text in choice.run(service.runner, _numbered(params, index)):
            if text or choice.finish_reason or wanted.return_token_ids:
                parts.put_nowait(_part(wanted, identity, index, choice, text, sent))
                sent = len(choice.tokens)

    async def pump() -> None:
        try:
            await together(one(index, choice) for index, choice in enumerate(choices))
            parts.put_nowait(None)
        except Exception as error:
            parts.put_nowait(error)

    task = asyncio.ensure_future(pump())
    try:
        while (part := await parts.get()) is not None:
            if isinstance(part, Exception):
                raise part
            yield part
        if (wanted.stream_options or {}).get("include_usage"):
            yield event({**identity, "choices": [], "usage": _usage(choices)})
        yield event("[DONE]")
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _part(wanted: CompletionRequest, identity: Json, index: int, choice: Continuation, text: str, sent: int) -> bytes:
    new = choice.tokens[sent:]
    body = {"index": index, "text": text, "finish_reason": choice.finish_reason, "logprobs": _logprobs(wanted, new)}
    if wanted.return_token_ids:
        body["token_ids"] = [token.id for token in new]
        if sent == 0:
            body["prompt_token_ids"] = choice.prompt
    return event({**identity, "choices": [body]})


def _body(wanted: CompletionRequest, index: int, choice: Continuation) -> Json:
    text = (decode(choice.prompt) if wanted.echo else "") + choice.text
    body: Json = {"index": index, "text": text, "finish_reason": choice.finish_reason or "length"}
    body["logprobs"] = _logprobs(wanted, choice.tokens)
    if wanted.return_token_ids:
        body |= {"token_ids": [token.id for token in choice.tokens], "prompt_token_ids": choice.prompt}
    return body


def _logprobs(wanted: CompletionRequest, tokens: Sequence[SampledToken]) -> Json | None:
    """OpenAI's old form: lists side by side."""
    if wanted.logprobs is None:
        return None
    shown = [_shown(token.id) for token in tokens]
    offsets = [sum(map(len, shown[:i])) for i in range(len(shown))]
    tops = [{_shown(i): logprob for i, logprob in token.top_logprobs} for token in tokens]
    return {
        "tokens": shown,
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": tops,
        "text_offset": offsets,
    }


def _shown(token: int) -> str:
    return token_bytes(token).decode(errors="replace")


def _usage(choices: Sequence[Continuation]) -> Json:
    prompt = sum(len(prompt) for prompt in {id(choice.prompt): choice.prompt for choice in choices}.values())
    output = sum(len(choice.tokens) for choice in choices)
    cached = max((choice.cached for choice in choices), default=0)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def _parse(body: Any) -> CompletionRequest:
    wanted = read_as(CompletionRequest, body)
    if wanted.suffix:
        raise RequestError("gpt-oss writes on, it does not fill in", param="suffix")
    if wanted.best_of not in (None, wanted.n):
        raise RequestError("best_of is not supported", param="best_of")
    return wanted


def _prompts(wanted: CompletionRequest) -> list[list[int]]:
    """Token ids of every prompt. Special tokens may be written out in text."""
    given: list[Any] = [wanted.prompt] if isinstance(wanted.prompt, str) else list(wanted.prompt)
    if given and all(isinstance(part, int) for part in given):
        given = [given]
    prompts = [encode_with_special(part) if isinstance(part, str) else list(part) for part in given]
    if not prompts or not all(prompts):
        raise RequestError("a prompt has at least one token", param="prompt")
    wrong = next((token for prompt in prompts for token in prompt if not 0 <= token <= LARGEST_TOKEN), None)
    if wrong is not None:
        raise RequestError(f"{wrong} is no token id: they go from 0 to {LARGEST_TOKEN}", param="prompt")
    return prompts


def _params(wanted: CompletionRequest) -> SamplingParams:
    try:
        return SamplingParams(
            temperature=1.0 if wanted.temperature is None else wanted.temperature,
            top_p=wanted.top_p or 1.0,
            top_k=max(0, wanted.top_k or 0),
            min_p=wanted.min_p or 0.0,
            seed=wanted.seed,
            max_tokens=wanted.max_tokens or 16,
            stop_token_ids=(ENDOFTEXT, RETURN, *(wanted.stop_token_ids or ())),
            logprobs=wanted.logprobs,
            logit_bias=wanted.logit_bias or {},
            presence_penalty=wanted.presence_penalty or 0.0,
            frequency_penalty=wanted.frequency_penalty or 0.0,
        )
    except ParameterError as error:
        raise RequestError(str(error), param=str(error).split(" ", 1)[0]) from None


def _numbered(params: SamplingParams, number: int) -> SamplingParams:
    """Texts of one request differ also where it has a seed."""
    return params if params.seed is None else replace(params, seed=params.seed + number)
