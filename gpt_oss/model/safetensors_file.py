"""safetensors files, mapped into memory: zero-copy reading, and writing as a stream.

The format (github.com/huggingface/safetensors, "Format"): u64 length of the header, the header as JSON
{name: {dtype, shape, data_offsets: [begin, end]}}, then the data; all little-endian. Knows nothing of gpt-oss.
"""

from __future__ import annotations

import itertools
import json
import math
import mmap
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from gpt_oss.errors import CheckpointError
from gpt_oss.model.tensors import Array, TensorSpec

INDEX_NAME = "model.safetensors.index.json"

_MAX_HEADER_BYTES = 100_000_000  # the limit of the official reader
_ALIGNMENT = 64  # where our writer starts the data: a cache line, so that views suit vector loads

_DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
}
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def looks_like_pickle(start: bytes) -> bool:
    """Whether a file's first eight bytes are torch.save's zip archive, or a pickle of protocol 2 to 5.

    A safetensors header of 640 bytes starts with protocol 2's two bytes as well, but the upper half of its length is 0.
    """
    return start.startswith(b"PK\x03\x04") or (start[0:1] == b"\x80" and start[1] in range(2, 6) and any(start[4:]))


def dtype_name(dtype: np.dtype[Any]) -> str:
    """The format's name of a dtype, as in "BF16"."""
    return _DTYPE_NAMES.get(dtype, str(dtype))


@dataclass(frozen=True)
class StoredTensor:
    spec: TensorSpec
    offset_bytes: int  # from the start of the file


class SafetensorsFile:
    """One file. The header is read and checked when it is opened; the data is mapped when first asked for.

    Raises CheckpointError naming the file (and tensor) for anything that does not hold together.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tensors: Mapping[str, StoredTensor] = _read_header(path)

    def array(self, name: str) -> Array:
        """A read-only view of the mapped file (a copy only where the file has it unaligned)."""
        stored = self.tensors[name]
        view: Array = np.ndarray(stored.spec.shape, stored.spec.dtype, self._map, stored.offset_bytes)
        return np.require(view, requirements="A")

    @cached_property
    def _map(self) -> mmap.mmap:
        with self.path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _read_header(path: Path) -> dict[str, StoredTensor]:
    def refuse(reason: str) -> CheckpointError:
        return CheckpointError(f"{path}: {reason}", hint="Fetch the file again: it is damaged or of another format.")

    try:
        with path.open("rb") as file:
            file_bytes = os.fstat(file.fileno()).st_size
            start = file.read(8)
            if len(start) == 8 and looks_like_pickle(start):
                raise refuse("this is a pickle, which can run code when it is opened; only safetensors are read")
            if len(start) < 8:
                raise refuse(f"truncated: {file_bytes} bytes are no safetensors file")
            header_bytes = int.from_bytes(start, "little")
            if header_bytes > _MAX_HEADER_BYTES:
                raise refuse(f"no safetensors file: the header would be {header_bytes} bytes long")
            if 8 + header_bytes > file_bytes:
                raise refuse(f"truncated: the header ends at byte {8 + header_bytes}, the file at {file_bytes}")
            text = file.read(header_bytes)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error

    try:
        header = json.loads(text, object_pairs_hook=_unique_names)
    except (ValueError, RecursionError) as error:
        raise refuse(f"the header is not valid JSON: {error}") from error
    if not isinstance(header, dict):
        raise refuse("the header is not a JSON object")
    header.pop("__metadata__", None)

    data_start, data_bytes = 8 + header_bytes, file_bytes - 8 - header_bytes
    tensors: dict[str, StoredTensor] = {}
    spans: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        match entry:
            case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(begin), int(end)]} if all(
                type(size) is int and size >= 0 for size in shape
            ):
                pass
            case _:
                raise refuse(f"tensor {name!r} has no valid dtype, shape and data_offsets")
        if dtype not in _DTYPES:
            raise refuse(f"tensor {name!r} has the unknown dtype {dtype!r}")
        if not 0 <= begin <= end:
            raise refuse(f"tensor {name!r} has impossible offsets {begin}..{end}")
        if end > data_bytes:
            raise refuse(f"truncated: tensor {name!r} ends at byte {data_start + end}, the file at {file_bytes}")
        # Python integers: no product of sizes overflows.
        wanted = math.prod(shape) * _DTYPES[dtype].itemsize
        if wanted != end - begin:
            raise refuse(f"tensor {name!r} of {dtype} {shape} needs {wanted} bytes and has {end - begin}")
        tensors[name] = StoredTensor(TensorSpec(tuple(shape), _DTYPES[dtype]), data_start + begin)
        if begin < end:
            spans.append((begin, end, name))
    spans.sort()
    for (_, end, first), (begin, _, second) in itertools.pairwise(spans):
        if begin < end:
            raise refuse(f"tensors {first!r} and {second!r} overlap")
    return tensors


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"{twice!r} is there twice")
    return names


def open_shards(folder: Path) -> dict[str, SafetensorsFile]:
    """Every tensor name of a folder's safetensors files, with the file that has it.

    With an index, exactly the shards that it names; without, every `*.safetensors`. Raises CheckpointError.
    """
    index = next(iter(sorted(folder.glob("*.safetensors.index.json"))), None)
    paths = sorted(folder.glob("*.safetensors")) if index is None else _indexed_shards(index)
    if not paths:
        raise CheckpointError(f"{folder} has no *.safetensors file")
    where: dict[str, SafetensorsFile] = {}
    for path in paths:
        file = SafetensorsFile(path)
        for name in file.tensors:
            if name in where:
                raise CheckpointError(f"{path}: tensor {name!r} is also in {where[name].path.name}")
            where[name] = file
    return where


def _indexed_shards(index: Path) -> list[Path]:
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{index} cannot be read: {error}") from error
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise CheckpointError(f"{index} has no weight_map from tensors to files")
    shards = sorted(set(weight_map.values()))
    for shard in shards:
        if Path(shard).name != shard:
            raise CheckpointError(f"{index} names {shard!r}, which is not a file of its folder")
        if not (index.parent / shard).is_file():
            raise CheckpointError(
                f"{index} names {shard}, which is missing", hint="Fetch the checkpoint again: downloads resume."
            )
    return [index.parent / shard for shard in shards]


def write_safetensors(
    path: Path, tensors: Iterable[tuple[str, TensorSpec, Iterable[Array]]], metadata: Mapping[str, str] | None = None
) -> Iterator[int]:
    """Write one file tensor by tensor, yielding the bytes written at each step.

    Each tensor is its name, its spec and its chunks (along the first axis, in order, taken when its turn comes).
    """
    tensors = list(tensors)
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, spec, _ in tensors:
        end = offset + spec.size_bytes
        header[name] = {"dtype": dtype_name(spec.dtype), "shape": list(spec.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, spec, chunks in tensors:
            before = file.tell()
            for chunk in chunks:
                yield file.write(as_bytes(chunk))
            if file.tell() - before != spec.size_bytes:
                raise AssertionError(f"{name}: the chunks do not add up to {spec}")


def as_bytes(array: Array) -> memoryview:
    """The array's memory, copied only where it is not contiguous."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
