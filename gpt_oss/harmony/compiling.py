"""The worker of trials.py: does what it is asked for in a process of its own for each job, within limits.

The token table takes seconds to build. So the worker builds it once, and forks for each job: a job that dies costs a
fork. Where there is no fork, it does the job itself, and is ended and replaced when that takes too long.

Jobs are lists of texts, the answers objects: {"found": …}, or {"died": why}.

    enforce SCHEMA STRICT     Enforced or Left of enforce.py, as an object
    compile GRAMMAR           llguidance's form of a grammar: {"fault": what is wrong or None, "bytes": what it takes}
    regex PATTERN             the same of a regular expression
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from gpt_oss.harmony.trials import framed, read_frame

Limits = Mapping[str, Any]


def main() -> None:
    """Answers jobs on standard input, until it ends."""
    from gpt_oss.harmony.guidance import warm

    limits = json.loads(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal; the end of standard input is ours
    jobs, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    warm()
    if hasattr(os, "nice"):
        os.nice(10)  # whoever waits for an answer comes first
    gc.freeze()
    while (job := read_frame(jobs)) is not None:
        answers.write(framed(_forked(job, limits) if hasattr(os, "fork") else _answer(job, limits)))
        answers.flush()


def _forked(job: bytes, limits: Limits) -> bytes:
    """The answer to a job, worked out by a child that may die of it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            _limit(limits)
            with os.fdopen(writing, "wb") as pipe:
                pipe.write(_answer(job, limits))
        finally:
            os._exit(0)
    os.close(writing)
    answer = _read(reading, time.monotonic() + limits["wall_seconds"])
    if answer is None:
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if answer:
        return answer
    return _died(_why(status, limits) if answer is not None else _too_long(limits))


def _read(pipe: int, deadline: float) -> bytes | None:
    """All that comes until the end; None where the deadline comes first."""
    parts: list[bytes] = []
    try:
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([pipe], [], [], left)[0]:
                return None
            part = os.read(pipe, 1 << 20)
            if not part:
                return b"".join(parts)
            parts.append(part)
    finally:
        os.close(pipe)


def _limit(limits: Limits) -> None:
    """Processor time, and memory where the system can say how much there is already."""
    import resource

    resource.setrlimit(resource.RLIMIT_CPU, (limits["seconds"], limits["seconds"] + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        with open("/proc/self/statm") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
        most = now + limits["stack"] + limits["bytes"]
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    except (OSError, ValueError):  # not Linux
        pass


def _why(status: int, limits: Limits) -> str:
    ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if ended_by in (signal.SIGXCPU, signal.SIGKILL):
        return _too_long(limits)
    if ended_by == signal.SIGSEGV:
        return "is nested too deep to be compiled"
    return f"needs more than {limits['bytes'] >> 20} MB to be compiled"


def _too_long(limits: Limits) -> str:
    return f"takes more than {limits['seconds']} seconds to be compiled"


def _died(why: str) -> bytes:
    return json.dumps({"died": why}).encode()


def _answer(job: bytes, limits: Limits) -> bytes:
    """The answer to a job, on a thread whose stack is smaller than that of threads that do the same later."""
    answers: list[bytes] = []

    def run() -> None:
        try:
            answers.append(json.dumps({"found": _found(*json.loads(job))}).encode())
        except MemoryError:
            answers.append(_died(f"needs more than {limits['bytes'] >> 20} MB to be compiled"))
        except BaseException as error:  # a panic as well
            answers.append(_died(f"cannot be compiled: {type(error).__name__}"))

    threading.stack_size(limits["stack"])
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return answers[0]


def _found(kind: str, text: str, strict: str = "") -> Any:
    from gpt_oss.harmony.enforce import enforced
    from gpt_oss.harmony.guidance import fault, grammar_text, matcher_of, regex_grammar

    if kind == "enforce":
        return asdict(enforced(text, strict == "strict"))
    before = _resident()
    made = matcher_of(grammar_text(regex_grammar(text)) if kind == "regex" else text)
    found = fault(made)
    return {"fault": found, "bytes": max(0, _resident() - before)}


def _resident() -> int:
    """Bytes of memory that this process has; 0 where the system does not say."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096
    except OSError:
        return 0
