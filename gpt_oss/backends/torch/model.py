"""A Model in torch: weights, cache and processes put together. What is computed stands in network.py.

The readable backend: made to be right, in float32, bf16 or float64, on CPUs and on CUDA, alone or under torchrun.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpt_oss.backends.base import Chunk, Float32, Int32
from gpt_oss.backends.torch import network
from gpt_oss.backends.torch.cache import Cache, spans_of
from gpt_oss.backends.torch.ranks import Ranks
from gpt_oss.backends.torch.weights import Share, load, weights_bytes
from gpt_oss.errors import BackendError, ParameterError
from gpt_oss.model.config import ModelConfig
from gpt_oss.model.tensors import Weights

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "float64": torch.float64}

BLOCK_TOKENS = 32
DEFAULT_CACHE_SHARE = 0.5  # of the memory that the weights leave: activations and other programs need some too
MIN_DEFAULT_CACHE_TOKENS = 4096


class TorchLogits:
    """Logits of one forward pass. tensor: [rows, vocab_size], on the model's device and in its precision."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __len__(self) -> int:
        return len(self.tensor)

    def numpy(self) -> Float32:
        result: Float32 = self.tensor.float().cpu().numpy()
        return result


class TorchModel:
    """See backends.base.Model. Under torchrun only rank 0 calls its methods; the others call `follow`."""

    def __init__(
        self,
        source: Weights,
        dtype: torch.dtype,
        device: torch.device,
        ranks: Ranks,
        cache_tokens: int,
        dequantize: bool,
    ) -> None:
        share = Share(source.config, ranks.rank, ranks.count)
        self.config: ModelConfig = source.config
        self.block_tokens = BLOCK_TOKENS
        self.cache_blocks = self.window_cache_blocks = -(-cache_tokens // BLOCK_TOKENS)
        together = f", {ranks.count} processes" if ranks.count > 1 else ""
        self.description = f"{str(dtype).removeprefix('torch.')} on {device.type}{together}"
        self._device = device
        self._ranks = ranks
        self._weights = load(source, share, dtype, device, dequantize=dequantize)
        self._kv_heads = share.kv_heads
        self._cache = Cache(source.config, self._kv_heads, self.cache_blocks, BLOCK_TOKENS, dtype, device)

    def forward(self, batch: Sequence[Chunk]) -> TorchLogits:
        """Raises ParameterError for a token outside the vocabulary, BackendError where torch fails."""
        for chunk in batch:
            assert chunk.position + len(chunk.tokens) <= len(chunk.blocks) * BLOCK_TOKENS, "a chunk without its blocks"
            low, high = chunk.tokens.min(), chunk.tokens.max()
            if low < 0 or high >= self.config.vocab_size:
                raise ParameterError(
                    f"token {low if low < 0 else high} is outside the model's vocabulary of {self.config.vocab_size}"
                )
        self._ranks.tell(("forward", batch))
        return TorchLogits(self._forward(batch))

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
    def _forward(self, chunks: Sequence[Chunk]) -> Tensor:
        def on_device(parts: Sequence[Any]) -> Tensor:
            return torch.from_numpy(np.concatenate(parts).astype(np.int64)).to(self._device)

        counts = [len(chunk.tokens) for chunk in chunks]
        ends = np.cumsum(counts)
        batch = network.Batch(
            tokens=on_device([chunk.tokens for chunk in chunks]),
            positions=on_device([chunk.position + np.arange(len(chunk.tokens)) for chunk in chunks]),
            spans=spans_of(chunks, self.config, BLOCK_TOKENS, self._device),
            wanted=on_device([np.arange(end - chunk.logits, end) for chunk, end in zip(chunks, ends, strict=True)]),
        )
        try:
            return network.forward(self._weights, self.config, batch, self._cache, self._ranks.add_up)
        except RuntimeError as error:  # torch.OutOfMemoryError and torch.distributed's errors are ones
            raise BackendError(f"torch failed in a forward pass of {sum(counts)} tokens: {error}") from error

    def _read_cache(self, blocks: Int32, window_blocks: Int32) -> bytes:
        return b"".join(self._ranks.gather(self._cache.copy_out(blocks, window_blocks)))

    def _write_cache(self, blocks: Int32, window_blocks: Int32, data: bytes) -> None:
        head_bytes = len(data) // self.config.num_key_value_heads
        own = data[self._kv_heads.start * head_bytes : self._kv_heads.stop * head_bytes]
        self._cache.copy_in(blocks, window_blocks, own)


def open_model(
    source: Weights,
    *,
    dtype: str = "bf16",
    device: str | None = None,
    cache_tokens: int | None = None,
    dequantize: bool = False,
) -> TorchModel:
    """Make a checkpoint ready to compute.

    dtype: "float32", "bf16" or "float64". device: as torch names them; by default the process's CUDA device, else cpu.
    cache_tokens: positions of the KV cache, in all sequences together; by default the longest context, or as much
    of it as fits into half of the memory that the weights leave.
    dequantize: hold MXFP4 experts in dtype, rather than decode them each time they are used: faster, four times the
    memory in bf16. Under torchrun every process calls this and holds its share; rank 0 uses the model, the others
    call its `follow`.
    Raises ParameterError, ConfigError (more processes than key heads), BackendError (not enough memory, no device).
    """
    if dtype not in DTYPES:
        raise ParameterError(f"the torch backend's precision is one of {', '.join(DTYPES)}, not {dtype!r}")
    if cache_tokens is not None and cache_tokens < 1:
        raise ParameterError(f"cache_tokens must be 1 or more, not {cache_tokens}")
    device = device or _default_device()
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise BackendError(f"the device {device} was asked for, and torch finds no CUDA device")
    try:
        chosen = torch.device(device)
        ranks = Ranks(chosen)
        tokens = _cache_tokens(source, DTYPES[dtype], chosen, ranks.count, cache_tokens, dequantize)
        return TorchModel(source, DTYPES[dtype], chosen, ranks, tokens, dequantize)
    except RuntimeError as error:
        raise BackendError(f"torch cannot open the model on {device}: {error}") from error


def _default_device() -> str:
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"


def _cache_tokens(
    source: Weights, dtype: torch.dtype, device: torch.device, ranks: int, wanted: int | None, dequantize: bool
) -> int:
    """How many tokens the cache holds. Raises BackendError, with the figures, where they or the weights do not fit."""
    config = source.config
    token_bytes = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * dtype.itemsize // ranks
    free_bytes = _free_bytes(device, ranks)
    if free_bytes is None:
        return wanted or config.max_context
    weights = weights_bytes(source, ranks, dtype, dequantize)
    fits = max(0, free_bytes - weights) // token_bytes
    if wanted is None:
        wanted = min(config.max_context, max(MIN_DEFAULT_CACHE_TOKENS, int(DEFAULT_CACHE_SHARE * fits)))
    if wanted > fits:
        needed = (
            f"the weights take {weights / 1e9:.1f} GB and a cache of {wanted} tokens {wanted * token_bytes / 1e9:.1f}"
        )
        raise BackendError(
            f"{needed} GB, and {device} has {free_bytes / 1e9:.1f} GB free{' a process' if ranks > 1 else ''}",
            hint="Ask for a shorter context or bf16, or share the model among more GPUs or machines with torchrun.",
        )
    return wanted


def _free_bytes(device: torch.device, ranks: int) -> int | None:
    """What one process may take; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            available_kib = next(int(line.split()[1]) for line in file if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None
    return available_kib * 1024 // int(os.environ.get("LOCAL_WORLD_SIZE", ranks))
