"""Random checkpoints that several test modules share, written once a session."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from gpt_oss.model.config import ModelConfig
from gpt_oss.model.factory import write_random_checkpoint

# Without a GPU, Triton's kernels run in its interpreter, which must be known before the first of them is imported.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Run in the background of a script, this process and its children would ignore the Ctrl+C that tests send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

TINY = ModelConfig(
    num_hidden_layers=2,
    num_experts=8,
    experts_per_token=2,
    vocab_size=512,
    hidden_size=64,
    intermediate_size=64,
    head_dim=16,
    num_attention_heads=8,
    num_key_value_heads=2,
)


@pytest.fixture(scope="session")
def tiny_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same random weights in each of the three layouts."""
    folder = tmp_path_factory.mktemp("tiny")
    return {
        layout: write_random_checkpoint(folder / layout, TINY, seed=1, layout=layout)
        for layout in ("original", "huggingface", "metal")
    }
