"""The chat on a pseudo-terminal, with a model that plays back a script."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from gpt_oss.model.config import ModelConfig
from gpt_oss.model.factory import write_random_checkpoint
from tests.chat.terminal import Terminal

REPOSITORY = Path(__file__).parents[2]
Start = Callable[..., Terminal]


@pytest.fixture(scope="session")
def babbler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small random layers with the real vocabulary, so that Harmony's special tokens can be read and written."""
    shape = ModelConfig(
        num_hidden_layers=2, num_experts=4, experts_per_token=2, hidden_size=32, intermediate_size=32, head_dim=8,
        num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    return write_random_checkpoint(tmp_path_factory.mktemp("chat") / "babbler", shape)


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An environment whose caches and histories are the test's own."""
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLORTERM")}
    folders = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "XDG_STATE_HOME": str(tmp_path / "state")}
    return {**kept, **folders, "TERM": "xterm-256color", "PYTHONPATH": str(REPOSITORY)}


@pytest.fixture
def chat(tmp_path: Path, home: dict[str, str]) -> Iterator[Start]:
    """chat([reply, …], *flags, **environment), in tmp_path: replies are scripted_chat.reply's, or its text."""
    with ExitStack() as stack:

        def start(replies: list[str | dict[str, Any]], *flags: str, **environment: str) -> Terminal:
            script = tmp_path / "script.json"
            script.write_text(json.dumps([{"says": r} if isinstance(r, str) else r for r in replies]))
            command = [sys.executable, "-m", "tests.chat.scripted_chat", str(script), *flags]
            return stack.enter_context(Terminal(command, {**home, **environment}, tmp_path))

        yield start
