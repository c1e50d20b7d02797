"""The cache of repacked weights: made once, mapped afterwards, made again when anything is wrong with it."""

from __future__ import annotations

import errno
import os
import warnings
from pathlib import Path

import numpy as np
import pytest

from gpt_oss.backends.cpu.repack import (
    Section,
    checkpoint_identity,
    clear_cache,
    default_cache_dir,
    list_cache,
    load_sections,
)

DATA = np.random.default_rng(3).integers(0, 256, 100_000, np.uint8)


class Maker:
    """Counts how often the sections were made."""

    def __init__(self) -> None:
        self.made = 0

    def sections(self) -> dict[str, Section]:
        def write(out: np.ndarray) -> None:
            self.made += 1
            out[:] = DATA

        return {"a": Section(DATA.size, write), "b": Section(5, lambda out: out.fill(9))}

    def load(self, folder: Path, identity: str = "x") -> dict[str, np.ndarray]:
        loaded = load_sections(identity, "the/checkpoint", self.sections(), folder)
        np.testing.assert_array_equal(loaded["a"], DATA)
        assert loaded["b"].tolist() == [9] * 5
        return loaded


def test_made_once_then_mapped(tmp_path: Path) -> None:
    maker = Maker()
    maker.load(tmp_path)
    loaded = maker.load(tmp_path)
    assert maker.made == 1
    assert isinstance(loaded["a"], np.memmap)
    assert not loaded["a"].flags.writeable
    assert loaded["a"].ctypes.data % 64 == 0
    assert loaded["b"].ctypes.data % 64 == 0
    assert [(f.source, f.nbytes) for f in list_cache(tmp_path)] == [("the/checkpoint", 4096 + 102_400 + 4096)]


def test_another_identity_is_another_file(tmp_path: Path) -> None:
    maker = Maker()
    maker.load(tmp_path, "x")
    maker.load(tmp_path, "y")
    assert maker.made == 2
    assert len(list_cache(tmp_path)) == 2
    assert clear_cache(tmp_path) == 2 * (4096 + 102_400 + 4096)
    assert list_cache(tmp_path) == []


@pytest.mark.parametrize("damage", ["flip", "truncate", "extend", "header", "empty", "blocks", "pages"])
def test_damage_is_noticed_and_repaired(tmp_path: Path, damage: str) -> None:
    maker = Maker()
    maker.load(tmp_path)
    [file] = list_cache(tmp_path)
    data = bytearray(file.path.read_bytes())
    if damage == "flip":
        data[4096 + 54_321] ^= 4
    elif damage == "blocks":  # two of 32 KiB that have changed places
        first, second = 4096 + 4096, 4096 + 4096 + (32 << 10)
        size = 32 << 10
        data[first : first + size], data[second : second + size] = (
            data[second : second + size],
            data[first : first + size],
        )
        assert bytes(data) != file.path.read_bytes()
    elif damage == "pages":
        first, second = 4096 + 8192, 4096 + 8192 + (32 << 10)
        data[first : first + 4096], data[second : second + 4096] = (
            data[second : second + 4096],
            data[first : first + 4096],
        )
        assert bytes(data) != file.path.read_bytes()
    elif damage == "truncate":
        del data[-4096:]
    elif damage == "extend":
        data += b"x"
    elif damage == "header":
        data[:16] = b"{" * 16
    else:
        data.clear()
    file.path.write_bytes(data)
    with pytest.warns(UserWarning, match="damaged and will be made again"):
        maker.load(tmp_path)
    assert maker.made == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        maker.load(tmp_path)
    assert maker.made == 2


def test_works_from_memory_where_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.warns(UserWarning, match=r"cannot be kept in .* \(No space left on device\)"):
        Maker().load(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_works_from_memory_where_the_folder_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match="cannot be kept"):
        Maker().load(tmp_path / "file" / "folder")


def test_a_failed_run_leaves_nothing(tmp_path: Path) -> None:
    def fail(_: np.ndarray) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_sections("x", "y", {"a": Section(10, fail)}, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_identity_follows_the_weights(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"one")
    first = checkpoint_identity(tmp_path)
    assert checkpoint_identity(tmp_path) == first
    (tmp_path / "config.json").write_text("{}")
    assert checkpoint_identity(tmp_path) == first
    file.write_bytes(b"two")
    assert checkpoint_identity(tmp_path) != first


def test_cache_dir_follows_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_cache_dir() == Path("/somewhere/gpt-oss/repacked")
