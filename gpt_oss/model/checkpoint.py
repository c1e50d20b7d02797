"""Open a checkpoint as it lies on disk: find which layout a path holds, and hand it to that layout's reader."""

from __future__ import annotations

import re
from pathlib import Path

from gpt_oss.errors import CheckpointError
from gpt_oss.model.compact import DEMO, demo_folder
from gpt_oss.model.config import is_huggingface, read_json
from gpt_oss.model.huggingface import open_huggingface
from gpt_oss.model.layout import Checkpoint, LayoutName
from gpt_oss.model.metal import MAGIC, open_metal
from gpt_oss.model.original import open_original
from gpt_oss.model.safetensors_file import looks_like_pickle
from gpt_oss.model.tensors import ExpertWeights

__all__ = ["Checkpoint", "ExpertWeights", "LayoutName", "open_checkpoint"]


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open an `original/` folder, a Hugging Face folder, a metal/model.bin, or a folder that holds one of them.

    A name like `openai/gpt-oss-20b` that is no path is looked up in the local Hugging Face cache (never the network);
    `demo` that is no path is the demo model of the package.
    Only headers are read; every tensor's presence, shape and dtype is checked against the config before this returns.
    Raises CheckpointError or ConfigError, one sentence that names the file.
    """
    path = Path(path).expanduser()
    try:
        if path.is_dir():
            return _open_folder(path)
        if path.is_file():
            return _open_file(path)
    except OSError as error:
        raise CheckpointError(f"{error.filename or path} cannot be read: {error.strerror}") from error
    name = str(path)
    if name == DEMO:
        return _open_folder(demo_folder())
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise CheckpointError(f"{path} does not exist")
    cached = cached_snapshot(name)
    if cached is None:
        raise CheckpointError(
            f"{name} is neither a path nor in the local Hugging Face cache", hint=f"gpt-oss download {name}"
        )
    return _open_folder(cached)


def _open_folder(folder: Path) -> Checkpoint:
    config = folder / "config.json"
    if config.is_file() and any(folder.glob("*.safetensors*")):
        return open_huggingface(folder) if is_huggingface(read_json(config)) else open_original(folder)
    if (folder / "original" / "config.json").is_file():
        return open_original(folder / "original")
    for metal in (folder / "metal" / "model.bin", folder / "model.bin"):
        if metal.is_file():
            return _open_file(metal)
    for path in sorted(folder.iterdir()):
        if path.suffix in (".bin", ".pt", ".pth", ".pkl", ".ckpt"):
            return _open_file(path)
    if config.is_file():
        raise CheckpointError(f"{folder} has a config.json and no *.safetensors file")
    raise CheckpointError(
        f"{folder} holds no checkpoint: no config.json with *.safetensors, no original/, no metal/model.bin"
    )


def _open_file(path: Path) -> Checkpoint:
    with path.open("rb") as file:
        start = file.read(16)
    if start == MAGIC:
        return open_metal(path)
    if looks_like_pickle(start[:8]):
        raise CheckpointError(
            f"{path} is a pickle, which can run code when it is opened; only safetensors are read",
            hint="Look for a safetensors version of this checkpoint.",
        )
    if path.suffix == ".safetensors" or path.name == "config.json":
        return _open_folder(path.parent)
    raise CheckpointError(f"{path} is neither metal's model.bin nor a file of a folder with safetensors")


def cached_snapshot(repo_id: str) -> Path | None:
    """The folder of a downloaded repository in the local Hugging Face cache, or None. Never asks the network."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    for mark in ("original/config.json", "metal/model.bin", "model.safetensors.index.json", "model.safetensors"):
        try:
            found = try_to_load_from_cache(repo_id, mark)
        except HFValidationError:
            return None
        if isinstance(found, str):
            return Path(found).parents[mark.count("/")]
    return None
