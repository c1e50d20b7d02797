"""Docker or Podman around the interpreter, by the `docker` SDK (an extra). A new container for a program or a session.

Covered: no network, a read-only image, a scratch folder in memory, limits on memory, processes and files, no
capabilities, no new privileges, an unprivileged user; the container is killed and removed when the time is over.
Not covered: defects of the engine and the kernel. Who may talk to an engine's socket is root on the host, as always.
"""

from __future__ import annotations

import asyncio
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
from gpt_oss.tools.sandbox.base import ENVIRONMENT, SCRATCH, Limits, Output, Result, SandboxError
from gpt_oss.tools.sandbox.process import DRIVER, GRACE_S, START_S

STDOUT, STDERR = 1, 2


class ContainerSandbox:
    """See base.Sandbox. client: a docker.DockerClient; Podman's service speaks the same language."""

    def __init__(self, name: str, client: Any, image: str) -> None:
        self.name = name
        self.about = f"{name}, image {image}, no network, read-only"
        self._client = client
        self._image = image

    async def run(self, code: str, limits: Limits) -> Result:
        session = ContainerSession(self, limits)
        try:
            result = await session.execute(code, whole_program=True)
        finally:
            await session.close()
        return result

    def session(self, limits: Limits) -> ContainerSession:
        return ContainerSession(self, limits)

    async def close(self) -> None:
        await asyncio.to_thread(self._client.close)

    def create(self, limits: Limits) -> Any:
        types = importlib.import_module("docker.types")
        ulimits = {"nofile": limits.open_files, "nproc": limits.processes, "fsize": limits.file_bytes, "core": 0}
        return self._client.containers.create(
            self._image,
            ["python3", "-s", "-u", "-c", DRIVER.read_text()],
            stdin_open=True,
            tty=False,
            network_mode="none",  # Podman ignores network_disabled
            read_only=True,
            tmpfs={SCRATCH: f"size={limits.scratch_bytes},nr_inodes={limits.scratch_files},mode=1777,nosuid,nodev"},
            working_dir=SCRATCH,
            environment=ENVIRONMENT,
            mem_limit=limits.memory_bytes,
            memswap_limit=limits.memory_bytes,
            pids_limit=limits.processes,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            user="65534:65534",
            ulimits=[types.Ulimit(name=name, soft=value, hard=value) for name, value in ulimits.items()],
            labels={"gpt-oss": "sandbox"},
        )


class ContainerSession:
    """The driver of process.ProcessSession in a container, spoken to over the engine's attached stream."""

    def __init__(self, sandbox: ContainerSandbox, limits: Limits) -> None:
        self._sandbox = sandbox
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
            self._container = await asyncio.to_thread(self._sandbox.create, self._limits)
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
            with contextlib.suppress(*_engine_errors()):
                await asyncio.to_thread(container.remove, force=True)

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
    """name: docker or podman. Raises SandboxError where no engine answers or the image is not there."""
    return await asyncio.to_thread(_open, name, image)


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


def _podman_socket() -> str | None:
    run = os.environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.geteuid()}")
    paths = (Path(run, "podman/podman.sock"), Path("/run/podman/podman.sock"))
    return next((f"unix://{path}" for path in paths if path.exists()), None)


def _engine_errors() -> tuple[type[Exception], ...]:
    docker = importlib.import_module("docker.errors")
    requests = importlib.import_module("requests.exceptions")
    return (docker.DockerException, requests.RequestException, OSError)
