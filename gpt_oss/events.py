"""Everything that happens in a turn, as one stream of small frozen dataclasses that every face folds over.

Harmony's own (what the model says) stand beside those of the turn (what is done about it):

    RoundStarted  Sampled*  MessageStarted  TextDelta*  [CitationFound]  MessageDone  [Repaired]     once a round
    ToolStarted  ToolDone                                                                            for each call
    ContextTrimmed   before a round whose prompt had become too long
    TurnDone         the last event of every turn that was not cancelled
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from openai_harmony import Message

from gpt_oss.backends.base import SampledToken
from gpt_oss.harmony.events import MessageDone, MessageStarted, ParsedMessage, Repaired, TextDelta
from gpt_oss.tools.citations import Citation

TurnEnd: TypeAlias = Literal["stop", "length", "tool_calls", "rounds", "seconds", "context", "unknown_tools"]


@dataclass(frozen=True)
class Usage:
    """Tokens of a turn, all rounds together. reasoning_tokens are those of output_tokens on the analysis channel."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0

    def plus(self, *, prompt: int = 0, cached: int = 0, output: int = 0, reasoning: int = 0) -> Usage:
        """The usage with so many tokens more."""
        return Usage(
            self.prompt_tokens + prompt,
            self.cached_tokens + cached,
            self.output_tokens + output,
            self.reasoning_tokens + reasoning,
        )


@dataclass(frozen=True)
class RoundStarted:
    """A prompt goes to the model: `number` counts from 0."""

    number: int
    prompt: tuple[int, ...] = field(repr=False)


@dataclass(frozen=True)
class Sampled:
    """One token of the model's, before what it means."""

    token: SampledToken


@dataclass(frozen=True)
class CitationFound:
    """The text that has just been delivered ended in a citation of a page that was shown."""

    citation: Citation


@dataclass(frozen=True)
class ToolStarted:
    """name: the tool's recipient as declared (`functions.get_weather`, `browser.search`, `python`)."""

    number: int
    name: str
    call: ParsedMessage


@dataclass(frozen=True)
class ToolDone:
    """answers: what the model will read. failed: the tool could not do it (the answer says why)."""

    number: int
    name: str
    answers: tuple[Message, ...]
    seconds: float
    failed: bool = False


@dataclass(frozen=True)
class ContextTrimmed:
    """The oldest turns were left out of the prompt, whole, so that it fits.

    turns, messages: how many, counted behind the system and developer messages. tokens: of the prompt before, after.
    """

    turns: int
    messages: int
    tokens_before: int
    tokens_after: int


@dataclass(frozen=True)
class TurnDone:
    """reason: stop: the model was done. length: out of tokens. tool_calls: `calls` wait for somebody else to run them.
    rounds, seconds, context, unknown_tools: that limit was reached. messages: what the turn adds to the history.
    """

    reason: TurnEnd
    messages: tuple[Message | ParsedMessage, ...]
    usage: Usage
    calls: tuple[ParsedMessage, ...] = ()


__all__ = [
    "CitationFound",
    "ContextTrimmed",
    "Event",
    "MessageDone",
    "MessageStarted",
    "ParsedMessage",
    "Repaired",
    "RoundStarted",
    "Sampled",
    "TextDelta",
    "ToolDone",
    "ToolStarted",
    "TurnDone",
    "TurnEnd",
    "Usage",
]

Event: TypeAlias = (
    RoundStarted
    | Sampled
    | MessageStarted
    | TextDelta
    | CitationFound
    | MessageDone
    | Repaired
    | ToolStarted
    | ToolDone
    | ContextTrimmed
    | TurnDone
)
