"""Write weights in any layout: from one checkpoint to another, as a stream, whole or not at all.

What arrives is bit-exact where the layout can hold it. Lossy are only: bf16 experts to metal (rounded to MXFP4), norm
scales that bf16 cannot represent to Hugging Face and metal, and metal's cut of the vocabulary to the tokens in use.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from tqdm import tqdm

from gpt_oss.errors import CheckpointError, ParameterError
from gpt_oss.model.checkpoint import open_checkpoint
from gpt_oss.model.disk import require_space
from gpt_oss.model.huggingface import write_huggingface
from gpt_oss.model.layout import LayoutName
from gpt_oss.model.metal import write_metal
from gpt_oss.model.original import write_original
from gpt_oss.model.tensors import Weights, canonical_tensors

Writer = Callable[[Path, Weights], Iterator[int]]
_WRITERS: dict[LayoutName, Writer] = {
    "original": write_original,
    "huggingface": write_huggingface,
    "metal": write_metal,
}


def convert(
    source: str | Path, destination: str | Path, layout: LayoutName, *, overwrite: bool = False, progress: bool = False
) -> Path:
    """Write the checkpoint at `source` to `destination` in another layout (or the same); see write_checkpoint."""
    with open_checkpoint(source) as checkpoint:
        return write_checkpoint(destination, checkpoint, layout, overwrite=overwrite, progress=progress)


def write_checkpoint(
    destination: str | Path, weights: Weights, layout: LayoutName, *, overwrite: bool = False, progress: bool = False
) -> Path:
    """Stream weights to disk; returns what was written: a folder, or metal's one file.

    metal goes into `destination`/model.bin when that is an empty folder. The result appears under its name only when
    it is complete. Raises CheckpointError when the name is taken and overwrite is false, when the disk is too
    small, or when the layout cannot hold the weights.
    """
    destination = Path(destination)
    if layout not in _WRITERS:
        raise ParameterError(f"there is no layout {layout!r}; choose one of {', '.join(_WRITERS)}")
    if layout == "metal" and destination.is_dir() and not any(destination.iterdir()):
        destination /= "model.bin"
    _check_free(destination, overwrite)
    size_bytes = sum(spec.size_bytes for spec in canonical_tensors(weights.config, weights.quantized).values())
    destination.parent.mkdir(parents=True, exist_ok=True)
    require_space(destination.parent, size_bytes, CheckpointError)

    partial = destination.with_name(f".{destination.name}.partial-{os.getpid()}")
    try:
        if layout != "metal":
            partial.mkdir()
        with tqdm(total=size_bytes, unit="B", unit_scale=True, desc=destination.name, disable=not progress) as bar:
            for written_bytes in _WRITERS[layout](partial, weights):
                bar.update(written_bytes)
        _move_into_place(partial, destination)
    except OSError as error:
        raise CheckpointError(f"{destination} cannot be written: {error.strerror}") from error
    finally:
        _remove(partial)
    return destination


def _check_free(destination: Path, overwrite: bool) -> None:
    """The name is free, or may be replaced. A folder with more than a checkpoint's files in it never is."""
    if not destination.exists() or (destination.is_dir() and not any(destination.iterdir())):
        return
    if not overwrite:
        raise CheckpointError(f"{destination} exists", hint="Choose another name, or replace it with --force.")
    if destination.is_dir() and (
        not (destination / "config.json").is_file() or any(entry.is_dir() for entry in destination.iterdir())
    ):
        raise CheckpointError(f"{destination} holds more than one checkpoint's files, and will not be replaced")


def _move_into_place(partial: Path, destination: Path) -> None:
    if partial.is_dir() and destination.exists():  # a folder replaces only an empty one in a single step
        aside = partial.with_suffix(".old")
        destination.rename(aside)
        partial.rename(destination)
        _remove(aside)
    else:
        partial.replace(destination)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
