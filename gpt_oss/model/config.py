"""The shape of a gpt-oss network: one frozen dataclass, read from and written to either layout's config.json.

`original/` has flat fields (model.md's table); the Hugging Face layout has other names and a rope dictionary.
Knows no tensors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from gpt_oss.errors import ConfigError

# Ids from here on are padding of the embedding tables (and `<|endofprompt|>`, which gpt-oss does not use): never
# sampled.
TOKENS_IN_USE = 200_014


@dataclass(frozen=True)
class ModelConfig:
    """Defaults are gpt-oss-20b's. Nothing may assume them: any positive numbers that agree with each other work.

    sliding_window applies to even layers and counts the token itself; odd layers attend to everything.
    rope_*: YaRN with NTK-by-parts, ramp not rounded (model.md, "One block").
    Raises ConfigError when fields are not positive numbers of their type or contradict each other.
    """

    num_hidden_layers: int = 24
    num_experts: int = 32
    experts_per_token: int = 4
    vocab_size: int = 201_088
    hidden_size: int = 2880
    intermediate_size: int = 2880
    swiglu_limit: float = 7.0
    head_dim: int = 64
    num_attention_heads: int = 64
    num_key_value_heads: int = 8
    sliding_window: int = 128
    initial_context_length: int = 4096
    rope_theta: float = 150_000.0
    rope_scaling_factor: float = 32.0
    rope_ntk_alpha: float = 1.0
    rope_ntk_beta: float = 32.0
    rms_norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            wanted = int if field.type == "int" else (int, float)
            if isinstance(value, bool) or not isinstance(value, wanted) or not (math.isfinite(value) and value > 0):
                kind = "whole number" if field.type == "int" else "finite number"
                raise ConfigError(f"{field.name} must be a positive {kind}, not {value!r}")

        def agree(ok: bool, rule: str) -> None:
            if not ok:
                raise ConfigError(rule)

        agree(
            self.num_attention_heads % self.num_key_value_heads == 0,
            f"num_attention_heads ({self.num_attention_heads}) must be a multiple of "
            f"num_key_value_heads ({self.num_key_value_heads})",
        )
        agree(self.head_dim % 2 == 0, f"head_dim must be even (rotary halves), not {self.head_dim}")
        for name in ("hidden_size", "intermediate_size"):
            size = getattr(self, name)
            agree(size % 32 == 0, f"{name} must be a multiple of 32 (an MXFP4 block), not {size}")
        agree(
            self.experts_per_token <= self.num_experts,
            f"experts_per_token ({self.experts_per_token}) is more than num_experts ({self.num_experts})",
        )
        agree(self.rope_theta > 1, f"rope_theta must be over 1, not {self.rope_theta}")
        agree(self.rope_scaling_factor >= 1, f"rope_scaling_factor must be 1 or more, not {self.rope_scaling_factor}")
        agree(
            self.rope_ntk_alpha < self.rope_ntk_beta,
            f"rope_ntk_alpha ({self.rope_ntk_alpha}) must be less than rope_ntk_beta ({self.rope_ntk_beta})",
        )

    @property
    def max_context(self) -> int:
        """Longest sequence, in tokens, that the rotary embedding was extended to."""
        return int(self.initial_context_length * self.rope_scaling_factor)

    @property
    def usable_vocab_size(self) -> int:
        """Ids below this may be sampled."""
        return min(self.vocab_size, TOKENS_IN_USE)

    def is_windowed(self, layer: int) -> bool:
        return layer % 2 == 0


def load_config(source: str | Path | Mapping[str, Any]) -> ModelConfig:
    """Read config.json (a path) or its content (a mapping) of either layout.

    Fields that do not change the computation are ignored; those that would (another activation, tied embeddings,
    another rope) are refused. A field that is absent has the released models' value, but for those of
    `_REQUIRED`. Raises ConfigError naming the file and the field.
    """
    if isinstance(source, Mapping):
        return _parse(source)
    path = Path(source)
    raw = read_json(path)
    try:
        return _parse(raw)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}", hint=error.hint) from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ConfigError naming the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # JSON and UTF-8 errors both are
        raise ConfigError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a JSON object, not a {type(content).__name__}")
    return content


def is_huggingface(raw: Mapping[str, Any]) -> bool:
    """Whether this content of a config.json is the Hugging Face layout's (else: the flat one of `original/`)."""
    return "num_local_experts" in raw or ("model_type" in raw and "num_experts" not in raw)


def original_json(config: ModelConfig) -> dict[str, Any]:
    """Content of `original/config.json`. The released files have no rms_norm_eps: written only when it is not 1e-5."""
    content = asdict(config)
    if config.rms_norm_eps == ModelConfig.rms_norm_eps:
        del content["rms_norm_eps"]
    return content


def huggingface_json(config: ModelConfig, *, quantized: bool = True) -> dict[str, Any]:
    """Content of the Hugging Face layout's config.json, as the released files have it."""
    content: dict[str, Any] = {
        "architectures": ["GptOssForCausalLM"],
        "attention_bias": True,
        "attention_dropout": 0.0,
        "bos_token_id": 199998,
        "eos_token_id": 200002,
        "experts_per_token": config.experts_per_token,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "initial_context_length": config.initial_context_length,
        "initializer_range": 0.02,
        "intermediate_size": config.intermediate_size,
        "layer_types": _layer_types(config.num_hidden_layers),
        "max_position_embeddings": config.max_context,
        "model_type": "gpt_oss",
        "num_attention_heads": config.num_attention_heads,
        "num_experts_per_tok": config.experts_per_token,
        "num_hidden_layers": config.num_hidden_layers,
        "num_key_value_heads": config.num_key_value_heads,
        "num_local_experts": config.num_experts,
        "output_router_logits": False,
        "pad_token_id": 199999,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_scaling": {
            "beta_fast": config.rope_ntk_beta,
            "beta_slow": config.rope_ntk_alpha,
            "factor": config.rope_scaling_factor,
            "original_max_position_embeddings": config.initial_context_length,
            "rope_type": "yarn",
            "truncate": False,
        },
        "rope_theta": config.rope_theta,
        "router_aux_loss_coef": 0.9,
        "sliding_window": config.sliding_window,
        "swiglu_limit": config.swiglu_limit,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": config.vocab_size,
    }
    if any(content[name] >= config.vocab_size for name in ("bos_token_id", "eos_token_id", "pad_token_id")):
        content |= {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}  # a test's small vocabulary
    if quantized:
        content["quantization_config"] = {
            "modules_to_not_convert": [
                "model.layers.*.self_attn",
                "model.layers.*.mlp.router",
                "model.embed_tokens",
                "lm_head",
            ],
            "quant_method": "mxfp4",
        }
    return content


def _layer_types(layers: int) -> list[str]:
    return ["full_attention" if layer % 2 else "sliding_attention" for layer in range(layers)]


_REQUIRED = (
    "num_hidden_layers",
    "num_experts",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "head_dim",
    "num_attention_heads",
    "num_key_value_heads",
)

# ModelConfig's name: the Hugging Face layout's, where they differ; below, those inside its rope dictionary.
_HUGGINGFACE_NAMES = {"num_experts": "num_local_experts", "experts_per_token": "num_experts_per_tok"}
_ROPE_NAMES = {
    "rope_scaling_factor": "factor",
    "rope_ntk_beta": "beta_fast",
    "rope_ntk_alpha": "beta_slow",
    "initial_context_length": "original_max_position_embeddings",
}

# Fields that would change the computation, with the only value that this architecture has.
_FIXED = {
    "model_type": "gpt_oss",
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "attention_bias": True,
    "swiglu_alpha": 1.702,
}


def _parse(raw: Mapping[str, Any]) -> ModelConfig:
    for name, only in _FIXED.items():
        if name in raw and raw[name] != only:
            raise ConfigError(f"{name} is {raw[name]!r}, and gpt-oss has only {only!r}: this is another architecture")
    values = _huggingface_fields(raw) if is_huggingface(raw) else raw
    for name in _REQUIRED:
        if name not in values:
            stored = _HUGGINGFACE_NAMES.get(name, name) if is_huggingface(raw) else name
            raise ConfigError(f"the field {stored} is missing")
    known = {field.name: field for field in fields(ModelConfig)}
    return ModelConfig(**{name: _as_field(known[name], value) for name, value in values.items() if name in known})


def _as_field(field: Field[Any], value: Any) -> Any:
    """JSON writers differ on 32 and 32.0: a float field takes both."""
    return float(value) if field.type == "float" and type(value) is int else value


def _huggingface_fields(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The same facts under ModelConfig's names."""
    values = {name: raw[name] for field in fields(ModelConfig) if (name := field.name) in raw}
    values |= {ours: raw[theirs] for ours, theirs in _HUGGINGFACE_NAMES.items() if theirs in raw}

    # rope_parameters is the newer writers' name, and has rope_theta inside.
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if not isinstance(rope, Mapping):
        raise ConfigError(f"rope_scaling must be an object, not {rope!r}")
    kind = rope.get("rope_type", rope.get("type", "yarn"))
    if kind != "yarn":
        raise ConfigError(f"rope_type is {kind!r}, and gpt-oss has only 'yarn'")
    if rope.get("truncate"):
        raise ConfigError("rope_scaling.truncate must be false: gpt-oss does not round YaRN's bounds")
    values |= {ours: rope[theirs] for ours, theirs in _ROPE_NAMES.items() if theirs in rope}
    if "rope_theta" in rope:
        values["rope_theta"] = rope["rope_theta"]

    quantization = raw.get("quantization_config")
    if quantization is not None:
        method = quantization.get("quant_method") if isinstance(quantization, Mapping) else quantization
        if method != "mxfp4":
            raise ConfigError(f"the experts are quantised by {method!r}; only mxfp4 and plain bf16 can be read")

    layers, layer_types = values.get("num_hidden_layers"), raw.get("layer_types")
    if layer_types is not None and isinstance(layers, int) and layer_types != _layer_types(layers):
        raise ConfigError(
            f"layer_types must be {layers} entries that alternate sliding_attention and full_attention, sliding first"
        )
    return values
