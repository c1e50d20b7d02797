"""What comes out of a model, as it comes: one stream of small frozen dataclasses that every face folds over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Header:
    """What stands before a message's content. content_type is "json", "code", or "<|constrain|>json" as it was written.

    role: system, developer, user, assistant or tool; name: a tool's name, or a user's. channel: analysis, commentary,
    final, another word as the model wrote it, or None where there was none: then the content is meant to be seen.
    """

    role: str
    name: str | None = None
    channel: str | None = None
    recipient: str | None = None
    content_type: str | None = None

    @property
    def is_call(self) -> bool:
        """A call of a tool, however it ended: nothing on the final channel is one."""
        addressed = self.recipient not in (None, "all", "assistant", "user")
        return self.role == "assistant" and addressed and self.channel != "final"


@dataclass(frozen=True)
class ParsedMessage:
    """One message and the very tokens it came from: spans of consecutive messages put together are the whole input.

    ended_by: the token that ended it, or None where the stream was cut or went on without one.
    """

    header: Header
    content: str
    tokens: tuple[int, ...]
    ended_by: int | None = None
    repairs: tuple[str, ...] = ()


@dataclass(frozen=True)
class MessageStarted:
    header: Header


@dataclass(frozen=True)
class TextDelta:
    """More of the current message's content, whole characters only."""

    text: str


@dataclass(frozen=True)
class MessageDone:
    message: ParsedMessage


@dataclass(frozen=True)
class Repaired:
    """The model broke the format here, and this is how it was read."""

    note: str


Event: TypeAlias = MessageStarted | TextDelta | MessageDone | Repaired
