"""The `original/` layout: config.json with flat fields, and safetensors under the canonical names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from gpt_oss.model.config import load_config, original_json
from gpt_oss.model.layout import Checkpoint, stored
from gpt_oss.model.safetensors_file import dtype_name, open_shards, write_safetensors
from gpt_oss.model.tensors import Weights, canonical_tensors, chunks


def open_original(folder: Path) -> Checkpoint:
    """Raises ConfigError and CheckpointError before any weight is read."""
    config = load_config(folder / "config.json")
    shards = open_shards(folder)
    quantized = "block.0.mlp.mlp1_weight" not in shards
    readers = {name: stored(folder, shards, name, spec) for name, spec in canonical_tensors(config, quantized).items()}
    return Checkpoint(folder, "original", config, quantized, readers)


def write_original(folder: Path, weights: Weights) -> Iterator[int]:
    """Write config.json, dtypes.json and model.safetensors into a folder; yields bytes as they are written."""
    specs = canonical_tensors(weights.config, weights.quantized)
    dtypes = {name: _kind(name, dtype_name(spec.dtype)) for name, spec in specs.items()}
    (folder / "config.json").write_text(json.dumps(original_json(weights.config), indent=2) + "\n")
    (folder / "dtypes.json").write_text(json.dumps(dtypes, indent=2) + "\n")
    tensors = ((name, spec, chunks(weights, name, spec)) for name, spec in specs.items())
    yield from write_safetensors(folder / "model.safetensors", tensors)


def _kind(name: str, dtype: str) -> str:
    """The released dtypes.json says what the bytes of MXFP4 tensors are."""
    return {"blocks": "FP4", "scales": "UE8"}.get(name.rsplit(".", 1)[-1], dtype)
