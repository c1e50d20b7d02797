"""Write a checkpoint as one GGUF file, for llama.cpp and what is built on it (Ollama, LM Studio).

Tensor by tensor, so memory stays at one tensor; MXFP4 experts only change the order of their nibbles. Knows nothing of
engines, and does not read GGUF. The names are those that llama.cpp's loader asks for (architecture "gpt-oss"); the
block formats are GGML's: block_mxfp4 is one e8m0 byte and 16 bytes whose low nibbles are values 0..15 and high nibbles
16..31; Q8_0 is a float16 scale and 32 int8.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from gpt_oss.errors import ConfigError, MissingDependencyError, ParameterError
from gpt_oss.model.checkpoint import Checkpoint
from gpt_oss.model.config import ModelConfig
from gpt_oss.vocabulary import ENDOFTEXT, NUM_TEXT_TOKENS, RETURN, STARTOFTEXT, special_name, text_tokens

Uint8 = NDArray[np.uint8]
GgufPrecision = Literal["bf16", "q8_0"]

_Q8_ROWS = 8192  # rows quantised at a time: about 100 MB of float32 at 20b's width
_SWIGLU_LIMIT = 7.0  # llama.cpp has it as a constant


@dataclass(frozen=True)
class _Tensor:
    """type: a name of gguf.GGMLQuantizationType. shape: in values, the output dimension first. data: its bytes."""

    name: str
    type: str
    shape: tuple[int, ...]
    data: Callable[[], NDArray[Any]]


def write_gguf(
    checkpoint: Checkpoint, path: str | Path, *, precision: GgufPrecision = "bf16", progress: bool = False
) -> Path:
    """Write `checkpoint` to the file `path` and return it; an older file there is replaced once the new one is whole.

    precision: of the attention's and the embeddings' matrices. "bf16" keeps every weight exactly; "q8_0" is what the
    files in circulation have. MXFP4 experts, biases, norms, sinks and the router lose nothing in either.
    Raises MissingDependencyError without the `gguf` package, ConfigError for a shape that llama.cpp cannot run,
    ParameterError for another precision, and OSError when the disk is full.
    """
    if precision not in ("bf16", "q8_0"):
        raise ParameterError(f"the precision of a GGUF file is bf16 or q8_0, not {precision!r}")
    gguf = _import_gguf()
    config = checkpoint.config
    _check(config, precision)
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    writer = gguf.GGUFWriter(partial, "gpt-oss")
    try:
        _add_metadata(writer, config, name=checkpoint.path.name)
        file_type = gguf.LlamaFileType.MOSTLY_BF16 if precision == "bf16" else gguf.LlamaFileType.MOSTLY_Q8_0
        writer.add_file_type(gguf.LlamaFileType.MOSTLY_MXFP4_MOE if checkpoint.quantized else file_type)
        _add_tokenizer(gguf, writer, config)
        tensors = list(_tensors(gguf, checkpoint, precision))
        sizes = [_add_info(gguf, writer, tensor) for tensor in tensors]
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        with tqdm(total=sum(sizes), unit="B", unit_scale=True, desc=path.name, disable=not progress) as bar:
            for tensor, size in zip(tensors, sizes, strict=True):
                writer.write_tensor_data(tensor.data())
                bar.update(size)
        writer.close()
        os.replace(partial, path)
    finally:
        writer.close()
        partial.unlink(missing_ok=True)
    return path


def repack_mxfp4(blocks: Uint8, scales: Uint8) -> Uint8:
    """blocks [..., n, 16] (values 2i and 2i + 1 in byte i), scales [..., n] -> GGML's block_mxfp4 [..., n * 17]."""
    out = np.empty((*scales.shape, 17), np.uint8)
    first, second = blocks[..., :8], blocks[..., 8:]  # values 0..15 and 16..31 of each block
    out[..., 0] = scales
    out[..., 1::2] = (first & 0x0F) | (second << 4)
    out[..., 2::2] = (first >> 4) | (second & 0xF0)
    return out.reshape(*scales.shape[:-1], -1)


def _import_gguf() -> ModuleType:
    try:
        import gguf
    except ImportError as error:
        raise MissingDependencyError(
            "writing GGUF needs the gguf package, which is not installed", hint="pip install 'gpt-oss[gguf]'"
        ) from error
    return gguf


def _check(config: ModelConfig, precision: GgufPrecision) -> None:
    if config.swiglu_limit != _SWIGLU_LIMIT:
        raise ConfigError(f"llama.cpp runs gpt-oss with swiglu_limit {_SWIGLU_LIMIT} only, not {config.swiglu_limit}")
    attention_width = config.num_attention_heads * config.head_dim
    if precision == "q8_0" and (config.hidden_size % 32 or attention_width % 32):
        raise ConfigError(
            f"q8_0 needs widths that are multiples of 32, not hidden_size {config.hidden_size} and "
            f"num_attention_heads * head_dim {attention_width}; write bf16 instead"
        )


def _add_metadata(writer: Any, config: ModelConfig, *, name: str) -> None:
    writer.add_name(name)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_context)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_expert_feed_forward_length(config.intermediate_size)
    writer.add_expert_count(config.num_experts)
    writer.add_expert_used_count(config.experts_per_token)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_sliding_window(config.sliding_window)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_string("gpt-oss.rope.scaling.type", "yarn")
    writer.add_rope_scaling_factor(config.rope_scaling_factor)
    writer.add_rope_scaling_orig_ctx_len(config.initial_context_length)
    writer.add_rope_scaling_yarn_beta_fast(config.rope_ntk_beta)
    writer.add_rope_scaling_yarn_beta_slow(config.rope_ntk_alpha)
    writer.add_quantization_version(2)  # of GGML's block formats


def _add_info(gguf: ModuleType, writer: Any, tensor: _Tensor) -> int:
    """Announce a tensor; its size in bytes."""
    kind = gguf.GGMLQuantizationType[tensor.type]
    values_per_block, bytes_per_block = gguf.GGML_QUANT_SIZES[kind]
    byte_shape = (*tensor.shape[:-1], tensor.shape[-1] // values_per_block * bytes_per_block)
    size = int(np.prod(byte_shape, dtype=np.int64))
    writer.add_tensor_info(tensor.name, byte_shape, np.dtype(np.uint8), size, raw_dtype=kind)
    return size


def _tensors(gguf: ModuleType, checkpoint: Checkpoint, precision: GgufPrecision) -> Iterator[_Tensor]:
    """Every tensor of the file; nothing is read before its `data` is called."""
    config = checkpoint.config
    vocab, hidden, inter, experts = config.vocab_size, config.hidden_size, config.intermediate_size, config.num_experts
    q_width = config.num_attention_heads * config.head_dim
    kv_width = config.num_key_value_heads * config.head_dim
    matrix_type = "BF16" if precision == "bf16" else "Q8_0"

    def f32(name: str, shape: tuple[int, ...], source: str, *index: slice) -> _Tensor:
        return _Tensor(name, "F32", shape, lambda: checkpoint.tensor(source)[index].astype(np.float32))

    def matrix(name: str, rows: int, columns: int, source: str, start: int = 0) -> _Tensor:
        def data() -> NDArray[Any]:
            stored = checkpoint.tensor(source, index=(slice(start, start + rows), slice(None)))
            return _q8_0(gguf, stored) if precision == "q8_0" else np.ascontiguousarray(stored).view(np.uint8)

        return _Tensor(name, matrix_type, (rows, columns), data)

    def expert_matrix(name: str, rows: int, columns: int, source: str, every: slice) -> _Tensor:
        def data() -> NDArray[Any]:
            if not checkpoint.quantized:
                return np.ascontiguousarray(checkpoint.tensor(source)[:, every]).view(np.uint8)
            blocks, scales = checkpoint.tensor(f"{source}.blocks"), checkpoint.tensor(f"{source}.scales")
            return repack_mxfp4(blocks[:, every], scales[:, every])

        return _Tensor(name, "MXFP4" if checkpoint.quantized else "BF16", (experts, rows, columns), data)

    gate, up, every = slice(0, None, 2), slice(1, None, 2), slice(None)
    yield matrix("token_embd.weight", vocab, hidden, "embedding.weight")
    for n in range(config.num_hidden_layers):
        to, attn, mlp = f"blk.{n}", f"block.{n}.attn", f"block.{n}.mlp"
        yield f32(f"{to}.attn_norm.weight", (hidden,), f"{attn}.norm.scale")
        start = 0
        for letter, width in (("q", q_width), ("k", kv_width), ("v", kv_width)):
            yield matrix(f"{to}.attn_{letter}.weight", width, hidden, f"{attn}.qkv.weight", start)
            yield f32(f"{to}.attn_{letter}.bias", (width,), f"{attn}.qkv.bias", slice(start, start + width))
            start += width
        yield f32(f"{to}.attn_sinks.weight", (config.num_attention_heads,), f"{attn}.sinks")
        yield matrix(f"{to}.attn_output.weight", hidden, q_width, f"{attn}.out.weight")
        yield f32(f"{to}.attn_output.bias", (hidden,), f"{attn}.out.bias")
        yield f32(f"{to}.post_attention_norm.weight", (hidden,), f"{mlp}.norm.scale")
        yield f32(f"{to}.ffn_gate_inp.weight", (experts, hidden), f"{mlp}.gate.weight")
        yield f32(f"{to}.ffn_gate_inp.bias", (experts,), f"{mlp}.gate.bias")
        for part, rows in (("gate", gate), ("up", up)):
            yield expert_matrix(f"{to}.ffn_{part}_exps.weight", inter, hidden, f"{mlp}.mlp1_weight", rows)
            yield f32(f"{to}.ffn_{part}_exps.bias", (experts, inter), f"{mlp}.mlp1_bias", every, rows)
        yield expert_matrix(f"{to}.ffn_down_exps.weight", hidden, inter, f"{mlp}.mlp2_weight", every)
        yield f32(f"{to}.ffn_down_exps.bias", (experts, hidden), f"{mlp}.mlp2_bias")
    yield f32("output_norm.weight", (hidden,), "norm.scale")
    yield matrix("output.weight", vocab, hidden, "unembedding.weight")


def _q8_0(gguf: ModuleType, matrix: NDArray[Any]) -> Uint8:
    """bf16 [rows, columns] -> Q8_0 uint8 [rows, columns / 32 * 34]."""
    rows, columns = matrix.shape
    out = np.empty((rows, columns // 32 * 34), np.uint8)
    for start in range(0, rows, _Q8_ROWS):
        part = slice(start, start + _Q8_ROWS)
        out[part] = gguf.quantize(matrix[part].astype(np.float32), gguf.GGMLQuantizationType.Q8_0)
    return out


def _add_tokenizer(gguf: ModuleType, writer: Any, config: ModelConfig) -> None:
    """The vocabulary as GPT-2 style BPE: tokens in its byte alphabet, and the merges that give the ranks back."""
    count = min(config.vocab_size, NUM_TEXT_TOKENS)
    alphabet = _byte_alphabet()
    tokens = [token.translate(alphabet) for token in (raw.decode("latin-1") for raw in text_tokens()[:count])]
    tokens += [special_name(token) for token in range(count, config.vocab_size)]
    kinds = [gguf.TokenType.NORMAL] * count
    named = {NUM_TEXT_TOKENS + i for i in range(config.vocab_size - count) if "reserved" not in tokens[count + i]}
    kinds += [gguf.TokenType.CONTROL if t in named else gguf.TokenType.UNUSED for t in range(count, config.vocab_size)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-4o")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(part.translate(alphabet) for part in pair) for pair in _merges(count)])
    if config.vocab_size > RETURN:
        writer.add_bos_token_id(STARTOFTEXT)
        writer.add_eos_token_id(RETURN)
        writer.add_pad_token_id(ENDOFTEXT)
        writer.add_add_bos_token(False)


def _byte_alphabet() -> dict[int, str]:
    """GPT-2's printable stand-in for each byte: itself where it is printable, else the next letter from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def _merges(count: int) -> Iterator[tuple[str, str]]:
    """For each token of several bytes, in the order of ranks, the two tokens whose merge it is (as latin-1 text).

    They are what is left of its bytes when merges of lower rank only have been applied, lowest first.
    """
    tokens = text_tokens()[:count]
    ranks = {token: rank for rank, token in enumerate(tokens)}
    for rank, token in enumerate(tokens):
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            merged = [ranks.get(a + b, count) for a, b in pairwise(parts)]
            best = min(merged)
            if best >= rank:
                break
            at = merged.index(best)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        if len(parts) == 2:
            yield parts[0].decode("latin-1"), parts[1].decode("latin-1")
