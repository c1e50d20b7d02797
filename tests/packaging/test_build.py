"""The package built and installed the ways a user does: minutes, hence slow (`make test-package`).

The registry is asked for what the package depends on.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
INSTALLED = Path(__file__).with_name("installed.py")
PYTHON = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def run(command: list[str | Path], cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "GPT_OSS"))}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a venv that has pip and `build`."""
    folder = tmp_path_factory.mktemp("tools")
    run([PYTHON, "-m", "venv", folder / "venv"], folder)
    run([folder / "venv/bin/pip", "install", "--quiet", "build", "auditwheel"], folder)
    return folder / "venv" / "bin" / "python"


@pytest.fixture(scope="module")
def sdist(tools: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of this checkout."""
    folder = tmp_path_factory.mktemp("sdist")
    run([tools, "-m", "build", "--sdist", "--outdir", folder, REPOSITORY], folder)
    [path] = folder.glob("*.tar.gz")
    return path


@pytest.fixture(scope="module")
def wheel(tools: Path, sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the sdist: all that it takes must be in there."""
    folder = tmp_path_factory.mktemp("wheel")
    run([tools, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, sdist], folder)
    [path] = folder.glob("*.whl")
    return path


def test_an_sdist_has_the_sources_and_the_commit(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
        [record] = [member for member in archive.getmembers() if member.name.endswith("/COMMIT")]
        file = archive.extractfile(record)
        assert file is not None
        recorded = file.read().decode().strip()
    assert {"csrc/model.cc", "CMakeLists.txt", "packaging/backend.py", "deploy/man/gpt-oss.1", "LICENSE"} <= names
    assert "gpt_oss/demo/demo.safetensors" in names
    assert not [name for name in names if name.startswith((".venv", ".git/", "build/", "web/node_modules", "site/"))]
    assert not [name for name in names if name.endswith((".so", ".pyc"))]
    head = run(["git", "rev-parse", "HEAD"], REPOSITORY).strip()
    assert head.startswith(recorded.removesuffix("-dirty"))
    assert not (REPOSITORY / "COMMIT").exists()


def test_a_wheel_has_the_package_alone(sdist: Path, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    with tarfile.open(sdist) as source:
        built = {Path(name).name for name in source.getnames() if "/server/static/" in name}
    assert {name.split("/")[0].split("-")[0] for name in names} <= {"gpt_oss"}
    assert not [name for name in names if name.endswith((".cc", ".h", ".pyc", ".ts"))]
    assert built == {Path(name).name for name in names if "/server/static/" in name}


def test_a_wheel_needs_nothing_of_the_system_but_its_c_and_cpp_libraries(tools: Path, wheel: Path) -> None:
    report = " ".join(run([tools, "-m", "auditwheel", "show", wheel], wheel.parent).split())
    assert "manylinux_2" in report, report  # else it would name what stands in the way
    outside = report.split("system-provided shared libraries:")[1].split("This constrains")[0]
    libraries = {word for word in outside.split() if ".so" in word}
    assert libraries <= {"libgcc_s.so.1", "libm.so.6", "libstdc++.so.6", "libc.so.6", "ld-linux-x86-64.so.2"}, outside


def test_a_wheel_runs_in_a_clean_environment(wheel: Path, tmp_path: Path) -> None:
    run([PYTHON, "-m", "venv", tmp_path / "venv"], tmp_path)
    run([tmp_path / "venv/bin/pip", "install", "--quiet", wheel], tmp_path)
    listed = run([tmp_path / "venv/bin/pip", "list", "--format", "freeze"], tmp_path)
    assert not [line for line in listed.splitlines() if line.startswith(("torch=", "triton=", "transformers="))]
    assert "installed: ok" in run([tmp_path / "venv/bin/python", INSTALLED], tmp_path)
    assert run([tmp_path / "venv/bin/gpt-oss", "--version"], tmp_path).startswith("gpt-oss ")


def test_an_sdist_installs_where_there_is_neither_git_nor_the_checkout(sdist: Path, tmp_path: Path) -> None:
    """In a mount namespace of its own, the checkout hidden under an empty folder, and git under nothing."""
    bwrap, git = shutil.which("bwrap"), shutil.which("git")
    if bwrap is None:
        pytest.skip("bubblewrap is not installed")
    shutil.copy(INSTALLED, tmp_path)
    shutil.copy(sdist, tmp_path)
    hidden: list[str | Path] = ["--tmpfs", REPOSITORY]
    if git is not None:
        hidden += ["--ro-bind", "/dev/null", Path(git).resolve()]
    script = f"""
        set -e
        ! git --version 2>/dev/null
        test ! -e {REPOSITORY}/pyproject.toml
        {PYTHON} -m venv venv
        venv/bin/pip install --quiet ./{sdist.name}
        venv/bin/gpt-oss --version
        venv/bin/python installed.py
    """
    inside: list[str | Path] = [bwrap, "--dev-bind", "/", "/", *hidden, "--die-with-parent", "--chdir", tmp_path]
    answer = run([*inside, "bash", "-c", script], tmp_path)
    assert "installed: ok" in answer
    with tarfile.open(sdist) as archive:
        [record] = [member for member in archive.getmembers() if member.name.endswith("/COMMIT")]
        file = archive.extractfile(record)
        assert file is not None
        assert f"commit    {file.read().decode().strip()}" in answer
