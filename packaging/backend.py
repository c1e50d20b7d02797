"""The build backend: scikit-build-core, told which commit it builds.

A wheel made in a checkout has the commit from git, one made from an sdist from the file COMMIT that lies in it.
GPT_OSS_COMMIT, where it is set, goes before both: for containers that have no git. `gpt-oss --version` prints it.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from page import build_page
from scikit_build_core import build as _build
from scikit_build_core.build import *  # noqa: F403  # the other hooks as they are

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "COMMIT"
VARIABLE = "GPT_OSS_COMMIT"


def commit() -> str:
    """Twelve digits, with "-dirty" after them for a tree that differs; empty where nothing tells."""
    if told := os.environ.get(VARIABLE):
        return told
    if RECORD.exists():
        return RECORD.read_text().strip()
    if not (ROOT / ".git").exists():  # unpacked inside somebody else's repository, git would name that one's commit
        return ""
    describe = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(describe, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def build_sdist(sdist_directory: str, config_settings: dict[str, Any] | None = None) -> str:
    build_page(ROOT)
    known, made_here = commit(), not RECORD.exists()
    try:
        if known and made_here:
            RECORD.write_text(f"{known}\n")
        return _build.build_sdist(sdist_directory, config_settings)
    finally:
        if made_here:
            RECORD.unlink(missing_ok=True)


def build_wheel(
    wheel_directory: str, config_settings: dict[str, Any] | None = None, metadata_directory: str | None = None
) -> str:
    build_page(ROOT)
    os.environ[VARIABLE] = commit()  # CMakeLists.txt reads it
    return _build.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(
    wheel_directory: str, config_settings: dict[str, Any] | None = None, metadata_directory: str | None = None
) -> str:
    build_page(ROOT)
    os.environ[VARIABLE] = commit()
    return _build.build_editable(wheel_directory, config_settings, metadata_directory)
