"""The interpreter of a session. It runs inside the sandbox, alone, with nothing but Python's own library.

Requests come as lines of JSON on stdin, `{"code": …, "mark": …}` or `{"interrupt": true}`; `{"done": 0 or 1}` goes back
on stdout. What the code prints, by whatever way, goes to stderr, then the mark. As in a notebook, the value of a last
expression is shown, unless the request says `"echo": false`.
"""

from __future__ import annotations

import ast
import contextlib
import json
import linecache
import os
import queue
import signal
import sys
import threading
import traceback
import types
from typing import IO, Any


def main() -> None:
    requests, replies = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a host that a script put into the background ignores it
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", 1, encoding="utf-8", errors="replace", closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, encoding="utf-8", errors="replace", closefd=False)
    work: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=listen, args=(requests, work, threading.get_ident()), daemon=True).start()
    module = types.ModuleType("__main__")  # the code's own: it finds nothing of this file in it
    sys.modules["__main__"] = module
    replies.write('{"ready": true}\n')
    replies.flush()
    number, pid = 0, os.getpid()
    while True:
        try:
            request = work.get()
        except KeyboardInterrupt:  # too late for the last request, and nothing to stop
            continue
        number += 1
        status = execute(request["code"], f"<cell {number}>", module.__dict__, echo=request.get("echo", True))
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
        if os.getpid() != pid:  # a child that the code forked and let run on: it must not answer in its parent's name
            os._exit(0)
        os.write(2, request["mark"].encode())
        replies.write(f'{{"done": {status}}}\n')
        replies.flush()


def listen(requests: IO[str], work: queue.SimpleQueue[dict[str, Any]], main_thread: int) -> None:
    for line in requests:
        request = json.loads(line)
        if request.get("interrupt"):
            signal.pthread_kill(main_thread, signal.SIGINT)
        else:
            work.put(request)
    os._exit(0)  # the host is gone


def execute(code: str, name: str, space: dict[str, Any], *, echo: bool) -> int:
    """0, or 1 after a traceback."""
    linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
    try:
        tree = ast.parse(code, name)
        last = tree.body.pop() if echo and tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, name, "exec"), space)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), name, "eval"), space)
            if value is not None:
                space["_"] = value
                print(repr(value))
    except SystemExit as stop:
        if stop.code in (None, 0):
            return 0
        print(stop.code if isinstance(stop.code, str) else f"SystemExit: {stop.code}", file=sys.stderr)
        return 1
    except BaseException as error:
        show(error, name)
        return 1
    return 0


def show(error: BaseException, name: str) -> None:
    """The traceback from the code's own frames on."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename != name:
        trace = trace.tb_next
    with contextlib.suppress(BaseException):  # the code may have broken its own stderr, or the error its own text
        traceback.print_exception(type(error), error, trace)


if __name__ == "__main__":
    main()
