"""Arrays of a mapped file become mlx arrays: views where they can be shared, copies where not, the values always."""

from __future__ import annotations

import mmap
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from gpt_oss.backends.metal import mapping
from gpt_oss.backends.metal.mapping import arrays_to_mlx, to_mlx
from gpt_oss.model.tensors import BF16, Array


@pytest.fixture
def mapped(tmp_path: Path) -> mmap.mmap:
    """300,001 random bytes in a file: no whole number of pages."""
    path = tmp_path / "file"
    path.write_bytes(np.random.default_rng(1).bytes(300_001))
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def shared(arrays: list[Array], monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether they became views of pages, whatever their size; and that their values are right."""
    monkeypatch.setattr(mapping, "SMALL_BYTES", 0)
    seen = []
    plain = mapping._views
    monkeypatch.setattr(mapping, "_views", lambda arrays: seen.append(len(arrays)) or plain(arrays))
    for array, converted in zip(arrays, arrays_to_mlx(arrays), strict=True):
        assert converted.shape == array.shape
        assert str(converted.dtype).removeprefix("mlx.core.") == array.dtype.name
        np.testing.assert_array_equal(np.array(converted.view(mx.uint8)), np.ascontiguousarray(array).view(np.uint8))
    return seen == [len(arrays)]


@pytest.mark.parametrize("dtype", [np.dtype(np.uint8), np.dtype(np.uint32), np.dtype(np.float32), BF16])
@pytest.mark.parametrize("offset", [0, 8, 4096, 16384, 20_000])
def test_a_part_of_a_file_is_shared(
    mapped: mmap.mmap, monkeypatch: pytest.MonkeyPatch, dtype: np.dtype, offset: int
) -> None:
    assert shared([np.ndarray((7, 33), dtype, mapped, offset)], monkeypatch)


def test_the_last_bytes_of_a_file_are_shared(mapped: mmap.mmap, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shared([np.ndarray((1000,), np.uint8, mapped, 299_001)], monkeypatch)


def test_interleaved_arrays_share_their_pages(mapped: mmap.mmap, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records of 1,056 bytes: uint32 [16, 8], uint8 [16, 32] and a bf16 [16], as the experts of metal/model.bin lie."""
    words = np.ndarray((100, 16, 8), np.uint32, mapped, 16, (1056, 32, 4))
    scales = np.ndarray((100, 16, 32), np.uint8, mapped, 16 + 512, (1056, 32, 1))
    bias = np.ndarray((100, 16), BF16, mapped, 16 + 1024, (1056, 2))
    assert shared([words, scales, bias], monkeypatch)


def test_what_cannot_be_shared_is_copied(mapped: mmap.mmap, monkeypatch: pytest.MonkeyPatch) -> None:
    bytes_ = np.ndarray((300_000,), np.uint8, mapped, 0)
    assert not shared([np.ndarray((5,), np.uint32, mapped, 3)], monkeypatch)  # not at a multiple of its size
    assert not shared([bytes_[100::-1]], monkeypatch)  # backwards
    assert not shared([bytes_[:64].copy()], monkeypatch)  # no file: what lies around it is somebody else's
    far_apart = [np.ndarray((64,), np.uint8, mapped, at) for at in (0, 200_000)]
    monkeypatch.setattr(mapping, "GAP_BYTES", 100_000)
    assert not shared(far_apart, monkeypatch)


def test_an_array_outlives_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapping, "SMALL_BYTES", 0)
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 256)
    with path.open("rb") as file:
        view = np.ndarray((65536,), np.uint8, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    array = to_mlx(view)
    del view
    path.unlink()
    np.testing.assert_array_equal(np.array(array), np.tile(np.arange(256), 256))
