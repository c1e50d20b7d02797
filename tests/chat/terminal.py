"""A real terminal for tests: a program on a pseudo-terminal, and an emulator (pyte) that shows what a user sees."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType

import pexpect
import pyte

ENTER, ALT_ENTER, CTRL_C, CTRL_D, CTRL_J = "\r", "\x1b\r", "\x03", "\x04", "\n"


class _Emulator(pyte.HistoryScreen):
    """Answers what programs ask a terminal, such as where the cursor is."""

    def __init__(self, columns: int, lines: int, answer: Callable[[str], None]) -> None:
        super().__init__(columns, lines, history=100_000)
        self._answer = answer

    def write_process_input(self, data: str) -> None:
        self._answer(data)


class Terminal:
    """Type with `type`, read `text` (all that ever scrolled by and what is shown) or `shown` (the lines on screen)."""

    def __init__(
        self, command: Sequence[str], env: Mapping[str, str], cwd: Path, *, columns: int = 100, lines: int = 30
    ) -> None:
        size = (lines, columns)
        self.child = pexpect.spawn(command[0], list(command[1:]), cwd=str(cwd), env=dict(env), dimensions=size)
        self.child.delaybeforesend = None
        self.screen = _Emulator(columns, lines, self.child.send)
        self.received = b""
        self._above: list[str] = []  # the lines that have scrolled off the screen
        self._stream = pyte.ByteStream(self.screen)

    @property
    def shown(self) -> list[str]:
        return [line.rstrip() for line in self.screen.display]

    @property
    def text(self) -> str:
        scrolled = islice(self.screen.history.top, len(self._above), None)
        self._above += ["".join(line[x].data for x in range(self.screen.columns)).rstrip() for line in scrolled]
        return "\n".join([*self._above, *self.shown]).rstrip("\n")

    def type(self, text: str) -> None:
        self.child.send(text)

    def ask(self, text: str) -> None:
        """A line at the prompt, once there is one."""
        self.wait(lambda: self.at_prompt)
        self.type(text)
        self.wait_for(text.split("\n")[-1])
        self.type(ENTER)

    @property
    def at_prompt(self) -> bool:
        """The chat waits for a line: its status stands on the last line, and the cursor behind an empty prompt."""
        return "context" in self.shown[-1] and self.shown[self.screen.cursor.y] == ">"

    def wait_for(self, text: str, seconds: float = 20.0) -> None:
        self.wait(lambda: text in self.text, seconds, f"{text!r}")

    def wait_for_prompt(self, seconds: float = 20.0) -> None:
        self.wait(lambda: self.at_prompt, seconds, "the prompt")

    def wait(self, condition: Callable[[], bool], seconds: float = 20.0, what: str = "it") -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"waited {seconds} s for {what}; the terminal has:\n{self.text}"
            try:
                self._feed(self.child.read_nonblocking(65536, timeout=0.05))
            except pexpect.TIMEOUT:
                continue
            except pexpect.EOF:
                assert condition(), f"the program ended before {what}; the terminal has:\n{self.text}"

    def exit_code(self) -> int:
        """Read to the program's end."""
        try:
            while True:
                self._feed(self.child.read_nonblocking(65536, timeout=20))
        except pexpect.EOF:
            self.child.close()
        return self.child.exitstatus if self.child.exitstatus is not None else -self.child.signalstatus

    def _feed(self, data: bytes) -> None:
        self.received += data
        self._stream.feed(data)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.child.close(force=True)
