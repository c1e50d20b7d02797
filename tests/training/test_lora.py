"""LoRA: frozen MXFP4 weights with something to learn beside them, against merged weights and against peft itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gpt_oss.errors import CheckpointError, ParameterError
from gpt_oss.model.adapter import MergedWeights, open_merged, read_adapter, write_adapter
from gpt_oss.model.checkpoint import open_checkpoint
from gpt_oss.model.config import ModelConfig
from gpt_oss.model.convert import write_checkpoint
from gpt_oss.model.factory import write_random_checkpoint
from gpt_oss.training.data import Pack
from gpt_oss.training.lora import LoraOptions, adapter_of, load_adapter, lora_network
from gpt_oss.training.network import Network, PackTensors

CONFIG = ModelConfig(
    num_hidden_layers=2, num_experts=4, experts_per_token=2, vocab_size=512, hidden_size=64, intermediate_size=32,
    head_dim=16, num_attention_heads=4, num_key_value_heads=2,
)  # fmt: skip
OPTIONS = LoraOptions(rank=4, alpha=8)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("lora") / "base", CONFIG, layout="huggingface")


def a_pack(seed: int = 0) -> PackTensors:
    tokens = np.random.default_rng(seed).integers(0, CONFIG.vocab_size, 40)
    return PackTensors.of(Pack(tokens[:-1], tokens[1:], (20, 19)))


def learnt(base: Path) -> Network:
    """A network whose adapter is not zero: three steps."""
    with open_checkpoint(base) as checkpoint:
        network = lora_network(checkpoint, OPTIONS, dtype=torch.float32)
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.3)
    for _ in range(3):
        network.loss(a_pack()).total.backward()
        optimizer.step()
        optimizer.zero_grad()
    return network


def test_it_begins_as_the_checkpoint_and_learns_without_touching_it(base: Path) -> None:
    plain = Network(CONFIG)
    with open_checkpoint(base) as checkpoint:
        plain.load(checkpoint)
        network = lora_network(checkpoint, OPTIONS, dtype=torch.float32)
    before = network.loss(a_pack()).total
    torch.testing.assert_close(network(a_pack()), plain(a_pack()), rtol=1e-4, atol=1e-4)
    frozen = {name: p.clone() for name, p in network.named_parameters() if not p.requires_grad}
    after = learnt(base).loss(a_pack()).total
    assert after < 0.98 * before
    assert {name for name, p in network.named_parameters() if p.requires_grad} >= {"block.1.attn.qkv.q_proj_a"}
    assert all(torch.equal(p, frozen[name]) for name, p in learnt(base).named_parameters() if name in frozen)


def test_its_gradient_is_that_of_the_merged_weights(base: Path) -> None:
    """d loss / d B at W + s B A equals d loss / d W, times A and s: checked by a small step in every direction."""
    network = learnt(base).double()
    network.loss(a_pack()).total.backward()
    parameters = [p for p in network.parameters() if p.requires_grad]
    slope = sum(float((p.grad**2).sum()) for p in parameters if p.grad is not None)
    step = 1e-4 / slope**0.5
    sides = []
    for sign in (1, -1):
        with torch.no_grad():
            for p in parameters:
                p.add_(p.grad, alpha=sign * step)
            sides.append(float(network.loss(a_pack()).total))
            for p in parameters:
                p.sub_(p.grad, alpha=sign * step)
    assert (sides[0] - sides[1]) / (2 * step) == pytest.approx(slope, rel=1e-4)


def test_an_adapter_comes_back_from_disk_and_goes_on(base: Path, tmp_path: Path) -> None:
    network = learnt(base)
    write_adapter(tmp_path, adapter_of(network, OPTIONS, "a base"))
    adapter = read_adapter(tmp_path, CONFIG)
    assert (adapter.rank, adapter.alpha, adapter.base) == (4, 8, "a base")
    with open_checkpoint(base) as checkpoint:
        again = lora_network(checkpoint, OPTIONS, dtype=torch.float32, seed=1)
    load_adapter(again, adapter)
    assert torch.equal(again(a_pack()), network(a_pack()))
    with open_checkpoint(base) as checkpoint:
        other = lora_network(checkpoint, LoraOptions(rank=2), dtype=torch.float32)
    with pytest.raises(ParameterError, match="rank"):
        load_adapter(other, adapter)


def test_merged_weights_compute_the_same(base: Path, tmp_path: Path) -> None:
    network = learnt(base)
    write_adapter(tmp_path / "adapter", adapter_of(network, OPTIONS))
    merged = Network(CONFIG)
    with open_checkpoint(base) as checkpoint:
        weights = MergedWeights(checkpoint, read_adapter(tmp_path / "adapter", CONFIG), quantized=False)
        written = write_checkpoint(tmp_path / "merged", weights, "huggingface")
    with open_checkpoint(written) as checkpoint:
        assert not checkpoint.quantized
        merged.load(checkpoint)
    # The merged weights are rounded to bf16, which sends a token to another expert now and then.
    apart = (merged(a_pack()) - network(a_pack())).abs().amax(dim=1)
    assert (apart < 0.05).float().mean() > 0.85


def test_a_backend_opens_it_merged_once(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_adapter(tmp_path / "adapter", adapter_of(learnt(base), OPTIONS))
    with open_checkpoint(base) as checkpoint:
        first, second = (open_merged(checkpoint, tmp_path / "adapter") for _ in range(2))
        assert first.path == second.path
        assert first.quantized
        name = "block.0.attn.qkv.weight"
        assert not np.array_equal(first.tensor(name), checkpoint.tensor(name))


def test_peft_reads_ours_and_we_read_its(base: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    network = learnt(base)
    write_adapter(tmp_path / "ours", adapter_of(network, OPTIONS))

    def load() -> torch.nn.Module:
        with open_checkpoint(base) as checkpoint:
            config = transformers.GptOssConfig(**_huggingface_fields(checkpoint.config))
            model = transformers.GptOssForCausalLM(config).float().eval()
            _copy_into(model, checkpoint)
        return model

    model = peft.PeftModel.from_pretrained(load(), str(tmp_path / "ours"))
    pack = a_pack()
    ids = pack.tokens[:20][None]
    with torch.no_grad():
        theirs = model(ids).logits[0]
        ours = network(pack)[:20]
    torch.testing.assert_close(ours, theirs, rtol=2e-3, atol=2e-3)

    # And the other way: an adapter that peft made, everything in it random.
    made = peft.get_peft_model(
        load(),
        peft.LoraConfig(
            r=4, lora_alpha=8, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
            target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
        ),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
        theirs = made(ids).logits[0]
    made.save_pretrained(str(tmp_path / "theirs"))
    load_adapter(network, read_adapter(tmp_path / "theirs", CONFIG))
    torch.testing.assert_close(network(pack)[:20], theirs, rtol=2e-3, atol=2e-3)


def _huggingface_fields(config: ModelConfig) -> dict[str, object]:
    from gpt_oss.model.config import huggingface_json

    fields = huggingface_json(config, quantized=False)
    return {key: value for key, value in fields.items() if key not in ("architectures", "quantization_config")}


def _copy_into(model: torch.nn.Module, checkpoint: object) -> None:
    """transformers' own modules with this checkpoint's weights, dequantised."""
    from gpt_oss.model import mxfp4

    state = model.state_dict()
    heads = CONFIG.num_attention_heads * CONFIG.head_dim
    kv_heads = CONFIG.num_key_value_heads * CONFIG.head_dim

    def read(name: str) -> torch.Tensor:
        return torch.from_numpy(checkpoint.tensor(name).astype("float32"))  # type: ignore[attr-defined]

    state["model.embed_tokens.weight"] = read("embedding.weight")
    state["lm_head.weight"] = read("unembedding.weight")
    state["model.norm.weight"] = read("norm.scale")
    for layer in range(CONFIG.num_hidden_layers):
        ours, theirs = f"block.{layer}", f"model.layers.{layer}"
        state[f"{theirs}.input_layernorm.weight"] = read(f"{ours}.attn.norm.scale")
        state[f"{theirs}.post_attention_layernorm.weight"] = read(f"{ours}.mlp.norm.scale")
        for kind in ("weight", "bias"):
            parts = torch.split(read(f"{ours}.attn.qkv.{kind}"), [heads, kv_heads, kv_heads])
            for name, part in zip("qkv", parts, strict=True):
                state[f"{theirs}.self_attn.{name}_proj.{kind}"] = part
            state[f"{theirs}.self_attn.o_proj.{kind}"] = read(f"{ours}.attn.out.{kind}")
            state[f"{theirs}.mlp.router.{kind}"] = read(f"{ours}.mlp.gate.{kind}")
        state[f"{theirs}.self_attn.sinks"] = read(f"{ours}.attn.sinks")
        for name, target in (("mlp1", "gate_up_proj"), ("mlp2", "down_proj")):
            stored = [checkpoint.tensor(f"{ours}.mlp.{name}_weight.{kind}") for kind in ("blocks", "scales")]  # type: ignore[attr-defined]
            state[f"{theirs}.mlp.experts.{target}"] = torch.from_numpy(mxfp4.decode(*stored)).transpose(1, 2)
            state[f"{theirs}.mlp.experts.{target}_bias"] = read(f"{ours}.mlp.{name}_bias")
    model.load_state_dict(state)


def test_what_is_no_adapter_is_refused_in_one_sentence(base: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no adapter_config\.json"):
        read_adapter(tmp_path, CONFIG)
    folder = write_adapter(tmp_path / "adapter", adapter_of(learnt(base), OPTIONS))
    other = ModelConfig(**{**CONFIG.__dict__, "num_hidden_layers": 1})
    with pytest.raises(CheckpointError, match="no gpt-oss of this shape"):
        read_adapter(folder, other)
    (folder / "adapter_config.json").write_text('{"peft_type": "IA3", "r": 4}')
    with pytest.raises(CheckpointError, match="IA3"):
        read_adapter(folder, CONFIG)
    with pytest.raises(ParameterError, match="place"):
        LoraOptions(attention=False, experts=False)
