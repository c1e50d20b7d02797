"""Sentences that every face of the chat says alike: how a turn ended, what was trimmed, where a citation points."""

from __future__ import annotations

from gpt_oss.chat.text import one_line, plural, visible
from gpt_oss.errors import GptOssError
from gpt_oss.events import ContextTrimmed, TurnDone
from gpt_oss.tools.citations import Citation, Source

STOPPED = "Stopped. /retry asks again, /edit changes the question."


def end_notice(done: TurnDone) -> str | None:
    """Why a turn ended before the model was done; None where it was."""
    tokens = plural(done.usage.output_tokens, "token")
    return {
        "stop": None,
        "length": f"The answer was cut: its limit of tokens (-l) was reached after {tokens}.",
        "context": "The answer was cut: the context is full; /clear starts over, -c N makes it larger.",
        "rounds": "The turn was ended: the model called tools again and again without an answer.",
        "seconds": "The turn was ended: its time was over.",
        "unknown_tools": "The turn was ended: the model kept calling tools that do not exist.",
        "tool_calls": "The turn was ended: the model called a tool that nobody here runs.",
    }[done.reason]


def error_notice(error: GptOssError) -> str:
    return visible(f"{error}; {error.hint}" if error.hint else f"{error}")


def trimmed_notice(trimmed: ContextTrimmed) -> str:
    turns = plural(trimmed.turns, "oldest turn") if trimmed.turns > 1 else "The oldest turn"
    verb = "was" if trimmed.turns == 1 else "were"
    return (
        f"{turns} {verb} left out so that the prompt fits: {trimmed.tokens_before:,} tokens are now "
        f"{trimmed.tokens_after:,}."
    )


class Footnotes:
    """Numbers the pages that an answer cites, each once, in the order in which they come."""

    def __init__(self) -> None:
        self._numbers: dict[Source, int] = {}

    def number(self, citation: Citation) -> int:
        return self._numbers.setdefault(citation.source, len(self._numbers) + 1)

    def lines(self) -> list[str]:
        """`[1] Title: https://…` for each page."""
        return [f"[{n}] {one_line(page.title)}: {one_line(page.url)}" for page, n in self._numbers.items()]
