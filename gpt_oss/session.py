"""A conversation from Python: ask, get an answer; or iterate over everything that happens.

    from gpt_oss import Session, load_model

    with Session(load_model("gpt-oss-20b/original"), tools=[get_weather]) as session:
        print(session.ask("What is the weather in Oslo?").text)

`Session` is for scripts, `AsyncSession` for programs with an event loop; both keep the history, as the model wrote it.
"""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from openai_harmony import Author, Message, Role, TextContent

from gpt_oss.backends.base import TokenGenerator
from gpt_oss.errors import ParameterError
from gpt_oss.events import CitationFound, Event, ToolDone, TurnDone, TurnEnd, Usage
from gpt_oss.harmony.aliases import prompt_names
from gpt_oss.harmony.events import MessageDone, ParsedMessage
from gpt_oss.harmony.history import EFFORTS, developer_message, system_message
from gpt_oss.harmony.render import AnyMessage
from gpt_oss.params import SamplingParams
from gpt_oss.tools.citations import Citation
from gpt_oss.tools.tool import Tool
from gpt_oss.tools.toolbox import Toolbox
from gpt_oss.turn import AS_RELEASED, USUAL_LIMITS, Turn, TurnLimits


@dataclass(frozen=True)
class Answer:
    """What a turn came to. text: the final message. reasoning: the chain of thought. reason: see events.TurnDone.

    preambles: what the model said to the user before it called tools. tools: each call that was run, in order.
    """

    text: str
    reasoning: str = ""
    preambles: tuple[str, ...] = ()
    citations: tuple[Citation, ...] = ()
    tools: tuple[ToolDone, ...] = ()
    calls: tuple[ParsedMessage, ...] = ()
    reason: TurnEnd = "stop"
    usage: Usage = field(default_factory=Usage)

    def __str__(self) -> str:
        return self.text


class AnswerFold:
    """Folds a turn's events into an Answer."""

    def __init__(self) -> None:
        self._final: list[str] = []
        self._preambles: list[str] = []
        self._reasoning: list[str] = []
        self._citations: list[Citation] = []
        self._tools: list[ToolDone] = []
        self._done: TurnDone | None = None

    def add(self, event: Event) -> None:
        match event:
            case MessageDone(message) if not message.header.is_call:
                channel = message.header.channel
                kind = {"analysis": self._reasoning, "commentary": self._preambles}.get(channel or "", self._final)
                kind.append(message.content)
            case CitationFound(citation):
                self._citations.append(citation)
            case ToolDone():
                self._tools.append(event)
            case TurnDone():
                self._done = event

    def answer(self) -> Answer:
        done = self._done
        return Answer(
            "".join(self._final),
            "\n".join(self._reasoning),
            tuple(self._preambles),
            tuple(self._citations),
            tuple(self._tools),
            done.calls if done else (),
            done.reason if done else "stop",
            done.usage if done else Usage(),
        )


class AsyncSession:
    """One conversation with a model and its tools; one turn at a time.

    tools: Tool objects, and typed Python functions, whose signature and docstring are what the model reads.
    instructions: the developer message. reasoning_effort: low, medium or high. current_date: YYYY-MM-DD, None is today.
    The generator stays the caller's to close; the tools are closed with the session.
    Raises HarmonyError for an unknown effort, ParameterError for a function that cannot be declared.
    """

    def __init__(
        self,
        generator: TokenGenerator,
        *,
        tools: Iterable[Tool | Callable[..., Any]] = (),
        instructions: str = "",
        reasoning_effort: str = "medium",
        params: SamplingParams = AS_RELEASED,
        limits: TurnLimits = USUAL_LIMITS,
        current_date: str | None = None,
    ) -> None:
        self.generator = generator
        self.params = params
        self.limits = limits
        self.messages: list[AnyMessage] = []  # behind the system and developer messages
        self.toolbox = Toolbox.of(tools, prompt_names)
        self._instructions = instructions
        self._date = current_date or datetime.date.today().isoformat()
        self._effort = reasoning_effort
        self._busy = False
        head_messages(self.toolbox, instructions, reasoning_effort, self._date)  # raises now rather than later

    @property
    def reasoning_effort(self) -> str:
        return self._effort

    @reasoning_effort.setter
    def reasoning_effort(self, effort: str) -> None:
        if effort not in EFFORTS:
            raise ParameterError(f"reasoning effort is one of {', '.join(EFFORTS)}, not {effort!r}")
        self._effort = effort

    @property
    def history(self) -> list[AnyMessage]:
        """Everything that the next prompt is made of."""
        return [*head_messages(self.toolbox, self._instructions, self._effort, self._date), *self.messages]

    async def stream(self, text: str) -> AsyncGenerator[Event, None]:
        """The events of a turn that begins with the user's `text`. Leaving early stops the model and its tools; what
        was said until then stays in the history. Raises what Turn does; then the question is taken back."""
        if self._busy:
            raise ParameterError("a session has one turn at a time: finish or close the one under way first")
        self._busy = True
        question = Message(author=Author(role=Role.USER), content=[TextContent(text=text)])
        turn = Turn(self.generator, [*self.history, question], self.toolbox, params=self.params, limits=self.limits)
        try:
            async with aclosing(aiter(turn)) as events:
                async for event in events:
                    yield event
        finally:
            self._busy = False
            del self.messages[: turn.dropped_messages]
            if turn.messages or turn.usage.output_tokens:
                self.messages += [question, *turn.messages]

    async def ask(self, text: str) -> Answer:
        """The answer to `text`, tools included."""
        fold = AnswerFold()
        async with aclosing(self.stream(text)) as events:
            async for event in events:
                fold.add(event)
        return fold.answer()

    def forget(self) -> None:
        """Start over: the history is empty, tools keep what they hold."""
        self.messages.clear()

    async def close(self) -> None:
        await self.toolbox.close()

    async def __aenter__(self) -> AsyncSession:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class Session:
    """AsyncSession for scripts: the same arguments, the same methods, nothing to await."""

    def __init__(self, generator: TokenGenerator, **options: Any) -> None:
        self._runner = asyncio.Runner()
        self.asynchronous = AsyncSession(generator, **options)

    @property
    def messages(self) -> list[AnyMessage]:
        return self.asynchronous.messages

    def stream(self, text: str) -> Iterator[Event]:
        events = self.asynchronous.stream(text)
        try:
            while (event := self._runner.run(_next(events))) is not None:
                yield event
        finally:
            self._runner.run(events.aclose())

    def ask(self, text: str) -> Answer:
        return self._runner.run(self.asynchronous.ask(text))

    def forget(self) -> None:
        self.asynchronous.forget()

    def close(self) -> None:
        self._runner.run(self.asynchronous.close())
        self._runner.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


async def _next(events: AsyncGenerator[Event, None]) -> Event | None:
    return await anext(events, None)


def head_messages(
    toolbox: Toolbox, instructions: str, reasoning_effort: str, current_date: str | None
) -> Sequence[Message]:
    """The system message with the built-in tools; the developer message with the functions, if it says anything."""
    head = [system_message(reasoning_effort, current_date, toolbox.namespaces)]
    text = "\n\n".join(part for part in (instructions, *(tool.instruction for tool in toolbox.functions)) if part)
    declarations = [tool.declaration for tool in toolbox.functions]
    for declaration in declarations:
        declaration.name = toolbox.name_in_prompt(declaration.name)
    developer = developer_message(text, declarations)
    return [*head, developer] if developer else head
