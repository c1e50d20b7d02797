"""Linux: bubblewrap around the interpreter. No network, a read-only system of which little is seen, one scratch folder.

Covered: namespaces of all kinds, every capability dropped, a seccomp filter (seccomp.py), limits on each process
(prlimit), on the memory of all together (a control group where we may have one, else a watch on it), on the size and
the number of files of the scratch folder; an environment without the host's; everything killed when the time is over.
Not covered: defects of the kernel, side channels of the processor, fair sharing of the disk and the processor.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import platform
import select
import shlex
import shutil
import stat
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from gpt_oss.tools.sandbox import cgroup, seccomp
from gpt_oss.tools.sandbox.base import ENVIRONMENT, SCRATCH, Limits, Result, SandboxError
from gpt_oss.tools.sandbox.process import Launch, ProcessSession, run_once

# When the host is root, the sandbox must not be root in the kernel's eyes, whatever it is called inside.
UNPRIVILEGED_UID = 61234
PACKAGES = "/packages"
INSTALL = "apt install bubblewrap (or your system's package of that name)"
SELF_TEST = """
import socket
for family in (socket.AF_INET, socket.AF_VSOCK):
    try:
        socket.socket(family)
        print("open", family)
    except OSError:
        print("refused")
"""
WALLS = """
--unshare-user --unshare-all --disable-userns --die-with-parent --new-session --uid 65534 --gid 65534 --cap-drop ALL
--hostname sandbox --clearenv --ro-bind /usr /usr --symlink usr/bin /bin --symlink usr/lib /lib
--symlink usr/lib64 /lib64
--dir /etc --ro-bind-try /etc/ld.so.cache /etc/ld.so.cache --ro-bind-try /etc/alternatives /etc/alternatives
"""
_MASKED = ("cmdline", "kallsyms", "config.gz", "keys", "key-users")


@dataclass(frozen=True)
class Interpreter:
    """path: as inside. binds: (where on the host, where inside), read-only, beside /usr."""

    path: str
    binds: tuple[tuple[str, str], ...] = ()


class BubblewrapSandbox:
    """See base.Sandbox. Opened by `open_bubblewrap`, which tests that it holds."""

    name = "bwrap"

    def __init__(self, bwrap: str, interpreter: Interpreter, program: bytes) -> None:
        self._bwrap = bwrap
        self._interpreter = interpreter
        self._filter = program
        probe = cgroup.create(1 << 30, 64)
        self._has_cgroup = probe is not None
        if probe:
            probe.remove()
        bound = f"memory by a control group (v{probe.version})" if probe else "memory by a watch every 50 ms"
        self.about = f"bubblewrap, {interpreter.path}, no network, seccomp; {bound}"

    async def run(self, code: str, limits: Limits) -> Result:
        return await run_once(self, code, limits)

    def session(self, limits: Limits) -> ProcessSession:
        return ProcessSession(self, limits)

    async def close(self) -> None:
        return None

    @asynccontextmanager
    async def launch(self, limits: Limits, *, keep: bool) -> AsyncIterator[Launch]:
        group = cgroup.create(limits.memory_bytes, limits.processes) if self._has_cgroup else None
        try:
            with self._launch(limits, group, keep=keep) as found:
                yield found
        finally:
            if group:
                await asyncio.shield(asyncio.to_thread(group.remove))

    @contextlib.contextmanager
    def _launch(self, limits: Limits, group: cgroup.Cgroup | None, *, keep: bool) -> Iterator[Launch]:
        with contextlib.ExitStack() as stack:
            status_read, status_write = os.pipe()
            stack.callback(os.close, status_read)  # open until the end: bubblewrap would die of writing into it
            filter_fd = _memory_file(stack, self._filter)
            arguments = self._arguments(filter_fd, status_write)
            arguments_fd = _memory_file(stack, b"\0".join(os.fsencode(argument) for argument in arguments) + b"\0")
            stack.callback(os.close, status_write)
            command = [*_entrance(group), *_unprivileged(), *_scratch(limits)]
            command += [self._bwrap, "--args", str(arguments_fd), "--", *_limited(limits, keep), self._interpreter.path]
            yield Launch(
                command,
                {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
                pass_fds=(arguments_fd, filter_fd, status_write),
                inner=_Inner(status_read),
                watch_memory=group is None,
                killed_for_memory=group.killed_for_memory if group else lambda: False,
            )

    def _arguments(self, filter_fd: int, status_fd: int) -> list[str]:
        arguments = shlex.split(WALLS)
        for name, value in {**ENVIRONMENT, "PYTHONPATH": PACKAGES}.items():
            arguments += ["--setenv", name, value]
        for outside, inside in self._interpreter.binds:
            arguments += ["--ro-bind", outside, inside]
        arguments += ["--proc", "/proc"]
        for name in _MASKED:
            if Path("/proc", name).exists():
                arguments += ["--ro-bind", "/dev/null", f"/proc/{name}"]
        arguments += ["--remount-ro", "/proc", "--dev", "/dev", "--remount-ro", "/dev"]
        arguments += ["--bind", "/mnt", SCRATCH]
        arguments += ["--remount-ro", "/", "--chdir", SCRATCH, "--seccomp", str(filter_fd)]
        return [*arguments, "--json-status-fd", str(status_fd)]


class _Inner:
    """The first process inside, as the host numbers it: bubblewrap tells it once it is there."""

    def __init__(self, status: int) -> None:
        self._status = status
        self._pid: int | None = None

    def __call__(self) -> int | None:
        if self._pid is None and select.select([self._status], [], [], 0)[0]:
            with contextlib.suppress(ValueError, IndexError, KeyError, OSError):
                self._pid = int(json.loads(os.read(self._status, 4096).splitlines()[0])["child-pid"])
        return self._pid


async def open_bubblewrap(packages: Sequence[str] = ("numpy",)) -> BubblewrapSandbox:
    """A sandbox that was seen to hold: it runs, and refuses sockets. packages: of our own environment, lent to the
    interpreter inside where it is of the same version and may read them. Raises SandboxError, with what to install."""
    bwrap = shutil.which("bwrap", path="/usr/bin:/usr/local/bin:/bin")
    if bwrap is None:
        raise SandboxError("bubblewrap is not installed", hint=INSTALL)
    for needed in ("prlimit", *(("setpriv",) if os.geteuid() == 0 else ())):
        if shutil.which(needed, path="/usr/bin:/bin:/usr/sbin") is None:
            raise SandboxError(f"{needed} is not installed", hint="apt install util-linux")
    sandbox = BubblewrapSandbox(bwrap, interpreter(tuple(packages)), _filter())
    result = await sandbox.run(SELF_TEST, Limits(wall_s=20))
    if result.output.split() != ["refused", "refused"]:
        said = " ".join(result.output.split())[-300:] or f"exit code {result.exit_code}"
        raise SandboxError(f"bubblewrap does not hold on this machine: {said}", hint="see docs/sandbox.md")
    return sandbox


def _filter() -> bytes:
    try:
        return seccomp.program(platform.machine())
    except KeyError:
        raise SandboxError(f"the sandbox knows no system calls of {platform.machine()}", hint="use docker") from None


@cache
def interpreter(packages: tuple[str, ...]) -> Interpreter:
    """The system's Python, else our own if everybody may read it. Raises SandboxError where there is none."""
    candidates = [Path("/usr/local/bin/python3"), Path("/usr/bin/python3")]
    found = next((path for path in candidates if path.exists() and path.resolve().is_relative_to("/usr")), None)
    binds: list[tuple[str, str]] = []
    if found is None:
        base = Path(sys.base_prefix).resolve()
        found = base / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
        if not (found.exists() and _everybody_reads(base)):
            raise SandboxError("there is no Python that the sandbox may read", hint="apt install python3")
        binds.append((str(base), str(base)))
    for package in packages if _is_of_our_version(found) else ():
        for folder in _folders_of(package):
            if _everybody_reads(folder):
                binds.append((str(folder), f"{PACKAGES}/{folder.name}"))
    return Interpreter(str(found), tuple(binds))


def _is_of_our_version(python: Path) -> bool:
    return python.resolve().name == f"python{sys.version_info.major}.{sys.version_info.minor}"


def _folders_of(package: str) -> list[Path]:
    from importlib.util import find_spec

    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return []
    folder = Path(spec.submodule_search_locations[0]).resolve()
    libraries = folder.with_name(f"{folder.name}.libs")
    return [folder, *([libraries] if libraries.is_dir() else [])]


def _everybody_reads(path: Path) -> bool:
    """Whether the user that the sandbox runs as may reach it: us, or when we are root, somebody without rights."""
    if os.geteuid() != 0:
        return os.access(path, os.R_OK | os.X_OK)
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in (path, *path.parents))


def _memory_file(stack: contextlib.ExitStack, content: bytes) -> int:
    handle = os.memfd_create("gpt-oss-sandbox")
    stack.callback(os.close, handle)
    os.write(handle, content)
    os.lseek(handle, 0, os.SEEK_SET)
    return handle


def _entrance(group: cgroup.Cgroup | None) -> list[str]:
    """Enter the control group before anything else runs."""
    if group is None:
        return []
    enter = "; ".join(f'echo $$ > "{entrance}"' for entrance in group.entrances)
    return ["/bin/sh", "-c", f'set -e; {enter}; exec "$@"', "sh"]


def _unprivileged() -> list[str]:
    if os.geteuid() != 0:
        return []
    uid = str(UNPRIVILEGED_UID)
    return ["setpriv", "--reuid", uid, "--regid", uid, "--clear-groups", "--inh-caps=-all", "--no-new-privs"]


def _scratch(limits: Limits) -> list[str]:
    """What mounts a scratch folder with a limit on the number of files, which bubblewrap's own has not: a control group
    counts their memory, but millions of empty ones fit into it, and removing them would hold up the machine."""
    options = f"size={limits.scratch_bytes},nr_inodes={limits.scratch_files},mode=777,nosuid,nodev"
    mount = f'mount -t tmpfs -o {options} tmpfs /mnt && exec "$@"'
    return [
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        "--propagation",
        "private",
        "--",
        "sh",
        "-c",
        mount,
        "sh",
    ]


def _limited(limits: Limits, keep: bool) -> list[str]:
    """The limits of each process. A session lives longer than one execution, whose time the host keeps."""
    cpu = 3600 if keep else limits.cpu_s
    return [
        "/usr/bin/prlimit",
        f"--as={limits.memory_bytes}",
        f"--cpu={cpu}:{cpu + 1}",
        f"--nproc={limits.processes}",
        f"--fsize={limits.file_bytes}",
        f"--nofile={limits.open_files}",
        "--core=0",
        "--msgqueue=0",
        "--memlock=0",
        "--stack=8388608",
        "--",
    ]
