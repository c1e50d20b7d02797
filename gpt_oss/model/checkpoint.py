"""Open a checkpoint as it lies on disk: find which layout a path holds, and hand it to that layout's reader."""

from __future__ import annotations

import re
from pathlib import Path

from gpt_oss.errors import CheckpointError
from gpt_oss.model.config import is_huggingface, read_json
from gpt_oss.model.huggingface import open_huggingface
from gpt_oss.model.layout import Checkpoint, LayoutName
from gpt_oss.model.metal import open_metal, starts_with_magic
from gpt_oss.model.original import open_original
from gpt_oss.model.safetensors_file import looks_like_pickle
from gpt_oss.model.tensors import ExpertWeights

__all__ = ["Checkpoint", "ExpertWeights", "LayoutName", "open_checkpoint"]


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open an `original/` folder, a Hugging Face folder, a metal/model.bin, or a folder that holds one of them.

    A name like `openai/gpt-oss-20b` that is no path is looked up in the local Hugging Face cache (never the network).
    Only headers are read; every tensor's presence, shape and dtype is checked against the config before this returns.
    Raises CheckpointError or ConfigError, one sentence that names the file.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        return _open_folder(path)
    if path.is_file():
        return _open_file(path)
    name = str(path)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        cached = cached_snapshot(name)
        if cached is not None:
            return _open_folder(cached)
        raise CheckpointError(
            f"{name} is neither a path nor in the local Hugging Face cache", hint=f"gpt-oss download {name}"
        )
    raise CheckpointError(f"{path} does not exist")


def _open_folder(folder: Path) -> Checkpoint:
    config = folder / "config.json"
    if config.is_file() and any(folder.glob("*.safetensors*")):
        return open_huggingface(folder) if is_huggingface(read_json(config)) else open_original(folder)
    if (folder / "original" / "config.json").is_file():
        return open_original(folder / "original")
    for metal in (folder / "metal" / "model.bin", folder / "model.bin"):
        if metal.is_file() and not _is_pickle(metal):
            return open_metal(metal)
    pickled = next((path for path in sorted(folder.iterdir()) if _is_pickle(path)), None)
    if pickled is not None:
        raise CheckpointError(
            f"{pickled} is a pickle, which can run code when it is opened; only safetensors are read",
            hint="Look for a safetensors version of this checkpoint.",
        )
    if config.is_file():
        raise CheckpointError(f"{folder} has a config.json and no *.safetensors file")
    raise CheckpointError(
        f"{folder} holds no checkpoint: no config.json with *.safetensors, no original/, no metal/model.bin"
    )


def _open_file(path: Path) -> Checkpoint:
    if _is_pickle(path):
        raise CheckpointError(
            f"{path} is a pickle, which can run code when it is opened; only safetensors are read",
            hint="Look for a safetensors version of this checkpoint.",
        )
    if starts_with_magic(path):
        return open_metal(path)
    if path.suffix == ".safetensors" or path.name == "config.json":
        return _open_folder(path.parent)
    raise CheckpointError(f"{path} is no checkpoint: neither metal's model.bin nor a folder with safetensors")


def _is_pickle(path: Path) -> bool:
    return path.suffix in (".bin", ".pt", ".pth", ".pkl", ".ckpt") and path.is_file() and looks_like_pickle(path)


def cached_snapshot(repo_id: str) -> Path | None:
    """The folder of a downloaded repository in the local Hugging Face cache, or None. Never asks the network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo_id, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None
