"""The recipe, in small: examples drawn once, two steps, a compact file; and tables that begin by spelling."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gpt_oss.demo import train as recipe
from gpt_oss.demo.data import examples
from gpt_oss.demo.train import COMMON, CONFIG, Draw, Stage, drawn, save, train
from gpt_oss.demo.wiring import wire
from gpt_oss.model.compact import CompactWeights
from gpt_oss.training.network import Network
from gpt_oss.vocabulary import encode_ordinary


def test_examples_are_drawn_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = Draw("few", seed=3, cases=12, shares={"greet": 1, "json": 1})
    made = examples(3, 12, shares={"greet": 1, "json": 1})
    first = drawn(tmp_path, draw)
    monkeypatch.setattr(recipe, "examples", lambda *_, **__: pytest.fail("drawn again"))
    for each in (first, drawn(tmp_path, draw)):
        assert len(each) == len(made)
        for a, b in zip(each, made, strict=True):
            assert np.array_equal(a.tokens, b.tokens)
            assert np.array_equal(a.targets, b.targets)


def test_two_steps_make_a_file_that_opens(tmp_path: Path) -> None:
    options = replace(COMMON, pack_tokens=2048, steps=2, evaluate_every=0, save_every=0)
    config = replace(CONFIG, hidden_size=64, intermediate_size=32, num_hidden_layers=2, head_dim=32)
    network = train(tmp_path, (Stage("one", {"greet": 1}, 20, options),), config)
    weights = CompactWeights(save(network, tmp_path / "demo.safetensors"))
    assert weights.config == config
    assert list(weights.vocabulary) == network.vocabulary
    stored = weights.tensor("embedding.weight")[network.vocabulary].astype(np.float32)
    torch.testing.assert_close(torch.from_numpy(stored), network.embedding.weight[:-1].detach(), rtol=0.01, atol=0.01)


def test_tokens_of_the_same_letters_begin_alike() -> None:
    (spaced,), (bare,), (other,) = (encode_ordinary(text) for text in (" garden", "garden", " window"))
    network = Network(CONFIG, vocabulary=[spaced, bare, other])
    wire(network, seed=1)
    for table in (network.embedding.weight, network.unembedding.weight):
        row = dict(zip(network.vocabulary or (), table.detach(), strict=False))
        likeness = torch.nn.functional.cosine_similarity
        assert likeness(row[spaced], row[bare], dim=0) > 0.4 > likeness(row[spaced], row[other], dim=0)
