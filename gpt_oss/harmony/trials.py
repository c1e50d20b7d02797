"""Schemas and grammars of strangers are tried in another process before this one compiles them.

llguidance is quick and has limits of its own, yet a grammar can be written that overflows its stack, which ends the
process, or that it never finishes. So what is not plainly harmless (`is_simple`) is done in a worker first, within so
much processor time and memory. A worker that dies took one attempt with it and nothing else. What has succeeded there
is compiled here as well, on a thread, with more stack than it had there.

`contain` turns it on for this process, as the server does. Without it everything is compiled where it is asked for:
a program has no reason to fear its own schemas.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import struct
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any, Generic, Literal, TypeVar

from gpt_oss.errors import BackendError, CapacityError, HarmonyError

T = TypeVar("T")
Kind = Literal["enforce", "compile", "regex"]

STACK = 16 << 20  # bytes, of the threads that compile here; workers have TRIAL_STACK
TRIAL_STACK = 4 << 20
LARGEST = 1 << 20  # characters of one schema or grammar; the largest that we know of has 60,000
SIMPLE = 8_000  # characters
_LENGTH = struct.Struct("<Q")
# Words whose cost grows with their text and no faster; see docs/structured-output.md for the measurement.
_SIMPLE_WORDS = frozenset(
    {
        "$schema", "additionalProperties", "anyOf", "const", "default", "description", "enum", "examples", "items",
        "maximum", "minimum", "nullable", "properties", "required", "title", "type",
    }
)  # fmt: skip


class TooHardError(HarmonyError):
    """A schema or grammar that could not be compiled within the limits. The message goes on after its place."""


@dataclass(frozen=True)
class TrialLimits:
    """What one trial may take.

    seconds: of processor time.
    wall_seconds: of anything else, such as waiting for a busy machine.
    bytes: of memory, next to what a worker has anyway.
    workers: at a time; the first starts when it is needed, or with `warm`, the others when all are busy.
    waiting: trials that may wait for a worker.
    """

    seconds: int = 2
    wall_seconds: float = 20.0
    bytes: int = 512 << 20
    workers: int = 2
    waiting: int = 48


class Kept(Generic[T]):
    """Results by key, the ones used longest ago forgotten. most: in bytes, as their makers estimate them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._size = 0
        self._found: OrderedDict[str, tuple[T, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str) -> T | None:
        with self._lock:
            found = self._found.get(key)
            if found is None:
                return None
            self._found.move_to_end(key)
            return found[0]

    def put(self, key: str, value: T, size: int) -> None:
        with self._lock:
            self._size += size - self._found.pop(key, (value, 0))[1]
            self._found[key] = value, size
            while self._size > self._most:
                self._size -= self._found.popitem(last=False)[1][1]


def key_of(*texts: str) -> str:
    """A key by content."""
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def is_simple(schema: object, text: str) -> bool:
    """Whether a schema is small and says nothing whose cost could grow faster than its text.

    text: the schema written out. Names of properties count as words only where a schema may stand.
    """
    if len(text) > SIMPLE:
        return False
    rest = [schema]
    while rest:
        part = rest.pop()
        if not isinstance(part, Mapping):
            continue
        if not part.keys() <= _SIMPLE_WORDS:
            return False
        properties, branches = part.get("properties"), part.get("anyOf")
        rest += properties.values() if isinstance(properties, Mapping) else []
        rest += branches if isinstance(branches, list) else []
        rest += [part.get("items"), part.get("additionalProperties")]
    return True


def on_large_stack(work: Callable[[], T]) -> T:
    """The result of `work`, done on a thread that has STACK."""
    found: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            found.append(work())
        except BaseException as error:  # a panic as well: it is raised where the work was asked for
            failed.append(error)

    with _starting:
        before = threading.stack_size(STACK)
        thread = threading.Thread(target=run, name="gpt-oss grammar")
        thread.start()
        threading.stack_size(before)
    with _out_of_turn():
        thread.join()
    if failed:
        raise failed[0]
    return found[0]


_starting = threading.Lock()
# Threads that compute in Python at a time: see `in_turn`.
_turns = threading.Semaphore(2)
_here = threading.local()


@contextmanager
def in_turn() -> Iterator[None]:
    """One of the few threads that compute in Python at a time. While it waits for a worker, another one may."""
    with _turns:
        _here.has_turn = True
        try:
            yield
        finally:
            _here.has_turn = False


@contextmanager
def _out_of_turn() -> Iterator[None]:
    has_turn = getattr(_here, "has_turn", False)
    if has_turn:
        _turns.release()
    try:
        yield
    finally:
        if has_turn:
            _turns.acquire()


class Trials:
    """Workers, and what they have found out."""

    def __init__(self, limits: TrialLimits) -> None:
        self.limits = limits
        self._idle: list[_Worker] = []
        self._places = threading.BoundedSemaphore(limits.workers)
        self._waiting = threading.BoundedSemaphore(limits.workers + limits.waiting)
        self._known: Kept[Any] = Kept(64 << 20)

    def warm(self) -> None:
        """Starts a worker."""
        if not self._idle:
            self._idle.append(_Worker(self.limits))

    def found(self, kind: Kind, *texts: str) -> Any:
        """What the work comes to, from memory where it was done before; see compiling.py for the kinds.

        Blocks. Raises TooHardError where it cannot be done within the limits, CapacityError where too many wait.
        """
        if sum(map(len, texts)) > LARGEST:
            raise TooHardError(f"has more than {LARGEST:,} characters")
        key = key_of(kind, *texts)
        known = self._known.get(key)
        if known is None:
            known = self._tried([kind, *texts])
            self._known.put(key, known, 200 + 4 * len(json.dumps(known)))
        if "died" in known:
            raise TooHardError(known["died"])
        return known["found"]

    def _tried(self, job: list[str]) -> Mapping[str, Any]:
        if not self._waiting.acquire(blocking=False):
            raise CapacityError("too many schemas and grammars are being compiled; try again later")
        try:
            with _out_of_turn(), self._places:
                return self._asked(job) or self._asked(job) or _no_worker()
        finally:
            self._waiting.release()

    def _asked(self, job: list[str]) -> Mapping[str, Any] | None:
        """None where the worker itself is gone."""
        try:
            worker = self._idle.pop()
        except IndexError:
            worker = _Worker(self.limits)
        answer = worker.ask(json.dumps(job).encode())
        if answer is None:
            worker.close()
            return None
        self._idle.append(worker)
        found: Mapping[str, Any] = json.loads(answer)
        return found

    def close(self) -> None:
        """Ends the workers that are idle; those at work end with their pipe."""
        with suppress(IndexError):
            while True:
                self._idle.pop().close()


def _no_worker() -> Mapping[str, Any]:
    raise BackendError("schemas and grammars cannot be compiled now: their worker does not start")


class _Worker:
    """A process that runs compiling.py."""

    def __init__(self, limits: TrialLimits) -> None:
        self._limits = limits
        environment = {**os.environ, "MALLOC_ARENA_MAX": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        program = "from gpt_oss.harmony.compiling import main; main()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", program, json.dumps({**asdict(limits), "stack": TRIAL_STACK})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )

    def ask(self, job: bytes) -> bytes | None:
        """The answer to a job; None where the worker is gone, or had to be ended."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        overdue = threading.Timer(2 * self._limits.wall_seconds, process.kill)
        overdue.daemon = True
        overdue.start()
        try:
            process.stdin.write(framed(job))
            process.stdin.flush()
            return read_frame(process.stdout)
        except OSError:
            return None
        finally:
            overdue.cancel()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()


def framed(data: bytes) -> bytes:
    """Data with its length before it."""
    return _LENGTH.pack(len(data)) + data


def read_frame(pipe: Any) -> bytes | None:
    """What was framed; None where the pipe ends first."""
    head = pipe.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    size = _LENGTH.unpack(head)[0]
    data: bytes = pipe.read(size)
    return data if len(data) == size else None


class _Containment:
    """The trials of this process; None: there are none."""

    trials: Trials | None = None


def contain(limits: TrialLimits | None = None) -> Trials:
    """The trials of this process, from now on. The first call says their limits."""
    if _Containment.trials is None:
        _Containment.trials = Trials(limits or TrialLimits())
        atexit.register(_Containment.trials.close)
    return _Containment.trials


def trials() -> Trials | None:
    """The trials of this process, where it has them."""
    return _Containment.trials
