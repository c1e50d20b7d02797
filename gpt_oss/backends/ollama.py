"""Ollama's /api/generate with raw prompts: text in and out, special tokens written out in both.

Ollama keeps back the token that ends an answer: whether it was `<|call|>` or `<|return|>` is told from the last
header's recipient. One chunk of its stream is one token, but for characters that are spread over several, so that ids
are those that were sampled; the exception is encoded anew. num_ctx is our context, with every request the same, for
another one makes Ollama load the model again.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import httpx

from gpt_oss.backends.base import SampledToken
from gpt_oss.backends.http import HttpGenerator, Patience, faults
from gpt_oss.backends.http.generator import is_local
from gpt_oss.backends.http.text import RecoveredText, prompt_text, token_named
from gpt_oss.backends.http.wire import Feature, Heard, Json
from gpt_oss.backends.openai_http.detect import normal_url
from gpt_oss.errors import BackendError, GptOssError
from gpt_oss.params import SamplingParams

USUAL_URL = "http://127.0.0.1:11434"
USUAL_MODEL = "gpt-oss:20b"
USUAL_CONTEXT = 8192  # where nobody says: memory for it is taken whether or not it is used
NAMES = {"gpt-oss-20b": "gpt-oss:20b", "gpt-oss-120b": "gpt-oss:120b"}


def open_generator(
    model: str,
    urls: Sequence[str] = (),
    *,
    key: str | None = None,
    context_tokens: int | None = None,
    patience: Patience | None = None,
) -> HttpGenerator:
    """model: as Ollama calls it, gpt-oss:20b; the released names are translated, "demo" and "" are gpt-oss:20b.

    urls: none is where OLLAMA_HOST says, or port 11434 of this machine. Raises BackendError where no Ollama answers or
    it does not have the model.
    """
    patience = patience or Patience()
    urls = [normal_url(url) for url in urls] or [usual_url()]
    model = ollama_name(model)
    longest, silent = [], []
    for url in urls:
        try:
            longest.append(_longest_context(url, model, key, patience))
        except faults.FaultError as fault:
            silent.append(fault.error)
    if not longest:
        raise silent[0]
    context = min(context_tokens or USUAL_CONTEXT, *longest)
    name = f"ollama {model} at {', '.join(urls)}"
    return HttpGenerator(
        OllamaWire(model, context), urls, context_tokens=context, key=key, patience=patience, name=name
    )


def usual_url() -> str:
    host = os.environ.get("OLLAMA_HOST", "").strip()
    if not host:
        return USUAL_URL
    url = normal_url(host)
    if "://" not in host and httpx.URL(url).port is None:
        url += ":11434"
    return url.replace("//0.0.0.0", "//127.0.0.1")  # what it listens on is no address to call


def ollama_name(model: str) -> str:
    if model in ("", "demo"):
        return USUAL_MODEL
    return NAMES.get(model.removeprefix("openai/"), model)


def why_not() -> str | None:
    """For `gpt-oss doctor`: None where an Ollama answers at its usual place."""
    url = usual_url()
    try:
        response = httpx.get(f"{url}/api/version", timeout=0.5, trust_env=False)
        response.raise_for_status()
    except httpx.HTTPError:
        return f"no Ollama answers at {url} (others: --url)"
    return None


def _longest_context(url: str, model: str, key: str | None, patience: Patience) -> int:
    """What the model can have. Raises FaultError where nobody answers, BackendError without the model."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    timeout = httpx.Timeout(60.0, connect=patience.connect_s)
    with httpx.Client(base_url=url, headers=headers, timeout=timeout, trust_env=not is_local(url)) as client:
        try:
            response = client.post("/api/show", json={"model": model})
        except httpx.TransportError as error:
            fault = faults.of_transport(error, url, 0)
            raise faults.FaultError(_with_hint(fault.error), again=fault.again) from error
    if response.status_code == 404:
        raise BackendError(f"the Ollama at {url} does not have {model}", hint=f"ollama pull {model}")
    if response.status_code != 200:
        fault = faults.of_status(response.status_code, response.content, response.headers, url)
        if fault.again:
            raise fault
        raise fault.error
    try:
        info = response.json().get("model_info") or {}
    except ValueError:
        raise BackendError(f"{url} is no Ollama: /api/show answers no JSON") from None
    found = (value for name, value in info.items() if name.endswith(".context_length") and isinstance(value, int))
    return next(found, 131_072)


def _with_hint(error: GptOssError) -> GptOssError:
    error.hint = "Start it with `ollama serve`, or say where it is with --url."
    return error


@dataclass(frozen=True)
class OllamaWire:
    model: str
    context_tokens: int
    name: str = "Ollama"
    path: str = "/api/generate"
    framing: Literal["events", "lines"] = "lines"
    features: frozenset[Feature] = frozenset(("top_k", "min_p", "seed", "logprobs", "top_logprobs"))
    marks_last: bool = False

    def body(self, prompt: Sequence[int], params: SamplingParams, limit: int) -> Json:
        options: Json = {
            "num_ctx": self.context_tokens,
            "num_predict": limit,
            "temperature": params.temperature,
            "top_k": params.top_k,
            "top_p": params.top_p,
            "min_p": params.min_p,
            "repeat_penalty": 1.0,
            "stop": [],
        }
        if params.seed is not None:
            options["seed"] = params.seed % 2**31
        body: Json = {
            "model": self.model,
            "prompt": prompt_text(prompt),
            "raw": True,
            "stream": True,
            "truncate": False,  # nothing is dropped without a word
            "shift": False,
            "options": options,
        }
        if params.logprobs is not None:
            body |= {"logprobs": True, "top_logprobs": params.logprobs}
        return body

    def reader(self, prompt: Sequence[int], params: SamplingParams) -> OllamaReader:
        return OllamaReader(prompt, params.logprobs)


class OllamaReader:
    def __init__(self, prompt: Sequence[int], logprobs: int | None) -> None:
        self._text = RecoveredText(prompt)
        self._logprobs = logprobs

    def push(self, event: Json) -> Heard:
        tokens = self._tokens(event)
        if not event["done"]:
            return Heard(tokens)
        tokens += tuple(map(SampledToken, self._text.finish()))
        if event.get("done_reason") == "length":
            return Heard(tokens, "length")
        return Heard(tokens, "stop", self._text.closing_token())

    def _tokens(self, event: Json) -> tuple[SampledToken, ...]:
        piece = event.get("response") or ""
        said = event.get("logprobs") if self._logprobs is not None else None
        ids = self._text.push(piece)
        if not said or len(said) != len(ids):
            return tuple(map(SampledToken, ids))
        return tuple(
            SampledToken(token, float(entry["logprob"]), _top(entry)) for token, entry in zip(ids, said, strict=True)
        )

    def finish(self) -> Heard:
        return self.push({"done": True})


def _top(entry: Json) -> tuple[tuple[int, float], ...]:
    named = ((token_named(other["token"]), float(other["logprob"])) for other in entry.get("top_logprobs") or ())
    return tuple((token, logprob) for token, logprob in named if token is not None)
