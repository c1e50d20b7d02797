"""What fits on a GPU beside the weights: how long the cache may get, and how many tokens of prompts a step may have."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gpt_oss.backends.torch.weights import Share
from gpt_oss.backends.triton.weights import weights_bytes
from gpt_oss.errors import BackendError
from gpt_oss.model.config import ModelConfig

PROMPT_TOKENS = (8192, 4096, 2048, 1024)  # of a step, as many as memory allows
LEAST_TOKENS = 4096  # of the cache
CONTEXTS = 4  # full ones that the cache holds by default, if they fit
OTHER_BYTES = 600_000_000  # graphs, cuBLAS's workspace, what the allocator loses


@dataclass(frozen=True)
class Sizes:
    """cache_tokens: in all sequences together. prompt_tokens: of one step."""

    cache_tokens: int
    prompt_tokens: int


def sizes_that_fit(config: ModelConfig, share: Share, dtype: torch.dtype, free_bytes: int, wanted: int | None) -> Sizes:
    """wanted: tokens of the cache, None for as many as make sense.

    Raises BackendError, with the figures, where they and the weights do not fit into free_bytes.
    """
    kv_heads = share.kv_heads.stop - share.kv_heads.start
    token_bytes = 2 * config.num_hidden_layers * kv_heads * config.head_dim * dtype.itemsize
    weights = weights_bytes(config, share, dtype)
    for prompt_tokens in PROMPT_TOKENS:
        step = OTHER_BYTES + prompt_tokens * activation_bytes(config, dtype)
        fits = (free_bytes - weights - step) // token_bytes
        if fits >= (wanted or config.max_context):
            break
    tokens = wanted or min(max(fits, LEAST_TOKENS), CONTEXTS * config.max_context)
    if tokens > fits:
        raise BackendError(
            f"the weights take {weights / 1e9:.1f} GB, the computation {step / 1e9:.1f} GB and a cache of {tokens} "
            f"tokens {tokens * token_bytes / 1e9:.1f} GB, and the GPU has {free_bytes / 1e9:.1f} GB free",
            hint="Ask for a shorter context, or share the model among several GPUs with torchrun.",
        )
    return Sizes(tokens, prompt_tokens)


def activation_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """Of a prompt's token, at their peak: the stream, what goes into a layer's half, its middle, what comes out."""
    pairs = config.experts_per_token * (config.intermediate_size + config.hidden_size)
    attention = (3 * config.num_attention_heads + 2 * config.num_key_value_heads) * config.head_dim
    return 4 * config.hidden_size + (2 * config.hidden_size + max(pairs, attention)) * dtype.itemsize
