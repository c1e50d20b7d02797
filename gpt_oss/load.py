"""From the name of a checkpoint and of a backend to a TokenGenerator: the one place that knows which backends exist.

Nothing above this file touches a backend, and a backend's heavy libraries are imported only when it is chosen.
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
from gpt_oss.errors import BackendError, MissingDependencyError, ParameterError
from gpt_oss.model.adapter import open_merged
from gpt_oss.model.checkpoint import Checkpoint, open_checkpoint


@dataclass(frozen=True)
class LoadOptions:
    """What a user may choose; None leaves it to the backend.

    backend: "auto" is torch under torchrun with several processes, else cpu.
    precision: cpu: "exact" or "balanced"; torch: "float32", "bf16" or "float64".
    kv: what keys and values are kept as; int8 takes about half of the memory and is of the cpu backend.
    context_tokens: the longest prompt plus answer, in tokens; bounds the memory of the KV cache.
    threads: cpu only; None is every core.
    keep_prefixes: keep the prefix cache on disk between runs (at most 1 GiB a model), so that a prompt seen before is
        not computed again.
    adapter: a folder with a LoRA adapter in PEFT's format, to be merged into the checkpoint (model/adapter.py).
    """

    backend: str = "auto"
    precision: str | None = None
    kv: Literal["bf16", "int8"] = "bf16"
    context_tokens: int | None = None
    threads: int | None = None
    speculate: bool = True
    keep_prefixes: bool = False
    adapter: str | Path | None = None


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


BACKENDS: dict[str, Callable[[Checkpoint, LoadOptions], Model]] = {
    "cpu": _open_cpu,
    "torch": _open_torch,
    "triton": _open_triton,
}

_NEEDS = {
    "torch": "torch",
    "triton": "triton",
}  # backend: the package that it imports; the extra has the backend's name


def choose_backend(name: str) -> str:
    if name == "auto":
        return "torch" if int(os.environ.get("WORLD_SIZE", "1")) > 1 else "cpu"
    if name not in BACKENDS:
        raise ParameterError(f"there is no backend {name!r}; choose one of auto, {', '.join(BACKENDS)}")
    return name


def available_backends() -> dict[str, str | None]:
    """Each backend's name with None when it can be imported, else the reason why not."""
    reasons: dict[str, str | None] = {}
    for name in BACKENDS:
        try:
            importlib.import_module(f"gpt_oss.backends.{name}")
            if name in _NEEDS:
                importlib.import_module(_NEEDS[name])
            reasons[name] = None
        except ImportError as error:
            reasons[name] = str(error)
    return reasons


def load(checkpoint: str | Path, options: LoadOptions = LoadOptions()) -> TokenGenerator:
    """Open a checkpoint (a path in any layout, or a downloaded `org/name`) and make it ready to generate.

    Under torchrun, ranks other than 0 follow rank 0 until it closes its generator, and then exit.
    Raises CheckpointError, ConfigError, ParameterError, MissingDependencyError or BackendError.
    """
    backend = choose_backend(options.backend)
    opened = open_checkpoint(checkpoint)
    if options.adapter is not None:
        opened = open_merged(opened, options.adapter)
    try:
        model = BACKENDS[backend](opened, options)
    except ImportError as error:
        raise MissingDependencyError(
            f"the {backend} backend cannot be imported: {error}", hint=f"pip install 'gpt-oss[{backend}]'"
        ) from error
    except MemoryError as error:
        raise BackendError(f"not enough memory to open {opened.path} with the {backend} backend") from error
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


def fingerprint(checkpoint: Checkpoint) -> str:
    """Changes when any file of the checkpoint does."""
    files = [checkpoint.path] if checkpoint.path.is_file() else sorted(checkpoint.path.glob("*.*"))
    return " ".join(f"{file}:{file.stat().st_size}:{file.stat().st_mtime_ns}" for file in files)


def prefix_file(identity: str) -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "gpt-oss" / "prefixes" / hashlib.blake2b(identity.encode(), digest_size=12).hexdigest()
