"""The torch backend's own parts. Its numbers are held against the reference and transformers in tests/parity."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt_oss.backends.base import Chunk, Float32
from gpt_oss.backends.sequence import SingleSequence
from gpt_oss.backends.torch import cache, model, network, open_model
from gpt_oss.backends.torch.weights import Share, decode_mxfp4, weights_bytes
from gpt_oss.errors import BackendError, ConfigError, ParameterError
from gpt_oss.model import mxfp4, reference
from gpt_oss.model.config import ModelConfig
from gpt_oss.model.factory import RandomWeights, write_random_checkpoint
from gpt_oss.model.tensors import Weights
from tests.conftest import TINY
from tests.parity import processes

WEIGHTS = RandomWeights(TINY, seed=5)
TOKENS = np.random.default_rng(5).integers(0, TINY.vocab_size, 200)


def logits_of(weights: Weights, **options: object) -> Float32:
    opened = open_model(weights, device="cpu", cache_tokens=256, **options)  # type: ignore[arg-type]
    return SingleSequence(opened).forward(TOKENS, logits=None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_mxfp4_is_decoded_exactly_for_every_byte_and_scale(dtype: torch.dtype) -> None:
    blocks = np.arange(256, dtype=np.uint8).reshape(1, 16, 16).repeat(252, axis=0)
    scales = np.arange(252, dtype=np.uint8)[:, None].repeat(16, axis=1)  # above that, float32 overflows
    decoded = decode_mxfp4(torch.from_numpy(blocks), torch.from_numpy(scales), dtype)
    assert decoded.dtype == dtype
    np.testing.assert_array_equal(decoded.double().numpy(), mxfp4.decode(blocks, scales).astype(np.float64))


def test_the_scale_255_is_not_a_number() -> None:
    block = torch.zeros(1, 16, dtype=torch.uint8)
    assert decode_mxfp4(block, torch.tensor([255], dtype=torch.uint8), torch.float32).isnan().all()


@pytest.mark.parametrize("dtype", ["float32", "float64", "bf16"])
def test_decoding_the_experts_when_loading_changes_nothing(dtype: str) -> None:
    np.testing.assert_array_equal(logits_of(WEIGHTS, dtype=dtype, dequantize=True), logits_of(WEIGHTS, dtype=dtype))


def test_a_checkpoint_with_bf16_experts_gives_the_same_logits() -> None:
    dense = RandomWeights(TINY, seed=5, quantized=False)
    np.testing.assert_array_equal(logits_of(dense, dtype="float32"), logits_of(WEIGHTS, dtype="float32"))


def test_attention_in_small_spans_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = logits_of(WEIGHTS, dtype="float64")
    monkeypatch.setattr(cache, "SCORES_AT_ONCE", 200 * TINY.num_attention_heads * 7)
    np.testing.assert_allclose(logits_of(WEIGHTS, dtype="float64"), whole, atol=1e-6)


def test_the_ramp_of_the_released_models_is_not_rounded() -> None:
    low, high = network.yarn_bounds(ModelConfig())
    assert (low, high) == (pytest.approx(8.092779, abs=1e-6), pytest.approx(17.398025, abs=1e-6))
    assert network.yarn_concentration(ModelConfig()) == pytest.approx(1.3465736)


# ---- shares -------------------------------------------------------------------------------------------------------


@given(
    ranks=st.integers(1, 8),
    kv_heads=st.integers(8, 11),
    group=st.integers(1, 4),
    blocks=st.integers(8, 90),
    vocab=st.integers(1, 300),
)
def test_shares_cover_every_row_once(ranks: int, kv_heads: int, group: int, blocks: int, vocab: int) -> None:
    config = ModelConfig(
        num_key_value_heads=kv_heads,
        num_attention_heads=kv_heads * group,
        head_dim=2,
        intermediate_size=32 * blocks,
        vocab_size=vocab,
    )
    shares = [Share(config, rank, ranks) for rank in range(ranks)]

    def rows(total: int, slices: list[slice]) -> list[int]:
        return [row for each in slices for row in range(total)[each]]

    assert rows(config.num_attention_heads, [share.heads for share in shares]) == [*range(config.num_attention_heads)]
    assert rows(kv_heads, [share.kv_heads for share in shares]) == [*range(kv_heads)]
    assert rows(blocks, [share.intermediate_blocks for share in shares]) == [*range(blocks)]
    assert rows(vocab, [share.vocabulary for share in shares]) == [*range(vocab)]
    qkv_rows = (config.num_attention_heads + 2 * kv_heads) * config.head_dim
    assert sorted(rows(qkv_rows, [part for share in shares for part in share.qkv_rows])) == [*range(qkv_rows)]
    assert sum(share.adds_biases for share in shares) == 1
    for share in shares:
        assert share.heads == slice(share.kv_heads.start * group, share.kv_heads.stop * group)


def test_more_processes_than_key_heads_are_refused() -> None:
    with pytest.raises(ConfigError, match="3 processes cannot share this model, whose num_key_value_heads is 2"):
        Share(TINY, 0, 3)
    with pytest.raises(ConfigError, match="whose intermediate_size / 32 is 2"):
        Share(ModelConfig(intermediate_size=64), 0, 4)


def test_two_processes_with_unequal_shares(tmp_path: Path) -> None:
    """Three key heads, three blocks of intermediate columns and 511 tokens do not divide by two."""
    config = ModelConfig(
        num_hidden_layers=3,
        num_experts=4,
        experts_per_token=2,
        vocab_size=511,
        hidden_size=64,
        intermediate_size=96,
        head_dim=16,
        num_attention_heads=6,
        num_key_value_heads=3,
    )
    checkpoint = write_random_checkpoint(tmp_path / "uneven", config, seed=1)
    tokens = np.random.default_rng(1).integers(0, config.vocab_size, 200)
    expected = reference.forward(RandomWeights(config, seed=1), tokens)
    saved = processes.run(checkpoint, tokens, tmp_path, dtype="float64")
    np.testing.assert_allclose(saved["logits"], expected, atol=2e-6)
    np.testing.assert_allclose(saved["resumed"], expected[-len(saved["resumed"]) :], atol=2e-6)


# ---- memory, and what else can go wrong ---------------------------------------------------------------------------


def cache_tokens_with(monkeypatch: pytest.MonkeyPatch, free_bytes: int | None, wanted: int | None = None) -> int:
    monkeypatch.setattr(model, "_free_bytes", lambda device, ranks: free_bytes)
    opened = open_model(WEIGHTS, dtype="float32", device="cpu", cache_tokens=wanted)
    return opened.cache_blocks * opened.block_tokens


def test_the_cache_takes_the_longest_context_or_half_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = weights_bytes(WEIGHTS, 1, torch.float32, dequantize=False)
    token_bytes = 2 * TINY.num_hidden_layers * TINY.num_key_value_heads * TINY.head_dim * 4
    assert cache_tokens_with(monkeypatch, None) == TINY.max_context
    assert cache_tokens_with(monkeypatch, 10**12) == TINY.max_context
    assert cache_tokens_with(monkeypatch, weights + 64_000 * token_bytes) == 32_000
    assert cache_tokens_with(monkeypatch, weights + 5000 * token_bytes) == 4096  # too little is of no use
    assert cache_tokens_with(monkeypatch, weights + 64_000 * token_bytes, wanted=50_000) >= 50_000
    with pytest.raises(BackendError, match=r"a cache of 4096 tokens 0\.\d+ GB, and cpu has 0\.\d+ GB free"):
        cache_tokens_with(monkeypatch, weights + 4000 * token_bytes)
    with pytest.raises(BackendError, match=r"a cache of 1000000000 tokens 512\.0 GB"):
        cache_tokens_with(monkeypatch, 10**11, wanted=10**9)


def test_weights_bytes_is_what_the_tensors_take() -> None:
    opened = open_model(WEIGHTS, dtype="bf16", device="cpu", cache_tokens=32)

    def tensors(value: object) -> list[torch.Tensor]:
        if isinstance(value, torch.Tensor):
            return [value]
        children = value if isinstance(value, list) else vars(value).values() if hasattr(value, "__dict__") else []
        return [tensor for child in children for tensor in tensors(child)]

    held = sum(tensor.nbytes for tensor in tensors(opened._weights))
    assert weights_bytes(WEIGHTS, 1, torch.bfloat16, dequantize=False) == pytest.approx(held, rel=0.02)


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ParameterError, match="float32, bf16, float64, not 'fp16'"):
        open_model(WEIGHTS, dtype="fp16")
    with pytest.raises(ParameterError, match="cache_tokens must be 1 or more"):
        open_model(WEIGHTS, cache_tokens=0)
    with pytest.raises(BackendError, match="on abacus"):
        open_model(WEIGHTS, device="abacus")


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(BackendError, match="cuda was asked for, and torch finds no CUDA device"):
        open_model(WEIGHTS, device="cuda")


def test_cached_data_of_another_shape_is_refused() -> None:
    opened = open_model(WEIGHTS, device="cpu", cache_tokens=256)
    blocks = np.arange(2, dtype=np.int32)
    data = opened.read_cache(blocks, blocks)
    with pytest.raises(BackendError, match=f"{len(data)} bytes of cached keys and values"):
        opened.write_cache(blocks[:1], blocks, data)


def test_a_failure_of_torch_is_a_backend_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    opened = open_model(WEIGHTS, device="cpu", cache_tokens=256)
    monkeypatch.setattr(network, "attention", fail)
    block = np.zeros(1, np.int32)
    with pytest.raises(BackendError, match="a forward pass of 2 tokens: out of memory"):
        opened.forward([Chunk(np.array([1, 2], np.int32), 0, block, block)])


def test_it_describes_itself() -> None:
    assert open_model(WEIGHTS, dtype="float64", device="cpu", cache_tokens=32).description == "float64 on cpu"
