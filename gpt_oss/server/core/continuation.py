"""A text continued as it is, without Harmony: what raw completions of every API consist of."""

from __future__ import annotations

import codecs
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from gpt_oss.backends.base import SampledToken
from gpt_oss.params import SamplingParams
from gpt_oss.server.core.stops import StopTexts
from gpt_oss.server.runner import Asker
from gpt_oss.vocabulary import decode_bytes, token_bytes


@dataclass
class Continuation:
    """One continuation under way. Text is given out as soon as no stop text can begin in it.

    prompt: its tokens.
    stops: texts that end it and are not given out themselves.
    finish_reason: None until it has ended.
    text: all that was given out.
    tokens: all that were sampled, those of a stop text and the token that ended it too.
    cached: tokens of the prompt that the prefix cache had.
    """

    prompt: list[int]
    stops: Sequence[str]
    finish_reason: str | None = None
    text: str = ""
    tokens: list[SampledToken] = field(default_factory=list)
    cached: int = 0
    _decoder: Any = field(default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace"))
    _watch: StopTexts = field(init=False)

    def __post_init__(self) -> None:
        self._watch = StopTexts(self.stops)

    def echo(self) -> str:
        """The prompt's text, given out first; a character that it leaves open, the continuation may complete."""
        text: str = self._decoder.decode(decode_bytes(self.prompt))
        self.text += text
        return text

    async def run(self, asker: Asker, params: SamplingParams) -> AsyncGenerator[str, None]:
        """Texts as they can be given out while it is computed."""
        async with aclosing(asker.tokens(self.prompt, params)) as tokens:
            async for token in tokens:
                yield self.push(token)
                if self.finish_reason is not None:
                    return
        yield self._watch.release() + self.end()  # its time was over

    def push(self, token: SampledToken) -> str:
        """What can be given out after another token."""
        self.tokens.append(token)
        self.cached += token.cached_tokens
        ended = token.finish_reason
        shown = b"" if ended == "stop" else token_bytes(token.id)
        given = self._watch.push(self._decoder.decode(shown, final=ended is not None))
        if self._watch.found is not None:
            self.finish_reason = "stop"
        elif ended is not None:
            self.finish_reason = ended
            given += self._watch.release()
        return self._give(given)

    def end(self) -> str:
        """What is left to give out of one that ends without a token that says so."""
        self.finish_reason = "length"
        return self._give(self._decoder.decode(b"", final=True))

    def _give(self, text: str) -> str:
        self.text += text
        return text
