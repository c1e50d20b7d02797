"""The default backend: our own C++ kernels, no GPU, no torch, weights used as they lie on disk."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Literal

from gpt_oss.backends.cpu import _native as _native
from gpt_oss.backends.cpu.memory import (
    available_bytes,
    cache_size,
    checkpoint_bytes,
    default_cache_tokens,
    streams_from_disk,
    what_to_expect,
)
from gpt_oss.backends.cpu.model import CpuModel
from gpt_oss.backends.cpu.repack import CacheFile, clear_cache, list_cache
from gpt_oss.backends.cpu.weights import load_weights
from gpt_oss.errors import BackendError, ConfigError
from gpt_oss.model.checkpoint import Checkpoint

__all__ = ["CacheFile", "CpuModel", "clear_cache", "instruction_sets", "list_cache", "open_model"]


def instruction_sets() -> list[str]:
    """Those that this machine has and we have kernels for, the best first."""
    return list(_native.instruction_sets())


def open_model(
    checkpoint: Checkpoint,
    *,
    precision: Literal["balanced", "exact"] = "balanced",
    kv: Literal["bf16", "int8"] = "bf16",
    threads: int | None = None,
    cache_tokens: int | None = None,
    isa: str | None = None,
    cache_dir: Path | None = None,
) -> CpuModel:
    """The network of an open checkpoint, ready to compute. The checkpoint may be closed afterwards.

    precision: "exact" is the released weights as they are, bf16 and MXFP4; "balanced" has attention and unembedding
        weights as int8 with a scale for every 32, and activations likewise.
    kv: what keys and values are kept as; int8, with a scale for each token and head, takes 53% of the memory.
    threads: None is every core that this process may use. isa: None is the best of instruction_sets().
    cache_tokens: room in the KV cache, over all sequences; None fits it to the free memory.
    cache_dir: where repacked weights are kept; None is repack.default_cache_dir().
    Raises ConfigError for a network that the kernels cannot compute, BackendError where memory is refused.
    """
    config = checkpoint.config
    if not checkpoint.quantized:
        raise ConfigError(
            f"{checkpoint.path}: the experts are bf16, and the cpu backend computes MXFP4 experts only",
            hint="Run `gpt-oss convert` on it first, or use the torch backend.",
        )
    threads = threads or _usable_cores()
    isa = isa or instruction_sets()[0]
    weights, free = checkpoint_bytes(checkpoint.path), available_bytes()
    read_ahead = streams_from_disk(weights, free)
    if read_ahead:
        warnings.warn(what_to_expect(config, weights, free), stacklevel=2)
    tokens = cache_tokens or default_cache_tokens(config, kv, weights, free)
    size = cache_size(config, tokens, _native.BLOCK_TOKENS)
    try:
        native = _native.Model(config, isa, precision, kv, threads, size.blocks, size.window_blocks, read_ahead)
        load_weights(native, checkpoint, precision, threads, cache_dir)
    except ValueError as error:
        raise ConfigError(f"{checkpoint.path}: {error}") from error
    except MemoryError as error:
        raise BackendError(f"no memory for a KV cache of {tokens} tokens", hint="Ask for a shorter context.") from error
    kept = ", int8 keys and values" if kv == "int8" else ""
    return CpuModel(native, config, f"{isa}, {precision}{kept}, {threads} thread{'s' if threads > 1 else ''}")


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
