"""A TokenGenerator that plays back given tokens: what tests and demonstrations of everything above the backends run on.

It honours stop tokens, max_tokens and the context as a real one does, and can be slow or fail where it is told to.
Computes nothing; the other SamplingParams are recorded and otherwise ignored. Prompts are scored by a given function.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from gpt_oss.backends.base import SampledToken
from gpt_oss.errors import BackendError, ContextOverflowError
from gpt_oss.params import SamplingParams


@dataclass(frozen=True)
class Reply:
    """One answer to play back.

    logprobs: one for each token, else 0.0 for all. delay_s: pause before each token. error: raised when the tokens
    are used up, in place of an end. cached_tokens: what the first token reports.
    An answer that runs out of tokens without an error ends with finish_reason "length".
    """

    tokens: Sequence[int]
    logprobs: Sequence[float] | None = None
    delay_s: float = 0.0
    error: Exception | None = None
    cached_tokens: int = 0

    def __post_init__(self) -> None:
        assert self.tokens or self.error, "an answer has at least one token, or an error"
        assert self.logprobs is None or len(self.logprobs) == len(self.tokens)


Script: TypeAlias = Sequence[Reply | Sequence[int]] | Callable[[list[int]], Reply | Sequence[int]]


@dataclass
class Call:
    """What one call got, and what it has delivered so far. closed: the caller is done, early or not."""

    prompt: list[int]
    params: SamplingParams
    delivered: list[int] = field(default_factory=list)
    closed: bool = False


class ScriptedGenerator:
    """See backends.base.TokenGenerator.

    script: a reply for each call, in order; or a function from the prompt to the reply. A reply is a Reply or just
    its tokens. calls: every call so far, unless remember_calls is off. Raises BackendError when a call comes after the
    last reply. likelihood: the log probability of a token, given those before it and the token. scored: every prompt
    that was scored so far. Calls may come from any thread and overlap.
    """

    def __init__(
        self,
        script: Script,
        *,
        name: str = "scripted",
        context_tokens: int = 131_072,
        likelihood: Callable[[list[int], int], float] = lambda before, token: 0.0,
        remember_calls: bool = True,
    ) -> None:
        self.name = name
        self.context_tokens = context_tokens
        self.calls: list[Call] = []
        self.scored: list[list[int]] = []
        self._likelihood = likelihood
        self.closed = False
        self._script = script
        self._remember_calls = remember_calls
        self._count = 0
        self._lock = threading.Lock()

    @property
    def prompts(self) -> list[list[int]]:
        """The prompt of every call so far."""
        return [call.prompt for call in self.calls]

    def generate(self, prompt: Sequence[int], params: SamplingParams) -> AsyncIterator[SampledToken]:
        return self._play(*self._next(prompt, params))

    def generate_sync(self, prompt: Sequence[int], params: SamplingParams) -> Iterator[SampledToken]:
        return self._play_sync(*self._next(prompt, params))

    def score_sync(self, prompt: Sequence[int], top: int) -> Iterator[SampledToken]:
        """See backends.base.Scorer. The likeliest tokens are the one that is there."""
        if len(prompt) > self.context_tokens:
            raise ContextOverflowError(f"a prompt of {len(prompt)} tokens fills the context of {self.context_tokens}")
        tokens = list(prompt)
        with self._lock:
            self.scored.append(tokens)
        for place in range(1, len(tokens)):
            token, logprob = tokens[place], self._likelihood(tokens[:place], tokens[place])
            likeliest = ((token, logprob),) if top else ()
            is_last = place + 1 == len(tokens)
            yield SampledToken(token, logprob, likeliest, finish_reason="length" if is_last else None)

    async def score(self, prompt: Sequence[int], top: int) -> AsyncIterator[SampledToken]:
        for token in self.score_sync(prompt, top):
            await asyncio.sleep(0)
            yield token

    def close(self) -> None:
        self.closed = True

    def _next(self, prompt: Sequence[int], params: SamplingParams) -> tuple[Call, Reply]:
        if len(prompt) >= self.context_tokens:
            raise ContextOverflowError.of(len(prompt), self.context_tokens)
        call = Call(list(prompt), params)
        with self._lock:
            if self._remember_calls:
                self.calls.append(call)
            self._count += 1
            number = self._count
        if callable(self._script):
            reply = self._script(call.prompt)
        elif number <= len(self._script):
            reply = self._script[number - 1]
        else:
            raise BackendError(f"the script has {len(self._script)} replies, and call {number} came")
        return call, reply if isinstance(reply, Reply) else Reply(reply)

    async def _play(self, call: Call, reply: Reply) -> AsyncIterator[SampledToken]:
        with self._open(call, reply) as tokens:
            while True:
                await asyncio.sleep(reply.delay_s)  # also with 0: another task may want to run, or to cancel this one
                token = next(tokens, None)
                if token is None:
                    return
                yield token

    def _play_sync(self, call: Call, reply: Reply) -> Iterator[SampledToken]:
        with self._open(call, reply) as tokens:
            while True:
                time.sleep(reply.delay_s)
                token = next(tokens, None)
                if token is None:
                    return
                yield token

    @contextmanager
    def _open(self, call: Call, reply: Reply) -> Iterator[Iterator[SampledToken]]:
        try:
            yield self._tokens(call, reply)
        finally:
            call.closed = True

    def _tokens(self, call: Call, reply: Reply) -> Iterator[SampledToken]:
        params = call.params
        room = self.context_tokens - len(call.prompt)
        limit = room if params.max_tokens is None else min(params.max_tokens, room)
        for i, token in enumerate(reply.tokens[:limit]):
            is_last = i + 1 == limit or (i + 1 == len(reply.tokens) and reply.error is None)
            finish_reason: Literal["stop", "length"] | None = (
                "stop" if token in params.stop_token_ids else "length" if is_last else None
            )
            logprob = 0.0 if reply.logprobs is None else reply.logprobs[i]
            call.delivered.append(token)
            yield SampledToken(
                token,
                logprob=None if params.logprobs is None else logprob,
                top_logprobs=((token, logprob),) if params.logprobs else (),
                finish_reason=finish_reason,
                cached_tokens=0 if i else reply.cached_tokens,
            )
            if finish_reason is not None:
                return
        assert reply.error is not None  # else the last token has a finish_reason
        raise reply.error
