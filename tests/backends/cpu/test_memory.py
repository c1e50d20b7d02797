"""How long the KV cache may get, and what is said where the weights do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from gpt_oss.backends.cpu import memory
from gpt_oss.model.config import ModelConfig

GB = 10**9
RELEASED = ModelConfig()


def test_bytes_of_the_released_shape() -> None:
    assert memory.cache_bytes_per_token(RELEASED, "bf16") == 48 * 1024
    assert memory.cache_bytes_per_token(RELEASED, "int8") == 25.5 * 1024
    assert memory.expert_bytes_per_token(RELEASED) == pytest.approx(1.27 * GB, rel=0.01)


@pytest.mark.parametrize(
    ("kv", "free", "tokens"),
    [
        ("bf16", 10 * GB, 8192),
        ("bf16", 14 * GB, 10_172),
        ("bf16", 24 * GB, 111_897),
        ("bf16", 500 * GB, 2 * 131_072),
        ("int8", 14 * GB, 19_148),
    ],
    ids=str,
)
def test_cache_follows_free_memory(kv: Literal["bf16", "int8"], free: int, tokens: int) -> None:
    assert memory.default_cache_tokens(RELEASED, kv, 13 * GB, free) == tokens


def test_pools_cover_the_tokens() -> None:
    size = memory.cache_size(RELEASED, 100_000, 32)
    assert size.blocks * 32 >= 100_000
    assert size.window_blocks == size.blocks // 2
    small = memory.cache_size(RELEASED, 256, 32)
    assert small.blocks == small.window_blocks == 9


def test_checkpoint_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"123")
    (tmp_path / "config.json").write_text("{}")
    assert memory.checkpoint_bytes(tmp_path) == 3
    assert memory.checkpoint_bytes(tmp_path / "a.safetensors") == 3


def test_what_to_expect_says_bytes() -> None:
    assert memory.streams_from_disk(65 * GB, 20 * GB)
    assert not memory.streams_from_disk(13 * GB, 20 * GB)
    text = memory.what_to_expect(RELEASED, 65 * GB, 20 * GB)
    assert "65.0 GB" in text
    assert "about 0.88 GB a token (0.4 s at 2 GB/s)" in text
