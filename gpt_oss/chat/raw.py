"""The tokens themselves: a turn as the exact Harmony text that went to the model and came back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile

from gpt_oss.chat.text import visible
from gpt_oss.events import Event, RoundStarted, Sampled
from gpt_oss.vocabulary import NUM_TEXT_TOKENS, StreamDecoder, special_name


class RawFold:
    """Writes a turn's tokens as they come. write: gets text and whether it is the name of a special token.

    skip_known: leave out what of a later round's prompt has been shown already, and say so.
    """

    def __init__(self, write: Callable[[str, bool], None], *, skip_known: bool = False) -> None:
        self._write = write
        self._skip_known = skip_known
        self._shown: list[int] = []
        self._decoder = StreamDecoder()

    def add(self, event: Event) -> None:
        match event:
            case RoundStarted(prompt=prompt):
                known = _common(self._shown, prompt) if self._skip_known else 0
                if known:
                    self._write(f"\n… {known:,} tokens as above …\n", False)
                self._shown = list(prompt)
                self._tokens(prompt[known:])
            case Sampled(token):
                self._shown.append(token.id)
                self._tokens([token.id])

    def end(self) -> None:
        self._text(self._decoder.flush() + "\n")

    def _tokens(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            if token < NUM_TEXT_TOKENS:
                self._text(self._decoder.push(token))
            else:
                self._text(self._decoder.flush())
                self._write(special_name(token), True)

    def _text(self, text: str) -> None:
        if text:
            self._write(visible(text), False)


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))
