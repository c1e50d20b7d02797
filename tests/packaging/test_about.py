"""`gpt-oss --version`, and the commit that it and the build backend tell."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from gpt_oss import __version__
from gpt_oss.about import about, checkout_commit
from gpt_oss.cli import main

REPOSITORY = Path(__file__).parents[2]


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=T", "-c", "user.email=t@example.org", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def repository(folder: Path) -> str:
    """A repository with one commit at `folder`, all of which is committed; returns it."""
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "--allow-empty", "-m", "first")
    return git(folder, "rev-parse", "HEAD")


def test_version_begins_with_what_scripts_read(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"gpt-oss {__version__}"
    assert [line.split()[0] for line in lines[1:]] == ["commit", "kernels", "compiler", "python", "platform"]


def test_version_as_json_names_kernels_that_this_machine_has(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["version"] == __version__
    assert set(answer["kernels_usable"]) <= set(answer["kernels_compiled"])
    assert answer["kernels_usable"][-1] == "plain"
    assert answer["compiler"]


def test_an_extension_that_cannot_be_loaded_is_said_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gpt_oss.backends.cpu", None)
    assert "kernels   not built" in about().as_text()


def test_the_commit_of_a_checkout_is_told_with_its_changes(tmp_path: Path) -> None:
    (tmp_path / "packaging").mkdir()
    (tmp_path / "packaging" / "backend.py").touch()
    head = repository(tmp_path)
    assert checkout_commit(tmp_path) == head[:12]
    (tmp_path / "packaging" / "backend.py").write_text("changed")
    assert checkout_commit(tmp_path) == f"{head[:12]}-dirty"


def test_a_repository_around_the_installed_package_is_not_ours(tmp_path: Path) -> None:
    repository(tmp_path)
    (tmp_path / "venv").mkdir()
    assert checkout_commit(tmp_path) is None
    assert checkout_commit(tmp_path / "venv") is None


def backend_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """packaging/backend.py as if it lay in a tree at `folder`; what it builds with is not asked for."""
    builder = ModuleType("scikit_build_core.build")
    monkeypatch.setitem(sys.modules, "scikit_build_core", ModuleType("scikit_build_core"))
    sys.modules["scikit_build_core"].build = builder  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "scikit_build_core.build", builder)
    (folder / "packaging").mkdir(exist_ok=True)
    path = folder / "packaging" / "backend.py"
    path.write_text((REPOSITORY / "packaging" / "backend.py").read_text())
    monkeypatch.syspath_prepend(REPOSITORY / "packaging")
    monkeypatch.setenv("GPT_OSS_PAGE", "0")
    spec = importlib.util.spec_from_file_location("backend", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_build_takes_the_commit_from_the_nearest_that_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GPT_OSS_COMMIT", raising=False)
    outer = tmp_path / "outer"
    (outer / "inner").mkdir(parents=True)
    repository(outer)
    assert backend_in(outer / "inner", monkeypatch).commit() == ""  # unpacked in somebody else's repository

    backend = backend_in(outer, monkeypatch)
    git(outer, "add", "-A")
    git(outer, "commit", "-q", "-m", "second")
    head = git(outer, "rev-parse", "HEAD")
    assert backend.commit() == head[:12]
    (outer / "COMMIT").write_text("0123456789ab\n")
    assert backend.commit() == "0123456789ab"
    monkeypatch.setenv("GPT_OSS_COMMIT", "fedcba987654")
    assert backend.commit() == "fedcba987654"


def test_an_sdist_has_the_commit_for_as_long_as_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GPT_OSS_COMMIT", raising=False)
    backend = backend_in(tmp_path, monkeypatch)
    head = repository(tmp_path)
    seen: list[str] = []

    def build_sdist(folder: str, settings: object) -> str:
        seen.append((tmp_path / "COMMIT").read_text())
        raise OSError("the disk is full")

    sys.modules["scikit_build_core.build"].build_sdist = build_sdist  # type: ignore[attr-defined]
    with pytest.raises(OSError, match="disk is full"):
        backend.build_sdist("dist")
    assert seen == [f"{head[:12]}\n"]
    assert not (tmp_path / "COMMIT").exists()
