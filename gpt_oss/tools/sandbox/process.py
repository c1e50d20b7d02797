"""The interpreter of a sandbox as a process of this machine: output read and capped, time kept, the tree killed.

How the process is held in is the launcher's affair (bubblewrap.py, seatbelt.py, unsandboxed.py). What comes out of it
is treated as hostile: lines are bounded, nothing is unpickled.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from gpt_oss.tools.sandbox.base import Limits, Output, Result, SandboxError

DRIVER = Path(__file__).with_name("driver.py")
LONGEST_REPLY = 4096  # bytes of a line that the driver says
START_S = 30.0  # for the interpreter to come up
GRACE_S = 1.0  # between an interrupt and the end of the session
KILL_S = 5.0
WATCH_S = 0.05


@dataclass(frozen=True)
class Launch:
    """A process to start. command: of the interpreter and all around it; the interpreter's own arguments go behind it.
    inner: the process whose end ends everything inside, once it is known. watch_memory: nothing else bounds it.
    killed_for_memory: whether the kernel has killed a process within.
    """

    command: Sequence[str]
    env: Mapping[str, str]
    pass_fds: Sequence[int] = ()
    cwd: str = "/"
    inner: Callable[[], int | None] = lambda: None
    watch_memory: bool = False
    killed_for_memory: Callable[[], bool] = lambda: False


class Launcher(Protocol):
    """keep: of a session, whose limit on CPU time is not that of one execution."""

    def launch(self, limits: Limits, *, keep: bool) -> AbstractAsyncContextManager[Launch]: ...


async def run_once(launcher: Launcher, code: str, limits: Limits) -> Result:
    began = time.monotonic()
    async with launcher.launch(limits, keep=False) as launch:
        output = Output(limits.output_bytes)
        timed_out = False
        async with _started(launch, ["-s", "-u", "-"], merge=True) as running:
            process = running.process
            assert process.stdin is not None
            assert process.stdout is not None
            watch = asyncio.create_task(_watch(running, limits))
            feed = asyncio.create_task(_feed(process.stdin, code.encode("utf-8", "replace")))
            try:
                async with asyncio.timeout(limits.wall_s):
                    await _collect(process.stdout, output)
                    if not output.flooded:
                        await process.wait()
            except TimeoutError:
                timed_out = True
            finally:
                feed.cancel()
                watch.cancel()
        code_ = process.returncode
        starved = running.starved or launch.killed_for_memory()
    killed = timed_out or output.flooded or running.starved or code_ is None or code_ < 0 or code_ == 137
    return Result(output.text(), None if killed else code_, time.monotonic() - began, timed_out, starved, output.cut)


class ProcessSession:
    """See base.Session. The process is started by the first execution, and again after it was lost."""

    def __init__(self, launcher: Launcher, limits: Limits) -> None:
        self._launcher = launcher
        self._limits = limits
        self._stack: contextlib.AsyncExitStack | None = None
        self._running: _Running | None = None
        self._launch: Launch | None = None
        self._lock = asyncio.Lock()

    async def execute(self, code: str) -> Result:
        async with self._lock:
            began = time.monotonic()
            if self._running is None or self._running.process.returncode is not None:
                await self._start()
            try:
                return await self._execute(code, began)
            except BaseException:
                await self._stop()
                raise

    async def close(self) -> None:
        await self._stop()

    async def _start(self) -> None:
        await self._stop()
        stack = contextlib.AsyncExitStack()
        try:
            self._launch = await stack.enter_async_context(self._launcher.launch(self._limits, keep=True))
            arguments = ["-s", "-u", "-c", DRIVER.read_text()]
            self._running = await stack.enter_async_context(_started(self._launch, arguments, merge=False))
            async with asyncio.timeout(START_S):
                ready = await self._reply()
            if ready is None or "ready" not in ready:
                raise SandboxError("the sandbox's interpreter did not start")
        except TimeoutError:
            await stack.aclose()
            raise SandboxError(f"the sandbox's interpreter did not start in {START_S:.0f} s") from None
        except BaseException:
            await stack.aclose()
            raise
        self._stack = stack

    async def _stop(self) -> None:
        stack, self._stack, self._running = self._stack, None, None
        if stack is not None:
            await stack.aclose()

    async def _execute(self, code: str, began: float) -> Result:
        running, launch = self._running, self._launch
        assert running is not None
        assert launch is not None
        process = running.process
        assert process.stderr is not None
        output = Output(self._limits.output_bytes)
        mark = f"\0{os.urandom(16).hex()}\0"
        collect = asyncio.create_task(_collect(process.stderr, output, mark.encode()))
        watch = asyncio.create_task(_watch(running, self._limits))
        reply = asyncio.create_task(self._ask({"code": code, "mark": mark}))
        both = asyncio.gather(collect, reply)
        timed_out = False
        try:
            # A flood ends the collecting alone; otherwise the end of one is soon followed by that of the other.
            first: set[asyncio.Future[object]] = {both, collect}  # type: ignore[arg-type]
            await asyncio.wait(first, timeout=self._limits.wall_s, return_when=asyncio.FIRST_COMPLETED)
            if collect.done() and not output.flooded:
                await asyncio.wait({both}, timeout=GRACE_S)
            if not both.done() and not output.flooded:
                timed_out = True
                await self._send({"interrupt": True})
                await asyncio.wait({both}, timeout=GRACE_S)
            status = reply.result() if both.done() else None
            lost = status is None or output.flooded
        finally:
            both.cancel()
            watch.cancel()
            await asyncio.gather(both, watch, return_exceptions=True)
        if lost:
            await self._stop()
        starved = running.starved or (lost and launch.killed_for_memory())
        exit_code = None if lost or status is None else int(status.get("done") == 1)
        return Result(
            output.text(), exit_code, time.monotonic() - began, timed_out, starved, output.cut, state_lost=lost
        )

    async def _ask(self, request: Mapping[str, object]) -> Mapping[str, object] | None:
        await self._send(request)
        return await self._reply()

    async def _send(self, request: Mapping[str, object]) -> None:
        assert self._running is not None
        stdin = self._running.process.stdin
        assert stdin is not None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            stdin.write(json.dumps(request).encode() + b"\n")
            await stdin.drain()

    async def _reply(self) -> Mapping[str, object] | None:
        """What the driver says, or None where it is gone or speaks nonsense."""
        assert self._running is not None
        stdout = self._running.process.stdout
        assert stdout is not None
        try:
            said = json.loads(await stdout.readuntil(b"\n"))
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError, RecursionError):
            return None
        return said if isinstance(said, dict) else None


@dataclass
class _Running:
    process: Process
    launch: Launch
    starved: bool = False
    pids: set[int] = field(default_factory=set)

    def kill(self) -> None:
        """The process that holds everything inside, and the one that we started, with its group."""
        inner = self.launch.inner()
        if inner is not None:
            _signal(os.kill, inner)
        _signal(os.killpg, self.process.pid)


@asynccontextmanager
async def _started(launch: Launch, arguments: Sequence[str], *, merge: bool) -> AsyncIterator[_Running]:
    """A process that is gone, with all that it started, when this is left."""
    try:
        process = await asyncio.create_subprocess_exec(
            *launch.command,
            *arguments,
            stdin=PIPE,
            stdout=PIPE,
            stderr=STDOUT if merge else PIPE,
            env=dict(launch.env),
            cwd=launch.cwd,
            pass_fds=tuple(launch.pass_fds),
            start_new_session=True,
            limit=LONGEST_REPLY,
        )
    except OSError as error:
        raise SandboxError(f"the sandbox cannot be started: {error}") from error
    running = _Running(process, launch)
    try:
        yield running
    finally:
        running.kill()
        await asyncio.shield(_gone(running))


async def _gone(running: _Running) -> None:
    """Wait until nothing of it is left. What was started outside of a sandbox's own process space is killed again."""
    deadline = time.monotonic() + KILL_S
    inner = running.launch.inner()
    while True:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                await running.process.wait()
        if running.process.returncode is not None and not (inner is not None and _alive(inner)):
            break
        if time.monotonic() > deadline:
            raise SandboxError(f"process {inner or running.process.pid} of the sandbox cannot be killed")
        running.kill()
        await asyncio.sleep(0.01)
    # The transport would keep its pipes until they are collected.
    transport = getattr(running.process, "_transport", None)
    if transport is not None:
        transport.close()


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (OSError, IndexError):
        return False


def _signal(send: Callable[[int, int], None], pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        send(pid, signal.SIGKILL)


async def _feed(stdin: asyncio.StreamWriter, data: bytes) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        stdin.write(data)
        await stdin.drain()
        stdin.close()


async def _collect(stream: asyncio.StreamReader, output: Output, mark: bytes = b"") -> None:
    """Until the stream ends, or is a flood, or holds the mark, which nobody who prints can know."""
    held = b""
    try:
        while not output.flooded and (data := await stream.read(1 << 16)):
            held += data
            end = held.find(mark) if mark else -1
            if end >= 0:
                held = held[:end]
                return
            keep = min(len(held), max(0, len(mark) - 1))
            output.add(held[: len(held) - keep])
            held = held[len(held) - keep :]
    finally:
        output.add(held)


async def _watch(running: _Running, limits: Limits) -> None:
    """Where nothing else bounds the memory of all processes together, look at it often, and kill."""
    if not running.launch.watch_memory:
        return
    while True:
        await asyncio.sleep(WATCH_S)
        if resident_bytes(running.process.pid) > limits.memory_bytes * 5 // 4:
            running.starved = True
            running.kill()
            return


def resident_bytes(pid: int) -> int:
    """Of a process and all below it; 0 where the system does not tell."""
    parents: dict[int, list[int]] = {}
    pages: dict[int, int] = {}
    for entry in os.scandir("/proc") if os.path.isdir("/proc") else ():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                fields = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
                parents.setdefault(int(fields[1]), []).append(int(entry.name))
                pages[int(entry.name)] = int(fields[21])
    total, todo = 0, [pid]
    while todo:
        one = todo.pop()
        total += pages.get(one, 0)
        todo += parents.get(one, [])
    return total * os.sysconf("SC_PAGE_SIZE")
