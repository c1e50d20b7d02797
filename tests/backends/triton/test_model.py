"""The triton backend as a Model: against the torch backend on the same files, and under the engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from openai_harmony import Message, Role

from gpt_oss.backends import torch as torch_backend
from gpt_oss.backends.base import Chunk, Draw, Model
from gpt_oss.backends.sequence import SingleSequence
from gpt_oss.backends.torch.weights import Share
from gpt_oss.backends.triton import TritonModel, open_model
from gpt_oss.backends.triton.memory import sizes_that_fit
from gpt_oss.engine.engine import Engine, EngineConfig
from gpt_oss.errors import BackendError, ConfigError, ContextOverflowError, ParameterError
from gpt_oss.harmony import Conversation, render_prompt
from gpt_oss.load import LoadOptions, load
from gpt_oss.model.checkpoint import open_checkpoint
from gpt_oss.model.compact import DEMO_FILE, CompactWeights
from gpt_oss.model.config import ModelConfig
from gpt_oss.model.factory import RandomWeights
from gpt_oss.params import SamplingParams
from tests.conftest import TINY
from tests.parity import processes

WEIGHTS = RandomWeights(TINY, seed=5)
TOKENS = np.random.default_rng(5).integers(0, TINY.vocab_size, 300)
NEAR = 1e-4  # of logits with a deviation of 2.5, both in float32


@pytest.fixture(scope="module")
def model(device: str) -> Iterator[TritonModel]:
    opened = open_model(WEIGHTS, dtype="float32", device=device, cache_tokens=1024)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def right() -> np.ndarray:
    """Logits [300, vocab] of the torch backend."""
    opened = torch_backend.open_model(WEIGHTS, dtype="float32", device="cpu", cache_tokens=1024)
    return SingleSequence(opened).forward(TOKENS, logits=None)


def test_a_prompt_at_once(model: TritonModel, right: np.ndarray) -> None:
    np.testing.assert_allclose(SingleSequence(model).forward(TOKENS, logits=None), right, atol=NEAR)


def test_the_demo_model(device: str) -> None:
    """A trained network, whose logits are far apart: the same and the same winners as the torch backend's."""
    weights = CompactWeights(DEMO_FILE)
    prompt = render_prompt(Conversation([Message.from_role_and_content(Role.USER, "What is 4821 * 377?")]))
    ours = open_model(weights, dtype="float32", device=device, cache_tokens=256)
    theirs = torch_backend.open_model(weights, dtype="float32", device="cpu", cache_tokens=256)
    logits, right = (SingleSequence(each).forward(np.array(prompt), logits=None) for each in (ours, theirs))
    np.testing.assert_allclose(logits, right, atol=1e-3)
    assert np.array_equal(logits.argmax(1), right.argmax(1))
    ours.close()


def test_a_prompt_in_pieces_then_token_by_token(model: TritonModel, right: np.ndarray) -> None:
    """Pieces that are few tokens (a graph on a GPU) and many, across the window's edge at 128."""
    sequence = SingleSequence(model)
    ends = (5, 70, 127, 128, 129, 200, 280)
    for first, end in zip((0, *ends), ends, strict=False):
        np.testing.assert_allclose(sequence.forward(TOKENS[first:end])[-1], right[end - 1], atol=NEAR)
    for position in range(280, 284):
        np.testing.assert_allclose(sequence.forward(TOKENS[position : position + 1])[0], right[position], atol=NEAR)


@pytest.mark.parametrize("layout", ["original", "huggingface", "metal"])
def test_every_layout(tiny_checkpoints: dict[str, Path], layout: str, device: str) -> None:
    def logits(open_it: object) -> np.ndarray:
        with open_checkpoint(tiny_checkpoints[layout]) as checkpoint:
            opened: Model = open_it(checkpoint, dtype="float32", device=device, cache_tokens=64)  # type: ignore[operator]
            return SingleSequence(opened).forward(TOKENS[:20], logits=None)

    np.testing.assert_allclose(logits(open_model), logits(torch_backend.open_model), atol=NEAR)


def test_sequences_of_a_batch_do_not_touch_each_other(model: TritonModel, right: np.ndarray) -> None:
    """A prompt, an answer under way and a verified draft in one step, their blocks all over the pool."""
    blocks = np.random.default_rng(1).permutation(model.cache_blocks).astype(np.int32)
    starts, ends = (0, 129, 40), (100, 130, 46)
    tables = [blocks[8 * i : 8 * i + 8] for i in range(3)]

    def chunk(which: int, first: int, end: int, logits: int) -> Chunk:
        return Chunk(TOKENS[first:end].astype(np.int32), first, tables[which], tables[which], logits)

    model.forward([chunk(which, 0, start, 0) for which, start in enumerate(starts) if start])
    batch = [chunk(which, starts[which], ends[which], n) for which, n in enumerate((1, 1, 3))]
    logits = model.forward(batch).numpy()
    np.testing.assert_allclose(logits, right[[99, 129, 43, 44, 45]], atol=NEAR)


def test_tokens_drawn_in_the_same_step_are_those_drawn_later(model: TritonModel) -> None:
    blocks = np.arange(2, dtype=np.int32)
    drawn = []
    for draw in (Draw(0.8, 123), None):
        chunk = Chunk(TOKENS[:40].astype(np.int32), 0, blocks, blocks, 3, draw)
        logits = model.forward([chunk])
        assert isinstance(logits.sample(0, 0.0, 0, 0), int)
        drawn.append([logits.sample(row, 0.8, 123, 38 + row) for row in range(3)])
    assert drawn[0] == drawn[1]


def test_cached_keys_and_values_go_out_and_come_back(model: TritonModel, right: np.ndarray) -> None:
    sequence = SingleSequence(model)
    sequence.forward(TOKENS[:64], logits=0)
    blocks = np.arange(2, dtype=np.int32)
    kept = model.read_cache(blocks, blocks)
    sequence.rewind(0)
    sequence.forward(TOKENS[:64][::-1], logits=0)
    model.write_cache(blocks, blocks, kept)
    sequence.rewind(64)
    np.testing.assert_allclose(sequence.forward(TOKENS[64:70]), right[[69]], atol=NEAR)
    with pytest.raises(BackendError, match="do not fill"):
        model.write_cache(blocks, blocks, kept[1:])


def test_under_the_engine_it_says_what_torch_says(device: str) -> None:
    """Several requests at once, one with the prefix of another, greedy and drawn."""
    prompts = [TOKENS[:50].tolist(), [*TOKENS[:40].tolist(), 7, 8, 9], [3, 1, 4]]
    params = [SamplingParams(temperature=t, seed=s, max_tokens=6) for t, s in ((0, None), (1.0, 5), (0.7, 6))]
    said = []
    for open_it in (open_model, torch_backend.open_model):
        engine = Engine(open_it(WEIGHTS, dtype="float32", device=device, cache_tokens=512), EngineConfig())
        streams = [engine.generate_sync(p, q) for p, q in zip(prompts, params, strict=True)]
        said.append([[token.id for token in stream] for stream in streams])
        engine.close()
    assert said[0] == said[1]


def test_two_processes_share_it(tiny_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    tokens = TOKENS[:132]  # what is copied out and in again is 128 long
    shared = processes.run(tiny_checkpoints["original"], tokens, tmp_path, backend="triton")
    with open_checkpoint(tiny_checkpoints["original"]) as checkpoint:
        opened = torch_backend.open_model(checkpoint, dtype="float32", device="cpu", cache_tokens=256)
        right = SingleSequence(opened).forward(tokens, logits=None)
    np.testing.assert_allclose(shared["logits"], right, atol=NEAR)
    np.testing.assert_allclose(shared["resumed"], right[128:], atol=NEAR)


def test_it_is_a_backend_by_name(tiny_checkpoints: dict[str, Path]) -> None:
    generator = load(tiny_checkpoints["original"], LoadOptions(backend="triton", context_tokens=128))
    assert generator.name.startswith("triton (")
    assert len(list(generator.generate_sync([1, 2, 3], SamplingParams(max_tokens=3)))) == 3
    generator.close()


# ---- what cannot be -------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused_with_figures() -> None:
    config = ModelConfig()
    share = Share(config, 0, 1)
    sizes = sizes_that_fit(config, share, torch.bfloat16, 80_000_000_000, None)
    assert sizes.cache_tokens == 4 * config.max_context
    with pytest.raises(BackendError, match=r"the weights take 1\d\.\d GB, .* the GPU has 8\.0 GB free"):
        sizes_that_fit(config, share, torch.bfloat16, 8_000_000_000, None)
    small = sizes_that_fit(config, share, torch.bfloat16, 16_000_000_000, 8192)
    assert small.cache_tokens == 8192


def test_bad_requests(model: TritonModel, device: str) -> None:
    with pytest.raises(ParameterError, match="outside the model's vocabulary"):
        SingleSequence(model).forward(np.array([TINY.vocab_size]))
    blocks = np.zeros(40, np.int32)
    with pytest.raises(ContextOverflowError, match="does not fit"):
        model.forward([Chunk(np.zeros(1, np.int32), 1100, blocks, blocks)])
    with pytest.raises(ParameterError, match="precision"):
        open_model(WEIGHTS, dtype="float16", device=device)
    with pytest.raises(ParameterError, match="cache_tokens"):
        open_model(WEIGHTS, dtype="float32", device=device, cache_tokens=0)
    odd = RandomWeights(ModelConfig(**{**vars(TINY), "head_dim": 24}), seed=1)
    with pytest.raises(ConfigError, match="head_dim"):
        open_model(odd, dtype="float32", device=device)
