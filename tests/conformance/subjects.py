"""The backends that the conformance suite runs over, each opened on the demo model.

Remote ones speak to a server of this machine, in their original's wire, that computes with the cpu engine; those marked
`real` speak to the original itself, where it is installed. A subject that cannot run here says why.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
from starlette.applications import Starlette

from gpt_oss.backends.base import TokenGenerator
from gpt_oss.backends.http.wire import EVERYTHING, Feature
from gpt_oss.backends.scripted import ScriptedGenerator
from gpt_oss.generate import chat_prompt
from gpt_oss.load import LoadOptions, load
from gpt_oss.params import SamplingParams
from gpt_oss.vocabulary import CALL, ENDOFTEXT, RETURN
from tests.backends.remote.live import free_port, serving
from tests.backends.remote.servers import (
    Engine,
    Remembering,
    Slowed,
    llama_cpp_server,
    ollama_server,
    sglang_server,
    text_server,
    vllm_server,
)

CONTEXT = 2048
STOPS = (RETURN, CALL, ENDOFTEXT)
QUESTIONS = ("What is 12 * 12?", "Who are you?", "Hello!")
LONGEST = 80  # tokens of an answer to one of them
MODEL = "gpt-oss-20b"
LLAMA_SERVER = "LLAMA_SERVER"  # variables of the environment that say where the originals are
LLAMA_CPP_PYTHON = "LLAMA_CPP_PYTHON"


@dataclass
class Bench:
    """What all subjects share: the reference engine, what it answers, and a slow twin of it for cancellation."""

    folder: Path
    stack: ExitStack = field(default_factory=ExitStack)

    @cached_property
    def engine(self) -> TokenGenerator:
        options = LoadOptions(backend="cpu", precision="exact", context_tokens=CONTEXT, threads=1)
        generator = load("demo", options)
        self.stack.callback(generator.close)
        return generator

    @cached_property
    def reference(self) -> Remembering:
        return Remembering(self.engine)

    @cached_property
    def prompts(self) -> list[list[int]]:
        return [chat_prompt(question) for question in QUESTIONS]

    @cached_property
    def greedy(self) -> list[list[int]]:
        """The reference's answer to each prompt, to its end."""
        params = SamplingParams(temperature=0, max_tokens=LONGEST, stop_token_ids=STOPS)
        return [[token.id for token in self.reference.answer(prompt, params)] for prompt in self.prompts]

    @cached_property
    def gguf(self) -> Path:
        from gpt_oss.model.checkpoint import open_checkpoint
        from gpt_oss.model.gguf import write_gguf

        with open_checkpoint("demo") as checkpoint:
            return write_gguf(checkpoint, self.folder / "demo.gguf")


@dataclass
class Opened:
    """cancelled: set where the server sees that a client has left; None where there is no server of ours to see it."""

    generator: TokenGenerator
    cancelled: threading.Event | None = None
    slow: TokenGenerator | None = None  # the same backend on the slow twin


@dataclass(frozen=True)
class Subject:
    """A backend, and what it is said to offer.

    features: what of SamplingParams.
    grammar: a decode-time grammar.
    scores: log probabilities of a prompt.
    same_draws: a seed gives the cpu engine's tokens.
    tokens: how ids come back.
    real: an original, not a server of ours.
    missing: why it cannot run.
    """

    name: str
    open: Callable[[Bench, ExitStack], Opened]
    features: frozenset[Feature] = EVERYTHING
    grammar: bool = False
    scores: bool = False
    same_draws: bool = True
    tokens: str = "ids"
    real: bool = True
    slow: bool = False
    missing: Callable[[], str | None] = lambda: None


def _loaded(name: str, **options: Any) -> Callable[[Bench, ExitStack], Opened]:
    def opened(bench: Bench, stack: ExitStack) -> Opened:
        if name == "cpu":
            return Opened(bench.engine)
        generator = load("demo", LoadOptions(backend=name, context_tokens=CONTEXT, **options))
        stack.callback(generator.close)
        return Opened(generator)

    return opened


def _remote(
    server: Callable[[Engine], Starlette], checkpoint: str = MODEL, **options: Any
) -> Callable[[Bench, ExitStack], Opened]:
    def opened(bench: Bench, stack: ExitStack) -> Opened:
        engines = [Engine(bench.reference, MODEL), Engine(Slowed(bench.engine), MODEL)]
        if checkpoint.startswith("gpt-oss:"):
            for engine in engines:
                engine.model = checkpoint
        generators = []
        for engine in engines:
            url = stack.enter_context(serving(server(engine)))
            generator = load(checkpoint, LoadOptions(urls=(url,), context_tokens=CONTEXT, **options))
            stack.callback(generator.close)
            generators.append(generator)
        return Opened(generators[0], engines[1].seen.cancelled, generators[1])

    return opened


def _scripted(bench: Bench, stack: ExitStack) -> Opened:
    """Plays the reference's answers back; what it was asked decides which."""
    answers = {tuple(prompt): answer for prompt, answer in zip(bench.prompts, bench.greedy, strict=True)}
    return Opened(ScriptedGenerator(lambda prompt: answers[tuple(prompt)], context_tokens=CONTEXT))


def _llama_server(bench: Bench, stack: ExitStack) -> Opened:
    program = os.environ.get(LLAMA_SERVER) or shutil.which("llama-server")
    command = [str(program), "-m", str(bench.gguf), "-c", str(4 * CONTEXT), "-np", "4", "--no-webui", "-t", "1"]
    url = stack.enter_context(_running(command, bench.folder / "llama-server.log"))
    generator = load("", LoadOptions(backend="openai_http", urls=(url,), context_tokens=CONTEXT))
    stack.callback(generator.close)
    return Opened(generator)


def _llama_cpp_python(bench: Bench, stack: ExitStack) -> Opened:
    command = [str(_python()), "-m", "llama_cpp.server", "--model", str(bench.gguf), "--n_ctx", str(CONTEXT)]
    command += ["--n_threads", "1", "--interrupt_requests", "False"]
    url = stack.enter_context(_running(command, bench.folder / "llama-cpp-python.log"))
    generator = load("demo", LoadOptions(backend="openai_http", urls=(url,), context_tokens=CONTEXT))
    stack.callback(generator.close)
    return Opened(generator)


@contextmanager
def _running(command: list[str], log: Path) -> Iterator[str]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as out:
        process = subprocess.Popen([*command, "--host", "127.0.0.1", "--port", str(port)], stdout=out, stderr=out)
    try:
        for _ in range(1200):
            assert process.poll() is None, log.read_text(errors="replace")[-2000:]
            try:
                if httpx.get(f"{url}/v1/models", timeout=2, trust_env=False).status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(20)


def _python() -> str | None:
    return os.environ.get(LLAMA_CPP_PYTHON)


def _no_llama_server() -> str | None:
    if os.environ.get(LLAMA_SERVER) or shutil.which("llama-server"):
        return None
    return f"there is no llama-server here; {LLAMA_SERVER} may name one"


def _no_llama_cpp_python() -> str | None:
    return None if _python() else f"{LLAMA_CPP_PYTHON} names no Python that has llama-cpp-python[server]"


def _without(package: str) -> Callable[[], str | None]:
    return lambda: None if importlib.util.find_spec(package) else f"{package} is not installed"


def _no_gpu() -> str | None:
    import torch

    return None if torch.cuda.is_available() else "needs a GPU: its interpreter is too slow for 201,088 logits"


def _no_vllm() -> str | None:
    return _without("vllm")() or _no_gpu()


HIDDEN: Mapping[str, Any] = {"features": frozenset(("top_k", "min_p", "seed")), "real": False}

SUBJECTS = (
    Subject("cpu", _loaded("cpu"), grammar=True, scores=True),
    Subject("torch", _loaded("torch", precision="float32"), grammar=True, scores=True, missing=_without("torch")),
    Subject("triton", _loaded("triton"), grammar=True, scores=True, same_draws=False, missing=_no_gpu),
    Subject("metal", _loaded("metal", precision="float32"), grammar=True, scores=True, missing=_without("mlx")),
    Subject(
        "transformers",
        _loaded("transformers", precision="float32"),
        grammar=True,
        scores=True,
        missing=_without("transformers"),
    ),
    Subject("vllm, in process", _loaded("vllm"), same_draws=False, missing=_no_vllm),
    Subject("vllm, served", _remote(vllm_server, backend="vllm"), real=False),
    Subject(
        "ollama",
        _remote(ollama_server, "gpt-oss:20b", backend="ollama"),
        features=frozenset(("top_k", "min_p", "seed", "logprobs", "top_logprobs")),
        tokens="text, special tokens shown",
        real=False,
    ),
    Subject("openai_http: ids (vLLM, gpt-oss)", _remote(vllm_server, backend="openai_http"), real=False),
    Subject(
        "openai_http: llama.cpp",
        _remote(llama_cpp_server, backend="openai_http"),
        features=EVERYTHING - {"penalties"},
        real=False,
    ),
    Subject("openai_http: SGLang", _remote(sglang_server, backend="openai_http"), real=False),
    Subject(
        "openai_http: text",
        _remote(lambda engine: text_server(engine, hides=False), backend="openai_http"),
        tokens="text, special tokens shown",
        **HIDDEN,
    ),
    Subject(
        "openai_http: text, hidden (LM Studio)",
        _remote(lambda engine: text_server(engine, hides=True), backend="openai_http"),
        tokens="text, structure recovered",
        **HIDDEN,
    ),
    Subject(
        "llama.cpp's llama-server",
        _llama_server,
        features=EVERYTHING - {"penalties"},
        same_draws=False,
        slow=True,
        missing=_no_llama_server,
    ),
    Subject(
        "llama-cpp-python's server",
        _llama_cpp_python,
        features=frozenset(("top_k", "min_p", "seed")),
        same_draws=False,
        tokens="text, structure recovered",
        slow=True,
        missing=_no_llama_cpp_python,
    ),
    Subject("scripted", _scripted, features=frozenset(), same_draws=False),
)
