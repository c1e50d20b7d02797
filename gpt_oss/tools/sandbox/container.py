"""Docker or Podman around the interpreter, by the `docker` SDK (an extra). A new container for a program or a session.

Covered: no network, a read-only image, a scratch folder in memory, limits on memory, processes and files, no
capabilities, no new privileges, an unprivileged user, the system calls of seccomp.py beside those that the engine
refuses; the container is killed and removed when the time is over. Podman cannot limit the number of scratch files:
there they count as memory.
Not covered: defects of the engine and the kernel; on Docker the kernel's command line can be read. Who may talk to an
engine's socket is root on the host, as always.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import importlib
import json
import os
import socket as socket_module
import struct
import time
from pathlib import Path
from typing import Any

from gpt_oss.errors import MissingDependencyError
from gpt_oss.tools.sandbox import seccomp
from gpt_oss.tools.sandbox.base import ENVIRONMENT, SCRATCH, Limits, Output, Result, SandboxError
from gpt_oss.tools.sandbox.process import DRIVER, GRACE_S, START_S

STDOUT, STDERR = 1, 2
REMOVE_S = 10.0
# The engine's ulimit on processes counts those of every container together, so it stands far above one's pids_limit.
ALL_PROCESSES = 4096
CLOSED = ("/dev/shm", "/tmp", "/var/tmp", "/run")  # which the engines else make writable, without a limit of their own
MASKED = ("/proc/cmdline", "/proc/kallsyms", "/proc/config.gz", "/proc/keys", "/proc/key-users")
SELF_TEST = """
import os, socket
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_VSOCK):
    try:
        socket.socket(family, socket.SOCK_STREAM)
        print("open", family)
    except OSError:
        print("refused")
print("root" if os.getuid() == 0 else "user")
open("scratch", "w").close()
"""
# Runs before the driver, in the same process: what the engine's settings do not hold, the process gives up by itself.
PRELUDE = """
import base64, ctypes, os, resource, sys

class Program(ctypes.Structure):  # struct sock_fprog
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]

def give_up(filters, memory_bytes, cpu_s):
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
    code = base64.b64decode(filters[os.uname().machine])
    program = Program(len(code) // 8, code)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
    # PR_SET_DUMPABLE, so that children of the code do not write into this process; PR_SET_NO_NEW_PRIVS; PR_SET_SECCOMP
    for option, value, address in ((4, 0, 0), (38, 1, 0), (22, 2, ctypes.addressof(program))):
        if libc.prctl(option, value, address, 0, 0):
            raise OSError(ctypes.get_errno(), f"prctl {option} failed")

give_up(FILTERS, MEMORY_BYTES, CPU_S)
"""


class ContainerSandbox:
    """See base.Sandbox. client: a docker.DockerClient; Podman's service speaks the same language."""

    def __init__(self, name: str, client: Any, image: str) -> None:
        self.name = name
        self.about = f"{name}, image {image}, no network, read-only"
        self._client = client
        self._image = image
        self._is_podman = any("podman" in str(part.get("Name", "")).lower() for part in client.version()["Components"])

    async def run(self, code: str, limits: Limits) -> Result:
        session = ContainerSession(self, limits, keep=False)
        try:
            result = await session.execute(code, whole_program=True)
        finally:
            await session.close()
        return result

    def session(self, limits: Limits) -> ContainerSession:
        return ContainerSession(self, limits)

    async def close(self) -> None:
        await asyncio.to_thread(self._client.close)

    def create(self, limits: Limits, keep: bool) -> Any:
        types = importlib.import_module("docker.types")
        ulimits = {"nofile": limits.open_files, "nproc": ALL_PROCESSES, "fsize": limits.file_bytes, "core": 0}
        scratch = f"size={limits.scratch_bytes},mode=1777,nosuid,nodev"
        security = ["no-new-privileges"]
        if self._is_podman:
            security.append(f"mask={':'.join(MASKED)}")
        else:
            scratch += f",nr_inodes={limits.scratch_files}"
        return self._client.containers.create(
            self._image,
            ["python3", "-s", "-u", "-c", _program(limits, 3600 if keep else limits.cpu_s)],
            stdin_open=True,
            tty=False,
            network_mode="none",  # Podman ignores network_disabled
            read_only=True,
            tmpfs={SCRATCH: scratch, **dict.fromkeys(CLOSED, "ro,size=4096")},
            working_dir=SCRATCH,
            environment=ENVIRONMENT,
            mem_limit=limits.memory_bytes,
            memswap_limit=limits.memory_bytes,
            pids_limit=limits.processes,
            cap_drop=["ALL"],
            security_opt=security,
            user="65534:65534",
            ulimits=[types.Ulimit(name=name, soft=value, hard=value) for name, value in ulimits.items()],
            labels={"gpt-oss": "sandbox"},
        )


class ContainerSession:
    """The driver of process.ProcessSession in a container, spoken to over the engine's attached stream."""

    def __init__(self, sandbox: ContainerSandbox, limits: Limits, *, keep: bool = True) -> None:
        self._sandbox = sandbox
        self._keep = keep
        self._limits = limits
        self._container: Any = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._said = b""
        self._lock = asyncio.Lock()

    async def execute(self, code: str, *, whole_program: bool = False) -> Result:
        async with self._lock:
            try:
                if self._container is None:
                    await self._start()
                result = await self._execute(code, whole_program)
            except BaseException:
                await asyncio.shield(self._stop())
                raise
            if result.state_lost:
                await self._stop()
            return result

    async def close(self) -> None:
        await asyncio.shield(self._stop())

    async def _start(self) -> None:
        try:
            # A thread goes on when we are cancelled: what it makes must be known, or nobody would remove it.
            making = asyncio.ensure_future(asyncio.to_thread(self._sandbox.create, self._limits, self._keep))
            try:
                self._container = await asyncio.shield(making)
            except asyncio.CancelledError:
                await asyncio.wait({making})
                self._container = None if making.exception() else making.result()
                raise
            stream = await asyncio.to_thread(self._attach)
            self._reader, self._writer = await asyncio.open_connection(sock=stream)
            await asyncio.to_thread(self._container.start)
            async with asyncio.timeout(START_S):
                if not await self._until(b'"ready"', Output(1 << 16), None):
                    raise SandboxError("the container's interpreter did not start")
        except TimeoutError:
            raise SandboxError(f"the container's interpreter did not start in {START_S:.0f} s") from None
        except _engine_errors() as error:
            raise SandboxError(
                f"{self._sandbox.name} cannot start a container: {' '.join(str(error).split())}"
            ) from error

    def _attach(self) -> socket_module.socket:
        parameters = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
        attached = self._container.attach_socket(params=parameters)
        raw = getattr(attached, "_sock", attached)
        duplicate = raw.dup() if hasattr(raw, "dup") else socket_module.socket(fileno=os.dup(attached.fileno()))
        duplicate.setblocking(False)
        return duplicate

    async def _stop(self) -> None:
        container, self._container = self._container, None
        writer, self._writer = self._writer, None
        self._said = b""
        if writer is not None:
            writer.close()
        if container is not None:
            await asyncio.to_thread(_remove, container)

    async def _execute(self, code: str, whole_program: bool) -> Result:
        began = time.monotonic()
        output = Output(self._limits.output_bytes)
        mark = f"\0{os.urandom(16).hex()}\0"
        timed_out = False
        await self._send({"code": code, "mark": mark, "echo": not whole_program})
        waiting = asyncio.create_task(self._until(b'"done"', output, mark.encode()))
        try:
            await asyncio.wait({waiting}, timeout=self._limits.wall_s)
            if not waiting.done():
                timed_out = True
                if not whole_program:
                    await self._send({"interrupt": True})
                    await asyncio.wait({waiting}, timeout=GRACE_S)
            line = waiting.result() if waiting.done() else None
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        lost = line is None
        starved = lost and not timed_out and await asyncio.to_thread(self._killed_for_memory)
        exit_code = None if line is None else int(b'"done": 0' not in line)
        return Result(
            output.text(), exit_code, time.monotonic() - began, timed_out, starved, output.cut, state_lost=lost
        )

    def _killed_for_memory(self) -> bool:
        with contextlib.suppress(*_engine_errors()):
            self._container.reload()
            return bool(self._container.attrs.get("State", {}).get("OOMKilled"))
        return False

    async def _send(self, request: dict[str, object]) -> None:
        assert self._writer is not None
        with contextlib.suppress(ConnectionError):
            self._writer.write(json.dumps(request).encode() + b"\n")
            await self._writer.drain()

    async def _until(self, word: bytes, output: Output, mark: bytes | None) -> bytes | None:
        """The driver's line that holds `word`, with what was printed up to the mark; None where it is gone."""
        assert self._reader is not None
        held, line = b"", None
        marked = mark is None
        try:
            while line is None or not marked:
                try:
                    kind, _, size = struct.unpack(">B3sL", await self._reader.readexactly(8))
                    data = await self._reader.readexactly(size)
                except (asyncio.IncompleteReadError, ConnectionError):
                    return None
                if kind == STDOUT:
                    self._said = (self._said + data)[-4096:]
                    *lines, self._said = self._said.split(b"\n")
                    line = next((one for one in lines if word in one), line)
                elif kind == STDERR and mark is not None:
                    held += data
                    end = held.find(mark)
                    if end >= 0:
                        held, marked = held[:end], True
                        continue
                    keep = min(len(held), len(mark) - 1)
                    output.add(held[: len(held) - keep])
                    held = held[len(held) - keep :]
                    if output.flooded:
                        return None
            return line
        finally:
            output.add(held)


async def open_container(name: str, image: str) -> ContainerSandbox:
    """A sandbox that was seen to hold. name: docker or podman.

    Raises SandboxError where no engine answers, the image is not there, or a container reaches a socket.
    """
    sandbox = await asyncio.to_thread(_open, name, image)
    try:
        result = await sandbox.run(SELF_TEST, Limits(wall_s=30))
        if result.output.split() != ["refused", "refused", "refused", "user"]:
            said = " ".join(result.output.split())[-300:] or f"exit code {result.exit_code}"
            raise SandboxError(f"{name} does not hold on this machine: {said}", hint="see docs/sandbox.md")
    except BaseException:
        await sandbox.close()
        raise
    return sandbox


def _open(name: str, image: str) -> ContainerSandbox:
    try:
        docker = importlib.import_module("docker")
    except ImportError as error:
        raise SandboxError(
            str(MissingDependencyError(f"{name} needs the docker SDK: {error}")), hint="pip install 'gpt-oss[docker]'"
        ) from error
    address = os.environ.get("DOCKER_HOST") or (_podman_socket() if name == "podman" else None)
    try:
        client = docker.DockerClient(base_url=address, timeout=60) if address else docker.from_env(timeout=60)
        client.ping()
    except Exception as error:
        raise SandboxError(
            f"no {name} engine answers: {' '.join(str(error).split())[:200]}",
            hint="start it (podman system service --time 0 &), or set DOCKER_HOST",
        ) from error
    try:
        client.images.get(image)
    except docker.errors.ImageNotFound:
        raise SandboxError(f"{name} has no image {image}", hint=f"{name} pull {image}") from None
    return ContainerSandbox(name, client, image)


def _program(limits: Limits, cpu_s: int) -> str:
    """The driver behind the prelude; a filter for each machine, for the engine may be on another one than we."""
    filters = {machine: base64.b64encode(seccomp.program(machine)).decode() for machine in seccomp.ARCHITECTURES}
    values = f"FILTERS, MEMORY_BYTES, CPU_S = {filters!r}, {limits.memory_bytes}, {cpu_s}\n"
    return f"{values}{PRELUDE}exec(compile({DRIVER.read_text()!r}, 'driver.py', 'exec'))\n"


def _remove(container: Any) -> None:
    """Kill and remove it. An engine refuses while a container ends by itself; raises SandboxError if it goes on so."""
    not_found = importlib.import_module("docker.errors").NotFound
    deadline = time.monotonic() + REMOVE_S
    while True:
        try:
            container.remove(force=True, v=True)
            return
        except not_found:
            return
        except _engine_errors() as error:
            if time.monotonic() > deadline:
                said = " ".join(str(error).split())
                raise SandboxError(f"container {container.short_id} cannot be removed: {said}") from error
            time.sleep(0.05)


def _podman_socket() -> str | None:
    run = os.environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.geteuid()}")
    paths = (Path(run, "podman/podman.sock"), Path("/run/podman/podman.sock"))
    return next((f"unix://{path}" for path in paths if path.exists()), None)


def _engine_errors() -> tuple[type[Exception], ...]:
    docker = importlib.import_module("docker.errors")
    requests = importlib.import_module("requests.exceptions")
    return (docker.DockerException, requests.RequestException, OSError)
