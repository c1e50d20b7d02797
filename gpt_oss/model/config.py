"""The shape of a gpt-oss network: one frozen dataclass, read from either layout's config.json."""

from __future__ import annotations

from dataclasses import dataclass

# Ids from here on are padding of the embedding tables (and `<|endofprompt|>`, which gpt-oss does not use): never sampled.
TOKENS_IN_USE = 200_014


@dataclass(frozen=True)
class ModelConfig:
    """Defaults are gpt-oss-20b's. Nothing may assume them: any positive numbers that agree with each other work.

    sliding_window applies to even layers and counts the token itself; odd layers attend to everything.
    rope_*: YaRN with NTK-by-parts, ramp not rounded (model.md, "One block").
    """

    num_hidden_layers: int = 24
    num_experts: int = 32
    experts_per_token: int = 4
    vocab_size: int = 201_088
    hidden_size: int = 2880
    intermediate_size: int = 2880
    swiglu_limit: float = 7.0
    head_dim: int = 64
    num_attention_heads: int = 64
    num_key_value_heads: int = 8
    sliding_window: int = 128
    initial_context_length: int = 4096
    rope_theta: float = 150_000.0
    rope_scaling_factor: float = 32.0
    rope_ntk_alpha: float = 1.0
    rope_ntk_beta: float = 32.0
    rms_norm_eps: float = 1e-5

    @property
    def max_context(self) -> int:
        """Longest sequence, in tokens, that the rotary embedding was extended to."""
        return int(self.initial_context_length * self.rope_scaling_factor)

    @property
    def usable_vocab_size(self) -> int:
        """Ids below this may be sampled."""
        return min(self.vocab_size, TOKENS_IN_USE)

    def is_windowed(self, layer: int) -> bool:
        return layer % 2 == 0
