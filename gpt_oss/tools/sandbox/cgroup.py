"""A limit on memory and processes for a whole tree of processes: Linux's control groups of either version, if we may.

Version 1 needs root; version 2 a group of our own that delegates. Where there is neither, callers watch the memory.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

from gpt_oss.tools.sandbox.leftovers import new_name

ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Cgroup:
    """A group that exists: processes enter by writing their number into each of `entrances`."""

    version: int
    folders: tuple[Path, ...]

    @property
    def entrances(self) -> tuple[str, ...]:
        return tuple(str(folder / "cgroup.procs") for folder in self.folders)

    def killed_for_memory(self) -> bool:
        memory = self.folders[0]
        try:
            text = (memory / ("memory.oom_control" if self.version == 1 else "memory.events")).read_text()
        except OSError:
            return False
        counts = dict(line.split(None, 1) for line in text.splitlines() if " " in line)
        return int(counts.get("oom_kill", "0")) > 0

    def remove(self) -> None:
        """The kernel needs a moment after the last process is gone."""
        for folder in self.folders:
            for _ in range(100):
                try:
                    folder.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.005)


def create(memory_bytes: int, processes: int) -> Cgroup | None:
    """None where this process may not make one."""
    name = new_name()
    return _version_1(name, memory_bytes, processes) or _version_2(name, memory_bytes, processes)


def homes() -> list[Path]:
    """The folders in which this process makes groups."""
    own = _own_groups()
    return [
        *(ROOT / controller / own.get(controller, "/").lstrip("/") for controller in ("memory", "pids")),
        ROOT / own.get("", "/").lstrip("/"),
    ]


def _version_1(name: str, memory_bytes: int, processes: int) -> Cgroup | None:
    own = _own_groups()
    made: list[Path] = []
    try:
        for controller, files in (
            ("memory", {"memory.limit_in_bytes": memory_bytes, "memory.memsw.limit_in_bytes": memory_bytes}),
            ("pids", {"pids.max": processes + 8}),  # bubblewrap and its like are inside as well
        ):
            if not (ROOT / controller / "tasks").exists():
                raise OSError(f"no {controller} controller")
            folder = ROOT / controller / own.get(controller, "/").lstrip("/") / name
            folder.mkdir()
            made.append(folder)
            for file, value in files.items():
                with contextlib.suppress(OSError) if "memsw" in file else contextlib.nullcontext():
                    (folder / file).write_text(str(value))
    except OSError:
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        return None
    return Cgroup(1, tuple(made))


def _version_2(name: str, memory_bytes: int, processes: int) -> Cgroup | None:
    if not (ROOT / "cgroup.controllers").exists():
        return None
    folder = ROOT / _own_groups().get("", "/").lstrip("/") / name
    try:
        folder.mkdir()
    except OSError:
        return None
    try:
        (folder / "memory.max").write_text(str(memory_bytes))
        (folder / "pids.max").write_text(str(processes + 8))
        with contextlib.suppress(OSError):
            (folder / "memory.swap.max").write_text("0")
    except OSError:
        with contextlib.suppress(OSError):
            folder.rmdir()
        return None
    return Cgroup(2, (folder,))


def _own_groups() -> dict[str, str]:
    """controller: our own group; version 2's is under the empty name."""
    groups: dict[str, str] = {}
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return groups
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            groups[controller] = os.path.normpath(path)
    return groups
