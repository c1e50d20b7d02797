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

SMALL_BYTES = 1 << 20  # what is smaller is copied: not worth a buffer of its own
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
    if len(arrays) > 1 and not (all(map(_can_be_shared, arrays)) and _are_neighbours(arrays)):
        return [to_mlx(array) for array in arrays]
    if sum(array.nbytes for array in arrays) >= SMALL_BYTES and _can_be_shared(arrays[0]):
        converted = _views(arrays)
    else:
        converted = [mx.array(np.ascontiguousarray(array)) for array in arrays]
    mx.eval(converted)
    return converted


class _Pages:
    """Memory as numpy takes it (the array interface), with what keeps it alive. Nothing writes to it."""

    def __init__(self, address: int, size_bytes: int, owner: object) -> None:
        self.__array_interface__ = {"data": (address, False), "shape": (size_bytes,), "typestr": "|u1", "version": 3}
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
    np.dtype(np.uint32): mx.uint32,
}


def _bounds(array: Array) -> tuple[int, int]:
    """Addresses of the first byte and after the last one, for strides that are not negative."""
    first: int = array.__array_interface__["data"][0]
    steps = zip(array.shape, array.strides, strict=True)
    return first, first + sum((count - 1) * stride for count, stride in steps) + array.itemsize


def _can_be_shared(array: Array) -> bool:
    """A view of a file, for only there do whole pages around it certainly belong to it, whose values lie as mlx has
    them: at multiples of their size, and none before the first."""
    places = (array.__array_interface__["data"][0], *array.strides)
    return all(place >= 0 and place % array.itemsize == 0 for place in places) and _mapped(array)


def _mapped(array: Array) -> bool:
    base: Any = array
    while isinstance(base, (np.ndarray, memoryview)):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    return isinstance(base, mmap.mmap)


def _are_neighbours(arrays: Sequence[Array]) -> bool:
    bounds = sorted(map(_bounds, arrays))
    return all(after - before <= GAP_BYTES for (_, before), (after, _) in pairwise(bounds))
