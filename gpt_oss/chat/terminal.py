"""An answer on a terminal, drawn as its events come: thoughts, tool calls, Markdown, footnotes, a status line below.

A fold: `add` takes events, `draw` brings the screen up to date and may be called at any time. Asks nothing of anyone.
"""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable

from rich.console import Group, RenderableType
from rich.text import Text

from gpt_oss.chat.markdown import ModelMarkdown, split_blocks
from gpt_oss.chat.notices import STOPPED, Footnotes, end_notice, trimmed_notice
from gpt_oss.chat.screen import Screen
from gpt_oss.chat.state import Look
from gpt_oss.chat.text import one_line, plural, visible
from gpt_oss.errors import PatchError
from gpt_oss.events import (
    CitationFound,
    ContextTrimmed,
    Event,
    MessageDone,
    MessageStarted,
    Repaired,
    RoundStarted,
    TextDelta,
    ToolDone,
    ToolStarted,
    TurnDone,
)
from gpt_oss.harmony import Header, ParsedMessage
from gpt_oss.tools.apply_patch import unwrap
from gpt_oss.tools.tool import text_of

SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
READING = "reading the prompt"
RESULT_LINES = 3  # of a tool's result that are shown
DIM, NOTICE, ERROR = "dim", "yellow", "red"


class AnswerView:
    """status: gives the line at the bottom, whenever it is drawn."""

    def __init__(self, screen: Screen, look: Look, status: Callable[[], str]) -> None:
        self._screen = screen
        self._look = look
        self._status = status
        self._notes = Footnotes()
        self._writing: _Writing | None = None  # the message that is being shown
        self._busy = READING  # what is going on while no text is shown
        self._since = time.monotonic()
        self._repairs = 0
        self._blank = True  # the last line printed is empty

    def add(self, event: Event) -> None:
        match event:
            case RoundStarted():
                self._wait(READING)
            case MessageStarted(header):
                self._start(header)
            case TextDelta(text) if self._writing:
                self._writing.text += visible(text)
            case CitationFound(citation) if self._writing:
                self._writing.cite(citation.text, self._notes.number(citation))
            case MessageDone(message):
                self._finish(message)
            case Repaired():
                self._repairs += 1
            case ToolStarted(name=name, call=call):
                self._paragraph(_call(name, call))
                self._wait(one_line(name, 40))
            case ToolDone():
                self._result(event)
                self._wait(READING)
            case ContextTrimmed():
                self._paragraph(Text(trimmed_notice(event), NOTICE))
            case TurnDone():
                self._end(event)

    def draw(self) -> None:
        """Print what is finished, and show the rest as the tail."""
        rest: RenderableType | None
        if self._writing:
            finished, rest = self._writing.take()
            self._print_text(finished)
        else:
            seconds = time.monotonic() - self._since
            frame = SPINNER[int(seconds * 10) % len(SPINNER)]
            rest = Text(f"{frame} {self._busy} · {seconds:.0f} s", DIM)
        gap = [Text()] if rest is not None and self._needs_gap() else []
        status = Text(self._status(), DIM, no_wrap=True, overflow="ellipsis")
        self._screen.set_tail(*gap, *([] if rest is None else [rest]), status)

    def interrupted(self) -> None:
        """The user stopped the answer: what was said stands."""
        self._finish_text()
        self._paragraph(Text(STOPPED, NOTICE))

    def failed(self, sentence: str) -> None:
        self._finish_text()
        self._paragraph(Text(sentence, ERROR))

    def close(self) -> None:
        """An empty line below everything, where the next prompt stands."""
        self._flush()
        if not self._blank:
            self._screen.print(Text())

    def _wait(self, busy: str) -> None:
        self._writing, self._busy, self._since = None, busy, time.monotonic()

    def _start(self, header: Header) -> None:
        if header.is_call:
            self._wait(f"calling {one_line(header.recipient or '', 40)}")
        elif header.channel == "analysis":
            self._wait("thinking")
            self._writing = _Thoughts() if self._look.thoughts else None
        else:
            self._writing = _Markdown()

    def _finish(self, message: ParsedMessage) -> None:
        folded = message.header.channel == "analysis" and not message.header.is_call and not self._look.thoughts
        if folded:
            seconds = time.monotonic() - self._since
            self._paragraph(Text(f"thought for {seconds:.1f} s · {plural(len(message.tokens), 'token')}", DIM))
        self._flush()
        self._wait(READING)

    def _flush(self) -> None:
        """The message that is being shown is printed to its end."""
        if self._writing:
            self._print_text(self._writing.rest())
            self._writing = None

    def _print_text(self, part: RenderableType | None) -> None:
        """More of the message that is being shown."""
        if part is not None and self._writing:
            self._paragraph(part)
            self._writing.begun = True

    def _paragraph(self, part: RenderableType) -> None:
        """Print for good."""
        self._screen.print(*([Text()] if self._needs_gap() else []), part)
        self._blank = False

    def _needs_gap(self) -> bool:
        """Paragraphs are an empty line apart, but for the lines of one flowing text."""
        goes_on = self._writing is not None and self._writing.flows and self._writing.begun
        return not self._blank and not goes_on

    def _result(self, done: ToolDone) -> None:
        text = visible("\n".join(text_of(answer) for answer in done.answers)).strip("\n")
        in_full = self._look.browser_results and done.name.startswith("browser.")
        lines = [line for line in text.split("\n") if in_full or line.strip()] or ["(nothing)"]
        shown = lines if in_full else lines[:RESULT_LINES]
        style = ERROR if done.failed else DIM
        for line in shown:
            self._screen.print(Text(f"  {line}", style, no_wrap=not in_full, overflow="ellipsis"))
        left = len(lines) - len(shown)
        more = f"… {plural(left, 'more line')} · " if left else ""
        self._screen.print(Text(f"  {more}{done.seconds:.1f} s", DIM))
        self._blank = False

    def _finish_text(self) -> None:
        """No more text will come: the rest of it, and the pages that it cites."""
        self._flush()
        notes = self._notes.lines()
        if notes:
            self._paragraph(Text("\n".join(notes), DIM))

    def _end(self, done: TurnDone) -> None:
        self._finish_text()
        notice = end_notice(done)
        if notice:
            self._paragraph(Text(notice, NOTICE))
        if self._repairs:
            times = plural(self._repairs, "time")
            self._paragraph(Text(f"The model broke the Harmony format {times}; /raw shows its tokens.", DIM))


class _Writing(ABC):
    """Text that grows at its end. flows: its pieces follow each other without an empty line between them.
    begun: some of it has been printed."""

    flows = False

    def __init__(self) -> None:
        self.text = ""
        self.begun = False

    def cite(self, mark: str, number: int) -> None:
        """The mark that the text ends in becomes a footnote's number."""
        self.text = self.text.removesuffix(mark) + f"[{number}]"

    def take(self) -> tuple[RenderableType | None, RenderableType | None]:
        """(what is finished, which is forgotten here; what may still change)."""
        finished, self.text = self.split()
        return self.show(finished), self.show(self.text)

    def rest(self) -> RenderableType | None:
        return self.show(self.text)

    @abstractmethod
    def split(self) -> tuple[str, str]: ...

    @abstractmethod
    def show(self, text: str) -> RenderableType | None: ...


class _Thoughts(_Writing):
    """Plain and dim: a chain of thought is not written to be formatted."""

    flows = True

    def split(self) -> tuple[str, str]:
        cut = self.text.rfind("\n") + 1
        return self.text[:cut], self.text[cut:]

    def show(self, text: str) -> RenderableType | None:
        return Text(text.removesuffix("\n"), "dim italic") if text else None


class _Markdown(_Writing):
    def split(self) -> tuple[str, str]:
        *finished, rest = split_blocks(self.text)
        return "".join(finished), rest

    def show(self, text: str) -> RenderableType | None:
        return ModelMarkdown(text) if text.strip() else None


def _call(name: str, call: ParsedMessage) -> RenderableType:
    """One line; a patch in full, as a coloured diff."""
    name = name.removeprefix("functions.")
    title = Text(f"● {one_line(name, 60)}", "bold cyan")
    if name != "apply_patch":
        return Text.assemble(title, (f" {one_line(call.content)}", DIM), no_wrap=True, overflow="ellipsis")
    return Group(title, *(Text(f"  {line}", _diff_style(line)) for line in _patch(call.content).split("\n")))


def _patch(text: str) -> str:
    with contextlib.suppress(PatchError):  # the tool will say what is wrong with it; it is shown as it came
        text = unwrap(text)
    return visible(text).strip("\n")


def _diff_style(line: str) -> str:
    if line.startswith("***"):
        return "bold"
    return {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], DIM)
