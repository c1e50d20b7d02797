"""What a sandbox is: code in, output out, and nothing of the host within reach. Limits are for one execution."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from gpt_oss.errors import GptOssError

SCRATCH = "/mnt/data"  # the one folder to write in: where harmony's description of `python` says that files are kept
ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin",
    "HOME": SCRATCH,
    "TMPDIR": SCRATCH,
    "LANG": "C.UTF-8",
    "PYTHONDONTWRITEBYTECODE": "1",
    "OPENBLAS_NUM_THREADS": "1",  # each thread reserves address space, which is limited
    "OMP_NUM_THREADS": "1",
    "MPLBACKEND": "Agg",
}
CUT = "\n\n[… {count} characters left out …]\n\n"


class SandboxError(GptOssError):
    """The sandbox cannot be had, or failed by itself; the message says what to do."""


@dataclass(frozen=True)
class Limits:
    """memory_bytes: of all processes together. cpu_s: of one process. wall_s: of an execution. file_bytes: of one file.
    scratch_bytes, scratch_files: of the only folder that can be written. output_bytes: what is kept of the output.
    """

    memory_bytes: int = 1 << 30
    cpu_s: int = 120
    wall_s: float = 120.0
    processes: int = 64
    file_bytes: int = 64 << 20
    scratch_bytes: int = 128 << 20
    scratch_files: int = 4096
    open_files: int = 256
    output_bytes: int = 32 << 10


@dataclass(frozen=True)
class Result:
    """output: stdout and stderr as they came, cut in the middle where `cut`. exit_code: None where it was killed.
    state_lost: of a session, which starts anew with the next execution.
    """

    output: str
    exit_code: int | None = 0
    seconds: float = 0.0
    timed_out: bool = False
    out_of_memory: bool = False
    cut: bool = False
    state_lost: bool = False

    @property
    def ok(self) -> bool:
        return self.exit_code == 0


class Session(Protocol):
    """An interpreter that keeps its state from one execution to the next."""

    async def execute(self, code: str) -> Result:
        """Cancelling it ends the session's processes; the next execution starts anew."""
        ...

    async def close(self) -> None: ...


class Sandbox(Protocol):
    """name: as it is chosen. about: for people, what holds the code and which limits are enforced by what."""

    name: str
    about: str

    async def run(self, code: str, limits: Limits) -> Result:
        """Run a program in a fresh interpreter. Cancelling it leaves nothing running. Raises SandboxError."""
        ...

    def session(self, limits: Limits) -> Session: ...

    async def close(self) -> None: ...


@dataclass
class Output:
    """Bytes as they come, of which the first and the last are kept. `flooded`: so much that nobody will read it."""

    limit: int
    total: int = 0
    _head: bytearray = field(default_factory=bytearray)
    _tail: bytearray = field(default_factory=bytearray)

    @property
    def flooded(self) -> bool:
        return self.total > 64 * self.limit + (16 << 20)

    @property
    def cut(self) -> bool:
        return self.total > self.limit

    def add(self, data: bytes) -> None:
        self.total += len(data)
        room = self.limit // 2 - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        self._tail += data
        if len(self._tail) > 2 * self.limit:
            del self._tail[: len(self._tail) - self.limit]

    def text(self) -> str:
        if not self.cut:
            return bytes(self._head + self._tail).decode("utf-8", "replace")
        head = bytes(self._head).decode("utf-8", "replace")
        tail = bytes(self._tail[-(self.limit - self.limit // 2) :]).decode("utf-8", "replace")
        return head + CUT.format(count=self.total - self.limit) + tail
