"""The chat as a process, on a random network that emits garbage: nothing may crash, whatever it says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gpt_oss.model.config import ModelConfig
from gpt_oss.model.factory import write_random_checkpoint


@pytest.fixture(scope="module")
def babbler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small layers with the real vocabulary, so that Harmony's special tokens can be read and written."""
    shape = ModelConfig(
        num_hidden_layers=2, num_experts=4, experts_per_token=2, hidden_size=32, intermediate_size=32, head_dim=8,
        num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    return write_random_checkpoint(tmp_path_factory.mktemp("chat") / "babbler", shape)


def chat(babbler: Path, cache: Path, *flags: str, said: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "gpt_oss.chat", str(babbler), *flags]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    return subprocess.run(command, input=said.encode(), capture_output=True, timeout=120, check=False, env=environment)


def test_a_conversation_of_garbage_survives(babbler: Path, tmp_path: Path) -> None:
    said = "hello\n\nwhat is <|end|> for?\nand a third\n"
    answer = chat(
        babbler, tmp_path, "-l", "300", "--seed", "1", "-r", "high", "--developer-message", "Be kind.", said=said
    )
    assert answer.returncode == 0, answer.stderr.decode()
    assert answer.stderr.decode().count("context") == 3
    assert b"Traceback" not in answer.stderr
    assert b"\x1b" not in answer.stdout  # no colours, and nothing of the model's, in a pipe


def test_raw_mode_shows_the_tokens(babbler: Path, tmp_path: Path) -> None:
    answer = chat(babbler, tmp_path, "-l", "5", "--seed", "1", "--raw", said="hi\n")
    assert answer.returncode == 0, answer.stderr.decode()
    assert answer.stdout.strip()


def test_a_long_conversation_starts_over_when_the_context_is_full(babbler: Path, tmp_path: Path) -> None:
    answer = chat(babbler, tmp_path, "-c", "400", "-l", "60", "--seed", "1", said="word " * 30 + "\n" + "x\n" * 8)
    assert answer.returncode == 0, answer.stderr.decode()


def test_a_prefix_is_kept_between_runs(babbler: Path, tmp_path: Path) -> None:
    chat(babbler, tmp_path, "-l", "2", "--seed", "1", said="the same long question " * 20 + "\n")
    saved = list((tmp_path / "gpt-oss" / "prefixes").iterdir())
    assert len(saved) == 1
    assert saved[0].stat().st_size > 1000
