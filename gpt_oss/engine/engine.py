"""Many requests, one model: the engine gives each step of the model a batch, and each request its tokens.

Knows tokens and logits, not text or Harmony. One thread owns the model and runs `_step` in a loop; requests come in and
tokens go out through queues, from and to any thread or event loop.

A step computes one token (and its draft) for every answering request, and pieces of the prompts of the others: at most
as many prompt tokens as keep the step under `max_stall_ms` while somebody waits for the next token, shared evenly, so
that a short prompt is never stuck after a long one.

A prompt that is scored is read without the prefix cache, in pieces that are bounded because every token of them has a
row of logits. Rows are handed out as scores in the step that computes them; nothing keeps them.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from gpt_oss.backends.base import Chunk, Logits, Model, SampledToken
from gpt_oss.engine.blocks import Lease, PagedCache
from gpt_oss.engine.prefix_store import load_prefixes, save_prefixes
from gpt_oss.engine.sampling import Sampler
from gpt_oss.engine.speculation import Drafter
from gpt_oss.errors import BackendError, CapacityError, ContextOverflowError, GptOssError, ParameterError
from gpt_oss.params import SamplingParams

Clock = Callable[[], float]
Event = SampledToken | GptOssError | None  # None: nothing was to be computed


@dataclass(frozen=True)
class EngineConfig:
    """name: for people. context_tokens: None is the model's own limit. max_running: requests computed at once.
    max_waiting: requests beyond these are refused. max_stall_ms: how long a step with others' prompts may keep
    answering requests waiting. max_prompt_tokens: prompt tokens a step when nobody waits. speculate: draft tokens
    from what was written before; never changes an answer. prefix_file: keeps the prefix cache between runs, at most
    prefix_file_bytes of it, for the model that prefix_identity names."""

    name: str = "engine"
    context_tokens: int | None = None
    max_running: int = 16
    max_waiting: int = 256
    max_stall_ms: float = 500.0
    max_prompt_tokens: int = 1024
    speculate: bool = True
    cache_salt: bytes = b""
    prefix_file: Path | None = None
    prefix_file_bytes: int = 2**30
    prefix_identity: str = ""


@dataclass(frozen=True)
class EngineStats:
    """Counts since the engine started, and what is the case now."""

    running: int
    waiting: int
    requests: int
    cancelled: int
    preempted: int
    steps: int
    prompt_tokens: int  # of admitted requests
    cached_tokens: int  # of those, taken from the prefix cache
    computed_tokens: int  # that went through the model, drafts included
    sampled_tokens: int
    drafted_tokens: int
    accepted_tokens: int  # of the drafted
    free_blocks: int
    free_window_blocks: int


@dataclass
class Counters:
    requests: int = 0
    cancelled: int = 0
    preempted: int = 0
    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    computed_tokens: int = 0
    sampled_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0


@dataclass(eq=False)
class Request:
    tokens: list[int]  # the prompt, then the answer
    prompt_length: int
    limit: int  # of len(tokens)
    sampler: Sampler
    emit: Callable[[Event], None]
    drafter: Drafter | None
    cancelled: threading.Event = field(default_factory=threading.Event)
    lease: Lease | None = None  # None: waiting
    cached_tokens: int = 0
    scored: int | None = (
        None  # None: an answer is wanted; else how many of the prompt's tokens after the first have one
    )

    @property
    def left(self) -> int:
        """How many tokens are there to be computed. Where a prompt is scored, nothing is to follow its last one."""
        assert self.lease is not None
        return len(self.tokens) - self.lease.computed - (self.scored is not None)

    @property
    def answered(self) -> int:
        return len(self.tokens) - self.prompt_length


@dataclass(frozen=True)
class Work:
    """What one step computes for one request: `count` of its tokens from the first uncomputed one on, then a draft."""

    request: Request
    count: int
    draft: tuple[int, ...] = ()

    @property
    def samples(self) -> bool:
        lease = self.request.lease
        whole = lease is not None and lease.computed + self.count == len(self.request.tokens)
        return whole and self.request.scored is None

    @property
    def rows(self) -> int:
        """How many of its last positions need logits."""
        request = self.request
        if request.scored is None:
            return 1 + len(self.draft) if self.samples else 0
        assert request.lease is not None
        return min(self.count, max(0, request.lease.computed + self.count - request.scored))


FEW_TOKENS = 16  # of a step, up to which more tokens cost little and results do not depend on their number
SCORED_TOKENS = 128  # of prompts that are scored, in a step: a row of logits of 201,088 tokens is 0.8 MB
PROMPT_QUANTUM = 64  # prompts are cut at multiples of this, so that the pieces do not depend on timing in detail


class Engine:
    """A TokenGenerator over any Model. Close it when done; a model is closed with its engine."""

    def __init__(
        self, model: Model, config: EngineConfig = EngineConfig(), *, clock: Clock = time.perf_counter
    ) -> None:
        self.name = config.name
        self.config = config
        self.model = model
        cached = (min(model.cache_blocks, 2**31) * model.block_tokens, model.config.max_context)
        self.context_tokens = min(config.context_tokens or model.config.max_context, *cached)
        self._cache = PagedCache(
            model.cache_blocks,
            model.window_cache_blocks,
            model.block_tokens,
            model.config.sliding_window,
            config.cache_salt,
        )
        self._clock = clock
        self._inbox: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._waiting: deque[Request] = deque()
        self._running: list[Request] = []
        self._counters = Counters()
        self._pending = 0  # submitted and not finished
        self._lock = threading.Lock()
        self._closed = False
        self._turn = 0
        self._ms_per_prompt_token = 2.0
        self._thread = threading.Thread(target=self._run, name="gpt-oss engine", daemon=True)
        self._thread.start()

    # From any thread

    def generate_sync(self, prompt: Sequence[int], params: SamplingParams) -> Iterator[SampledToken]:
        return self._stream_sync(prompt, params, scores=False)

    def generate(self, prompt: Sequence[int], params: SamplingParams) -> AsyncIterator[SampledToken]:
        return self._stream(prompt, params, scores=False)

    def score_sync(self, prompt: Sequence[int], top: int) -> Iterator[SampledToken]:
        """See base.Scorer."""
        return self._stream_sync(prompt, SamplingParams(logprobs=top), scores=True)

    def score(self, prompt: Sequence[int], top: int) -> AsyncIterator[SampledToken]:
        """See base.Scorer."""
        return self._stream(prompt, SamplingParams(logprobs=top), scores=True)

    def _stream_sync(self, prompt: Sequence[int], params: SamplingParams, *, scores: bool) -> Iterator[SampledToken]:
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        request = self._submit(prompt, params, events.put, scores=scores)
        try:
            while (event := events.get()) is not None:
                if isinstance(event, GptOssError):
                    raise event
                yield event
                if event.finish_reason is not None:
                    return
        finally:
            request.cancelled.set()

    async def _stream(
        self, prompt: Sequence[int], params: SamplingParams, *, scores: bool
    ) -> AsyncIterator[SampledToken]:
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[Event] = asyncio.Queue()

        def emit(event: Event) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(events.put_nowait, event)

        request = self._submit(prompt, params, emit, scores=scores)
        try:
            while (event := await events.get()) is not None:
                if isinstance(event, GptOssError):
                    raise event
                yield event
                if event.finish_reason is not None:
                    return
        finally:
            request.cancelled.set()

    def stats(self) -> EngineStats:
        counters = replace(self._counters)
        return EngineStats(
            running=len(self._running),
            waiting=max(0, self._pending - len(self._running)),
            free_blocks=self._cache.full.available,
            free_window_blocks=self._cache.windowed.available,
            **vars(counters),
        )

    def close(self) -> None:
        """Ends every request with an error, then the thread, then the model. Closing twice is fine."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._inbox.put(None)
        self._thread.join()
        self.model.close()

    def _submit(
        self, prompt: Sequence[int], params: SamplingParams, emit: Callable[[Event], None], *, scores: bool
    ) -> Request:
        tokens = [int(token) for token in prompt]
        vocab = self.model.config.vocab_size
        if not tokens:
            raise ParameterError("the prompt has no tokens")
        bad = next((token for token in tokens if not 0 <= token < vocab), None)
        if bad is not None:
            raise ParameterError(f"the prompt has token {bad}, and the model's vocabulary is 0 to {vocab - 1}")
        room = self.context_tokens - len(tokens)
        if room < (0 if scores else 1):
            raise ContextOverflowError.of(len(tokens), self.context_tokens)
        request = Request(
            tokens,
            len(tokens),
            len(tokens) + min(room, params.max_tokens or room),
            Sampler(params, self.model.config.usable_vocab_size),
            emit,
            Drafter() if self.config.speculate else None,
            scored=0 if scores else None,
        )
        if scores and len(tokens) == 1:
            emit(None)
            return request
        with self._lock:
            if self._closed:
                raise BackendError(f"{self.name} is closed")
            if self._pending >= self.config.max_running + self.config.max_waiting:
                raise CapacityError(f"{self._pending} requests are running or waiting already; try again later")
            self._pending += 1
            self._inbox.put(request)
        return request

    # On the engine's thread

    def _run(self) -> None:
        config = self.config
        if config.prefix_file is not None:
            load_prefixes(self._cache, self.model, config.prefix_file, config.prefix_identity)
        while True:
            idle = not self._running and not self._waiting
            if not self._receive(block=idle):
                break
            try:
                self._drop_cancelled()
                self._admit()
                if self._running:
                    self._step()
            except BaseException as error:  # a defect of ours: nobody waits for ever for an engine that is gone
                self._end_all(self._told(error, "failed"))
        self._end_all(BackendError(f"{self.name} was closed"))
        if config.prefix_file is not None:
            save_prefixes(self._cache, self.model, config.prefix_file, config.prefix_identity, config.prefix_file_bytes)

    def _end_all(self, error: GptOssError) -> None:
        for request in [*self._running, *self._waiting]:
            with suppress(RuntimeError):  # the event loop of a caller that is gone
                self._finish(request, error)

    def _receive(self, *, block: bool) -> bool:
        """Take in new requests; False when the engine is to end."""
        while True:
            try:
                request = self._inbox.get(block=block)
            except queue.Empty:
                return True
            if request is None:
                return False
            self._counters.requests += 1
            self._waiting.append(request)
            block = False

    def _drop_cancelled(self) -> None:
        for request in [r for r in (*self._running, *self._waiting) if r.cancelled.is_set()]:
            self._counters.cancelled += 1
            self._finish(request, None)

    def _admit(self) -> None:
        """Waiting requests start in their order, as long as they fit beside those that run and will grow."""
        while self._waiting and len(self._running) < self.config.max_running:
            request = self._waiting[0]
            # Positions that are cached have no logits any more, and every token that has no score yet needs some.
            known = request.tokens if request.scored is None else request.tokens[: request.scored + 1]
            lease = self._cache.open(known)
            if self._running and not self._cache.has_room(lease, len(request.tokens), spare=2 * len(self._running)):
                self._cache.close(lease)
                return
            self._waiting.popleft()
            request.lease = lease
            if request.answered == 0 and not request.scored:  # not one that was preempted
                request.cached_tokens = lease.computed
                self._counters.prompt_tokens += request.prompt_length
                self._counters.cached_tokens += lease.computed
            self._running.append(request)

    def _step(self) -> None:
        work = self._make_room(self._plan())
        if not work:
            return
        started = self._clock()
        try:
            logits = self.model.forward([self._chunk(item) for item in work])
            self._counters.steps += 1
            self._counters.computed_tokens += sum(item.count + len(item.draft) for item in work)
            self._measure(work, started)
            self._sample(work, logits)
        except BaseException as error:  # a backend may fail in ways of its own; its requests end, the engine goes on
            self._fail(work, self._told(error, "failed while computing"))

    def _told(self, error: BaseException, what: str) -> GptOssError:
        """An error as its request is told it."""
        if isinstance(error, GptOssError):
            return error
        told = BackendError(f"{self.name} {what}: {error}")
        told.__cause__ = error
        return told

    def _fail(self, work: Sequence[Work], error: GptOssError) -> None:
        for item in work:
            if item.request in self._running:
                self._finish(item.request, error, keep=False)

    def _plan(self) -> list[Work]:
        """One token for those who answer, with a draft while few do, and a share of the step for each prompt."""
        answering = [r for r in self._running if r.scored is None and r.left == 1]
        reading = [r for r in self._running if r not in answering]
        work = []
        for request in answering:
            draft: list[int] = []
            if request.drafter is not None and not reading:
                share = FEW_TOKENS // len(answering) - 1
                draft = request.drafter.draft(request.tokens, min(share, request.limit - len(request.tokens) - 1))
            work.append(Work(request, 1, tuple(draft)))
        if reading:
            self._turn += 1
            start = self._turn % len(reading)
            reading = reading[start:] + reading[:start]
            work += self._pieces(reading, waited_for=bool(answering))
        return work

    def _pieces(self, reading: Sequence[Request], *, waited_for: bool) -> Iterator[Work]:
        """What one step reads of these prompts."""
        budget = self._prompt_budget(waited_for=waited_for)
        to_score = PROMPT_QUANTUM if waited_for else SCORED_TOKENS
        for index, request in enumerate(reading):
            assert request.lease is not None
            share = max(PROMPT_QUANTUM, budget // (len(reading) - index))
            if request.scored is not None:
                share = min(share, to_score)
                to_score -= min(share, request.left)
                if share == 0:
                    continue
            left = request.left
            end = request.lease.computed + min(share, left)
            if share < left:  # cut where the next piece starts at a multiple
                end -= end % PROMPT_QUANTUM if end % PROMPT_QUANTUM < end - request.lease.computed else 0
            count = end - request.lease.computed
            yield Work(request, count)
            budget -= count
            if budget < PROMPT_QUANTUM:
                return

    def _prompt_budget(self, *, waited_for: bool) -> int:
        most = self.config.max_prompt_tokens
        if not waited_for:
            return most
        return max(PROMPT_QUANTUM, min(most, int(self.config.max_stall_ms / self._ms_per_prompt_token)))

    def _measure(self, work: Sequence[Work], started: float) -> None:
        tokens = sum(item.count for item in work)
        if tokens >= PROMPT_QUANTUM:
            measured = (self._clock() - started) * 1000 / tokens
            self._ms_per_prompt_token += 0.3 * (measured - self._ms_per_prompt_token)

    def _make_room(self, work: list[Work]) -> list[Work]:
        """Blocks for all of the work; where there are too few, the youngest request starts over later."""
        ready: list[Work] = []
        for item in work:
            request = item.request
            while request.lease is not None:
                end = request.lease.computed + item.count + len(item.draft)
                if self._cache.extend(request.lease, end):
                    ready.append(item)
                    break
                if item.draft:
                    item = replace(item, draft=())
                    continue
                if item.count > 1:
                    item = replace(item, count=item.count // 2)
                    continue
                youngest = self._running[-1]
                ready = [other for other in ready if other.request is not youngest]
                if youngest is request and len(self._running) == 1:
                    self._finish(request, self._too_long(request))
                    break
                self._preempt(youngest)
        return ready

    def _too_long(self, request: Request) -> ContextOverflowError:
        blocks = min(self.model.cache_blocks, self.model.window_cache_blocks)
        return ContextOverflowError(
            f"a sequence of {len(request.tokens)} tokens does not fit the cache of {blocks} blocks "
            f"of {self.model.block_tokens} tokens"
        )

    def _preempt(self, request: Request) -> None:
        assert request.lease is not None
        self._cache.close(request.lease)
        request.lease = None
        self._running.remove(request)
        self._waiting.appendleft(request)
        self._counters.preempted += 1

    def _chunk(self, item: Work) -> Chunk:
        lease = item.request.lease
        assert lease is not None
        position = lease.computed
        tokens = [*item.request.tokens[position : position + item.count], *item.draft]
        blocks, window_blocks = self._cache.tables(lease, position, position + len(tokens))
        draw = item.request.sampler.draw
        return Chunk(np.array(tokens, np.int32), position, blocks, window_blocks, item.rows, draw)

    def _sample(self, work: Sequence[Work], logits: Logits) -> None:
        """Hands out what a step computed. A sampler or a grammar that raises ends its own request, not its batch."""
        row = 0
        for item in work:
            rows = item.rows
            try:
                if item.request.scored is not None:
                    self._hand_out_scores(item, logits, row)
                else:
                    self._hand_out_tokens(item, logits, row)
            except BaseException as error:  # a library's panic is none of Exception's
                self._fail([item], self._told(error, "failed while sampling"))
            row += rows

    def _hand_out_tokens(self, item: Work, logits: Logits, row: int) -> None:
        """The token after those that were computed, and those of the draft that were right; rows from `row` on."""
        request = item.request
        assert request.lease is not None
        computed = request.lease.computed + item.count
        if not item.samples:
            self._cache.advance(request.lease, request.tokens, computed, request.prompt_length)
            return
        accepted = 0
        reason = self._deliver(request, logits, row)
        for guess in item.draft:
            if reason is not None or request.tokens[-1] != guess:
                break
            accepted += 1
            reason = self._deliver(request, logits, row + accepted)
        if item.draft and request.drafter is not None:
            request.drafter.learn(len(item.draft), accepted)
            self._counters.drafted_tokens += len(item.draft)
            self._counters.accepted_tokens += accepted
        self._cache.advance(request.lease, request.tokens, computed + accepted, request.prompt_length)
        if reason is not None:
            self._finish(request, None)

    def _hand_out_scores(self, item: Work, logits: Logits, row: int) -> None:
        """Hands out the scores of the tokens after those that were computed; their rows begin at `row`."""
        request, rows = item.request, item.rows
        assert request.lease is not None
        computed = request.lease.computed + item.count
        self._cache.advance(request.lease, request.tokens, computed, request.prompt_length)
        values = logits.numpy()[row : row + rows] if rows else ()
        for place, each in enumerate(values, computed - rows + 1):
            token = request.sampler.score(each, request.tokens[place])
            is_last = place + 1 == len(request.tokens)
            request.scored = place
            request.emit(replace(token, finish_reason="length") if is_last else token)
        if request.left == 0:
            self._finish(request, None)

    def _deliver(self, request: Request, logits: Logits, row: int) -> Literal["stop", "length"] | None:
        """Draw the request's next token from a row and hand it out; the reason when it was the last."""
        token = request.sampler.next(logits, row, len(request.tokens))
        first = request.answered == 0
        request.tokens.append(token.id)
        self._counters.sampled_tokens += 1
        if token.finish_reason is None and len(request.tokens) >= request.limit:
            token = replace(token, finish_reason="length")
        if first and request.cached_tokens:
            token = replace(token, cached_tokens=request.cached_tokens)
        request.emit(token)
        return token.finish_reason

    def _finish(self, request: Request, error: GptOssError | None, *, keep: bool = True) -> None:
        if request.lease is not None:
            self._cache.close(request.lease, keep=keep)
            request.lease = None
            self._running.remove(request)
        else:
            self._waiting.remove(request)
        with self._lock:
            self._pending -= 1
        if error is not None:
            request.emit(error)
