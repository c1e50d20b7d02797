"""The metal backend as a whole, in mlx's CPU build: odd shapes, every layout, batches through the engine, the demo.

tests/parity holds it against the reference and transformers on longer prompts, and asks what base.Model promises.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from gpt_oss.backends import torch as torch_backend
from gpt_oss.backends.base import FREED, Chunk, Draw, Float32
from gpt_oss.backends.metal import mapping, model, network, open_model
from gpt_oss.backends.metal.cache import places_of
from gpt_oss.backends.sequence import SingleSequence
from gpt_oss.engine.engine import Engine, EngineConfig
from gpt_oss.errors import BackendError, ConfigError, ContextOverflowError, ParameterError
from gpt_oss.generate import chat_prompt
from gpt_oss.load import LoadOptions, load
from gpt_oss.model import reference
from gpt_oss.model.checkpoint import open_checkpoint
from gpt_oss.model.compact import demo_folder
from gpt_oss.model.config import ModelConfig
from gpt_oss.model.factory import RandomWeights, write_random_checkpoint
from gpt_oss.model.tensors import Weights
from gpt_oss.params import SamplingParams
from gpt_oss.vocabulary import RETURN
from tests.conftest import TINY

WEIGHTS = RandomWeights(TINY, seed=5)
TOKENS = np.random.default_rng(5).integers(0, TINY.vocab_size, 300)
NEAR = 1e-4  # of float32 from the reference; logits have a standard deviation of about 2.5

ODD = ModelConfig(
    num_hidden_layers=3,
    num_experts=5,
    experts_per_token=3,
    vocab_size=511,
    hidden_size=96,
    intermediate_size=160,
    head_dim=22,
    num_attention_heads=9,
    num_key_value_heads=3,
    swiglu_limit=1.5,
    sliding_window=50,
    initial_context_length=512,
    rope_scaling_factor=8.0,
)
ONE_OF_EACH = ModelConfig(
    num_hidden_layers=1,
    num_experts=1,
    experts_per_token=1,
    vocab_size=33,
    hidden_size=32,
    intermediate_size=32,
    head_dim=2,
    num_attention_heads=1,
    num_key_value_heads=1,
    sliding_window=1,
)


def logits_of(weights: Weights, tokens: np.ndarray = TOKENS, chunk_tokens: int = 512, **options: object) -> Float32:
    opened = open_model(weights, cache_tokens=320, **options)  # type: ignore[arg-type]
    return SingleSequence(opened, chunk_tokens).forward(tokens, logits=None)


@pytest.mark.parametrize("config", [ODD, ONE_OF_EACH, replace(ODD, num_experts=17, num_hidden_layers=1)])
@pytest.mark.parametrize("chunk_tokens", [300, 41, 1])
def test_odd_shapes_and_chunks_against_the_reference(config: ModelConfig, chunk_tokens: int) -> None:
    tokens, expected = odd_oracle(config)
    count = 300 if chunk_tokens > 1 else 120
    logits = logits_of(RandomWeights(config, seed=2), tokens[:count], chunk_tokens)
    assert np.abs(logits - expected[:count]).max() < NEAR


@cache
def odd_oracle(config: ModelConfig) -> tuple[np.ndarray, np.ndarray]:
    """Tokens, and the logits after each."""
    tokens = np.random.default_rng(2).integers(0, config.vocab_size, 300)
    return tokens, reference.forward(RandomWeights(config, seed=2), tokens)


@pytest.mark.parametrize("shared", [False, True])
def test_every_layout_gives_the_same_logits(
    tiny_checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    """Also where all tensors are views of mapped pages; metal/model.bin's experts then are used as they lie."""
    if shared:
        monkeypatch.setattr(mapping, "SMALL_BYTES", 0)
    expected = reference.forward(RandomWeights(TINY, seed=1), TOKENS)
    logits = {layout: logits_of(open_checkpoint(path)) for layout, path in tiny_checkpoints.items()}
    assert np.abs(logits["original"] - expected).max() < NEAR
    np.testing.assert_array_equal(logits["huggingface"], logits["original"])
    np.testing.assert_array_equal(logits["metal"], logits["original"])


def test_the_scales_of_a_metal_file_stay_as_they_are(tiny_checkpoints: dict[str, Path]) -> None:
    opened = open_model(open_checkpoint(tiny_checkpoints["metal"]), cache_tokens=32)
    weights = opened._parts[0].weights
    assert weights.expert_input_scale == 2.0**-14
    stored = open_checkpoint(tiny_checkpoints["original"]).tensor("block.1.mlp.mlp1_weight.scales")
    np.testing.assert_array_equal(np.array(weights.blocks[1].mlp1.scales), stored + 14)


@pytest.mark.parametrize("layout", ["original", "huggingface"])
def test_a_fine_tune_with_bf16_experts(tmp_path: Path, layout: str) -> None:
    path = write_random_checkpoint(tmp_path / layout, TINY, seed=5, layout=layout, quantized=False)
    expected = reference.forward(WEIGHTS, TOKENS)
    assert np.abs(logits_of(open_checkpoint(path)) - expected).max() < NEAR


def test_norms_that_bf16_cannot_hold_stay_float32() -> None:
    class Uneven:
        config, quantized = TINY, True

        def tensor(self, name: str, index: tuple[slice, ...] = ()) -> np.ndarray:
            values = WEIGHTS.tensor(name, index)
            return values + np.float32(1e-3) if name.endswith("norm.scale") else values

    expected = reference.forward(Uneven(), TOKENS[:40])
    assert np.abs(logits_of(Uneven(), TOKENS[:40]) - expected).max() < NEAR
    opened = open_model(Uneven(), precision="bf16", cache_tokens=64)
    assert opened._parts[0].weights.norm.dtype == mx.float32
    assert open_model(WEIGHTS, precision="bf16", cache_tokens=64)._parts[0].weights.norm.dtype == mx.bfloat16


def test_in_bf16_it_is_near_the_reference() -> None:
    """Medians: where rounding changes the choice of an expert, a token is far off and rightly so. Three times torch's
    error is allowed, for mlx's CPU build, unlike Metal, also adds up in bf16."""
    expected = reference.forward(WEIGHTS, TOKENS[:64])
    torch_model = torch_backend.open_model(WEIGHTS, dtype="bf16", device="cpu", cache_tokens=64)
    of_torch = np.median(np.abs(SingleSequence(torch_model).forward(TOKENS[:64], logits=None) - expected))
    ours = np.median(np.abs(logits_of(WEIGHTS, TOKENS[:64], precision="bf16") - expected))
    assert 0 < ours < 3 * of_torch


def test_balanced_rounds_attention_and_unembedding_to_int8() -> None:
    expected = reference.forward(WEIGHTS, TOKENS[:100])
    logits = logits_of(WEIGHTS, TOKENS[:100], precision="balanced")
    typical = np.median(np.abs(logits - expected))
    assert 0.002 < typical < 0.05
    opened = open_model(WEIGHTS, precision="balanced", cache_tokens=32)
    assert opened.description == "float32, balanced on cpu"
    codes, scales, offsets = opened._parts[0].weights.blocks[0].qkv.weight
    back = np.array(mx.dequantize(codes, scales, offsets, group_size=32, bits=8))
    exact = WEIGHTS.tensor("block.0.attn.qkv.weight").astype(np.float32)
    assert (np.abs(back - exact).reshape(-1, 32) <= 0.51 * np.abs(np.array(scales)).reshape(-1, 1)).mean() > 0.99


def test_balanced_needs_columns_in_groups() -> None:
    config = replace(TINY, num_attention_heads=3, num_key_value_heads=3, head_dim=10)
    with pytest.raises(ConfigError, match="30 columns of attention are no multiple of 32"):
        open_model(RandomWeights(config), precision="balanced", cache_tokens=32)


@pytest.mark.parametrize("precision", ["float32", "balanced"])
def test_compiling_changes_next_to_nothing(precision: str) -> None:
    opened = [
        open_model(WEIGHTS, cache_tokens=320, precision=precision, compiled=compiled) for compiled in (False, True)
    ]
    plain, compiled = (SingleSequence(m, 1).forward(TOKENS[:5], logits=None) for m in opened)
    np.testing.assert_allclose(compiled, plain, atol=1e-5)
    block = np.zeros(1, np.int32)
    for draw in (Draw(1.0, 12), Draw(0.0, 12)):
        chunk = Chunk(TOKENS[:3].astype(np.int32), 0, block, block, 1, draw)
        assert len({m.forward([chunk]).sample(0, draw.temperature, 12, 3) for m in opened}) == 1


def test_more_rows_than_experts_are_sorted_and_come_back_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = logits_of(WEIGHTS, TOKENS[:20])
    monkeypatch.setattr(network, "SORTED_ROWS", 1)
    np.testing.assert_allclose(logits_of(WEIGHTS, TOKENS[:20]), plain, atol=1e-5)


def test_attention_in_small_spans_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = logits_of(WEIGHTS)
    monkeypatch.setattr("gpt_oss.backends.metal.cache.SCORES_AT_ONCE", 300 * TINY.num_attention_heads * 7)
    monkeypatch.setattr("gpt_oss.backends.metal.cache.WINDOW_QUERIES", 11)
    np.testing.assert_allclose(logits_of(WEIGHTS), plain, atol=1e-5)


def test_places_are_slices_where_blocks_follow_each_other() -> None:
    config = replace(TINY, sliding_window=5)
    chunk = Chunk(np.zeros(2, np.int32), 8, np.array([4, 5, 6], np.int32), np.array([FREED, 9, 2], np.int32))
    full = places_of([chunk], config, 4, windowed=False)
    assert (full.written.first, full.written.count) == (6 * 4, 2)
    (span,) = full.spans
    assert (span.keys.first, span.keys.count, span.mask) == (4 * 4, 10, "causal")
    windowed = places_of([chunk], config, 4, windowed=True)
    assert (windowed.written.first, windowed.written.count) == (2 * 4, 2)
    (span,) = windowed.spans
    assert np.array(span.keys.numbers).tolist() == [36, 37, 38, 39, 8, 9]
    assert np.array(span.mask).astype(int).tolist() == [[1, 1, 1, 1, 1, 0], [0, 1, 1, 1, 1, 1]]


# ---- under the engine ---------------------------------------------------------------------------------------------


def answers(backend_model: object, prompts: list[list[int]], params: list[SamplingParams]) -> list[list[int]]:
    """All prompts at once, each from a thread of its own."""
    engine = Engine(backend_model, EngineConfig(max_prompt_tokens=128))  # type: ignore[arg-type]
    found: dict[int, list[int]] = {}

    def ask(number: int) -> None:
        found[number] = [token.id for token in engine.generate_sync(prompts[number], params[number])]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    engine.close()
    return [found[number] for number in range(len(prompts))]


def test_answers_of_many_at_once_are_those_of_torch() -> None:
    """Prompts of several lengths, some with a common beginning; greedy, drawn, filtered: the same tokens."""
    rng = np.random.default_rng(8)
    common = rng.integers(0, TINY.vocab_size, 150).tolist()
    prompts = [rng.integers(0, TINY.vocab_size, length).tolist() for length in (3, 40, 200)]
    prompts += [[*common, 7, 8], [*common, 9]]
    sampled = SamplingParams(temperature=1.0, seed=4, max_tokens=12)
    params = [
        replace(sampled, temperature=0.0),
        sampled,
        replace(sampled, seed=5),
        replace(sampled, top_p=0.7),
        sampled,
    ]
    ours = answers(open_model(WEIGHTS, cache_tokens=2048), prompts, params)
    torch_model = torch_backend.open_model(WEIGHTS, dtype="float32", device="cpu", cache_tokens=2048)
    assert ours == answers(torch_model, prompts, params)
    assert all(len(answer) == 12 for answer in ours)


def test_a_small_cache_is_used_again_and_again() -> None:
    """Two sequences that do not fit side by side: blocks move, rows are gathered, answers stay."""
    prompts = [np.random.default_rng(seed).integers(0, TINY.vocab_size, 90).tolist() for seed in range(4)]
    params = [SamplingParams(temperature=1.0, seed=seed, max_tokens=20) for seed in range(4)]
    roomy = answers(open_model(WEIGHTS, cache_tokens=4096), prompts, params)
    assert answers(open_model(WEIGHTS, cache_tokens=160), prompts, params) == roomy


@pytest.fixture(scope="module")
def demo_answer() -> list[int]:
    """Of torch in float32, greedy."""
    with open_checkpoint(demo_folder()) as checkpoint:
        torch_model = torch_backend.open_model(checkpoint, dtype="float32", device="cpu", cache_tokens=512)
    return greedy(Engine(torch_model))


def greedy(engine: object) -> list[int]:
    params = SamplingParams(temperature=0.0, max_tokens=24, stop_token_ids=(RETURN,))
    tokens = [token.id for token in engine.generate_sync(chat_prompt("hello"), params)]  # type: ignore[attr-defined]
    engine.close()  # type: ignore[attr-defined]
    return tokens


def test_the_demo_model_answers_as_with_torch(demo_answer: list[int]) -> None:
    generator = load("demo", LoadOptions(backend="metal", context_tokens=512))
    assert generator.name == "metal (float32 on cpu)"
    assert greedy(generator) == demo_answer


# ---- memory, and what else can go wrong ---------------------------------------------------------------------------


@pytest.fixture
def opened() -> Iterator[model.MetalModel]:
    yield (opened := open_model(WEIGHTS, cache_tokens=64))
    opened.close()


def chunk_of(tokens: int, position: int = 0) -> Chunk:
    blocks = np.arange(-(-(position + tokens) // 32), dtype=np.int32)
    return Chunk(np.zeros(tokens, np.int32), position, blocks, blocks)


def cache_tokens(free_bytes: int) -> int:
    return 32 * model._cache_size(WEIGHTS, mx.float32, None, free_bytes).blocks


def test_the_cache_takes_the_longest_context_or_half_of_the_memory() -> None:
    weights = model.weights_bytes(TINY, True, mx.float32)
    layer_bytes = 2 * TINY.num_key_value_heads * TINY.head_dim * 4  # of a token
    assert cache_tokens(10**12) == TINY.max_context
    # One layer of full attention, and a windowed one with half as many blocks.
    assert cache_tokens(weights + 64_000 * layer_bytes) == pytest.approx(64_000 / 2 / 1.5, abs=64)
    assert cache_tokens(weights + 9_000 * layer_bytes) == 4096  # too little is of no use
    with pytest.raises(BackendError, match=r"a cache of 4096 tokens 0\.\d GB, and cpu has 0\.\d GB") as caught:
        cache_tokens(weights + 8_000 * layer_bytes)
    assert caught.value.hint is not None
    with pytest.raises(BackendError, match=r"a cache of 1000000000 tokens 384\.0 GB"):
        open_model(WEIGHTS, cache_tokens=10**9)


@pytest.mark.parametrize("precision", ["float32", "balanced"])
def test_weights_bytes_is_what_the_arrays_take(precision: str) -> None:
    weights = open_model(WEIGHTS, precision=precision, cache_tokens=32)._parts[0].weights

    def arrays(value: object) -> list[mx.array]:
        if isinstance(value, mx.array):
            return [value]
        return [array for child in value for array in arrays(child)] if isinstance(value, (list, tuple)) else []

    every = arrays([list(weights.blocks), weights.norm, weights.unembedding])
    held = sum(array.nbytes for array in every)
    expected = model.weights_bytes(TINY, True, mx.float32, int8=precision == "balanced")
    assert expected == pytest.approx(held, rel=0.01)


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ParameterError, match="bf16, float32, balanced, not 'int8'"):
        open_model(WEIGHTS, precision="int8")
    with pytest.raises(ParameterError, match="cache_tokens must be 1 or more"):
        open_model(WEIGHTS, cache_tokens=0)
    with pytest.raises(ParameterError, match="int8 keys and values need the cpu backend"):
        load("demo", LoadOptions(backend="metal", kv="int8"))


def test_a_sequence_past_the_cache_is_refused(opened: model.MetalModel) -> None:
    opened.forward([chunk_of(64)])
    with pytest.raises(ContextOverflowError, match="65 tokens does not fit into 64"):
        opened.forward([chunk_of(1, position=64)])


def test_cached_data_of_another_shape_is_refused(opened: model.MetalModel) -> None:
    blocks = np.arange(2, dtype=np.int32)
    data = opened.read_cache(blocks, blocks[:1])
    assert len(data) == 3 * 32 * 2 * TINY.num_key_value_heads * TINY.head_dim * 4  # of one layer of either kind
    with pytest.raises(BackendError, match=f"{len(data)} bytes of cached keys and values"):
        opened.write_cache(blocks, blocks, data)
    opened.write_cache(blocks, blocks[:1], data)
    assert opened.read_cache(blocks[:0], blocks[:0]) == b""


def test_a_failure_of_mlx_is_a_backend_error(opened: model.MetalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("[metal::malloc] Attempting to allocate too much")

    monkeypatch.setattr(network, "attention", fail)
    with pytest.raises(BackendError, match=r"a forward pass of 2 tokens: .*too much"):
        opened.forward([chunk_of(2)])


def test_a_closed_model_says_so(opened: model.MetalModel) -> None:
    opened.close()
    opened.close()
    with pytest.raises(BackendError, match="closed"):
        opened.forward([chunk_of(2)])
