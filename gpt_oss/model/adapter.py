"""LoRA adapters in PEFT's file format, and weights with an adapter merged into them. Knows nothing of training.

adapter_config.json holds rank and alpha; adapter_model.safetensors holds, under the names that PEFT gives to
transformers' GptOss modules, A [rank, in] and B [out, rank] of q, k, v and o, and for the experts A [experts * rank,
in] and B [out, rank * experts], in which the expert is the faster index (peft's ParamWrapper; read from files of peft
0.21). The merged weight is W + alpha / rank * B A.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt_oss.errors import CheckpointError
from gpt_oss.model import mxfp4
from gpt_oss.model.checkpoint import open_checkpoint
from gpt_oss.model.config import ModelConfig, read_json
from gpt_oss.model.convert import write_checkpoint
from gpt_oss.model.layout import Checkpoint
from gpt_oss.model.safetensors_file import SafetensorsFile, write_safetensors
from gpt_oss.model.tensors import BF16, Array, Index, TensorSpec, Weights, canonical_tensors

CONFIG_FILE, TENSORS_FILE = "adapter_config.json", "adapter_model.safetensors"
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
# In this order peft nests its wrappers: the last is the outermost, the first is its base layer.
EXPERTS = ("gate_up_proj", "down_proj")
_PREFIX = "base_model.model.model.layers"
_EXPERT_PATHS = {"gate_up_proj": "mlp.experts.base_layer", "down_proj": "mlp.experts"}
Float = NDArray[np.float32]


@dataclass(frozen=True)
class LowRank:
    """a: float32 [rank, in] or [experts, rank, in]. b: float32 [out, rank] or [experts, out, rank]."""

    a: Float
    b: Float


@dataclass(frozen=True)
class Adapter:
    """parts: by (layer, projection), the projections of ATTENTION and EXPERTS. Any may be missing.

    Outputs of gate_up_proj are interleaved, gate before up, as the released weights are.
    """

    rank: int
    alpha: float
    parts: Mapping[tuple[int, str], LowRank]
    base: str = ""

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


def read_adapter(folder: str | Path, config: ModelConfig) -> Adapter:
    """Raises CheckpointError for a folder that holds no adapter, one of another kind, or one of another model."""
    folder = Path(folder)
    if not (folder / CONFIG_FILE).is_file():
        raise CheckpointError(f"{folder} holds no adapter: it has no {CONFIG_FILE}")
    settings = read_json(folder / CONFIG_FILE)
    _check_kind(folder, settings)
    file = SafetensorsFile(folder / TENSORS_FILE)
    parts: dict[tuple[int, str], LowRank] = {}
    left = set(file.tensors)
    for layer in range(config.num_hidden_layers):
        for name in (*ATTENTION, *EXPERTS):
            path = _path(layer, name)
            names = [f"{path}.lora_{side}.weight" for side in "AB"]
            if not left.issuperset(names):
                continue
            left -= set(names)
            a, b = (file.array(tensor).astype(np.float32) for tensor in names)
            parts[layer, name] = _unpacked(folder, config, name, settings["r"], a, b)
    if left:
        raise CheckpointError(
            f"{folder} has a tensor {sorted(left)[0]!r} that no gpt-oss of this shape has a place for"
        )
    return Adapter(settings["r"], settings["lora_alpha"], parts, settings.get("base_model_name_or_path") or "")


def _check_kind(folder: Path, settings: Mapping[str, Any]) -> None:
    if settings.get("peft_type") != "LORA" or not isinstance(settings.get("r"), int):
        raise CheckpointError(f"{folder} is no LoRA adapter: its peft_type is {settings.get('peft_type')!r}")
    for field in ("use_dora", "use_rslora", "lora_bias", "modules_to_save", "rank_pattern", "alpha_pattern"):
        if settings.get(field):
            raise CheckpointError(f"{folder} uses {field}, which is not supported")


def _unpacked(folder: Path, config: ModelConfig, name: str, rank: int, a: Float, b: Float) -> LowRank:
    inputs, outputs = sizes(config, name)
    experts = config.num_experts if name in EXPERTS else 1
    wanted = (experts * rank, inputs), (outputs, rank * experts)
    if (a.shape, b.shape) != wanted:
        raise CheckpointError(f"{folder}: {name} is {a.shape} and {b.shape}, not {wanted[0]} and {wanted[1]}")
    if name in ATTENTION:
        return LowRank(a, b)
    return LowRank(a.reshape(experts, rank, inputs), b.reshape(outputs, rank, experts).transpose(2, 0, 1))


def write_adapter(folder: str | Path, adapter: Adapter) -> Path:
    """Write both files; returns the folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    stored: dict[str, Array] = {}
    for (layer, name), part in sorted(adapter.parts.items()):
        a, b = part.a, part.b
        if name in EXPERTS:
            a = a.reshape(-1, a.shape[-1])
            b = b.transpose(1, 2, 0).reshape(b.shape[1], -1)
        stored[f"{_path(layer, name)}.lora_A.weight"] = np.ascontiguousarray(a, np.float32)
        stored[f"{_path(layer, name)}.lora_B.weight"] = np.ascontiguousarray(b, np.float32)
    used = {name for _, name in adapter.parts}
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": adapter.base or None,
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
        "target_modules": [name for name in ATTENTION if name in used],
        "target_parameters": [f"mlp.experts.{name}" for name in EXPERTS if name in used] or None,
    }
    partial = folder / f".{TENSORS_FILE}.partial"
    entries = [(name, TensorSpec(array.shape, array.dtype), [array]) for name, array in stored.items()]
    for _ in write_safetensors(partial, entries, metadata={"format": "pt"}):
        pass
    partial.replace(folder / TENSORS_FILE)
    (folder / CONFIG_FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return folder


def _path(layer: int, name: str) -> str:
    return f"{_PREFIX}.{layer}." + (f"self_attn.{name}" if name in ATTENTION else _EXPERT_PATHS[name])


def sizes(config: ModelConfig, name: str) -> tuple[int, int]:
    """(inputs, outputs) of a projection."""
    hidden, inter = config.hidden_size, config.intermediate_size
    heads, kv_heads = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    return {
        "q_proj": (hidden, heads),
        "k_proj": (hidden, kv_heads),
        "v_proj": (hidden, kv_heads),
        "o_proj": (heads, hidden),
        "gate_up_proj": (hidden, 2 * inter),
        "down_proj": (inter, hidden),
    }[name]


# ---- merging --------------------------------------------------------------------------------------------------------


class MergedWeights:
    """A checkpoint's weights with an adapter added, as `Weights`; one tensor at a time, so nothing is there twice.

    quantized: experts encoded as MXFP4 again, which rounds what was added to them; else bf16.
    """

    def __init__(self, base: Weights, adapter: Adapter, *, quantized: bool) -> None:
        self.config = base.config
        self.quantized = quantized
        self._base = base
        self._adapter = adapter
        self._specs = canonical_tensors(base.config, quantized)
        self._encoded = lru_cache(maxsize=2)(self._encode)  # blocks and scales are asked for one after the other

    def tensor(self, name: str, index: Index = ()) -> Array:
        """See Weights. Raises KeyError for a name that the network does not have."""
        spec = self._specs[name]
        base, _, kind = name.rpartition(".")
        if kind in ("blocks", "scales"):
            rows = index[0] if index else slice(None)
            blocks, scales = self._encoded(base, *rows.indices(spec.shape[0])[:2])
            encoded: Array = blocks if kind == "blocks" else scales
            return encoded[(slice(None), *index[1:])]
        if name.endswith(("mlp1_weight", "mlp2_weight")):
            rows = index[0] if index else slice(None)
            return self._experts(name, *rows.indices(spec.shape[0])[:2])[(slice(None), *index[1:])].astype(BF16)
        if name.endswith(("qkv.weight", "out.weight")):
            return self._attention(name)[index].astype(spec.dtype)
        return self._base.tensor(name, index)

    def _encode(self, name: str, start: int, stop: int) -> tuple[Array, Array]:
        layer, projection = _of_experts(name)
        if (layer, projection) not in self._adapter.parts and self._base.quantized:
            rows = (slice(start, stop),)
            return self._base.tensor(f"{name}.blocks", rows), self._base.tensor(f"{name}.scales", rows)
        return mxfp4.encode(self._experts(name, start, stop))

    def _experts(self, name: str, start: int, stop: int) -> Float:
        """float32 [stop - start, out, in]."""
        rows = (slice(start, stop),)
        if self._base.quantized:
            values = mxfp4.decode(self._base.tensor(f"{name}.blocks", rows), self._base.tensor(f"{name}.scales", rows))
        else:
            values = self._base.tensor(name, rows).astype(np.float32)
        part = self._adapter.parts.get(_of_experts(name))
        return values if part is None else values + self._adapter.scale * (part.b[start:stop] @ part.a[start:stop])

    def _attention(self, name: str) -> Float:
        values = self._base.tensor(name).astype(np.float32)
        layer = int(name.split(".")[1])
        row = 0
        for projection in ATTENTION[:3] if name.endswith("qkv.weight") else ATTENTION[3:]:
            outputs = sizes(self.config, projection)[1]
            part = self._adapter.parts.get((layer, projection))
            if part is not None:
                values[row : row + outputs] += self._adapter.scale * (part.b @ part.a)
            row += outputs
        return values


def _of_experts(name: str) -> tuple[int, str]:
    """(layer, projection) of a canonical name."""
    return int(name.split(".")[1]), EXPERTS[0] if name.endswith("mlp1_weight") else EXPERTS[1]


def open_merged(checkpoint: Checkpoint, folder: str | Path) -> Checkpoint:
    """The checkpoint with an adapter merged into it, written to the user's cache when it is first asked for, which
    takes as much disk as the checkpoint. Experts keep their format: MXFP4 ones are rounded to MXFP4 again.

    Raises CheckpointError for an adapter that does not fit or where the disk does not suffice.
    """
    adapter = read_adapter(folder, checkpoint.config)
    files = [checkpoint.path] if checkpoint.path.is_file() else sorted(checkpoint.path.glob("*.*"))
    marks = [f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files]
    digest = hashlib.blake2b("\n".join(marks).encode(), digest_size=10)
    for name in (CONFIG_FILE, TENSORS_FILE):
        digest.update((Path(folder) / name).read_bytes())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gpt-oss" / "adapters"
    merged = cache / digest.hexdigest()
    if not merged.is_dir():
        weights = MergedWeights(checkpoint, adapter, quantized=checkpoint.quantized)
        write_checkpoint(merged, weights, "original", progress=True)
    return open_checkpoint(merged)
