"""metal/model.bin against the description of the format: the readers here are struct, json and numpy, nothing of ours.

tests/model/test_checkpoint.py converts every layout into every other; here are the whole vocabulary, with its special
tokens, the cut of the padding rows, and headers that lie.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest

from gpt_oss.errors import CheckpointError, ConfigError
from gpt_oss.model.checkpoint import open_checkpoint
from gpt_oss.model.config import ModelConfig
from gpt_oss.model.convert import convert
from gpt_oss.model.factory import write_random_checkpoint
from gpt_oss.vocabulary import text_tokens

# The released vocabulary on a small network: five layers would repeat what two show.
CONFIG = ModelConfig(
    num_hidden_layers=2,
    num_experts=3,
    experts_per_token=2,
    hidden_size=32,
    intermediate_size=96,
    head_dim=8,
    num_attention_heads=6,
    num_key_value_heads=2,
)
ROWS = 200_014  # tokens in use, of 201,088


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("format") / "original", CONFIG, seed=6)


@pytest.fixture(scope="module")
def model_bin(original: Path) -> Path:
    return convert(original, original.parent / "model.bin", "metal")


def safetensors(path: Path) -> dict[str, np.ndarray]:
    """bf16 as uint16."""
    data = path.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    dtypes = {"BF16": np.uint16, "F32": np.float32, "U8": np.uint8}
    found = {}
    for name, entry in json.loads(data[8 : 8 + length]).items():
        begin, end = entry["data_offsets"]
        content = data[8 + length + begin : 8 + length + end]
        found[name] = np.frombuffer(content, dtypes[entry["dtype"]]).reshape(entry["shape"])
    return found


class Reader:
    def __init__(self, path: Path) -> None:
        self.data, self.at = path.read_bytes(), 0

    def take(self, form: str) -> tuple[object, ...]:
        values = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return values

    def uuid(self) -> str:
        return str(UUID(bytes=self.take("16s")[0]))  # type: ignore[arg-type]

    def array(self, dtype: type, *shape: int) -> np.ndarray:
        """At the next multiple of 16, and what is skipped is zeros."""
        self.skip_to(16)
        size = int(np.prod(shape))
        found = np.frombuffer(self.data, dtype, size, self.at).reshape(shape)
        self.at += found.nbytes
        return found

    def skip_to(self, multiple: int) -> None:
        end = -(-self.at // multiple) * multiple
        assert not any(self.data[self.at : end])
        self.at = end


def as_float(bf16: np.ndarray) -> np.ndarray:
    return (bf16.astype(np.uint32) << 16).view(np.float32)


def test_every_byte_is_where_the_description_says(model_bin: Path, original: Path) -> None:
    file, wanted = Reader(model_bin), safetensors(original / "model.safetensors")
    assert file.take("12sI") == (b"GPT-OSS v1.0", 0)
    assert file.uuid() == "df52dc86-1789-4ed0-a295-66f10508145b"
    assert file.take("6I") == (131072, 2, 3, 2, 32, 96)
    assert file.take("f4I") == (7.0, 8, 6, 2, 128)
    low, high = (4 * np.log(4096 / (turns * 2 * np.pi)) / np.log(150000) for turns in (32, 1))
    ramp = (-low / (high - low), 1 / (high - low))
    assert file.take("6f") == pytest.approx((150000, 1 / 32, *ramp, 0.1 * np.log(32) + 1, 1e-5), rel=1e-6)
    assert file.uuid() == "229177a8-5775-4268-bfd8-d588b351c56d"

    assert file.uuid() == "7401aded-2a95-40cb-b782-9ccebaafe72b"
    specials, texts, regex_bytes, tokens_bytes = file.take("4I")
    assert (specials, texts) == (ROWS - 199_998, 199_998)
    ids = {199_998 + i: name for i in range(16) if (name := file.uuid()) != str(UUID(int=0))}
    assert ids == {
        200000: "07d7da55-b346-4cff-8b37-7cefacf8a3e8",  # untrusted
        200002: "f799ff69-1992-43c4-a3d8-d831f475dc75",  # return
        200003: "c0bb14c7-6022-49da-ad08-792d67e8b470",  # constrain
        200005: "fd3dda11-c8ab-4033-876e-d93deb172c93",  # channel
        200006: "55a77c2f-8a01-4c54-8ac2-313bfc7e208d",  # start
        200007: "fcac2f6d-4705-4f6b-b228-642accac7238",  # end
        200008: "16e40431-f47f-4b22-b59b-8b278fc30a54",  # message
        200012: "1220f796-e388-4de5-b487-fe2eb5fe03c0",  # call
        200013: "e15ba702-28c4-4292-ab8f-ffa434709128",  # refusal
    }
    regex = file.data[file.at : file.at + regex_bytes]  # type: ignore[operator]
    assert regex.endswith(b"\\s+(?!\\S)|\\s+\0")
    file.at += len(regex)
    start = file.at
    for token in text_tokens():
        (length,) = file.take("H")
        assert file.data[file.at : file.at + length] == token  # type: ignore[operator]
        file.at += len(token)
    assert file.at - start == tokens_bytes
    file.skip_to(16384)

    def stored_as_it_is(name: str) -> None:
        tensor = wanted[name][:ROWS]
        found = file.array(np.uint16, *tensor.shape)
        assert np.array_equal(as_float(found) if tensor.dtype == np.float32 else found, tensor), name

    stored_as_it_is("embedding.weight")
    for block in range(2):
        stored_as_it_is(f"block.{block}.attn.norm.scale")
        for kind in ("weight", "bias"):
            plain = as_float(wanted[f"block.{block}.attn.qkv.{kind}"])
            heads = as_float(file.array(np.uint16, *plain.shape)).reshape(10, 8, -1)  # 6 of q, 2 of k, 2 of v
            q, k, v = np.split(heads, [6, 8])
            plain_q, plain_k, plain_v = np.split(plain.reshape(10, 8, -1), [6, 8])
            for rotated, unrotated, factor in ((q, plain_q, 0.5), (k, plain_k, 0.25)):
                assert np.array_equal(rotated[:, 0::2], unrotated[:, :4] * np.float32(factor))
                assert np.array_equal(rotated[:, 1::2], unrotated[:, 4:] * np.float32(factor))
            assert np.array_equal(v, plain_v)
        for name in ("attn.sinks", "attn.out.weight", "attn.out.bias"):
            stored_as_it_is(f"block.{block}.{name}")
        for name in ("mlp.norm.scale", "mlp.gate.weight", "mlp.gate.bias"):
            stored_as_it_is(f"block.{block}.{name}")
    stored_as_it_is("norm.scale")
    stored_as_it_is("unembedding.weight")
    for block in range(2):
        file.skip_to(16384)
        for expert in range(3):
            for name in ("mlp1", "mlp2"):
                blocks, scales, bias = (
                    wanted[f"block.{block}.mlp.{name}{part}"][expert]
                    for part in ("_weight.blocks", "_weight.scales", "_bias")
                )
                assert np.array_equal(file.array(np.uint8, *blocks.shape), blocks)
                assert np.array_equal(file.array(np.uint8, *scales.shape), scales + 14)
                assert np.array_equal(file.array(np.uint16, *bias.shape), bias)
    assert file.at == len(file.data)


def test_round_trips_lose_nothing_but_the_padding_rows(model_bin: Path, original: Path, tmp_path: Path) -> None:
    """original → model.bin → Hugging Face → model.bin → original."""
    folder = convert(model_bin, tmp_path / "huggingface", "huggingface")
    again = convert(folder, tmp_path / "again.bin", "metal")
    assert again.read_bytes() == model_bin.read_bytes()
    back = safetensors(convert(again, tmp_path / "back", "original") / "model.safetensors")
    first = safetensors(original / "model.safetensors")
    assert back.keys() == first.keys()
    for name, tensor in first.items():
        rows = ROWS if name in ("embedding.weight", "unembedding.weight") else None
        assert back[name].tobytes() == tensor[:rows].tobytes(), name


def with_header(model_bin: Path, path: Path, offset: int, form: str, value: object) -> Path:
    data = bytearray(model_bin.read_bytes())
    struct.pack_into("<" + form, data, offset, value)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("offset", "form", "value", "sentence"),
    [
        (16, "I", 0, "has the id .* where df52dc86-1789-4ed0-a295-66f10508145b is expected"),
        (32, "I", 2**20 + 1, "a context_length of 1048577 tokens, and 1048576 is the most that can be"),
        (32, "I", 0, "initial_context_length must be a positive whole number"),
        (36, "I", 2**32 - 1, "hold no 4294967295 layers"),
        (36, "I", 3, "is truncated: tensor"),
        (40, "I", 2**31, "is truncated: tensor"),
        (44, "I", 4, r"experts_per_token \(4\) is more than num_experts \(3\)"),
        (48, "I", 33, "hidden_size must be a multiple of 32"),
        (60, "I", 0, "head_dim must be a positive whole number"),
        (76, "f", float("nan"), "impossible header: rope fields nan"),
        (80, "f", 0.0, "impossible header: rope fields"),
        (100, "I", 1, "where 229177a8-5775-4268-bfd8-d588b351c56d is expected"),
        (132, "I", 2**32 - 1, "is truncated|impossible"),
    ],
)
def test_a_header_that_lies_gets_one_sentence(
    model_bin: Path, tmp_path: Path, offset: int, form: str, value: object, sentence: str
) -> None:
    bad = with_header(model_bin, tmp_path / "model.bin", offset, form, value)
    with pytest.raises((CheckpointError, ConfigError), match=sentence) as caught:
        open_checkpoint(bad)
    assert str(caught.value).startswith(str(bad))
    assert "\n" not in str(caught.value)
