"""What a benchmark says about its surroundings: the machine, its load, memory, the page cache; and where tables are written.

Linux is where the figures come from; elsewhere what cannot be read is None.
"""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

from gpt_oss.errors import GptOssError

PERFORMANCE_PAGE = Path(__file__).parent.parent / "docs" / "performance.md"


def cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe_machine() -> str:
    """One line: processor, cores, memory, system, load average of the last minute."""
    cpu, memory = platform.processor() or platform.machine(), ""
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
        memory = f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB, "
    load = f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{cpu}, {cores()} cores, {memory}{platform.system()} {platform.machine()}, {load}"


@dataclass(frozen=True)
class ResidentMemory:
    """Bytes. `anonymous` is the process's own; `file` is mapped files (the weights), which the system can drop."""

    anonymous: int
    file: int


def resident_memory() -> ResidentMemory | None:
    """Of this process, now."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    kib = {
        key: int(rest.split()[0])
        for key, _, rest in (s.partition(":") for s in status.read_text().splitlines())
        if key in ("RssAnon", "RssFile", "RssShmem")
    }
    return ResidentMemory(kib["RssAnon"] * 1024, (kib["RssFile"] + kib["RssShmem"]) * 1024)


def files_under(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())


def drop_from_page_cache(path: Path) -> None:
    """Ask the system to forget its copy of the files under `path`; what a process maps at the moment stays."""
    if not hasattr(os, "posix_fadvise"):
        return
    for file in files_under(path):
        with file.open("rb") as f:
            os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def warm_page_cache(path: Path) -> None:
    """Read the files under `path` once, so that a run after it finds them in memory."""
    for file in files_under(path):
        with file.open("rb", buffering=0) as f:
            while f.read(1 << 24):
                pass


def run(command: list[str], *, timeout_s: float, env: dict[str, str] | None = None) -> str:
    """The standard output of a program. Raises GptOssError with the end of its standard error when it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False, env=env)
    except FileNotFoundError as error:
        raise GptOssError(f"{command[0]} does not exist; give the path of the program") from error
    except subprocess.TimeoutExpired as error:
        raise GptOssError(f"{command[0]} was still running after {timeout_s:.0f} s: {' '.join(command)}") from error
    if done.returncode:
        said = " / ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        raise GptOssError(f"{command[0]} ended with code {done.returncode}: {said}")
    return done.stdout


def replace_section(page: Path, name: str, text: str) -> None:
    """Put `text` between the marker lines of `name` in a Markdown page; a page or a section that is missing is begun."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    old = page.read_text() if page.exists() else "# Performance\n"
    if begin not in old:
        old = f"{old.rstrip()}\n\n{begin}\n{end}\n"
    head, _, rest = old.partition(begin)
    _, found, tail = rest.partition(end)
    if not found:
        raise GptOssError(f"{page}: the line {begin} has no {end} after it; add it")
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(f"{head}{begin}\n{text.strip()}\n{end}{tail}")
