"""Three layouts of one network: opened alike, converted into each other bit for bit, and refused when damaged."""

from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from gpt_oss.errors import CheckpointError, ConfigError
from gpt_oss.model import reference
from gpt_oss.model.checkpoint import open_checkpoint
from gpt_oss.model.config import ModelConfig, load_config
from gpt_oss.model.convert import convert
from gpt_oss.model.factory import write_random_checkpoint
from gpt_oss.model.layout import LayoutName
from gpt_oss.model.tensors import canonical_tensors
from gpt_oss.vocabulary import text_tokens

ODD = ModelConfig(
    num_hidden_layers=3,
    num_experts=8,
    experts_per_token=2,
    vocab_size=512,
    hidden_size=96,
    intermediate_size=160,
    head_dim=16,
    num_attention_heads=6,
    num_key_value_heads=2,
)
LAYOUTS: tuple[LayoutName, ...] = ("original", "huggingface", "metal")


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> dict[LayoutName, Path]:
    folder = tmp_path_factory.mktemp("layouts")
    return {layout: write_random_checkpoint(folder / layout, ODD, seed=3, layout=layout) for layout in LAYOUTS}


def contents(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return {file.name: file.read_bytes() for file in files}


def test_every_tensor_is_the_same_in_every_layout(layouts: dict[LayoutName, Path]) -> None:
    opened = {layout: open_checkpoint(path) for layout, path in layouts.items()}
    assert {layout: ck.layout for layout, ck in opened.items()} == {layout: layout for layout in LAYOUTS}
    for name, spec in canonical_tensors(ODD).items():
        first = opened["original"].tensor(name)
        assert first.shape == spec.shape
        assert first.dtype == spec.dtype
        for layout in LAYOUTS[1:]:
            other = opened[layout].tensor(name)
            assert other.dtype == first.dtype
            assert other.tobytes() == first.tobytes(), (name, layout)
            assert np.array_equal(opened[layout].tensor(name, (slice(1, 3),)), first[1:3]), (name, layout)
    assert opened["metal"].config == opened["huggingface"].config == opened["original"].config == ODD


def test_experts_are_views_of_the_file(layouts: dict[LayoutName, Path]) -> None:
    for layout, path in layouts.items():
        experts = open_checkpoint(path).experts(1)
        canonical = open_checkpoint(layouts["original"])
        assert experts.scale_bias == (141 if layout == "metal" else 127)
        assert not experts.mlp1_blocks.flags.owndata
        assert np.array_equal(experts.mlp1_blocks, canonical.tensor("block.1.mlp.mlp1_weight.blocks"))
        scales = experts.mlp2_scales.astype(int) - experts.scale_bias
        assert np.array_equal(scales, canonical.tensor("block.1.mlp.mlp2_weight.scales").astype(int) - 127)


@pytest.mark.parametrize("source", LAYOUTS)
@pytest.mark.parametrize("target", LAYOUTS)
def test_any_layout_converts_to_any_other(
    layouts: dict[LayoutName, Path], tmp_path: Path, source: LayoutName, target: LayoutName
) -> None:
    made = tmp_path / "made"
    convert(layouts[source], made, target)
    assert contents(made).keys() - {"made"} == contents(layouts[target]).keys() - {"metal"}
    assert list(contents(made).values()) == list(contents(layouts[target]).values())


def test_a_destination_is_not_overwritten_unless_told(layouts: dict[LayoutName, Path], tmp_path: Path) -> None:
    target = tmp_path / "there"
    target.write_text("precious")
    with pytest.raises(CheckpointError, match="there"):
        convert(layouts["original"], target, "metal")
    assert target.read_text() == "precious"
    convert(layouts["original"], target, "metal", overwrite=True)
    assert open_checkpoint(target).layout == "metal"
    assert [p.name for p in tmp_path.iterdir()] == ["there"]


def test_the_metal_file_is_as_the_format_says(layouts: dict[LayoutName, Path]) -> None:
    """An independent reader: struct and numpy, section by section, to the last byte."""
    data = layouts["metal"].read_bytes()
    at = 0

    def take(form: str) -> tuple[object, ...]:
        nonlocal at
        values = struct.unpack_from("<" + form, data, at)
        at += struct.calcsize("<" + form)
        return values

    assert take("12sI") == (b"GPT-OSS v1.0", 0)
    assert take("16s")[0].hex() == "df52dc861789" + "4ed0a29566f10508145b"  # type: ignore[attr-defined]
    shape = take("6IfIIIIffffff")
    assert shape[:10] == (131072, 3, 8, 2, 96, 160, 7.0, 16, 6, 2)
    assert shape[10:13] == (128, 150000.0, 1 / 32)
    low = 8 * np.log(4096 / (32 * 2 * np.pi)) / np.log(150000)
    high = 8 * np.log(4096 / (2 * np.pi)) / np.log(150000)
    assert shape[13:] == pytest.approx((-low / (high - low), 1 / (high - low), 0.1 * np.log(32) + 1, 1e-5), rel=1e-6)
    assert take("16s")[0].hex() == "229177a857754268bfd8d588b351c56d"  # type: ignore[attr-defined]
    assert take("16s")[0].hex() == "7401aded2a9540cbb7829ccebaafe72b"  # type: ignore[attr-defined]
    specials, texts, regex_size, tokens_size = take("4I")
    assert (specials, texts) == (0, 512)
    at += regex_size  # type: ignore[operator]
    assert data[at - 1] == 0
    start = at
    for token in text_tokens()[:512]:
        (length,) = take("H")
        assert data[at : at + length] == token  # type: ignore[operator]
        at += length  # type: ignore[operator]
    assert at - start == tokens_size
    at = -(-at // 16384) * 16384

    canonical = open_checkpoint(layouts["original"])

    def tensor(name: str, dtype: object = ml_dtypes.bfloat16) -> np.ndarray:  # type: ignore[type-arg]
        nonlocal at
        at = -(-at // 16) * 16
        size = canonical.tensor(name).size
        found = np.frombuffer(data, dtype, size, at)  # type: ignore[call-overload]
        at += found.nbytes
        return found.reshape(canonical.tensor(name).shape)  # type: ignore[no-any-return]

    assert np.array_equal(tensor("embedding.weight"), canonical.tensor("embedding.weight"))
    for block in range(3):
        attn, mlp = f"block.{block}.attn", f"block.{block}.mlp"
        assert np.array_equal(tensor(f"{attn}.norm.scale").astype(np.float32), canonical.tensor(f"{attn}.norm.scale"))
        for part in ("weight", "bias"):
            stored, plain = tensor(f"{attn}.qkv.{part}"), canonical.tensor(f"{attn}.qkv.{part}")
            for head in range(8):  # six queries, two keys
                rows = stored[head * 16 : head * 16 + 16].astype(np.float32)
                halves = np.concatenate([rows[0::2], rows[1::2]])
                factor = 0.5 if head < 6 else 0.25
                assert np.array_equal(halves, plain[head * 16 : head * 16 + 16].astype(np.float32) * factor)
            assert np.array_equal(stored[8 * 16 :], plain[8 * 16 :])
        for name in (f"{attn}.sinks", f"{attn}.out.weight", f"{attn}.out.bias"):
            assert np.array_equal(tensor(name), canonical.tensor(name))
        assert np.array_equal(tensor(f"{mlp}.norm.scale").astype(np.float32), canonical.tensor(f"{mlp}.norm.scale"))
        for name in (f"{mlp}.gate.weight", f"{mlp}.gate.bias"):
            assert np.array_equal(tensor(name), canonical.tensor(name))
    assert np.array_equal(tensor("norm.scale").astype(np.float32), canonical.tensor("norm.scale"))
    assert np.array_equal(tensor("unembedding.weight"), canonical.tensor("unembedding.weight"))
    for block in range(3):
        at = -(-at // 16384) * 16384
        for expert in range(8):
            for name in (
                "mlp1_weight.blocks",
                "mlp1_weight.scales",
                "mlp1_bias",
                "mlp2_weight.blocks",
                "mlp2_weight.scales",
                "mlp2_bias",
            ):
                at = -(-at // 16) * 16
                plain = canonical.tensor(f"block.{block}.mlp.{name}")[expert]
                found = np.frombuffer(data, plain.dtype, plain.size, at).reshape(plain.shape)
                at += found.nbytes
                assert np.array_equal(found, plain + 14 if name.endswith("scales") else plain), name
    assert at == len(data)


def test_a_dequantised_fine_tune_opens(tmp_path: Path, layouts: dict[LayoutName, Path]) -> None:
    path = write_random_checkpoint(tmp_path / "bf16", ODD, seed=3, layout="huggingface", quantized=False)
    tune, plain = open_checkpoint(path), open_checkpoint(layouts["original"])
    assert not tune.quantized
    tokens = list(range(20))
    assert np.allclose(reference.forward(tune, tokens), reference.forward(plain, tokens), atol=1e-9)
    with pytest.raises(CheckpointError, match="bf16"):
        tune.experts(0)


def test_random_networks_behave(layouts: dict[LayoutName, Path], tmp_path: Path) -> None:
    logits = reference.forward(open_checkpoint(layouts["original"]), list(range(40)))
    assert 0.5 < logits.std() < 20
    again = write_random_checkpoint(tmp_path / "again", ODD, seed=3)
    assert contents(again) == contents(layouts["original"])
    other = write_random_checkpoint(tmp_path / "other", ODD, seed=4)
    assert contents(other)["model.safetensors"] != contents(again)["model.safetensors"]


# Damage. Each gets one sentence that names the file, and the tensor where there is one.


@pytest.fixture
def original(tmp_path: Path) -> Path:
    return write_random_checkpoint(tmp_path / "broken", ODD, seed=3)


def rewrite_header(path: Path, change: object) -> None:
    data = path.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    change(header)  # type: ignore[operator]
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def refused(path: Path, message: str) -> None:
    with pytest.raises((CheckpointError, ConfigError), match=message) as caught:
        open_checkpoint(path)
    assert "\n" not in str(caught.value)


SINKS = "block.1.attn.sinks"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h.pop(SINKS), SINKS),
        (lambda h: h[SINKS].update(shape=[3, 2]), rf"{SINKS}.*shape"),
        (lambda h: h[SINKS].update(shape=[7]), SINKS),
        (lambda h: h[SINKS].update(dtype="F64"), SINKS),
        (lambda h: h[SINKS].update(data_offsets=[0, 10**12]), SINKS),
        (lambda h: h[SINKS].update(data_offsets=[-4, 8]), SINKS),
        (lambda h: h[SINKS].update(data_offsets=h["block.0.attn.sinks"]["data_offsets"]), "overlap"),
        (lambda h: h.update({SINKS: 5}), SINKS),
    ],
)
def test_a_damaged_header_is_refused(original: Path, change: object, message: str) -> None:
    rewrite_header(original / "model.safetensors", change)
    refused(original, message)


@pytest.mark.parametrize("keep", [0, 7, 100, 50_000, -1])
def test_a_truncated_file_is_refused(original: Path, keep: int) -> None:
    file = original / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    refused(original, "model.safetensors")


@pytest.mark.parametrize("keep", [0, 10, 60, 5_000, 40_000, -1])
def test_a_truncated_or_foreign_metal_file_is_refused(
    layouts: dict[LayoutName, Path], tmp_path: Path, keep: int
) -> None:
    file = tmp_path / "model.bin"
    data = layouts["metal"].read_bytes()
    file.write_bytes(data[:keep])
    refused(file, "model.bin")
    file.write_bytes(b"GPT-OSS v9.9" + data[12:])
    refused(file, "model.bin")


def test_other_bad_folders(tmp_path: Path, original: Path) -> None:
    refused(tmp_path / "nowhere", "nowhere")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "empty")
    bad = tmp_path / "pickled"
    bad.mkdir()
    (bad / "config.json").write_text("{}")
    (bad / "pytorch_model.bin").write_bytes(pickle.dumps({"a": 1}))
    refused(bad, "pickle")
    config = json.loads((original / "config.json").read_text())
    (original / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 4}))
    refused(original, r"block\.3\.")
    (original / "config.json").write_text("{not json")
    refused(original, "config.json")


def test_a_name_that_was_not_downloaded_gets_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint("openai/gpt-oss-never")
    assert caught.value.hint == "gpt-oss download openai/gpt-oss-never"


def test_a_parent_folder_is_enough(tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path / "gpt-oss-20b" / "original", ODD)
    assert open_checkpoint(tmp_path / "gpt-oss-20b").layout == "original"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_experts": 0}, "num_experts"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"num_key_value_heads": 5}, "num_key_value_heads|num_attention_heads"),
        ({"head_dim": 15}, "head_dim"),
        ({"intermediate_size": 100}, "intermediate_size"),
        ({"experts_per_token": 9}, "experts_per_token"),
    ],
)
def test_a_config_that_contradicts_itself_is_refused(original: Path, change: dict[str, object], message: str) -> None:
    config = json.loads((original / "config.json").read_text())
    with pytest.raises(ConfigError, match=message):
        load_config({**config, **change})


def test_both_names_of_the_rope_settings_are_read(layouts: dict[LayoutName, Path]) -> None:
    raw = json.loads((layouts["huggingface"] / "config.json").read_text())
    rope = raw.pop("rope_scaling", None) or raw.pop("rope_parameters")
    scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
    assert load_config({**raw, "rope_theta": 150000.0, "rope_scaling": scaling}) == ODD
    raw.pop("rope_theta", None)
    assert load_config({**raw, "rope_parameters": {**scaling, "rope_theta": 150000.0}}) == ODD
    with pytest.raises(ConfigError, match="layer_types"):
        load_config(
            {**raw, "rope_parameters": {**scaling, "rope_theta": 150000.0}, "layer_types": ["full_attention"] * 3}
        )
