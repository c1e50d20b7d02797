"""A Model in mlx: weights, cache and the forward pass put together. What is computed stands in network.py.

bf16 on Apple's GPUs; float32 in mlx's CPU build, which is there for tests (its bf16 products are slow and inexact).
A step of answers is described to mlx and computed behind the caller's back: `forward` returns while the device still
works, and what goes back to the engine is a token a row, drawn on the device (drawing.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import mlx.core as mx
import numpy as np

from gpt_oss.backends.base import Chunk, Draw, Float32, Int32
from gpt_oss.backends.metal import network
from gpt_oss.backends.metal.cache import Cache, places_of
from gpt_oss.backends.metal.drawing import Drawn, PlannedDraw, draw_exactly, draw_rows, planned_draws
from gpt_oss.backends.metal.network import Batch, Network
from gpt_oss.backends.metal.weights import load, weights_bytes
from gpt_oss.errors import BackendError, ContextOverflowError, ParameterError
from gpt_oss.memory import memory_bytes
from gpt_oss.model.config import ModelConfig
from gpt_oss.model.tensors import Weights

PRECISIONS = ("bf16", "float32", "balanced")

BLOCK_TOKENS = 32
PROMPT_TOKENS = 2048  # of a step: enough rows for every expert, activations of some 200 MB
LARGE_STEP = 64  # tokens from which on `forward` waits, and gives back the buffers that answers do not need
WIRED_LIMIT = "iogpu.wired_limit_mb"  # of macOS: how much memory a GPU may hold
DEFAULT_CACHE_SHARE = 0.5  # of the memory that the weights leave: activations and other programs need some too
MIN_DEFAULT_CACHE_TOKENS = 4096
LEAST_WINDOW_TOKENS = 8192


class MetalLogits:
    """Logits of one forward pass. tensor: [rows, vocab_size], on the device and in the model's precision."""

    def __init__(self, tensor: mx.array, usable: int, drawn: Drawn | None) -> None:
        self._tensor = tensor
        self._usable = usable
        self._drawn = drawn

    def __len__(self) -> int:
        return self._tensor.shape[0]

    def numpy(self) -> Float32:
        return self._on_host

    @cached_property
    def _on_host(self) -> Float32:
        return np.array(self._tensor.astype(mx.float32))

    def sample(self, row: int, temperature: float, seed: int, position: int) -> int:
        """See base.SamplesItself: at once where the chunk said that this would be asked."""
        plan: PlannedDraw = (Draw(temperature, seed), position)
        if self._drawn is not None and self._drawn.plans[row] == plan:
            tokens, certain = self._drawn.host
            if certain[row]:
                return tokens[row]
        return draw_exactly(self._on_host[row, : self._usable], *plan)


class MetalModel:
    """See backends.base.Model. prompt_tokens: how many a step should have at most."""

    prompt_tokens = PROMPT_TOKENS

    def __init__(self, source: Weights, dtype: mx.Dtype, size: CacheSize, *, int8: bool, compiled: bool) -> None:
        self.config: ModelConfig = source.config
        self.block_tokens = BLOCK_TOKENS
        self.cache_blocks, self.window_cache_blocks = size.blocks, size.window_blocks
        self.dtype = dtype
        self.description = f"{_name(dtype)}{', balanced' if int8 else ''} on {_device_name()}"
        weights = load(source, dtype, int8=int8)
        self._open: tuple[Network, Cache] | None = (
            Network(source.config, weights, compiled=compiled),
            Cache(source.config, size.blocks, size.window_blocks, BLOCK_TOKENS, dtype),
        )
        self._draw_rows = mx.compile(draw_rows) if compiled else draw_rows

    def forward(self, batch: Sequence[Chunk]) -> MetalLogits:
        """Raises ParameterError for a token outside the vocabulary, ContextOverflowError for a position past the cache,
        BackendError where mlx fails."""
        room = self.cache_blocks * BLOCK_TOKENS
        for chunk in batch:
            end = chunk.position + len(chunk.tokens)
            assert end <= len(chunk.blocks) * BLOCK_TOKENS, "a chunk without its blocks"
            if end > room:
                raise ContextOverflowError(f"a sequence of {end} tokens does not fit into {room}, all that is held")
            low, high = chunk.tokens.min(), chunk.tokens.max()
            if low < 0 or high >= self.config.vocab_size:
                raise ParameterError(
                    f"token {low if low < 0 else high} is outside the model's vocabulary of {self.config.vocab_size}"
                )
        tokens = sum(len(chunk.tokens) for chunk in batch)
        net, cache = self._parts
        try:
            logits = net.forward(self._batch(batch), cache)
            drawn = Drawn.of(logits[:, : self.config.usable_vocab_size], planned_draws(batch), self._draw_rows)
            wanted = [logits, [drawn.tokens, drawn.certain] if drawn else [], cache.keys, cache.values]
            if tokens >= LARGE_STEP or not len(logits):
                # Nobody reads a token of it soon, and the engine should see what a prompt costs.
                mx.eval(wanted)
                mx.clear_cache()
            else:
                mx.async_eval(wanted)
        except (RuntimeError, ValueError) as error:
            raise BackendError(f"mlx failed in a forward pass of {tokens} tokens: {error}") from error
        return MetalLogits(logits, self.config.usable_vocab_size, drawn)

    def read_cache(self, blocks: Int32, window_blocks: Int32) -> bytes:
        _, cache = self._parts
        return cache.copy_out(blocks, window_blocks)

    def write_cache(self, blocks: Int32, window_blocks: Int32, data: bytes) -> None:
        """Raises BackendError where the data is not of as many blocks of this model's shape and precision."""
        _, cache = self._parts
        wanted_bytes = cache.bytes_of(len(blocks), len(window_blocks))
        if len(data) != wanted_bytes:
            raise BackendError(
                f"{len(data)} bytes of cached keys and values do not fill blocks of {wanted_bytes} bytes"
            )
        cache.copy_in(blocks, window_blocks, data)

    def close(self) -> None:
        """Lets go of the weights and the cache. Closing twice is fine."""
        self._open = None
        mx.clear_cache()

    @property
    def _parts(self) -> tuple[Network, Cache]:
        if self._open is None:
            raise BackendError("the model is closed")
        return self._open

    def _batch(self, batch: Sequence[Chunk]) -> Batch:
        weights = self._parts[0].weights
        tokens = np.concatenate([chunk.tokens for chunk in batch])
        counts = [len(chunk.tokens) for chunk in batch]
        positions = np.concatenate([chunk.position + np.arange(len(chunk.tokens)) for chunk in batch])
        cos, sin = network.rotary_of(positions, self.config)
        wanted = np.concatenate(
            [np.arange(end - chunk.logits, end) for chunk, end in zip(batch, np.cumsum(counts), strict=True)]
        )
        all_wanted = len(wanted) == len(positions)
        last_windowed = self.config.is_windowed(self.config.num_hidden_layers - 1)
        return Batch(
            embedded=mx.array(weights.embedding[tokens]).astype(self.dtype),
            cos=cos,
            sin=sin,
            full=places_of(batch, self.config, BLOCK_TOKENS, windowed=False),
            windowed=places_of(batch, self.config, BLOCK_TOKENS, windowed=True),
            wanted=None if all_wanted else mx.array(wanted.astype(np.int32)),
            wanted_places=None
            if all_wanted
            else places_of(batch, self.config, BLOCK_TOKENS, windowed=last_windowed, wanted_only=True),
        )


def open_model(
    source: Weights, *, precision: str | None = None, cache_tokens: int | None = None, compiled: bool | None = None
) -> MetalModel:
    """Make a checkpoint ready to compute.

    precision: "bf16" or "float32", by default bf16 on a GPU and float32 elsewhere, or "balanced": the same with int8
    matrices in attention and unembedding. cache_tokens: positions of the KV cache, in all sequences together; the
    default is the longest context, or as much of it as fits into half of the memory that the weights leave. compiled:
    let mlx fuse small operations; the default is on GPUs only, for on CPUs a C++ compiler makes each fused kernel when
    it is first used.
    Raises ParameterError, ConfigError (a shape that balanced cannot have), BackendError (not enough memory).
    """
    on_gpu = mx.metal.is_available()
    if precision is not None and precision not in PRECISIONS:
        raise ParameterError(f"the metal backend's precision is one of {', '.join(PRECISIONS)}, not {precision!r}")
    int8 = precision == "balanced"
    dtype = mx.bfloat16 if precision == "bf16" or (on_gpu and precision != "float32") else mx.float32
    if cache_tokens is not None and cache_tokens < 1:
        raise ParameterError(f"cache_tokens must be 1 or more, not {cache_tokens}")
    size = _cache_size(source, dtype, cache_tokens, _free_bytes(), int8=int8)
    if on_gpu:
        # What a GPU uses must stay in memory: else the system drops weights between requests and fetches them again.
        mx.set_wired_limit(int(mx.device_info()["max_recommended_working_set_size"]))
    try:
        return MetalModel(source, dtype, size, int8=int8, compiled=on_gpu if compiled is None else compiled)
    except RuntimeError as error:
        raise BackendError(f"mlx cannot open the model: {error}") from error


@dataclass(frozen=True)
class CacheSize:
    blocks: int
    window_blocks: int

    @classmethod
    def of(cls, tokens: int, config: ModelConfig) -> CacheSize:
        """Windowed layers need the last few blocks of each sequence and of each prefix that is kept: half as many, but
        never too few for LEAST_WINDOW_TOKENS that are computed at one go."""
        blocks, window = -(-tokens // BLOCK_TOKENS), -(-config.sliding_window // BLOCK_TOKENS) + 1
        return cls(blocks, min(blocks, max(blocks // 2, LEAST_WINDOW_TOKENS // BLOCK_TOKENS + window)))

    def bytes_in(self, config: ModelConfig, dtype: mx.Dtype) -> int:
        layers = [config.is_windowed(layer) for layer in range(config.num_hidden_layers)]
        blocks = sum(self.window_blocks if windowed else self.blocks for windowed in layers)
        return blocks * BLOCK_TOKENS * 2 * config.num_key_value_heads * config.head_dim * dtype.size


def _cache_size(
    source: Weights, dtype: mx.Dtype, wanted: int | None, free_bytes: int, *, int8: bool = False
) -> CacheSize:
    """Raises BackendError, with the figures, where cache or weights do not fit."""
    config = source.config
    weights = weights_bytes(config, source.quantized, dtype, int8=int8)
    room = max(0, free_bytes - weights)
    if wanted is None:
        whole = CacheSize.of(config.max_context, config).bytes_in(config, dtype)
        share = min(1.0, DEFAULT_CACHE_SHARE * room / whole)
        wanted = min(config.max_context, max(MIN_DEFAULT_CACHE_TOKENS, int(config.max_context * share)))
    size = CacheSize.of(wanted, config)
    cache = size.bytes_in(config, dtype)
    if cache > room:
        raise BackendError(
            f"the weights take {weights / 1e9:.1f} GB and a cache of {wanted} tokens {cache / 1e9:.1f} GB, "
            f"and {_device_name()} has {free_bytes / 1e9:.1f} GB for them",
            hint="Ask for a shorter context with -c, or choose the smaller model."
            + (f" A GPU may take more after: sudo sysctl {WIRED_LIMIT}=…" if mx.metal.is_available() else ""),
        )
    return size


def _free_bytes() -> int:
    """What the device may use."""
    if mx.metal.is_available():
        return int(mx.device_info()["max_recommended_working_set_size"])
    return memory_bytes()[1]


def _name(dtype: mx.Dtype) -> str:
    return "bf16" if dtype == mx.bfloat16 else "float32"


def _device_name() -> str:
    return str(mx.device_info().get("device_name", "cpu")) if mx.metal.is_available() else "cpu"
