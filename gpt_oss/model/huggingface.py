"""The Hugging Face layout: config.json of `model_type: gpt_oss`, shards with an index, and names of its own.

Against the canonical tensors: q, k and v lie apart, norm scales are bf16, and the experts of a dequantised fine-tune
are bf16 and transposed ([experts, in, out]). The authority is transformers' models/gpt_oss.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gpt_oss.model.config import ModelConfig, huggingface_json, load_config
from gpt_oss.model.layout import Checkpoint, Read, concatenated, stored
from gpt_oss.model.safetensors_file import INDEX_NAME, open_shards, write_safetensors
from gpt_oss.model.tensors import BF16, F32, Array, TensorSpec, Weights, canonical_tensors, chunks

SHARD_BYTES = 5_000_000_000

_OUTSIDE_BLOCKS = {
    "embedding.weight": "model.embed_tokens.weight",
    "norm.scale": "model.norm.weight",
    "unembedding.weight": "lm_head.weight",
}
_IN_BLOCK = {
    "attn.norm.scale": "input_layernorm.weight",
    "attn.sinks": "self_attn.sinks",
    "attn.out.weight": "self_attn.o_proj.weight",
    "attn.out.bias": "self_attn.o_proj.bias",
    "mlp.norm.scale": "post_attention_layernorm.weight",
    "mlp.gate.weight": "mlp.router.weight",
    "mlp.gate.bias": "mlp.router.bias",
    "mlp.mlp1_weight.blocks": "mlp.experts.gate_up_proj_blocks",
    "mlp.mlp1_weight.scales": "mlp.experts.gate_up_proj_scales",
    "mlp.mlp1_weight": "mlp.experts.gate_up_proj",
    "mlp.mlp1_bias": "mlp.experts.gate_up_proj_bias",
    "mlp.mlp2_weight.blocks": "mlp.experts.down_proj_blocks",
    "mlp.mlp2_weight.scales": "mlp.experts.down_proj_scales",
    "mlp.mlp2_weight": "mlp.experts.down_proj",
    "mlp.mlp2_bias": "mlp.experts.down_proj_bias",
}


@dataclass(frozen=True)
class _Part:
    """Rows start..stop of a canonical tensor, under the name and with the shape that they have in this layout."""

    name: str
    spec: TensorSpec
    start: int
    stop: int
    transposed: bool = False


def open_huggingface(folder: Path) -> Checkpoint:
    """Raises ConfigError and CheckpointError before any weight is read."""
    config = load_config(folder / "config.json")
    shards = open_shards(folder)
    quantized = "model.layers.0.mlp.experts.gate_up_proj" not in shards

    def reader(name: str, spec: TensorSpec) -> Read:
        parts = _parts(name, spec, config)
        reads = [(part.stop - part.start, stored(folder, shards, part.name, part.spec)) for part in parts]
        if parts[0].transposed:
            (_, read), *_ = reads
            return lambda index: read(()).swapaxes(1, 2)[index]
        return reads[0][1] if len(reads) == 1 else concatenated(reads)

    readers = {name: reader(name, spec) for name, spec in canonical_tensors(config, quantized).items()}
    return Checkpoint(folder, "huggingface", config, quantized, readers)


def write_huggingface(folder: Path, weights: Weights, shard_bytes: int = SHARD_BYTES) -> Iterator[int]:
    """Write config.json, generation_config.json and the shards into a folder; yields bytes as they are written.

    More than one shard come with an index. Nothing of the tokenizer: transformers takes it from the released model.
    """
    config = weights.config
    _write_json(folder / "config.json", huggingface_json(config, quantized=weights.quantized))
    _write_json(folder / "generation_config.json", _generation_config(config))
    parts = [
        (name, spec, _stored_as_bf16(part))
        for name, spec in canonical_tensors(config, weights.quantized).items()
        for part in _parts(name, spec, config)
    ]

    shards: list[list[tuple[str, TensorSpec, _Part]]] = [[]]
    size_bytes = 0
    for entry in parts:
        part_bytes = entry[2].spec.size_bytes
        if shards[-1] and size_bytes + part_bytes > shard_bytes:
            shards.append([])
            size_bytes = 0
        shards[-1].append(entry)
        size_bytes += part_bytes

    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file_name = f"model-{number:05}-of-{len(shards):05}.safetensors" if len(shards) > 1 else "model.safetensors"
        tensors = ((part.name, part.spec, _part_chunks(weights, name, spec, part)) for name, spec, part in shard)
        yield from write_safetensors(folder / file_name, tensors, metadata={"format": "pt"})
        weight_map |= {part.name: file_name for _, _, part in shard}
    if len(shards) > 1:
        total = sum(part.spec.size_bytes for _, _, part in parts)
        _write_json(folder / INDEX_NAME, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _parts(name: str, spec: TensorSpec, config: ModelConfig) -> list[_Part]:
    """Where a canonical tensor lies in this layout: in one tensor, or as q | k | v in three."""
    rows, *row = spec.shape
    if name in _OUTSIDE_BLOCKS:
        return [_Part(_OUTSIDE_BLOCKS[name], spec, 0, rows)]
    _, layer, rest = name.split(".", 2)
    prefix = f"model.layers.{layer}"
    if rest in ("mlp.mlp1_weight", "mlp.mlp2_weight"):
        experts, out_size, in_size = spec.shape
        stored_spec = TensorSpec((experts, in_size, out_size), spec.dtype)
        return [_Part(f"{prefix}.{_IN_BLOCK[rest]}", stored_spec, 0, rows, transposed=True)]
    if not rest.startswith("attn.qkv."):
        return [_Part(f"{prefix}.{_IN_BLOCK[rest]}", spec, 0, rows)]
    kind = rest.removeprefix("attn.qkv.")  # weight or bias
    q_end = config.num_attention_heads * config.head_dim
    k_end = q_end + config.num_key_value_heads * config.head_dim
    return [
        _Part(f"{prefix}.self_attn.{letter}_proj.{kind}", TensorSpec((stop - start, *row), spec.dtype), start, stop)
        for letter, start, stop in (("q", 0, q_end), ("k", q_end, k_end), ("v", k_end, rows))
    ]


def _stored_as_bf16(part: _Part) -> _Part:
    return replace(part, spec=replace(part.spec, dtype=BF16)) if part.spec.dtype == F32 else part


def _part_chunks(weights: Weights, name: str, spec: TensorSpec, part: _Part) -> Iterable[Array]:
    for chunk in chunks(weights, name, spec, part.start, part.stop):
        yield (chunk.swapaxes(1, 2) if part.transposed else chunk).astype(part.spec.dtype, copy=False)


def _generation_config(config: ModelConfig) -> dict[str, Any]:
    tokens = {"bos_token_id": 199998, "eos_token_id": [200002, 199999, 200012], "pad_token_id": 199999}
    return {"do_sample": True, **(tokens if config.vocab_size > 200012 else {})}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
