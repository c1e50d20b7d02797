"""What a process that was killed has left is swept by the next one; what lives is left alone."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpt_oss.tools.sandbox import leftovers
from gpt_oss.tools.sandbox.base import Limits, SandboxError
from gpt_oss.tools.sandbox.choose import open_sandbox

MAKE = """
import asyncio, os, signal
from gpt_oss.tools.sandbox.leftovers import scratch_folder

async def main():
    async with scratch_folder() as folder:
        open(folder + "/file", "w").close()
        print(folder, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


def test_the_folder_of_a_killed_process_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    done = subprocess.run([sys.executable, "-c", MAKE], capture_output=True, text=True)
    left = Path(done.stdout.strip())
    assert left.parent == tmp_path
    assert (left / "file").exists()
    mine = tmp_path / leftovers.new_name()
    others = tmp_path / "gpt-oss-run-something"
    for each in (mine, others):
        each.mkdir()
    link = tmp_path / left.name.replace(left.name[-4:], "0000")
    link.symlink_to(others)
    assert leftovers.sweep() == 1
    assert not left.exists()
    assert mine.is_dir()
    assert others.is_dir()
    assert link.is_symlink()


async def test_a_folder_lasts_as_long_as_its_block() -> None:
    async with leftovers.scratch_folder() as folder:
        assert oct(os.stat(folder).st_mode & 0o777) == "0o700"
        Path(folder, "deep").mkdir()
    assert not os.path.exists(folder)


FLOOD = """
import os
made = 0
try:
    for number in range(200_000):
        open(f"/mnt/data/{number}", "w").close()
        made += 1
except OSError as error:
    print(error.strerror)
print(made)
"""


async def test_files_are_bounded_in_number_with_control_groups_too() -> None:
    try:
        sandbox = await open_sandbox("bwrap")
    except SandboxError as error:
        pytest.skip(str(error))
    result = await sandbox.run(FLOOD, Limits(wall_s=60, scratch_files=1000))
    assert result.ok
    assert int(result.output.split()[-1]) < 1000
    await sandbox.close()


async def test_the_event_loop_goes_on_while_what_is_left_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def beat() -> None:
        while True:
            beats.append(time.monotonic())
            await asyncio.sleep(0.01)

    def slowly(path: object, ignore_errors: bool) -> None:
        time.sleep(0.5)

    monkeypatch.setattr(leftovers.shutil, "rmtree", slowly)
    beats: list[float] = []
    heart = asyncio.ensure_future(beat())
    async with leftovers.scratch_folder():
        pass
    heart.cancel()
    assert len(beats) > 3  # and not one, before a loop that slept
