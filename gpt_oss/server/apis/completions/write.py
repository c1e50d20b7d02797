"""What came of a completion as JSON. Pure.

Log probabilities are lists next to each other, one entry a token. A token that is no whole characters is shown as its
bytes, `bytes:\\xe2\\x98`. Offsets count characters of the decoded text: that of a token which begins within a character
is the character's.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpt_oss.backends.base import SampledToken
from gpt_oss.server.apis.completions.read import Wanted
from gpt_oss.server.core.body import Json
from gpt_oss.server.core.continuation import Continuation
from gpt_oss.server.core.logprobs import LEAST, shown
from gpt_oss.vocabulary import decode, token_bytes


@dataclass
class Choice:
    """A text of the answer as it is written.

    index: its place among the choices.
    continuation: what is computed.
    scores: the prompt's tokens, where they were scored.
    """

    index: int
    continuation: Continuation
    scores: Sequence[SampledToken] = ()
    _written: int | None = None  # tokens of the continuation; None before the first piece
    _offset: int = 0
    _decoder: Any = field(default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace"))

    def piece(self, wanted: Wanted, text: str) -> Json:
        """The choice with this text, and with all tokens that are not written yet. The first piece, which may be the
        only one, has what belongs to the prompt as well."""
        tokens = self.continuation.tokens[self._written or 0 :]
        listed = [*self._opening(wanted), *tokens]
        entry: Json = {"index": self.index, "text": text, "finish_reason": self.continuation.finish_reason}
        entry["logprobs"] = self._lists(listed, wanted) if wanted.logprobs is not None else None
        if wanted.with_ids:
            entry["token_ids"] = [token.id for token in tokens]
        if self._written is None:
            entry |= self._of_prompt(wanted)
        self._written = len(self.continuation.tokens)
        return entry

    def _opening(self, wanted: Wanted) -> Sequence[SampledToken]:
        """The prompt's tokens, where they are listed before the others and are not written yet."""
        return self.scores if wanted.echo and self._written is None else ()

    def _lists(self, tokens: Sequence[SampledToken], wanted: Wanted) -> Json:
        """OpenAI's old form. The offsets go on where the last piece ended."""
        top, as_ids = wanted.logprobs or 0, wanted.as_ids
        return {
            "tokens": [shown(token.id, as_ids=as_ids) for token in tokens],
            "token_logprobs": [_finite(token.logprob) for token in tokens],
            "top_logprobs": [_likeliest(token, top, as_ids=as_ids) for token in tokens],
            "text_offset": [self._offset_of(token) for token in tokens],
        }

    def _offset_of(self, token: SampledToken) -> int:
        if token.finish_reason == "stop":
            return self._offset + len(self._decoder.decode(b"", final=True))
        offset = self._offset
        self._offset += len(self._decoder.decode(token_bytes(token.id)))
        return offset

    def _of_prompt(self, wanted: Wanted) -> Json:
        """What is said of the prompt once: its ids, and vLLM's list of log probabilities."""
        said: Json = {"prompt_token_ids": self.continuation.prompt} if wanted.with_ids else {}
        if wanted.prompt_logprobs is not None:
            said["prompt_logprobs"] = [_named(token, wanted.prompt_logprobs) for token in self.scores]
        return said


def usage(choices: Iterable[Choice]) -> Json:
    """Counts of all choices; a prompt that has several counts once."""
    continuations = [choice.continuation for choice in choices]
    prompt = sum(len(prompt) for prompt in {id(each.prompt): each.prompt for each in continuations}.values())
    output = sum(len(each.tokens) for each in continuations)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "prompt_tokens_details": {"cached_tokens": max((each.cached for each in continuations), default=0)},
    }


def _likeliest(token: SampledToken, top: int, *, as_ids: bool) -> dict[str, float] | None:
    """Names and log probabilities of the likeliest tokens and of the token itself, as OpenAI has it."""
    if token.logprob is None:
        return None
    listed = dict([*token.top_logprobs[:top], (token.id, token.logprob)])
    return {shown(each, as_ids=as_ids): max(value, LEAST) for each, value in listed.items()}


def _named(token: SampledToken, top: int) -> dict[str, Json] | None:
    """vLLM's form, by id. Ranks are known of the likeliest only."""
    if token.logprob is None:
        return None
    ranks = {each: rank for rank, (each, _) in enumerate(token.top_logprobs, 1)}
    listed = dict([*token.top_logprobs[:top], (token.id, token.logprob)])
    return {
        str(each): {"logprob": max(value, LEAST), "rank": ranks.get(each), "decoded_token": decode([each])}
        for each, value in listed.items()
    }


def _finite(logprob: float | None) -> float | None:
    return None if logprob is None else max(logprob, LEAST)
