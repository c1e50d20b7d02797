"""The compact file: expands to what was stored, with one row for every token that has none of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gpt_oss.errors import CheckpointError
from gpt_oss.model import compact, mxfp4
from gpt_oss.model.checkpoint import open_checkpoint
from gpt_oss.model.compact import CompactWeights, demo_folder, write_compact
from gpt_oss.model.config import ModelConfig
from gpt_oss.model.convert import write_checkpoint
from gpt_oss.model.tensors import BF16, canonical_tensors

CONFIG = ModelConfig(
    num_hidden_layers=2, num_experts=4, experts_per_token=2, vocab_size=100, hidden_size=32, intermediate_size=32,
    head_dim=8, num_attention_heads=4, num_key_value_heads=2,
)  # fmt: skip
VOCABULARY = [3, 5, 99]


@pytest.fixture
def tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {name: spec.shape for name, spec in canonical_tensors(CONFIG, quantized=False).items()}
    shapes |= dict.fromkeys(compact.TABLES, (len(VOCABULARY) + 1, CONFIG.hidden_size))
    return {name: rng.standard_normal(shape).astype(BF16) for name, shape in shapes.items()}


@pytest.mark.parametrize("layout", ["huggingface", "original"])
@pytest.mark.parametrize("quantized", [True, False])
def test_it_expands_to_an_ordinary_checkpoint(
    tensors: dict[str, np.ndarray], tmp_path: Path, layout: str, quantized: bool
) -> None:
    file = write_compact(tmp_path / "tiny.safetensors", CONFIG, VOCABULARY, tensors)
    weights = CompactWeights(file, quantized=quantized)
    with open_checkpoint(write_checkpoint(tmp_path / "out", weights, layout)) as checkpoint:  # type: ignore[arg-type]
        assert checkpoint.config == CONFIG
        table = checkpoint.tensor("embedding.weight")
        assert np.array_equal(table[VOCABULARY], tensors["embedding.weight"][:3])
        assert all(np.array_equal(table[token], tensors["embedding.weight"][3]) for token in (0, 4, 98))
        name = "block.1.mlp.mlp1_weight"
        if quantized:
            blocks, scales = mxfp4.encode(tensors[name])
            assert np.array_equal(checkpoint.tensor(f"{name}.blocks"), blocks)
            assert np.array_equal(checkpoint.tensor(f"{name}.scales", (slice(1, 2),)), scales[1:2])
        else:
            assert np.array_equal(checkpoint.tensor(name), tensors[name])


def test_a_file_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")
    with pytest.raises(CheckpointError, match="no compact checkpoint"):
        CompactWeights(tmp_path / "x.safetensors")
    monkeypatch.setattr(compact, "DEMO_FILE", tmp_path / "missing")
    with pytest.raises(CheckpointError, match="not part of this installation"):
        demo_folder()
