"""The chat in a pipe: each line of stdin is a question, stdout has the final answers, stderr everything else."""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Iterator
from contextlib import aclosing
from typing import TextIO

from gpt_oss.chat.notices import Footnotes, end_notice, trimmed_notice
from gpt_oss.chat.raw import RawFold
from gpt_oss.chat.state import Chat
from gpt_oss.chat.text import one_line, plural, visible, well_formed
from gpt_oss.events import (
    CitationFound,
    ContextTrimmed,
    Event,
    MessageDone,
    MessageStarted,
    TextDelta,
    ToolDone,
    ToolStarted,
    TurnDone,
)


def be_robust() -> None:
    """Bytes that are no UTF-8, and characters that the output's encoding lacks, must not end a chat."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def questions(stdin: TextIO) -> Iterator[str]:
    """Its lines, without blank ones; a person who types them sees a prompt on stderr."""
    while True:
        if stdin.isatty():
            print("> ", end="", file=sys.stderr, flush=True)
        line = stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.rstrip("\r\n")


def talk(chat: Chat, runner: asyncio.Runner, asked: Iterator[str]) -> None:
    """Answer each question. Raises what a turn raises; Ctrl-C ends it as it ends any command in a pipe."""
    for question in asked:
        runner.run(answer(chat, question))


async def answer(chat: Chat, question: str) -> None:
    fold = PlainFold()
    raw = RawFold(fold.write) if chat.look.raw else None
    async with aclosing(chat.session.stream(well_formed(question))) as events:
        async for event in events:
            chat.meter.add(event)
            fold.notices(event)
            if raw is None:
                fold.add(event)
            else:
                raw.add(event)
    if raw is not None:
        raw.end()
    print(f"[{chat.status()}]", file=sys.stderr)


class PlainFold:
    """Final answers to stdout as they come; one line on stderr for each tool and each limit."""

    def __init__(self) -> None:
        self._shown = False
        self._held = ""  # a piece of text whose end may turn out to be a citation's mark
        self._notes = Footnotes()

    def add(self, event: Event) -> None:
        if isinstance(event, CitationFound):
            mark = event.citation.text
            self._held = self._held.removesuffix(mark) + f"[{self._notes.number(event.citation)}]"
            return
        self.write(visible(self._held))
        self._held = ""
        match event:
            case MessageStarted(header):
                self._shown = header.channel not in ("analysis", "commentary") and not header.is_call
            case TextDelta(text) if self._shown:
                self._held = text
            case MessageDone() if self._shown:
                self.write("\n")
            case TurnDone():
                self.write("".join(f"{line}\n" for line in self._notes.lines()))

    def notices(self, event: Event) -> None:
        match event:
            case ToolStarted(name=name, call=call):
                self._notice(f"{one_line(name)} {one_line(call.content, 80)}")
            case ToolDone(name=name, answers=answers, seconds=seconds, failed=failed):
                outcome = "failed" if failed else "done"
                self._notice(f"{one_line(name)}: {outcome}, {plural(len(answers), 'answer')} in {seconds:.1f} s")
            case ContextTrimmed():
                self._notice(trimmed_notice(event))
            case TurnDone():
                self._notice(end_notice(event))

    def write(self, text: str, special: bool = False) -> None:
        if text:
            sys.stdout.write(text)
            sys.stdout.flush()

    def _notice(self, text: str | None) -> None:
        if text:
            print(f"[{text}]", file=sys.stderr, flush=True)
