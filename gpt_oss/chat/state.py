"""What a chat remembers between questions, and the figures of its status line. Draws nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from openai_harmony import Message, TextContent

from gpt_oss.chat.text import one_line
from gpt_oss.chat.toolset import Toolset
from gpt_oss.events import Event, RoundStarted, Sampled
from gpt_oss.harmony.render import AnyMessage, Conversation, render
from gpt_oss.session import AsyncSession


@dataclass(frozen=True)
class Asked:
    """A question, and the history as it was before: for asking again."""

    question: str
    before: tuple[AnyMessage, ...]


@dataclass
class Look:
    """What the user wants to see of an answer."""

    raw: bool = False
    thoughts: bool = True
    browser_results: bool = False


@dataclass
class Meter:
    """Counts what goes by: tokens of the context in use, and how fast the model speaks (0.0: not known yet)."""

    context_used: int = 0
    tokens: int = 0
    seconds: float = 0.0
    _last: float | None = None

    def add(self, event: Event) -> None:
        now = time.monotonic()
        match event:
            case RoundStarted(prompt=prompt):
                if event.number == 0:
                    self.tokens, self.seconds = 0, 0.0
                self.context_used = len(prompt)
                self._last = None  # the time to the first token is the prompt's
            case Sampled():
                self.context_used += 1
                if self._last is not None:
                    self.tokens += 1
                    self.seconds += now - self._last
                self._last = now

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds > 0 else 0.0


@dataclass
class Chat:
    """label: the model's name for the status line. asked: the last question, also where it got no answer."""

    session: AsyncSession
    tools: Toolset
    label: str
    look: Look = field(default_factory=Look)
    meter: Meter = field(default_factory=Meter)
    asked: Asked | None = None

    def __post_init__(self) -> None:
        self.count_context()

    def status(self) -> str:
        """`gpt-oss-20b · 43.1 tokens/s · context 1,234/8,192 (15 %) · effort low · tools browser, python`."""
        used, most = self.meter.context_used, self.session.generator.context_tokens
        rate = self.meter.tokens_per_second
        on = [name for name in self.tools.names if name not in self.tools.off]
        parts = [
            one_line(self.label, 40),
            f"{rate:.1f} tokens/s" if rate else "",
            f"context {used:,}/{most:,} ({100 * used // most} %)",
            f"effort {self.session.reasoning_effort}",
            f"tools {', '.join(on)}" if on else "",
        ]
        return " · ".join(part for part in parts if part)

    def count_context(self) -> None:
        """The status says what the next prompt takes, before its question."""
        self.meter.context_used = len(render(Conversation(self.session.history)))

    def take_back(self) -> Asked | None:
        """Undo the last question and its answer, and give it; None where nothing was asked."""
        asked = self.asked
        if asked is not None:
            self.session.messages[:] = asked.before
            self.asked = last_asked(asked.before)
            self.count_context()
        return asked


def last_asked(messages: Sequence[AnyMessage]) -> Asked | None:
    """The last question of a history."""
    for index in reversed(range(len(messages))):
        message = messages[index]
        if isinstance(message, Message) and message.author.role.value == "user":
            text = "".join(content.text for content in message.content if isinstance(content, TextContent))
            return Asked(text, tuple(messages[:index]))
    return None
