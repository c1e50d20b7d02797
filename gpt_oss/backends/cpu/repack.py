"""Weights in the layout the kernels want, made once, kept on disk and mapped from then on.

Knows files, names and checksums; not what the bytes mean: that is `plan`, in weights.py.

One file a checkpoint and precision, `<key>.bin`: a page of JSON (what it was made from, where each section lies, a
checksum), then the sections. It is written under another name and renamed, so a reader never sees half of one; what is
damaged or of another version is made again. Where the disk cannot take it, the same bytes are made in memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import warnings
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FORMAT = 2  # of the file; the layout of a section is part of its key

_HEADER_BYTES = 4096  # one page, so that the sections are page-aligned in the map
_ALIGNMENT = 4096
_CHECKSUM_WORDS = 4096
_BLOCKS_AT_ONCE = 64  # two megabytes, which lie in a cache

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Section:
    """`write` fills the whole of its argument, uint8 [nbytes]."""

    nbytes: int
    write: Callable[[Bytes], None]


@dataclass(frozen=True)
class CacheFile:
    path: Path
    nbytes: int
    source: str  # the checkpoint that it was made from


def default_cache_dir() -> Path:
    """Where repacked weights are kept: `$XDG_CACHE_HOME/gpt-oss/repacked`, `~/.cache` where that is not set."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "gpt-oss" / "repacked"


def list_cache(cache_dir: Path | None = None) -> list[CacheFile]:
    """Every repacked file, those that cannot be read included (their source is empty)."""
    found = []
    for path in sorted((cache_dir or default_cache_dir()).glob("*.bin")):
        header = _read_header(path)
        found.append(CacheFile(path, path.stat().st_size, str(header.get("source", "")) if header else ""))
    return found


def clear_cache(cache_dir: Path | None = None) -> int:
    """Deletes every repacked file, and what an interrupted run left; returns the bytes set free. A model that is open
    keeps working: its map outlives the name."""
    folder, freed = cache_dir or default_cache_dir(), 0
    for path in [*folder.glob("*.bin"), *folder.glob("*.partial")]:
        freed += path.stat().st_size
        path.unlink()
    return freed


def checkpoint_identity(path: Path) -> str:
    """Changes whenever a weights file of the checkpoint does: names, sizes, times of change, and first 64 KiB."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix in (".safetensors", ".bin"))
    digest = hashlib.sha256()
    for file in files:
        stat = file.stat()
        digest.update(f"{file.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(1 << 16))
    return digest.hexdigest()


def load_sections(
    identity: str, source: str, sections: Mapping[str, Section], cache_dir: Path | None = None
) -> dict[str, Bytes]:
    """Each section's bytes: mapped from the cache, where they are made first if need be; else made in memory.

    identity: says what the sections are made from and how (checkpoint, layout, precision).
    """
    folder = cache_dir or default_cache_dir()
    key = hashlib.sha256(f"{FORMAT}\0{identity}".encode()).hexdigest()[:32]
    path = folder / f"{key}.bin"
    offsets, total = _layout(sections)
    expected = {"format": FORMAT, "identity": identity, "payload_bytes": total}
    payload = _map(path, expected)
    if payload is None:
        try:
            payload = _write(path, expected | {"source": source[:1024]}, sections, offsets)
        except OSError as error:
            warnings.warn(
                f"repacked weights cannot be kept in {folder} ({error.strerror}): every start makes them anew",
                stacklevel=2,
            )
            payload = np.empty(total, np.uint8)
            _fill(payload, sections, offsets)
    return {name: payload[offsets[name] : offsets[name] + section.nbytes] for name, section in sections.items()}


def _layout(sections: Mapping[str, Section]) -> tuple[dict[str, int], int]:
    offsets, end = {}, 0
    for name, section in sections.items():
        offsets[name] = end
        end += -(-section.nbytes // _ALIGNMENT) * _ALIGNMENT
    return offsets, end


def _fill(payload: Bytes, sections: Mapping[str, Section], offsets: Mapping[str, int]) -> None:
    for name, section in sections.items():
        section.write(payload[offsets[name] : offsets[name] + section.nbytes])


def _checksum(payload: Bytes) -> int:
    """The checksum of a payload: of the sum of each block, in order, and of the sums of every 4096th word.

    At memory speed: a piece is summed both ways while it lies in the cache. No flipped bit and no missing page escapes
    it, nor do two blocks or pages that have changed places.
    """
    words = payload.view(np.uint64)
    whole = words.size // _CHECKSUM_WORDS * _CHECKSUM_WORDS
    blocks = words[:whole].reshape(-1, _CHECKSUM_WORDS)
    columns = np.zeros(_CHECKSUM_WORDS, np.uint64)
    found = 0
    for first in range(0, len(blocks), _BLOCKS_AT_ONCE):
        piece = blocks[first : first + _BLOCKS_AT_ONCE]
        columns += np.add.reduce(piece, axis=0)
        found = zlib.crc32(np.add.reduce(piece, axis=1).tobytes(), found)
    return zlib.crc32(words[whole:].tobytes(), zlib.crc32(columns.tobytes(), found))


def _read_header(path: Path) -> dict[str, object] | None:
    try:
        with path.open("rb") as stream:
            header = json.loads(stream.read(_HEADER_BYTES).rstrip(b"\0"))
    except (OSError, ValueError):
        return None
    return header if isinstance(header, dict) else None


def _map(path: Path, expected: Mapping[str, object]) -> Bytes | None:
    """The payload of a whole and healthy file, read-only; None where there is none."""
    if not path.exists():
        return None
    header = _read_header(path)
    size = int(str(expected["payload_bytes"]))
    healthy = (
        header is not None
        and all(header.get(name) == value for name, value in expected.items())
        and path.stat().st_size == _HEADER_BYTES + size
    )
    if healthy and header is not None:
        payload = np.memmap(path, np.uint8, "r", offset=_HEADER_BYTES, shape=(size,))
        if _checksum(payload) == header.get("checksum"):
            return payload
    warnings.warn(f"{path} is damaged and will be made again", stacklevel=3)
    return None


def _write(path: Path, header: dict[str, object], sections: Mapping[str, Section], offsets: Mapping[str, int]) -> Bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    size = int(str(header["payload_bytes"]))
    handle, name = tempfile.mkstemp(suffix=".partial", dir=path.parent)
    partial = Path(name)
    try:
        with os.fdopen(handle, "r+b") as stream:
            if hasattr(os, "posix_fallocate"):  # reserve the space now: a full disk under a map would kill the process
                os.posix_fallocate(stream.fileno(), 0, _HEADER_BYTES + size)
            stream.truncate(_HEADER_BYTES + size)
            payload = np.memmap(partial, np.uint8, "r+", offset=_HEADER_BYTES, shape=(size,))
            _fill(payload, sections, offsets)
            text = json.dumps(header | {"checksum": _checksum(payload)}).encode()
            stream.write(text.ljust(_HEADER_BYTES, b"\0"))
        del payload
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return np.memmap(path, np.uint8, "r", offset=_HEADER_BYTES, shape=(size,))
