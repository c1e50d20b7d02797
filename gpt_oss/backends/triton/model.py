"""A Model of our own Triton kernels: weights, cache, graphs and processes put together. What is computed: network.py.

A step of few tokens (answers, drafts, the end of a prompt) is one CUDA graph for each number of tokens, padded to one
of SIZES; the host only fills in the inputs and, later, reads the tokens drawn. Larger steps start their kernels one by
one. Without a GPU everything runs in Triton's interpreter, for tests.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from triton.runtime.jit import JITFunction

from gpt_oss.backends.base import Chunk, Int32
from gpt_oss.backends.torch.cache import Cache
from gpt_oss.backends.torch.network import rotary_tables
from gpt_oss.backends.torch.ranks import Ranks
from gpt_oss.backends.torch.weights import Share
from gpt_oss.backends.triton import attention, norm
from gpt_oss.backends.triton.batch import (
    NO_DRAW,
    Arrays,
    PlannedDraw,
    arrays_of,
    draw_inputs,
    draws_of,
    runs_of,
)
from gpt_oss.backends.triton.graph import Graph
from gpt_oss.backends.triton.logits import Drawn, TritonLogits
from gpt_oss.backends.triton.memory import LEAST_TOKENS, PROMPT_TOKENS, Sizes, sizes_that_fit
from gpt_oss.backends.triton.network import Batch, Gpu, Network
from gpt_oss.backends.triton.sampling import sample
from gpt_oss.backends.triton.weights import NetworkWeights, load
from gpt_oss.errors import BackendError, ConfigError, ContextOverflowError, ParameterError
from gpt_oss.model.config import ModelConfig
from gpt_oss.model.tensors import Weights

DTYPES = {"bf16": torch.bfloat16, "float32": torch.float32}
INTERPRETED = not isinstance(norm.kernel, JITFunction)

BLOCK_TOKENS = 32
SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64)  # of graphs, in tokens
MOST_SEQUENCES = 64  # that it makes sense to compute side by side
INTERPRETER = Gpu(processors=4, shared_memory=227 * 1024)  # what its kernels are made to believe


class TritonModel:
    """See backends.base.Model. weights: this process's share. Under torchrun only rank 0 calls its methods; the others
    call `follow`.

    prompt_tokens: how many a step should have at most, for its activations to fit. sequences: how many side by side.
    """

    sequences = MOST_SEQUENCES

    def __init__(
        self,
        config: ModelConfig,
        weights: NetworkWeights,
        dtype: torch.dtype,
        device: torch.device,
        ranks: Ranks,
        sizes: Sizes,
    ) -> None:
        share = Share(config, ranks.rank, ranks.count)
        self.config: ModelConfig = config
        self.block_tokens = BLOCK_TOKENS
        self.cache_blocks = self.window_cache_blocks = -(-sizes.cache_tokens // BLOCK_TOKENS)
        self.prompt_tokens = sizes.prompt_tokens
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "interpreter"
        together = f", {ranks.count} processes" if ranks.count > 1 else ""
        self.description = f"{str(dtype).removeprefix('torch.')} on {name}{together}"
        self._device = device
        self._ranks = ranks
        self._kv_heads = share.kv_heads
        self._cache = Cache(config, share.kv_heads, self.cache_blocks, BLOCK_TOKENS, dtype, device)
        self._capacity = min(self.cache_blocks * BLOCK_TOKENS, config.max_context)
        cosines, sines = rotary_tables(config, torch.arange(self._capacity, device=device), torch.float32)
        self._network = Network(
            config,
            weights,
            self._cache,
            BLOCK_TOKENS,
            cosines,
            sines,
            _gpu(device),
            ranks.add_up if ranks.count > 1 else None,
        )
        self._graphs: dict[int, Graph] = {}
        self._drawn = torch.empty(max(SIZES), dtype=torch.int32, pin_memory=device.type == "cuda")

    def forward(self, batch: Sequence[Chunk]) -> TritonLogits:
        """Raises ParameterError for a token outside the vocabulary, ContextOverflowError for a position past the cache
        or the longest context, BackendError where torch fails."""
        for chunk in batch:
            end = chunk.position + len(chunk.tokens)
            assert end <= len(chunk.blocks) * BLOCK_TOKENS, "a chunk without its blocks"
            if end > self._capacity:
                raise ContextOverflowError(
                    f"a sequence of {end} tokens does not fit into {self._capacity}, all that is held"
                )
        tokens = np.concatenate([chunk.tokens for chunk in batch])
        low, high = tokens.min(), tokens.max()
        if low < 0 or high >= self.config.vocab_size:
            raise ParameterError(
                f"token {low if low < 0 else high} is outside the model's vocabulary of {self.config.vocab_size}"
            )
        self._ranks.tell(("forward", batch))
        return self._forward(batch)

    def read_cache(self, blocks: Int32, window_blocks: Int32) -> bytes:
        self._ranks.tell(("read_cache", blocks, window_blocks))
        return self._read_cache(blocks, window_blocks)

    def write_cache(self, blocks: Int32, window_blocks: Int32, data: bytes) -> None:
        """Raises BackendError where the data is not of as many blocks of this model's shape and precision."""
        wanted_bytes = self._cache.bytes_of(len(blocks), len(window_blocks)) * self.config.num_key_value_heads
        if len(data) != wanted_bytes:
            raise BackendError(
                f"{len(data)} bytes of cached keys and values do not fill blocks of {wanted_bytes} bytes"
            )
        self._ranks.tell(("write_cache", blocks, window_blocks, data))
        self._write_cache(blocks, window_blocks, data)

    def close(self) -> None:
        """Ends the followers' `follow`. The memory is given back with the last reference to the model."""
        self._ranks.tell(None)

    def follow(self) -> None:
        """For ranks over 0: compute along with rank 0 until it closes the model."""
        does: dict[str, Callable[..., object]] = {
            "forward": self._forward,
            "read_cache": self._read_cache,
            "write_cache": self._write_cache,
        }
        while (message := self._ranks.hear()) is not None:
            name, *arguments = message
            does[name](*arguments)

    @torch.inference_mode()
    def _forward(self, chunks: Sequence[Chunk]) -> TritonLogits:
        arrays = arrays_of(chunks)
        try:
            if len(arrays.tokens) <= SIZES[-1]:
                return self._few(arrays, draws_of(chunks))
            return self._many(arrays, chunks)
        except RuntimeError as error:  # torch.OutOfMemoryError and torch.distributed's errors are ones
            raise BackendError(f"torch failed in a forward pass of {len(arrays.tokens)} tokens: {error}") from error

    def _few(self, arrays: Arrays, draws: Sequence[PlannedDraw]) -> TritonLogits:
        if self._device.type != "cuda":
            logits = self._network.forward(self._batch(arrays, runs=None, wanted=None))
            return self._with_draws(logits, arrays.wanted, draws)
        size = next(size for size in SIZES if size >= len(arrays.tokens))
        if size not in self._graphs:
            blocks = -(-self._capacity // BLOCK_TOKENS)
            self._graphs[size] = Graph(self._network, size, blocks, self.config.usable_vocab_size, self._device)
        logits, tokens = self._graphs[size].run(arrays, draws)
        host = self._drawn[:size]
        host.copy_(tokens, non_blocking=True)
        ready = torch.cuda.Event()
        ready.record()
        return TritonLogits(logits, arrays.wanted, self.config.usable_vocab_size, Drawn(host, ready, draws))

    def _many(self, arrays: Arrays, chunks: Sequence[Chunk]) -> TritonLogits:
        most = attention.run_tokens(self.config.num_attention_heads // self.config.num_key_value_heads)
        logits = self._network.forward(self._batch(arrays, runs_of(chunks, most), arrays.wanted))
        draws = draws_of(chunks)
        return self._with_draws(logits, np.arange(len(arrays.wanted)), [draws[row] for row in arrays.wanted])

    def _with_draws(self, logits: Tensor, rows: NDArray[np.int64], draws: Sequence[PlannedDraw]) -> TritonLogits:
        usable, drawn = self.config.usable_vocab_size, None
        if any(draw is not NO_DRAW for draw in draws):
            inputs = (torch.from_numpy(array).to(self._device) for array in draw_inputs(draws))
            drawn = Drawn(sample(logits, usable, *inputs).cpu(), None, draws)
        return TritonLogits(logits, rows, usable, drawn)

    def _batch(self, arrays: Arrays, runs: Int32 | None, wanted: NDArray[np.int64] | None) -> Batch:
        def on_device(array: NDArray[Any]) -> Tensor:
            return torch.from_numpy(array).to(self._device, non_blocking=True)

        return Batch(
            on_device(arrays.tokens),
            on_device(arrays.positions),
            on_device(arrays.sequences),
            on_device(arrays.table),
            on_device(arrays.window_table),
            None if runs is None else on_device(runs),
            None if wanted is None else on_device(wanted),
        )

    def _read_cache(self, blocks: Int32, window_blocks: Int32) -> bytes:
        return b"".join(self._ranks.gather(self._cache.copy_out(blocks, window_blocks)))

    def _write_cache(self, blocks: Int32, window_blocks: Int32, data: bytes) -> None:
        head_bytes = len(data) // self.config.num_key_value_heads
        own = data[self._kv_heads.start * head_bytes : self._kv_heads.stop * head_bytes]
        self._cache.copy_in(blocks, window_blocks, own)


def open_model(
    source: Weights,
    *,
    dtype: str | None = None,
    device: str | None = None,
    cache_tokens: int | None = None,
    progress: bool = False,
) -> TritonModel:
    """Load a checkpoint onto a GPU, ready to compute.

    dtype: "bf16", or "float32", which is for tests; by default bf16, in the interpreter float32. device: as torch names
    them; by default the process's GPU. cache_tokens: positions of the KV cache, in all sequences together; by default
    CONTEXTS full ones, or what fits. progress: show a bar while loading. Under torchrun every process calls this and
    holds its share; rank 0 uses the model, the others call its `follow`. Raises ParameterError, ConfigError for shapes
    that the kernels cannot compute, BackendError (no GPU, too little memory).
    """
    dtype = dtype or ("float32" if INTERPRETED else "bf16")
    if dtype not in DTYPES:
        raise ParameterError(f"the triton backend's precision is one of {', '.join(DTYPES)}, not {dtype!r}")
    if INTERPRETED and dtype != "float32":
        raise ParameterError(f"Triton's interpreter computes in float32 only, not {dtype}")
    if cache_tokens is not None and cache_tokens < 1:
        raise ParameterError(f"cache_tokens must be 1 or more, not {cache_tokens}")
    dim = source.config.head_dim
    if dim < 16 or dim & (dim - 1):
        raise ConfigError(f"the triton backend needs a head_dim that is a power of two and 16 or more, not {dim}")
    try:
        chosen = torch.device(device or _default_device())
        ranks = Ranks(chosen)
        share = Share(source.config, ranks.rank, ranks.count)
        sizes = _sizes(source.config, share, DTYPES[dtype], chosen, cache_tokens)
        weights = load(source, share, DTYPES[dtype], chosen, progress=progress and ranks.rank == 0)
        return TritonModel(source.config, weights, DTYPES[dtype], chosen, ranks, sizes)
    except RuntimeError as error:
        raise BackendError(f"torch cannot open the model on {device or 'the GPU'}: {error}") from error


def _default_device() -> str:
    if INTERPRETED:
        return "cpu"
    if not torch.cuda.is_available():
        raise BackendError(
            "the triton backend needs a GPU, and torch finds none",
            hint="Choose --backend cpu, or see whether this torch was built for your GPU.",
        )
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


def _sizes(config: ModelConfig, share: Share, dtype: torch.dtype, device: torch.device, wanted: int | None) -> Sizes:
    if device.type != "cuda":
        return Sizes(wanted or LEAST_TOKENS, PROMPT_TOKENS[-1])
    free, _ = torch.cuda.mem_get_info(device)
    return sizes_that_fit(config, share, dtype, free, wanted)


def _gpu(device: torch.device) -> Gpu:
    if device.type != "cuda":
        return INTERPRETER
    properties = torch.cuda.get_device_properties(device)
    # AMD's devices have 64 KiB and no such attribute.
    return Gpu(properties.multi_processor_count, getattr(properties, "shared_memory_per_block_optin", 64 * 1024))
