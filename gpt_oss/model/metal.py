"""metal/model.bin: the one-file layout of the reference implementation's Metal backend, mapped as it is.

A header, the tokenizer, then at a page boundary the shared weights and, layer by layer, the experts (model.md has every
field; openai/gpt-oss gpt_oss/metal is the source). Against the canonical tensors: rows beyond the tokens in use are
cut, norm scales are bf16, rotary halves of q and k are interleaved, q and k carry the attention's scale as 0.5 · 0.25,
and MXFP4 scales are stored 14 higher.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from gpt_oss.errors import CheckpointError, ConfigError
from gpt_oss.model.config import TOKENS_IN_USE, ModelConfig
from gpt_oss.model.layout import Checkpoint, Read
from gpt_oss.model.mxfp4 import NAN_SCALE, encode
from gpt_oss.model.safetensors_file import as_bytes
from gpt_oss.model.tensors import BF16, E8M0_BIAS, F32, Array, Index, TensorSpec, Weights, canonical_tensors, chunks
from gpt_oss.vocabulary import PATTERN, text_tokens

MAGIC = b"GPT-OSS v1.0\0\0\0\0"
SCALE_OFFSET = 14  # what the file adds to each e8m0 scale

_MODEL = UUID("df52dc86-1789-4ed0-a295-66f10508145b").bytes
_LAYOUT = UUID("229177a8-5775-4268-bfd8-d588b351c56d").bytes
_TOKENIZER = UUID("7401aded-2a95-40cb-b782-9ccebaafe72b").bytes
# Token id: what names it in the file; the others between the text and the end have zeros. 200001, the end of untrusted
# text, has an id of its own in the format, but the reference converter leaves it out, and so do we: the same bytes.
_SPECIAL_TOKENS = {
    200000: UUID("07d7da55-b346-4cff-8b37-7cefacf8a3e8").bytes,  # untrusted
    200002: UUID("f799ff69-1992-43c4-a3d8-d831f475dc75").bytes,  # return
    200003: UUID("c0bb14c7-6022-49da-ad08-792d67e8b470").bytes,  # constrain
    200005: UUID("fd3dda11-c8ab-4033-876e-d93deb172c93").bytes,  # channel
    200006: UUID("55a77c2f-8a01-4c54-8ac2-313bfc7e208d").bytes,  # start
    200007: UUID("fcac2f6d-4705-4f6b-b228-642accac7238").bytes,  # end
    200008: UUID("16e40431-f47f-4b22-b59b-8b278fc30a54").bytes,  # message
    200012: UUID("1220f796-e388-4de5-b487-fe2eb5fe03c0").bytes,  # call
    200013: UUID("e15ba702-28c4-4292-ab8f-ffa434709128").bytes,  # refusal
}

_PAGE_BYTES = 16384
_ALIGNMENT_BYTES = 16
_MAX_CONTEXT = 2**20  # tokens; eight times what the released models have. More is a damaged file, or another format

# uuid; context_length, num_blocks, num_experts, num_active_experts, embedding_dim, mlp_dim; swiglu_limit; head_dim,
# num_heads, num_kv_heads, attention_window; rope_theta, interpolation_scale, yarn_offset, yarn_scale, yarn_multiplier,
# rmsnorm_epsilon; uuid
_MODEL_HEADER = struct.Struct("<16s6If4I6f16s")
# uuid; num_special_tokens, num_text_tokens, regex_size, tokens_size
_TOKENIZER_HEADER = struct.Struct("<16s4I")


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies, with the dtype and rows that the file has; its experts lie expert_stride bytes apart."""

    spec: TensorSpec
    offset_bytes: int
    expert_stride: int | None = None

    @property
    def end_bytes(self) -> int:
        if self.expert_stride is None:
            return self.offset_bytes + self.spec.size_bytes
        experts = self.spec.shape[0]
        return self.offset_bytes + (experts - 1) * self.expert_stride + self.spec.size_bytes // experts


def open_metal(path: Path) -> Checkpoint:
    """Raises ConfigError and CheckpointError before any weight is read."""
    try:
        with path.open("rb") as file:
            config, weights_start = _read_headers(path, file)
            file_bytes = os.fstat(file.fileno()).st_size
            if config.num_hidden_layers > file_bytes // _PAGE_BYTES:  # each begins a page
                raise CheckpointError(
                    f"{path} is truncated: its {file_bytes} bytes hold no {config.num_hidden_layers} layers"
                )
            places = _places(config, weights_start)
            cut = next((name for name, place in places.items() if place.end_bytes > file_bytes), None)
            if cut is not None:
                end_bytes = places[cut].end_bytes
                raise CheckpointError(
                    f"{path} is truncated: tensor {cut!r} ends at byte {end_bytes}, the file at {file_bytes}",
                    hint="Fetch the file again: downloads resume.",
                )
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error

    readers: dict[str, Read] = {}
    stored_scales: dict[str, Read] = {}
    for name, place in places.items():
        view = _view(mapped, place)
        if name.endswith(".scales"):
            stored_scales[name] = view.__getitem__
            readers[name] = _scales_reader(path, name, view)
        elif name.endswith("norm.scale"):
            readers[name] = _widening_reader(view)
        elif ".attn.qkv." in name:
            readers[name] = _qkv_reader(view, config)
        else:
            readers[name] = view.__getitem__
    return Checkpoint(path, "metal", config, True, readers, stored_scales, E8M0_BIAS + SCALE_OFFSET)


def write_metal(path: Path, weights: Weights) -> Iterator[int]:
    """Write the file; yields bytes as they are written. bf16 experts are rounded to MXFP4.

    Raises CheckpointError for a scale that does not fit once it is 14 higher.
    """
    config = replace(weights.config, vocab_size=min(weights.config.vocab_size, TOKENS_IN_USE))
    with path.open("wb") as file:
        yield file.write(MAGIC + _model_header(config) + _tokenizer(config.vocab_size))
        yield _pad(file, _PAGE_BYTES)
        places = _places(config, file.tell())
        for name, place in places.items():
            if place.expert_stride is None:
                yield _pad(file, _ALIGNMENT_BYTES)
                assert file.tell() == place.offset_bytes, name
                for chunk in _shared_chunks(weights, name, place.spec):
                    yield file.write(as_bytes(chunk))
        for layer in range(config.num_hidden_layers):
            yield _pad(file, _PAGE_BYTES)
            assert file.tell() == places[f"block.{layer}.mlp.mlp1_weight.blocks"].offset_bytes, layer
            for expert in range(config.num_experts):
                for part in _expert_parts(weights, f"block.{layer}.mlp", expert):
                    yield _pad(file, _ALIGNMENT_BYTES)
                    yield file.write(as_bytes(part))


# Where things lie


def _places(config: ModelConfig, weights_start: int) -> dict[str, _Place]:
    """Every canonical tensor's place, in the file's order: what all tokens share, then the experts."""
    specs = canonical_tensors(config)
    places: dict[str, _Place] = {}
    end = weights_start
    for name, spec in specs.items():
        if ".mlp.mlp" not in name:
            places[name] = _Place(_in_file(spec), _align(end, _ALIGNMENT_BYTES))
            end = places[name].end_bytes
    for layer in range(config.num_hidden_layers):
        names = [name for name in specs if name.startswith(f"block.{layer}.mlp.mlp")]
        start = offset = _align(end, _PAGE_BYTES)
        offsets = []  # of the first expert's parts
        for name in names:
            offsets.append(offset)
            offset = _align(offset + specs[name].size_bytes // config.num_experts, _ALIGNMENT_BYTES)
        stride = offset - start
        places |= {name: _Place(specs[name], at, stride) for name, at in zip(names, offsets, strict=True)}
        end = places[names[-1]].end_bytes
    return places


def _in_file(spec: TensorSpec) -> TensorSpec:
    return replace(spec, dtype=BF16) if spec.dtype == F32 else spec


def _align(offset: int, multiple: int) -> int:
    return offset + -offset % multiple


def _pad(file: IO[bytes], multiple: int) -> int:
    return file.write(bytes(-file.tell() % multiple))


# Reading


def _view(mapped: mmap.mmap, place: _Place) -> Array:
    shape, dtype = place.spec.shape, place.spec.dtype
    if place.expert_stride is None:
        return np.ndarray(shape, dtype, mapped, place.offset_bytes)
    first: Array = np.ndarray(shape[1:], dtype, mapped, place.offset_bytes)
    return np.ndarray(shape, dtype, mapped, place.offset_bytes, (place.expert_stride, *first.strides))


def _widening_reader(view: Array) -> Read:
    return lambda index: view[index].astype(np.float32)


def _scales_reader(path: Path, name: str, view: Array) -> Read:
    def read(index: Index) -> Array:
        scales = view[index]
        if scales.size and scales.min() < SCALE_OFFSET:
            raise CheckpointError(f"{path}: tensor {name!r} has a scale under {SCALE_OFFSET}, which stands for none")
        return scales - np.uint8(SCALE_OFFSET)

    return read


def _qkv_reader(view: Array, config: ModelConfig) -> Read:
    rows = np.argsort(_qkv_rows(config))  # canonical row: its row in the file
    factors = 1 / _qkv_factors(config)

    def read(index: Index) -> Array:
        first, rest = (index[0], index[1:]) if index else (slice(None), ())
        wanted = rows[first]
        part = view[(slice(None), *rest)][wanted]
        return part * factors[wanted].reshape(-1, *[1] * (part.ndim - 1))

    return read


def _qkv_rows(config: ModelConfig) -> NDArray[np.intp]:
    """For each row of the file's qkv, its canonical row: [2, d/2] of each q and k head became [d/2, 2]."""
    rows = np.arange((config.num_attention_heads + 2 * config.num_key_value_heads) * config.head_dim)
    rotated = (config.num_attention_heads + config.num_key_value_heads) * config.head_dim
    heads = rows[:rotated].reshape(-1, 2, config.head_dim // 2)
    return np.concatenate([heads.swapaxes(1, 2).reshape(-1), rows[rotated:]])


def _qkv_factors(config: ModelConfig) -> Array:
    """[rows] bf16: what q and k are multiplied by. Powers of two: exact, there and back."""
    sizes = [config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads]
    return np.repeat(np.array([0.5, 0.25, 1.0]), np.array(sizes) * config.head_dim).astype(BF16)


# Writing


def _shared_chunks(weights: Weights, name: str, spec: TensorSpec) -> Iterator[Array]:
    if ".attn.qkv." in name:
        rows, factors = _qkv_rows(weights.config), _qkv_factors(weights.config)
        whole = weights.tensor(name)
        yield whole[rows] * factors.reshape(-1, *[1] * (whole.ndim - 1))
    else:
        for chunk in chunks(weights, name, spec):
            yield chunk.astype(spec.dtype, copy=False)


def _expert_parts(weights: Weights, mlp: str, expert: int) -> Iterator[Array]:
    """One expert's six parts in the file's order."""
    index = (slice(expert, expert + 1),)
    for name in (f"{mlp}.mlp1", f"{mlp}.mlp2"):
        if weights.quantized:
            blocks = weights.tensor(f"{name}_weight.blocks", index)
            scales = weights.tensor(f"{name}_weight.scales", index)
        else:
            blocks, scales = encode(weights.tensor(f"{name}_weight", index))
        if scales.max() >= NAN_SCALE - SCALE_OFFSET:
            raise CheckpointError(
                f"tensor '{name}_weight.scales' has a scale of {scales.max()} in expert {expert}; metal/model.bin "
                f"holds scales up to {NAN_SCALE - SCALE_OFFSET - 1}"
            )
        yield blocks
        yield scales + np.uint8(SCALE_OFFSET)
        yield weights.tensor(f"{name}_bias", index)


def _model_header(config: ModelConfig) -> bytes:
    offset, scale = _yarn_ramp(config)
    return _MODEL_HEADER.pack(
        _MODEL,
        config.max_context,
        config.num_hidden_layers,
        config.num_experts,
        config.experts_per_token,
        config.hidden_size,
        config.intermediate_size,
        config.swiglu_limit,
        config.head_dim,
        config.num_attention_heads,
        config.num_key_value_heads,
        config.sliding_window,
        config.rope_theta,
        1 / config.rope_scaling_factor,
        offset,
        scale,
        0.1 * math.log(config.rope_scaling_factor) + 1,
        config.rms_norm_eps,
        _LAYOUT,
    )


def _tokenizer(vocab_size: int) -> bytes:
    text = text_tokens()[:vocab_size]
    regex = PATTERN.encode("ascii") + b"\0"
    entries = b"".join(struct.pack("<H", len(token)) + token for token in text)
    specials = b"".join(_SPECIAL_TOKENS.get(token, bytes(16)) for token in range(len(text), vocab_size))
    header = _TOKENIZER_HEADER.pack(_TOKENIZER, len(specials) // 16, len(text), len(regex), len(entries))
    return header + specials + regex + entries


# The header


def _read_headers(path: Path, file: IO[bytes]) -> tuple[ModelConfig, int]:
    """The config, and the offset at which the weights start."""

    def take(size_bytes: int) -> bytes:
        content = file.read(size_bytes)
        if len(content) < size_bytes:
            raise CheckpointError(f"{path} is truncated: it ends within its header")
        return content

    if take(len(MAGIC)) != MAGIC:
        raise CheckpointError(f"{path} is no metal/model.bin: it does not start with {MAGIC.decode()[:12]!r}")
    model, *numbers, layout = _MODEL_HEADER.unpack(take(_MODEL_HEADER.size))
    tokenizer, num_special, num_text, regex_bytes, tokens_bytes = _TOKENIZER_HEADER.unpack(take(_TOKENIZER_HEADER.size))
    for found, known in ((model, _MODEL), (layout, _LAYOUT), (tokenizer, _TOKENIZER)):
        if found != known:
            raise CheckpointError(f"{path} has the id {UUID(bytes=found)} where {UUID(bytes=known)} is expected")
    try:
        config = _config(numbers, num_text + num_special)
    except (ConfigError, ArithmeticError, ValueError) as error:
        raise ConfigError(f"{path} has an impossible header: {error}") from error
    return config, _align(file.tell() + 16 * num_special + regex_bytes + tokens_bytes, _PAGE_BYTES)


def _config(numbers: list[Any], vocab_size: int) -> ModelConfig:
    """The config that gives this header. YaRN's alpha and beta are only there as the ramp that they make."""
    context_length, layers, experts, active, hidden, inter, limit, *rest = numbers
    head_dim, heads, kv_heads, window, theta, interpolation, ramp_offset, ramp_scale, _, epsilon = rest
    if not all(math.isfinite(number) and number > 0 for number in (theta - 1, interpolation, ramp_scale)):
        raise ValueError(f"rope fields {theta}, {interpolation}, {ramp_scale}")
    if context_length > _MAX_CONTEXT:
        raise ValueError(f"a context_length of {context_length} tokens, and {_MAX_CONTEXT} is the most that can be")
    theta = _shortest(theta, lambda x: _float32(x) == theta)
    factor = _shortest(1 / interpolation, lambda x: _float32(1 / x) == interpolation)
    config = ModelConfig(
        num_hidden_layers=layers,
        num_experts=experts,
        experts_per_token=active,
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=inter,
        swiglu_limit=_shortest(limit, lambda x: _float32(x) == limit),
        head_dim=head_dim,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        sliding_window=window,
        initial_context_length=round(context_length / factor),
        rope_theta=theta,
        rope_scaling_factor=factor,
        rms_norm_eps=_shortest(epsilon, lambda x: _float32(x) == epsilon),
    )

    def rotations(bound: float) -> float:
        """The inverse of YaRN's bound: how often the dimension at `bound` turns within the initial context."""
        return config.initial_context_length / (2 * math.pi * math.exp(bound * math.log(theta) / (head_dim / 2)))

    low = -ramp_offset / ramp_scale
    beta, alpha = rotations(low), rotations(low + 1 / ramp_scale)
    for digits in range(1, 18):
        candidate = replace(config, rope_ntk_beta=_rounded(beta, digits), rope_ntk_alpha=_rounded(alpha, digits))
        if tuple(map(_float32, _yarn_ramp(candidate))) == (ramp_offset, ramp_scale):
            return candidate
    return replace(config, rope_ntk_beta=beta, rope_ntk_alpha=alpha)


def _yarn_ramp(config: ModelConfig) -> tuple[float, float]:
    """yarn_offset and yarn_scale: the ramp is clamp(scale · i + offset, 0, 1)."""

    def bound(rotations: float) -> float:
        wavelengths = config.initial_context_length / (rotations * 2 * math.pi)
        return config.head_dim / 2 * math.log(wavelengths) / math.log(config.rope_theta)

    low, high = bound(config.rope_ntk_beta), bound(config.rope_ntk_alpha)
    return -low / (high - low), 1 / (high - low)


def _shortest(value: float, gives_header: Callable[[float], bool]) -> float:
    """The number with the fewest digits that gives what is in the header: 1e-05, not 9.99999974e-06."""
    return next((x for digits in range(1, 18) if gives_header(x := _rounded(value, digits))), value)


def _rounded(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")


def _float32(value: float) -> float:
    return float(np.float32(value))
