"""How much memory there is, how long the KV cache may get in it, and what to expect where the weights do not fit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gpt_oss.memory import memory_bytes
from gpt_oss.model.config import ModelConfig

_LEAST_TOKENS = 8192

# Pages of the cache take up memory only once they are written to, so a generous limit costs nothing by itself.
_SHARE_OF_FREE_MEMORY = 0.5


@dataclass(frozen=True)
class CacheSize:
    blocks: int
    window_blocks: int


def available_bytes() -> int:
    """Memory that programs could still get: free, or page cache that can be dropped."""
    return memory_bytes()[1]


def checkpoint_bytes(path: Path) -> int:
    """Of the weights files that a checkpoint consists of."""
    if path.is_file():
        return path.stat().st_size
    return sum(p.stat().st_size for p in path.rglob("*") if p.suffix in (".safetensors", ".bin"))


def cache_bytes_per_token(config: ModelConfig, kv: Literal["bf16", "int8"]) -> int:
    """Keys and values over all layers; int8 has a float32 scale for each head's key and value."""
    head_bytes = config.head_dim * 2 if kv == "bf16" else config.head_dim + 4
    return config.num_hidden_layers * 2 * config.num_key_value_heads * head_bytes


def default_cache_tokens(config: ModelConfig, kv: Literal["bf16", "int8"], weights_bytes: int, free_bytes: int) -> int:
    """Half of what the weights leave free, from 8192 tokens up to two whole contexts."""
    room = int((free_bytes - weights_bytes) * _SHARE_OF_FREE_MEMORY) // cache_bytes_per_token(config, kv)
    return max(_LEAST_TOKENS, min(room, 2 * config.max_context))


def cache_size(config: ModelConfig, cache_tokens: int, block_tokens: int) -> CacheSize:
    """Blocks for `cache_tokens` tokens. Windowed layers need the last few of each sequence and of each prefix that is
    kept, so theirs is half as large, but never too small for a prompt of 8192 tokens that is computed at one go."""
    blocks = -(-cache_tokens // block_tokens) + 1
    window_blocks = max(blocks // 2, _LEAST_TOKENS // block_tokens + -(-config.sliding_window // block_tokens) + 1)
    return CacheSize(blocks, min(blocks, window_blocks))


def streams_from_disk(weights_bytes: int, free_bytes: int) -> bool:
    """Whether the experts will be read from disk again and again, for want of memory."""
    return weights_bytes > free_bytes


def expert_bytes_per_token(config: ModelConfig) -> int:
    """MXFP4 bytes of the experts that one token picks, over all layers: read from disk when none is in memory."""
    values = 3 * config.hidden_size * config.intermediate_size  # gate, linear and down
    return config.num_hidden_layers * config.experts_per_token * values * 17 // 32


def what_to_expect(config: ModelConfig, weights_bytes: int, free_bytes: int) -> str:
    """One sentence for a user whose memory is too small."""
    missing = 1 - max(0.0, min(1.0, free_bytes / weights_bytes))
    per_token = expert_bytes_per_token(config) * missing
    return (
        f"the weights take {weights_bytes / 1e9:.1f} GB and {free_bytes / 1e9:.1f} GB are free: experts are read from "
        f"disk as the router picks them, about {per_token / 1e9:.2f} GB a token ({per_token / 2e9:.1f} s at 2 GB/s)"
    )
