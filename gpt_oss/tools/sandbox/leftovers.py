"""What sandboxes leave on the host: folders and control groups that bear the number of the process that made them.

They are removed in a thread, for a program may have filled them; what a process that was killed could not remove, the
next one sweeps.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

PREFIX = "gpt-oss-run-"
_NAME = re.compile(rf"{PREFIX}(\d+)-(\d+)-[0-9a-f]{{12}}")


def new_name() -> str:
    """A name for something of this process's."""
    return f"{PREFIX}{os.getpid()}-{_began(os.getpid())}-{uuid.uuid4().hex[:12]}"


@asynccontextmanager
async def scratch_folder() -> AsyncIterator[str]:
    """A folder of the host's that lasts as long as the block."""
    path = Path(tempfile.gettempdir(), new_name())
    path.mkdir(mode=0o700)
    try:
        yield str(path)
    finally:
        await asyncio.shield(asyncio.to_thread(shutil.rmtree, path, ignore_errors=True))


def sweep(groups: Iterable[Path] = ()) -> int:
    """Removes what processes that are gone have left, and gives the number of things removed.

    groups: the folders in which control groups are made.
    """
    removed = 0
    for path in _left(Path(tempfile.gettempdir())):
        shutil.rmtree(path, ignore_errors=True)
        removed += not path.exists()
    for folder in groups:
        removed += sum(_end_group(path) for path in _left(folder))
    return removed


def _left(folder: Path) -> list[Path]:
    """The things in a folder whose makers are gone, and that are ours to remove."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return []
    found = []
    for entry in entries:
        name = _NAME.fullmatch(entry.name)
        if name is None or _began(int(name[1])) == int(name[2]):
            continue
        with contextlib.suppress(OSError):
            if entry.is_dir(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_uid == os.geteuid():
                found.append(Path(entry.path))
    return found


def _end_group(folder: Path) -> bool:
    """Whether a control group is gone, after the processes in it were ended."""
    for _ in range(100):
        with contextlib.suppress(OSError):
            for number in (folder / "cgroup.procs").read_text().split():
                os.kill(int(number), signal.SIGKILL)
        try:
            folder.rmdir()
            return True
        except FileNotFoundError:
            return True
        except OSError:
            time.sleep(0.005)
    return False


def _began(pid: int) -> int:
    """When a process began, in the system's ticks, so that its number is not taken for another's; 0 where it is gone or
    the system does not say."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0 if _is_gone(pid) else 1
    return int(stat.rpartition(")")[2].split()[19])


def _is_gone(pid: int) -> bool:
    if os.name == "nt":  # there a signal of 0 would end the process
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
