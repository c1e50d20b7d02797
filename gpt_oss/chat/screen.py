"""A terminal in two parts: finished text, which scrolls away for good, and below it a tail that is drawn anew.

Only the tail is ever erased, so what scrolls back is clean. Its lines are never wrapped by the terminal (autowrap is
off while it stands): a character wider than Rich believes cannot leave a scrap behind. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType

_WRAP_OFF, _WRAP_ON = "\x1b[?7l", "\x1b[?7h"
_CURSOR_OFF, _CURSOR_ON = "\x1b[?25l", "\x1b[?25h"
_ERASE_BELOW = "\r\x1b[J"


class Screen:
    def __init__(self, console: Console) -> None:
        self.console = console
        self._tail = ""
        self._height = 0  # lines of the tail on the terminal

    def print(self, *finished: RenderableType) -> None:
        """Print for good, above the tail."""
        self._write(self._rendered(finished), self._tail)

    def set_tail(self, *parts: RenderableType) -> None:
        """What stands below everything else until the next call; of a tail too high for the terminal, its end."""
        if self.console.is_dumb_terminal:
            return
        lines = self._rendered(parts).removesuffix("\n").split("\n") if parts else []
        self._write("", "\n".join(lines[-max(1, self.console.height - 1) :]))

    def text(self, text: str) -> None:
        """Characters as they come, without a line break of ours; there must be no tail."""
        assert not self._tail
        self.console.file.write(text)
        self.console.file.flush()

    @contextmanager
    def tail(self) -> Iterator[None]:
        """A time in which there may be a tail; afterwards it is gone and the cursor is back."""
        try:
            yield
        finally:
            self.set_tail()

    def _rendered(self, parts: tuple[RenderableType, ...]) -> str:
        with self.console.capture() as capture:
            for part in parts:
                self.console.print(part)
        return capture.get()

    def _write(self, finished: str, tail: str) -> None:
        if not finished and tail == self._tail:
            return
        erase = ""
        if self._height:
            erase = (f"\x1b[{self._height - 1}A" if self._height > 1 else "") + _ERASE_BELOW + _WRAP_ON
        draw = f"{_WRAP_OFF}{_CURSOR_OFF}{tail}" if tail else (_CURSOR_ON if self._height else "")
        self._tail, self._height = tail, tail.count("\n") + 1 if tail else 0
        self.console.file.write(erase + finished + draw)
        self.console.file.flush()
