"""Servers that end in the middle of making or changing the tables, and several that start at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gpt_oss.server.state import schema

REPOSITORY = Path(__file__).parents[2]


def run(url: str, what: str) -> str:
    if "://" not in url:
        Path(url).parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tests.server.schema_killer", url, what]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "version", [0, *(pytest.param(version, marks=pytest.mark.slow) for version in range(1, len(schema.MIGRATIONS)))]
)
def test_killed_after_any_statement(url: str, version: int) -> None:
    """version: what there was before; 0 is nothing."""
    assert int(run(url, str(version))) > 5


def test_three_that_start_at_once(url: str) -> None:
    run(url, "together")
