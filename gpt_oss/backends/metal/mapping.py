"""Arrays of a mapped file as mlx arrays: the same memory where mlx can share it (Metal), else a copy (its CPU build).

Metal takes memory in whole pages, so the pages around an array become one buffer, and the array a view into it. Knows
no tensors of the network.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import mlx.core as mx
import numpy as np

from gpt_oss.model.tensors import BF16, Array

KERNEL_ALIGNMENT_BYTES = 16  # of the widest loads in mlx's kernels; what lies otherwise is copied
GAP_BYTES = 1 << 20  # arrays that lie nearer than this share one buffer


def to_mlx(array: Array) -> mx.array:
    """One array, see arrays_to_mlx."""
    (converted,) = arrays_to_mlx([array])
    return converted


def arrays_to_mlx(arrays: Sequence[Array]) -> list[mx.array]:
    """The same values, dtypes and shapes. Arrays that lie interleaved in a file, as the parts of metal/model.bin's
    experts do, share one buffer when they come together. Evaluated: any thread may use them.

    The file stays mapped as long as one of them lives, and must not be changed.
    """
    if all(_is_mapped(array) and _is_aligned(array) for array in arrays) and _are_neighbours(arrays):
        converted = _views(arrays)
    elif len(arrays) > 1:
        return [to_mlx(array) for array in arrays]
    else:
        converted = [mx.array(np.ascontiguousarray(arrays[0]))]
    mx.eval(converted)
    return converted


class _Pages:
    """Memory as numpy takes it (the array interface), with what keeps it alive."""

    def __init__(self, address: int, size_bytes: int, owner: object) -> None:
        self.__array_interface__ = {"data": (address, True), "shape": (size_bytes,), "typestr": "|u1", "version": 3}
        self.owner = owner


def _views(arrays: Sequence[Array]) -> list[mx.array]:
    bounds = [_bounds(array) for array in arrays]
    start = min(first for first, _ in bounds)
    start -= start % mmap.PAGESIZE
    end = max(last for _, last in bounds)
    end += -end % mmap.PAGESIZE  # a mapping, too, ends with a page: what lies behind the file's end are zeros
    pages = mx.from_dlpack(np.asarray(_Pages(start, end - start, arrays)))
    views = []
    for array, (first, _) in zip(arrays, bounds, strict=True):
        item = array.itemsize
        flat = pages if item == 1 else pages.view(_MLX_DTYPES[array.dtype])
        strides = [stride // item for stride in array.strides]
        views.append(mx.as_strided(flat, array.shape, strides, (first - start) // item))
    return views


_MLX_DTYPES: dict[np.dtype[Any], mx.Dtype] = {
    BF16: mx.bfloat16,
    np.dtype(np.float32): mx.float32,
    np.dtype(np.uint8): mx.uint8,
    np.dtype(np.uint32): mx.uint32,
}


def _bounds(array: Array) -> tuple[int, int]:
    """Addresses of the first byte and after the last one."""
    first, last = np.lib.array_utils.byte_bounds(array)
    return first, last


def _are_neighbours(arrays: Sequence[Array]) -> bool:
    bounds = sorted(_bounds(array) for array in arrays)
    return all(after - before <= GAP_BYTES for (_, before), (after, _) in pairwise(bounds))


def _is_aligned(array: Array) -> bool:
    """Also along every axis but the last, and never backwards: mlx has no negative strides."""
    parts = (_bounds(array)[0], *(stride for stride in array.strides if stride != array.itemsize))
    item = array.itemsize
    return parts[0] % KERNEL_ALIGNMENT_BYTES == 0 and all(part >= 0 and part % item == 0 for part in parts)


def _is_mapped(array: Array) -> bool:
    """A view of a file: only there do whole pages around it certainly belong to it."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    return isinstance(base, (mmap.mmap, memoryview)) and (
        isinstance(base, mmap.mmap) or isinstance(base.obj, mmap.mmap)
    )
