"""Kernels compile for real GPUs without one, within the limits of a processor, and hardly anything spills."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

SHARED_MEMORY = {  # bytes of a program, the largest that the target has
    "sm_80": 163 * 1024,
    "sm_89": 99 * 1024,
    "sm_90": 227 * 1024,
    "sm_100": 227 * 1024,
    "sm_120": 99 * 1024,
    "gfx942": 64 * 1024,
    "gfx1100": 64 * 1024,
}
SPILLED = 64  # bytes: what the same ptxas spills, if anything, differs a little from machine to machine
AT_ONCE = ["sm_90"]  # the others take half a minute


@pytest.mark.parametrize(
    "target",
    [target if target in AT_ONCE else pytest.param(target, marks=pytest.mark.slow) for target in SHARED_MEMORY],
)
def test_kernels_fit(target: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.backends.triton.compile_all", target]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert len({report["kernel"] for report in reports}) >= 10
    for report in reports:
        assert report["shared"] <= SHARED_MEMORY[target], report
        assert report.get("spilled", 0) <= SPILLED, report
