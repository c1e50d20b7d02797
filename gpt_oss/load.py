"""From the name of a checkpoint and of a backend to a TokenGenerator: the one place that knows which backends exist.

Two kinds of them: BACKENDS give a Model, which our engine runs; GENERATORS are engines of their own, in this process or
behind a URL. Nothing above this file touches a backend, and a backend's heavy libraries are imported only when it is
chosen.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gpt_oss.backends.base import Model, TokenGenerator
from gpt_oss.engine.engine import Engine, EngineConfig
from gpt_oss.engine.sampling import Sampler
from gpt_oss.errors import BackendError, MissingDependencyError, ParameterError
from gpt_oss.model.adapter import open_merged
from gpt_oss.model.checkpoint import Checkpoint, open_checkpoint


@dataclass(frozen=True)
class LoadOptions:
    """What a user may choose; None leaves it to the backend.

    backend: "auto" is openai_http where a URL is given, torch under torchrun with several processes, else cpu.
    precision: cpu: "exact" or "balanced"; torch: "float32", "bf16" or "float64"; metal: "bf16",
        "float32" or "balanced".
    kv: what keys and values are kept as; int8 takes about half of the memory and is of the cpu backend.
    context_tokens: the longest prompt plus answer, in tokens; bounds the memory of the KV cache.
    threads: cpu only; None is every core.
    keep_prefixes: keep the prefix cache on disk between runs (at most 1 GiB a model), so that a prompt seen before is
        not computed again.
    adapter: a folder with a LoRA adapter in PEFT's format, to be merged into the checkpoint (model/adapter.py).
    urls: of running servers that have the same model, for the backends in GENERATORS that ask others to compute; no URL
        is the usual one of ollama, and for vllm the engine in this process. url_key: sent to them as a bearer token.
    wire: how openai_http's server is spoken to; "auto" asks it.
    gpus: how many GPUs vllm splits the model over.
    """

    backend: str = "auto"
    precision: str | None = None
    kv: Literal["bf16", "int8"] = "bf16"
    context_tokens: int | None = None
    threads: int | None = None
    speculate: bool = True
    keep_prefixes: bool = False
    adapter: str | Path | None = None
    urls: tuple[str, ...] = ()
    url_key: str | None = None
    wire: str = "auto"
    gpus: int = 1


def _open_cpu(checkpoint: Checkpoint, options: LoadOptions) -> Model:
    from gpt_oss.backends.cpu import open_model

    precisions: dict[str, Literal["balanced", "exact"]] = {"balanced": "balanced", "exact": "exact"}
    precision = precisions.get(options.precision or "balanced")
    if precision is None:
        raise ParameterError(f"the cpu backend's precision is balanced or exact, not {options.precision!r}")
    if options.threads is not None and options.threads < 1:
        raise ParameterError(f"threads must be 1 or more, not {options.threads}")
    return open_model(
        checkpoint,
        precision=precision,
        kv=options.kv,
        threads=options.threads,
        cache_tokens=options.context_tokens,
    )


def _open_torch(checkpoint: Checkpoint, options: LoadOptions) -> Model:
    from gpt_oss.backends.torch import open_model

    if options.kv != "bf16":
        raise ParameterError(f"{options.kv} keys and values need the cpu backend; choose it, or bf16")
    return open_model(checkpoint, dtype=options.precision or "bf16", cache_tokens=options.context_tokens)


def _open_triton(checkpoint: Checkpoint, options: LoadOptions) -> Model:
    from gpt_oss.backends.triton import open_model

    if options.kv != "bf16":
        raise ParameterError(f"{options.kv} keys and values need the cpu backend; choose it, or bf16")
    return open_model(checkpoint, dtype=options.precision, cache_tokens=options.context_tokens, progress=True)


def _open_metal(checkpoint: Checkpoint, options: LoadOptions) -> Model:
    from gpt_oss.backends.metal import open_model

    if options.kv != "bf16":
        raise ParameterError(f"{options.kv} keys and values need the cpu backend; choose it, or bf16")
    return open_model(checkpoint, precision=options.precision, cache_tokens=options.context_tokens)


BACKENDS: dict[str, Callable[[Checkpoint, LoadOptions], Model]] = {
    "cpu": _open_cpu,
    "torch": _open_torch,
    "triton": _open_triton,
    "metal": _open_metal,
}


def _open_transformers(name: str, options: LoadOptions) -> TokenGenerator:
    from gpt_oss.backends.transformers import open_generator

    return open_generator(_merged(name, options), Sampler, options.precision, context_tokens=options.context_tokens)


def _open_vllm(name: str, options: LoadOptions) -> TokenGenerator:
    if options.urls:
        from gpt_oss.backends.vllm.served import open_served

        return open_served(name, options.urls, key=options.url_key, context_tokens=options.context_tokens)
    from gpt_oss.backends.vllm.in_process import open_generator

    return open_generator(
        _merged(name, options), options.precision, gpus=options.gpus, context_tokens=options.context_tokens
    )


def _open_ollama(name: str, options: LoadOptions) -> TokenGenerator:
    from gpt_oss.backends.ollama import open_generator

    return open_generator(name, options.urls, key=options.url_key, context_tokens=options.context_tokens)


def _open_openai_http(name: str, options: LoadOptions) -> TokenGenerator:
    from gpt_oss.backends.openai_http import open_generator

    return open_generator(
        name, options.urls, key=options.url_key, wire=options.wire, context_tokens=options.context_tokens
    )


def _merged(name: str, options: LoadOptions) -> Checkpoint:
    opened = open_checkpoint(name)
    return opened if options.adapter is None else open_merged(opened, options.adapter)


GENERATORS: dict[str, Callable[[str, LoadOptions], TokenGenerator]] = {
    "transformers": _open_transformers,
    "vllm": _open_vllm,
    "ollama": _open_ollama,
    "openai_http": _open_openai_http,
}  # each gets the checkpoint as it was named: for a server that is a model's name

_NEEDS = {
    "torch": "torch",
    "triton": "triton",
    "metal": "mlx.core",
    "transformers": "transformers",
    "vllm": "vllm",
}  # backend: the package that it imports; the extra has the backend's name


def backend_names() -> list[str]:
    """Of everything that can compute, in both kinds."""
    return [*BACKENDS, *GENERATORS]


def computes_elsewhere(options: LoadOptions) -> bool:
    """Whether the checkpoint's name is one that a server knows, and no checkpoint of this machine."""
    return options.backend in ("ollama", "openai_http") or (options.backend in ("auto", "vllm") and bool(options.urls))


def choose_backend(name: str) -> str:
    if name == "auto":
        return "torch" if int(os.environ.get("WORLD_SIZE", "1")) > 1 else "cpu"
    if name not in BACKENDS and name not in GENERATORS:
        raise ParameterError(f"there is no backend {name!r}; choose one of auto, {', '.join(backend_names())}")
    return name


def available_backends() -> dict[str, str | None]:
    """Each backend's name with None when it can be imported, else the reason why not."""
    reasons: dict[str, str | None] = {}
    for name in backend_names():
        try:
            module = importlib.import_module(f"gpt_oss.backends.{name}")
            if name in _NEEDS:
                importlib.import_module(_NEEDS[name])
            why_not = getattr(module, "why_not", None)
            reasons[name] = why_not() if why_not is not None else None
        except ImportError as error:
            reasons[name] = str(error)
    return reasons


def load(checkpoint: str | Path, options: LoadOptions = LoadOptions()) -> TokenGenerator:
    """Open a checkpoint (a path in any layout, a downloaded `org/name`, or a server's name for it) to generate with.

    Under torchrun, ranks other than 0 follow rank 0 until it closes its generator, and then exit.
    Raises CheckpointError, ConfigError, ParameterError, MissingDependencyError or BackendError.
    """
    backend = "openai_http" if options.backend == "auto" and options.urls else choose_backend(options.backend)
    _check(backend, options)
    try:
        if backend in GENERATORS:
            return GENERATORS[backend](str(checkpoint), options)
        opened = _merged(str(checkpoint), options)
        model = BACKENDS[backend](opened, options)
    except ImportError as error:
        raise MissingDependencyError(
            f"the {backend} backend cannot be imported: {error}", hint=f"pip install 'gpt-oss[{backend}]'"
        ) from error
    except MemoryError as error:
        raise BackendError(f"not enough memory to open {checkpoint} with the {backend} backend") from error
    follow = getattr(model, "follow", None)
    if follow is not None and int(os.environ.get("RANK", "0")) > 0:
        follow()
        sys.exit(0)
    name = f"{backend} ({getattr(model, 'description', options.precision or 'default precision')})"
    identity = f"{name} {fingerprint(opened)}"
    step = getattr(model, "prompt_tokens", None)  # what a step of a GPU likes, where it knows
    usual = EngineConfig()
    config = EngineConfig(
        name=name,
        max_prompt_tokens=step or usual.max_prompt_tokens,
        max_running=getattr(model, "sequences", usual.max_running),
        speculate=options.speculate,
        context_tokens=options.context_tokens,
        prefix_file=prefix_file(identity) if options.keep_prefixes else None,
        prefix_identity=identity,
    )
    return Engine(model, config)


def _check(backend: str, options: LoadOptions) -> None:
    """Raises ParameterError for what the chosen backend would have to ignore."""
    elsewhere = computes_elsewhere(options)
    if options.urls and not elsewhere:
        raise ParameterError(
            f"the {backend} backend computes here and has no URL", hint="Servers are for vllm, ollama and openai_http."
        )
    if options.adapter is not None and elsewhere:
        raise ParameterError("an adapter is merged into a checkpoint here; give it to the server that computes instead")
    if backend in GENERATORS and options.kv != "bf16":
        raise ParameterError(f"{options.kv} keys and values need the cpu backend; choose it, or bf16")
    if elsewhere and options.precision is not None:
        raise ParameterError("the precision is the server's choice: leave --precision out")
    if options.wire != "auto" and backend != "openai_http":
        raise ParameterError("a wire is chosen for the openai_http backend only")
    if options.gpus != 1 and (backend != "vllm" or elsewhere):
        raise ParameterError("the number of GPUs is chosen for vllm in this process only; elsewhere torchrun has it")


def fingerprint(checkpoint: Checkpoint) -> str:
    """Changes when any file of the checkpoint does."""
    files = [checkpoint.path] if checkpoint.path.is_file() else sorted(checkpoint.path.glob("*.*"))
    return " ".join(f"{file}:{file.stat().st_size}:{file.stat().st_mtime_ns}" for file in files)


def prefix_file(identity: str) -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "gpt-oss" / "prefixes" / hashlib.blake2b(identity.encode(), digest_size=12).hexdigest()
