"""macOS: sandbox-exec with a profile that denies everything but reading the interpreter and writing one scratch folder.

Covered: no network, no files of yours, no other process, a scratch folder of its own, time, output, CPU time, file
size. Not covered: memory and the number of processes, which this system does not bound for a group.
sandbox-exec is deprecated by its maker, works, and is what other agents use too. Written by its documentation: it was
never run on a Mac by us.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from gpt_oss.tools.sandbox.base import Limits, Result, SandboxError
from gpt_oss.tools.sandbox.leftovers import scratch_folder
from gpt_oss.tools.sandbox.process import Launch, ProcessSession, run_once

SANDBOX_EXEC = "/usr/bin/sandbox-exec"
_READABLE = (
    "/usr/lib",
    "/usr/bin",
    "/bin",
    "/usr/share",
    "/System",
    "/Library/Frameworks",
    "/private/var/db/dyld",
    "/dev",
)
SELF_TEST = """
import socket
try:
    socket.create_connection(("127.0.0.1", 9), 1)
except PermissionError:
    print("held")
"""
_SYSCTLS = (
    "hw.activecpu hw.byteorder hw.cpufamily hw.cputype hw.logicalcpu hw.machine hw.memsize hw.model hw.ncpu hw.pagesize"
)


def profile(readable: Sequence[str]) -> str:
    """The policy. Paths come as parameters, READ0, READ1 … and SCRATCH: never spliced into its text."""
    reads = " ".join(f'(subpath (param "READ{number}"))' for number in range(len(readable)))
    sysctls = " ".join(f'(sysctl-name "{name}")' for name in _SYSCTLS.split())
    return "\n".join(
        [
            "(version 1)",
            "(deny default)",
            "(allow process-exec process-fork)",
            "(allow signal (target same-sandbox))",
            "(allow process-info* (target same-sandbox))",
            f"(allow sysctl-read {sysctls})",
            "(allow file-read-metadata)",
            f'(allow file-read* {reads} (subpath (param "SCRATCH")))',
            '(allow file-write* (subpath (param "SCRATCH")) (literal "/dev/null"))',
            "(allow ipc-posix-sem)",
        ]
    )


def command(readable: Sequence[str], scratch: str, limits: Limits, *, keep: bool) -> list[str]:
    """What to run, up to the interpreter's own arguments."""
    cpu = 3600 if keep else limits.cpu_s
    bounds = f"ulimit -t {cpu}; ulimit -f {limits.file_bytes // 512}; ulimit -n {limits.open_files}; ulimit -c 0; "
    parameters = [f"-DREAD{number}={path}" for number, path in enumerate(readable)] + [f"-DSCRATCH={scratch}"]
    sandboxed = [SANDBOX_EXEC, "-p", profile(readable), *parameters, "--", sys.executable]
    return ["/bin/sh", "-c", f'{bounds}exec "$@"', "sh", *sandboxed]


class SeatbeltSandbox:
    name = "seatbelt"
    about = "sandbox-exec, no network; memory and processes are not bounded"

    async def run(self, code: str, limits: Limits) -> Result:
        return await run_once(self, code, limits)

    def session(self, limits: Limits) -> ProcessSession:
        return ProcessSession(self, limits)

    async def close(self) -> None:
        return None

    @asynccontextmanager
    async def launch(self, limits: Limits, *, keep: bool) -> AsyncIterator[Launch]:
        async with scratch_folder() as folder:
            scratch = os.path.realpath(folder)  # the policy knows no symbolic links
            own = {os.path.realpath(path) for path in (sys.prefix, sys.base_prefix)}
            readable = [*_READABLE, *sorted(own)]
            env = {"PATH": "/usr/bin:/bin", "HOME": scratch, "TMPDIR": scratch, "LANG": "C.UTF-8"}
            yield Launch(command(readable, scratch, limits, keep=keep), env, cwd=scratch)


async def open_seatbelt() -> SeatbeltSandbox:
    """Raises SandboxError on other systems, and where it does not hold."""
    if sys.platform != "darwin" or not Path(SANDBOX_EXEC).exists():
        raise SandboxError("seatbelt is macOS's sandbox, and this is not macOS")
    sandbox = SeatbeltSandbox()
    result = await sandbox.run(SELF_TEST, Limits(wall_s=20))
    if result.output.strip() != "held":
        raise SandboxError(f"sandbox-exec does not hold on this machine: {' '.join(result.output.split())[-300:]}")
    return sandbox
