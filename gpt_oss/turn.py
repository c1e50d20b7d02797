"""One turn: the model speaks, its calls are run, it reads the answers, until it is done. The house's only such loop.

    history ─► prompt ─► tokens ─► messages ─┬─ final ──────────────────────────────► TurnDone
       ▲                                     └─ calls ─► tools ─► answers ─┐
       └───────────────────────────────────────────────────────────────────┘

A `Turn` is iterated once, for events. Whatever ends it, also a cancellation in the middle, `Turn.messages` is
well-formed: every call in it has an answer, and no message is half a call. Knows nothing of terminals and HTTP.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TypeVar

from openai_harmony import Author, DeveloperContent, Message, Role, TextContent

from gpt_oss.backends.base import TokenGenerator
from gpt_oss.errors import ContextOverflowError
from gpt_oss.events import (
    CitationFound,
    ContextTrimmed,
    Event,
    RoundStarted,
    Sampled,
    ToolDone,
    ToolStarted,
    TurnDone,
    TurnEnd,
    Usage,
)
from gpt_oss.harmony import Conversation, MessageDone, MessageStarted, ParsedMessage, Parser, TextDelta, render_prompt
from gpt_oss.harmony.events import Event as HarmonyEvent
from gpt_oss.harmony.render import AnyMessage, ResponseFormat
from gpt_oss.harmony.trials import in_turn
from gpt_oss.params import SamplingParams
from gpt_oss.tools.citations import CitationReader, Piece
from gpt_oss.tools.functions import FunctionTool
from gpt_oss.tools.tool import Tool, ToolAnswer
from gpt_oss.tools.toolbox import Toolbox
from gpt_oss.vocabulary import CALL, END, ENDOFTEXT, RETURN

T = TypeVar("T")

STOP_TOKENS = (RETURN, CALL, ENDOFTEXT)
NO_TOOLS = Toolbox()
AS_RELEASED = SamplingParams()
# Room that a prompt must leave for the answer, as a share of the context, and what is left of the prompt once turns
# have to go: well below, so that the next turns find the same beginning and thus its cache.
ANSWER_SHARE = 1 / 8
KEPT_SHARE = 5 / 8
AT_ONCE = 100_000  # characters: encoding them takes some ten milliseconds
A_MESSAGE = 500  # characters that cost as much as the frame of one more message
LONGEST_TOKEN = 128  # characters; no token of the vocabulary is longer


@dataclass(frozen=True)
class TurnLimits:
    """rounds: how often the model may speak. tokens: sampled in the whole turn. seconds: of wall time, tools included.
    unknown_calls: how often it is told that a tool does not exist before the turn ends. drop_oldest: a history that
    does not fit loses its oldest turns; without, it is refused.
    """

    rounds: int = 64
    tokens: int | None = None
    seconds: float | None = None
    unknown_calls: int = 3
    drop_oldest: bool = True


USUAL_LIMITS = TurnLimits()


class Turn:
    """Iterate it for its events; `messages` is what it adds to the history, at any moment.

    history: the conversation before, with the user's question at its end.
    params: as they are, but for the stop tokens, which are Harmony's. later: those of the second round and of each that
    follows, where they differ; the last of them is for all the rest.
    Raises, while iterated: ContextOverflowError where the question alone does not fit; BackendError, CapacityError.
    """

    def __init__(
        self,
        generator: TokenGenerator,
        history: Sequence[AnyMessage],
        toolbox: Toolbox = NO_TOOLS,
        *,
        params: SamplingParams = AS_RELEASED,
        later: Sequence[SamplingParams] = (),
        limits: TurnLimits = USUAL_LIMITS,
        response_formats: Sequence[ResponseFormat] = (),
    ) -> None:
        self.messages: list[AnyMessage] = []
        self.dropped_messages = 0  # of the history, behind its head, that no longer fit
        self.usage = Usage()
        self._generator = generator
        self._history = list(history)
        self._toolbox = toolbox
        self._params = [
            replace(each, stop_token_ids=tuple({*each.stop_token_ids, *STOP_TOKENS})) for each in (params, *later)
        ]
        self._limits = limits
        self._formats = tuple(response_formats)
        self._deadline = None if limits.seconds is None else time.monotonic() + limits.seconds
        self._unanswered: list[ParsedMessage] = []
        self._waiting: list[ParsedMessage] = []  # calls that somebody else runs
        self._calls_started = 0
        self._unknown_calls = 0

    def __aiter__(self) -> AsyncGenerator[Event, None]:
        return self._run()

    async def _run(self) -> AsyncGenerator[Event, None]:
        try:
            for number in range(self._limits.rounds):
                prompt, trimmed = await self._prompt_of_round(number)
                if trimmed:
                    yield trimmed
                if prompt is None:
                    yield self._done("context")
                    return
                yield RoundStarted(number, tuple(prompt))
                round_ = _Round()
                async with aclosing(self._speak(prompt, self._params_of(number), round_)) as events:
                    async for event in events:
                        yield event
                if round_.end not in (None, "stop"):
                    self._answer_all("Error: the call was not run, for a limit of this turn was reached.")
                async with aclosing(self._run_calls()) as events:
                    async for event in events:
                        yield event
                end = self._end_of_turn(round_)
                if end is not None:
                    yield self._done(end)
                    return
            yield self._done("rounds")
        finally:
            self._answer_all("Error: the call was cancelled.")

    def _end_of_turn(self, round_: _Round) -> TurnEnd | None:
        if round_.end not in (None, "stop"):
            return round_.end
        if self._waiting:
            return "tool_calls"
        if not round_.called:
            return "stop"
        if self._unknown_calls > self._limits.unknown_calls:
            return "unknown_tools"
        if self._seconds_left() == 0:
            return "seconds"
        if self._tokens_left() == 0:
            return "length"
        return None

    def _params_of(self, number: int) -> SamplingParams:
        return self._params[min(number, len(self._params) - 1)]

    def _done(self, reason: TurnEnd) -> TurnDone:
        return TurnDone(reason, tuple(self.messages), self.usage, tuple(self._waiting))

    # The prompt

    async def _prompt_of_round(self, number: int) -> tuple[list[int] | None, ContextTrimmed | None]:
        """See `_prompt`; one that is long, or declares tools, is written on a thread: other turns go on meanwhile."""
        messages = [*self._history, *self.messages]
        size = sum(len(_text(message)) for message in messages)
        if size + A_MESSAGE * len(messages) <= AT_ONCE and not self._formats and not any(map(_declares, messages)):
            return self._prompt(number)
        if number == 0 and not self._limits.drop_oldest:
            least = size // LONGEST_TOKEN
            if least >= self._generator.context_tokens:  # whatever its tokens are
                raise ContextOverflowError.of(least, self._generator.context_tokens)
        return await asyncio.to_thread(self._prompt_in_turn, number)

    def _prompt_in_turn(self, number: int) -> tuple[list[int] | None, ContextTrimmed | None]:
        with in_turn():
            return self._prompt(number)

    def _prompt(self, number: int) -> tuple[list[int] | None, ContextTrimmed | None]:
        """The next round's tokens, without as many of the oldest turns as have to go; None where that does not help."""
        context = self._generator.context_tokens
        most = context - min(int(context * ANSWER_SHARE), self._params_of(number).max_tokens or context)
        head, turns = split_turns(self._history)
        tokens = before = self._render(head, turns)
        dropped = 0
        droppable = len(turns) - 1 if self._limits.drop_oldest else 0
        while len(tokens) > (int(context * KEPT_SHARE) if dropped else most) and dropped < droppable:
            dropped += 1
            tokens = self._render(head, turns[dropped:])
        if dropped:
            messages = sum(map(len, turns[:dropped]))
            self._history = [*head, *(message for turn in turns[dropped:] for message in turn)]
            self.dropped_messages += messages
            trimmed = ContextTrimmed(dropped, messages, len(before), len(tokens))
        else:
            trimmed = None
        if len(tokens) < context:
            return tokens, trimmed
        if number == 0:
            raise ContextOverflowError.of(len(tokens), context)
        return None, trimmed

    def _render(self, head: Sequence[AnyMessage], turns: Sequence[Sequence[AnyMessage]]) -> list[int]:
        messages = [*head, *(message for turn in turns for message in turn), *self.messages]
        return render_prompt(Conversation(messages, self._formats))

    # The model's part of a round

    async def _speak(self, prompt: list[int], params: SamplingParams, round_: _Round) -> AsyncGenerator[Event, None]:
        """Sample until the model wants an answer, is done, or a limit is reached."""
        params = replace(params, max_tokens=_least(params.max_tokens, self._tokens_left()))
        self.usage = self.usage.plus(prompt=len(prompt))
        reader = _Reader(round_, self._toolbox)
        stream = self._generator.generate(prompt, params)
        count = 0
        try:
            while round_.end is None and not round_.wants_answers:
                token = await self._in_time(anext(stream, None))
                if token is None:
                    break
                self.usage = self.usage.plus(cached=token.cached_tokens, output=1)
                yield Sampled(token)
                for event in reader.push(token.id):
                    if isinstance(event, MessageDone):
                        self._keep(event.message)
                    yield event
                    if round_.wants_answers:
                        break
                count += 1
                if token.finish_reason is not None:
                    full = len(prompt) + count >= self._generator.context_tokens
                    cut: TurnEnd = "context" if token.finish_reason == "length" and full else token.finish_reason
                    round_.end = round_.end or cut
        except TimeoutError:
            round_.end = "seconds"
        finally:
            close = getattr(stream, "aclose", None)
            if close is not None:
                await close()
            if round_.wants_answers:
                rest: list[Event] = []
            else:
                rest = reader.finish()
                for event in rest:
                    if isinstance(event, MessageDone):
                        self._keep(event.message, cut=round_.end not in ("stop", "length", "context"))
        for event in rest:
            yield event

    def _keep(self, message: ParsedMessage, *, cut: bool = False) -> None:
        """Into the history; of a message that was cut off, only what a user has read: half a call says nothing."""
        if message.header.channel == "analysis":
            self.usage = self.usage.plus(reasoning=len(message.tokens))
        if cut and (message.header.is_call or message.header.channel == "analysis"):
            return
        if message.ended_by is None and not message.content:
            return
        self.messages.append(message)
        if message.header.is_call:
            (self._waiting if self._is_for_others(message) else self._unanswered).append(message)

    # The tools' part of a round

    async def _run_calls(self) -> AsyncGenerator[Event, None]:
        for call in list(self._unanswered):
            number, self._calls_started = self._calls_started, self._calls_started + 1
            recipient = call.header.recipient or ""
            found = self._toolbox.find(recipient)
            yield ToolStarted(number, found[1] if found else recipient, call)
            started = time.monotonic()
            if found:
                answers = await self._run_tool(found[0], found[1], call)
            else:
                self._unknown_calls += 1
                answers = [_answer_to(call, self._no_such_tool(recipient), failed=True)]
            failed = any(isinstance(message, ToolAnswer) and message.failed for message in answers)
            self._unanswered.remove(call)
            self.messages += answers
            name = found[1] if found else recipient
            yield ToolDone(number, name, tuple(answers), time.monotonic() - started, failed)

    async def _run_tool(self, tool: Tool, recipient: str, call: ParsedMessage) -> list[Message]:
        header = call.header
        message = Message(
            author=Author(role=Role.ASSISTANT),
            content=[TextContent(text=call.content)],
            channel=header.channel,
            recipient=recipient,
            content_type=header.content_type,
        )
        answers: list[Message] = []

        async def collect() -> None:
            async with aclosing(tool.process(message)) as stream:
                async for answer in stream:
                    answers.append(_addressed(answer, call))

        try:
            await self._in_time(collect())
        except Exception as error:  # a tool's defect must not end the conversation: the model is told and goes on
            if isinstance(error, TimeoutError) and self._seconds_left() == 0:
                error = TimeoutError("the time for this turn is over")
            answers.append(_answer_to(call, f"Error: {type(error).__name__}: {error}", failed=True))
        return answers or [_answer_to(call, "")]

    def _is_for_others(self, call: ParsedMessage) -> bool:
        found = self._toolbox.find(call.header.recipient or "")
        return found is not None and isinstance(found[0], FunctionTool) and not found[0].runs_here

    def _no_such_tool(self, recipient: str) -> str:
        known = self._toolbox.recipients
        rest = f"The tools are: {', '.join(known)}." if known else "There are no tools; answer without."
        return f"Error: there is no tool {recipient!r}. {rest}"

    def _answer_all(self, text: str) -> None:
        self.messages += [_answer_to(call, text, failed=True) for call in self._unanswered]
        self._unanswered.clear()

    # Limits

    def _seconds_left(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def _tokens_left(self) -> int | None:
        return None if self._limits.tokens is None else max(0, self._limits.tokens - self.usage.output_tokens)

    async def _in_time(self, work: Awaitable[T]) -> T:
        """Raises TimeoutError when the turn's time is over first; the work is cancelled."""
        left = self._seconds_left()
        return await (work if left is None else asyncio.wait_for(work, left))


def _declares(message: AnyMessage) -> bool:
    """Whether it declares functions, whose schemas have to be written out."""
    if isinstance(message, ParsedMessage):
        return False
    return any(isinstance(content, DeveloperContent) and content.tools for content in message.content)


@dataclass
class _Round:
    """end: why the round is over for good. wants_answers: the model has called, and now speaks as if answered."""

    end: TurnEnd | None = None
    called: bool = False
    wants_answers: bool = False


class _Reader:
    """From tokens to events, with citations read out of what the user sees."""

    def __init__(self, round_: _Round, toolbox: Toolbox) -> None:
        self._round = round_
        self._parser = Parser()
        self._toolbox = toolbox
        self._citations: list[CitationReader] = []

    def push(self, token: int) -> list[Event]:
        return [event for parsed in self._parser.push(token) for event in self._read(parsed)]

    def finish(self) -> list[Event]:
        return [event for parsed in self._parser.finish() for event in self._read(parsed)]

    def _read(self, event: HarmonyEvent) -> Iterator[Event]:
        round_ = self._round
        if round_.wants_answers:
            return
        match event:
            case MessageStarted(header):
                if round_.called and not header.is_call:  # it goes on without the answer, which it can only make up
                    round_.wants_answers = True
                    return
                visible = header.channel != "analysis" and not header.is_call
                readers = (tool.citations() for tool in self._toolbox.built_in) if visible else ()
                self._citations = [reader for reader in readers if reader is not None]
                yield event
            case TextDelta(text) if self._citations:
                yield from _pieces(self._citations[0].push(text))
            case MessageDone(message):
                if self._citations:
                    yield from _pieces(self._citations[0].finish())
                yield event
                if message.header.is_call:
                    round_.called = True
                elif message.header.channel in ("final", None) and message.ended_by == END:
                    round_.end = "stop"
            case _:
                yield event


def _pieces(pieces: Sequence[Piece]) -> Iterator[Event]:
    for piece in pieces:
        yield TextDelta(piece) if isinstance(piece, str) else CitationFound(piece)


def split_turns(history: Sequence[AnyMessage]) -> tuple[list[AnyMessage], list[list[AnyMessage]]]:
    """(system and developer messages at the beginning, turns): each turn begins with a user's message."""
    roles = [_role(message) for message in history]
    start = next((i for i, role in enumerate(roles) if role not in ("system", "developer")), len(roles))
    turns: list[list[AnyMessage]] = []
    for message, role in zip(history[start:], roles[start:], strict=True):
        if role == "user" or not turns:
            turns.append([])
        turns[-1].append(message)
    return list(history[:start]), turns


def _role(message: AnyMessage) -> str:
    return message.header.role if isinstance(message, ParsedMessage) else str(message.author.role.value)


def _text(message: AnyMessage) -> str:
    if isinstance(message, ParsedMessage):
        return message.content
    return "".join(content.text for content in message.content if isinstance(content, TextContent))


def _least(a: int | None, b: int | None) -> int | None:
    return min((x for x in (a, b) if x is not None), default=None)


def _answer_to(call: ParsedMessage, text: str, *, failed: bool = False) -> Message:
    answer = ToolAnswer(author=Author(role=Role.TOOL), content=[TextContent(text=text)], failed=failed)
    return _addressed(answer, call)


def _addressed(answer: Message, call: ParsedMessage) -> Message:
    """By the name that the model used, to the assistant, on the channel of the call."""
    return answer.model_copy(
        update={
            "author": Author(role=Role.TOOL, name=call.header.recipient),
            "recipient": "assistant",
            "channel": call.header.channel or "commentary",
        }
    )
