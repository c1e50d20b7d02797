"""A tiny random network with the real vocabulary: something to see, and to test with, before a download."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

NOTICE = (
    "No checkpoint was named: this is a tiny random network, which can only babble.\n"
    "For the real model: gpt-oss download openai/gpt-oss-20b && gpt-oss chat openai/gpt-oss-20b"
)


def babbling_checkpoint() -> Path:
    """The network's folder in the user's cache, written when it is first asked for (60 MB)."""
    from gpt_oss.model.config import ModelConfig
    from gpt_oss.model.factory import write_random_checkpoint

    path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gpt-oss" / "babbler"
    if path.exists():
        return path
    shape = ModelConfig(
        num_hidden_layers=2,
        num_experts=4,
        experts_per_token=2,
        hidden_size=64,
        intermediate_size=64,
        head_dim=16,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=path.parent
    ) as folder:  # renamed when whole: another process may write as well
        written = write_random_checkpoint(Path(folder) / "babbler", shape)
        if not path.exists():
            written.rename(path)
    return path
