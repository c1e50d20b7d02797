"""`gpt-oss train` as it is typed, on a tiny checkpoint: LoRA and full, resume, two processes, what it refuses."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gpt_oss.cli import main
from gpt_oss.model.checkpoint import open_checkpoint
from gpt_oss.model.config import ModelConfig
from gpt_oss.model.factory import write_random_checkpoint

REPOSITORY = Path(__file__).parents[2]
TINY = ModelConfig(
    num_hidden_layers=2, num_experts=4, experts_per_token=2, hidden_size=32, intermediate_size=32, head_dim=8,
    num_attention_heads=4, num_key_value_heads=2,
)  # fmt: skip
SMALL_STEPS = ["--batch-tokens", "400", "--steps", "2", "--precision", "float32", "--device", "cpu"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("train") / "tiny", TINY)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The conversations of docs/training.md."""
    text = (REPOSITORY / "docs" / "training.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- tested: conversations.jsonl -->\n```json\n(.*?)```", text, re.DOTALL)
    assert found
    path = tmp_path / "conversations.jsonl"
    path.write_text(found[1], encoding="utf-8")
    return path


def test_lora_writes_an_adapter_that_generate_takes(
    checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run = tmp_path / "run"
    flags = ["--lora", "2", "--held-out", "0.3", "--export", "hf", "--bf16", *SMALL_STEPS]
    assert main(["train", str(checkpoint), str(data), "-o", str(run), *flags]) == 0
    assert {"adapter", "model", "loss.csv", "loss.png", "state.pt"} <= {path.name for path in run.iterdir()}
    assert json.loads((run / "adapter" / "adapter_config.json").read_text())["r"] == 2
    with open_checkpoint(run / "model") as merged:
        assert not merged.quantized
    generate = ["generate", str(checkpoint), "-p", "Hi", "-l", "3", "-t", "0", "--adapter", str(run / "adapter")]
    assert main(generate) == 0
    assert (
        main(["convert", str(checkpoint), str(tmp_path / "out"), "--to", "hf", "--adapter", str(run / "adapter")]) == 0
    )
    capsys.readouterr()


def test_a_run_goes_on_and_is_not_overwritten(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", str(checkpoint), str(data), "-o", str(tmp_path / "run"), "--target", "attention", *SMALL_STEPS]
    assert main(command) == 0
    assert main(command) == 2
    assert "holds a run already" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0
    assert main([*command, "--resume", "--learning-rate", "1"]) == 2


def test_full_training_writes_a_checkpoint(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert (
        main(["train", str(checkpoint), str(data), "-o", str(run), "--full", "--export", "original", *SMALL_STEPS]) == 0
    )
    with open_checkpoint(run / "model") as trained:
        assert trained.quantized
        assert trained.layout == "original"


def test_two_processes_train_one_adapter(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = ["-m", "gpt_oss.cli", "train", str(checkpoint), str(data), "-o", str(tmp_path / "run"), *SMALL_STEPS]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*torchrun, *command], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--held-out", "2"], "between 0 and 1"),
        (["--held-out", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--device", "abacus"], "no device"),
        (["--lora", "0"], "rank"),
        (["--batch-tokens", "20"], "tokens long, and a pass has 20"),
        (["--adapter", "nowhere"], "adapter_config.json"),
    ],
)
def test_bad_input_gets_one_sentence(
    checkpoint: Path, data: Path, tmp_path: Path, flags: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(checkpoint), str(data), "-o", str(tmp_path / "run"), *SMALL_STEPS, *flags]) == 2
    error = capsys.readouterr().err
    assert "gpt-oss: " in error
    assert "Traceback" not in error
    assert reason in error
