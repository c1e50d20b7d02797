"""Something small to learn: sequences that count upwards, from a random start, in a vocabulary of 32."""

from __future__ import annotations

import numpy as np

from gpt_oss.model.config import ModelConfig
from gpt_oss.training.data import IGNORED, Example
from gpt_oss.training.network import Network

SMALL = ModelConfig(
    num_hidden_layers=2,
    num_experts=4,
    experts_per_token=2,
    vocab_size=32,
    hidden_size=32,
    intermediate_size=32,
    head_dim=8,
    num_attention_heads=4,
    num_key_value_heads=2,
    sliding_window=8,
)


def counting(examples: int, *, seed: int = 0) -> list[Example]:
    random = np.random.default_rng(seed)
    made = []
    for start, length in zip(random.integers(0, 32, examples), random.integers(4, 20, examples), strict=True):
        tokens = (start + np.arange(length + 1)) % 32
        targets = tokens[1:].copy()
        targets[0] = IGNORED
        made.append(Example(tokens[:-1], targets))
    return made


def small_network(seed: int = 0, **options: object) -> Network:
    network = Network(SMALL, **options)  # type: ignore[arg-type]
    network.initialise(seed)
    return network
