"""A turn's events as the typed parts of an answer, for every API the same: what each API's writer is made of.

    Begun  (Opened Piece* Closed | Opened Piece* Closed Running? Ran)*  Ended

Stop texts are held back here, log probabilities attached here, tokens counted here; calls of what was not declared are
the turn's affair and have no part.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from gpt_oss.backends.base import SampledToken
from gpt_oss.events import (
    CitationFound,
    Event,
    MessageDone,
    MessageStarted,
    RoundStarted,
    Sampled,
    TextDelta,
    ToolDone,
    ToolStarted,
    TurnDone,
    TurnEnd,
    Usage,
)
from gpt_oss.harmony.events import Header
from gpt_oss.server.core.ask import Ask
from gpt_oss.server.core.logprobs import logprob_of
from gpt_oss.server.core.stops import StopTexts
from gpt_oss.server.core.tools import ToolSet, ToolSpec
from gpt_oss.tools.citations import Citation
from gpt_oss.tools.tool import text_of
from gpt_oss.vocabulary import ENDOFTEXT

Kind: TypeAlias = Literal["reasoning", "text", "call", "hosted"]
Logprob: TypeAlias = dict[str, Any]
WHOLE_ENDS = ("stop", "tool_calls", "unknown_tools")  # those of the model's own


@dataclass(frozen=True)
class Begun:
    """A prompt is on its way to the model; the first of them tells that the answer can be computed.

    prompt_tokens: of this round.
    """

    prompt_tokens: int


@dataclass(frozen=True)
class Opened:
    """A part begins.

    kind: "hosted" is a call that is run here.
    preamble: text that is not the final answer.
    tool: the function that is called.
    recipient: whom a hosted call goes to, as its tool knows it.
    """

    kind: Kind
    preamble: bool = False
    tool: ToolSpec | None = None
    recipient: str = ""


@dataclass(frozen=True)
class Piece:
    """More of the open part. logprobs: of the tokens that begin in it, where they were asked for."""

    text: str
    logprobs: tuple[Logprob, ...] = ()


@dataclass(frozen=True)
class Cited:
    """The text of the open part that has just been delivered ended in a citation."""

    citation: Citation


@dataclass(frozen=True)
class Closed:
    """The open part is over.

    text: all of it.
    whole: False where it was cut off.
    """

    text: str
    whole: bool = True


@dataclass(frozen=True)
class Running:
    """The first hosted call that has no answer yet is being run."""


@dataclass(frozen=True)
class Ran:
    """The first hosted call that has no answer yet has got one."""

    text: str
    failed: bool


@dataclass(frozen=True)
class Ended:
    """The answer is over.

    reason: see events.TurnDone; "stop" also where a stop text was found.
    stopped_by: that stop text.
    """

    reason: TurnEnd
    usage: Usage
    stopped_by: str | None = None

    @property
    def is_whole(self) -> bool:
        return self.reason in WHOLE_ENDS


Part: TypeAlias = Begun | Opened | Piece | Cited | Closed | Running | Ran | Ended


class Answer:
    """One answer under way: push events, get parts.

    usage: the tokens so far, wherever it ends.
    ended: how it ended; None while it goes on.
    """

    def __init__(self, tools: ToolSet, stop_texts: tuple[str, ...] = ()) -> None:
        self.usage = Usage()
        self.ended: Ended | None = None
        self._tools = tools
        self._stops = StopTexts(stop_texts)
        self._open: Kind | None = None
        self._thinking = False  # the message under way is a thought, whose tokens are counted
        self._hosted: deque[bool] = deque()
        self._text = ""  # of the open part, as delivered
        self._read = 0  # characters of the open part, those held back included
        self._logprobs: deque[tuple[int, Logprob]] = deque()  # where its token begins, and what it is

    def push(self, event: Event) -> list[Part]:
        if self.ended is not None:
            return []
        match event:
            case RoundStarted(_, prompt):
                self.usage = self.usage.plus(prompt=len(prompt))
                return [Begun(len(prompt))]
            case Sampled(token):
                self._sampled(token)
            case MessageStarted(header):
                return self._begin(header)
            case TextDelta(text) if self._open is not None:
                return self._deliver(text)
            case CitationFound(citation) if self._open == "text":
                return [Cited(citation)]
            case MessageDone(message):
                return self._close(whole=message.ended_by is not None)
            case ToolStarted() | ToolDone():
                return self._run(event)
            case TurnDone(reason):
                return self.end(reason)
        return []

    def _run(self, event: ToolStarted | ToolDone) -> list[Part]:
        """The parts of a call that is run here; calls of what does not exist have none."""
        if not self._hosted or self._tools.runs_here(event.name) is None:
            return []
        if isinstance(event, ToolStarted):
            return [Running()]
        self._hosted.popleft()
        return [Ran("".join(map(text_of, event.answers)), event.failed)]

    def end(self, reason: TurnEnd) -> list[Part]:
        """The parts that end the answer now, whatever the turn may still say."""
        closing = self._close(whole=reason in WHOLE_ENDS)
        self.ended = Ended(reason, self.usage)
        return [*closing, self.ended]

    def cut(self) -> list[Part]:
        """The parts that close what is open, where the turn will say nothing more."""
        return self._close(whole=False)

    def _sampled(self, token: SampledToken) -> None:
        self.usage = self.usage.plus(cached=token.cached_tokens, output=1, reasoning=int(self._thinking))
        if self._open == "text" and token.id < ENDOFTEXT and token.logprob is not None:
            self._logprobs.append((self._read, logprob_of(token)))

    def _begin(self, header: Header) -> list[Part]:
        closed = self._close(whole=False)
        self._text, self._read, self._logprobs = "", 0, deque()
        self._thinking = header.channel == "analysis" and not header.is_call
        opened = self._opened(header)
        self._open = opened.kind if opened else None
        return [*closed, *([opened] if opened else [])]

    def _opened(self, header: Header) -> Opened | None:
        recipient = header.recipient or ""
        if not header.is_call:
            if header.channel == "analysis":
                return Opened("reasoning")
            return Opened("text", preamble=header.channel == "commentary")
        tool = self._tools.called(recipient)
        here = self._tools.runs_here(recipient)
        if here is not None:
            return Opened("hosted", tool=tool, recipient=here)
        return None if tool is None else Opened("call", tool=tool, recipient=recipient)

    def _deliver(self, text: str) -> list[Part]:
        self._read += len(text)
        if self._open != "text":
            return self._pieces(text)
        pieces = self._pieces(self._stops.push(text))
        if self._stops.found is None:
            return pieces
        closed: list[Part] = [Closed(self._text)]
        self._open = None
        self.ended = Ended("stop", self.usage, self._stops.found)
        return [*pieces, *closed, self.ended]

    def _pieces(self, text: str) -> list[Part]:
        if not text:
            return []
        self._text += text
        begun = []
        while self._logprobs and self._logprobs[0][0] < len(self._text):
            begun.append(self._logprobs.popleft()[1])
        return [Piece(text, tuple(begun))]

    def _close(self, *, whole: bool) -> list[Part]:
        kind, self._open = self._open, None
        self._thinking = False
        if kind is None:
            return []
        rest = self._pieces(self._stops.release()) if kind == "text" else []
        if self._logprobs:  # of tokens that are no whole character
            rest.append(Piece("", tuple(each for _, each in self._logprobs)))
            self._logprobs.clear()
        if kind == "hosted":
            self._hosted.append(True)
        return [*rest, Closed(self._text, whole)]


class Events(Protocol):
    """What runs asks: server/runner.py."""

    def events(self, ask: Ask) -> AsyncGenerator[Event, None]: ...


async def parts_of(
    runner: Events, ask: Ask, answer: Answer, watch: Callable[[Event], None] = lambda _: None
) -> AsyncGenerator[Part, None]:
    """The parts of the answer to an ask, to its end; closing the generator ends the turn at once.

    watch: sees the turn's own events.
    """
    async with aclosing(runner.events(ask)) as events:
        async for event in events:
            watch(event)
            for part in answer.push(event):
                yield part
            if answer.ended is not None:
                return
