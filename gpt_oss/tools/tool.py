"""What a tool is: a recipient that the model may address, and answers that it can read.

A tool knows nothing of models, prompts or turns. What it cannot do becomes an answer with `failed` set, whose text says
why: an exception out of `process` is a defect of the tool, and the turn makes an answer of that as well.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Generator

from openai_harmony import Author, Message, Role, TextContent, ToolNamespaceConfig

from gpt_oss.tools.citations import CitationReader


class Answers:
    """The messages that answer a call, either way: `async for message in answers`, or `list = await answers`."""

    def __init__(self, messages: AsyncIterator[Message]) -> None:
        self._messages = messages

    def __aiter__(self) -> AsyncIterator[Message]:
        return self._messages

    def __await__(self) -> Generator[None, None, list[Message]]:
        return self._collect().__await__()

    async def _collect(self) -> list[Message]:
        return [message async for message in self._messages]

    async def aclose(self) -> None:
        """Stop the call; a tool that is waiting for a process or a server ends it."""
        close = getattr(self._messages, "aclose", None)
        if close is not None:
            await close()


class Tool(ABC):
    """One namespace of the system message (`browser`, `python`); functions of the user's are `functions.FunctionTool`.

    name: the recipient that reaches it, or the part of it before the dot.
    """

    name: str

    @property
    @abstractmethod
    def tool_config(self) -> ToolNamespaceConfig:
        """What the prompt says of it: for `SystemContent.with_tools`."""

    @property
    def instruction(self) -> str:
        """The text under the tool's heading in the prompt."""
        return self.tool_config.description or ""

    def process(self, message: Message) -> Answers:
        """Do what a call asks and answer it. Awaited it is a list of messages, iterated it yields them as they come."""
        return Answers(self._process(message))

    @abstractmethod
    def _process(self, message: Message) -> AsyncIterator[Message]:
        """An async generator of answers (see `answer`). Cancelling it must leave nothing running."""

    def citations(self) -> CitationReader | None:
        """A fresh reader of the citations that one answer may hold, for a tool whose pages can be cited."""
        return None

    async def close(self) -> None:
        """Give back what it holds (processes, connections). It may be called twice."""
        return None


class ToolAnswer(Message):  # type: ignore[misc]  # openai-harmony has no types
    """A message that answers a call.

    failed: the tool could not do what was asked; the text says why.
    """

    failed: bool = False


def answer(call: Message, text: str, *, failed: bool = False) -> ToolAnswer:
    """The message that answers `call`: by the tool it named, to the assistant, on the call's own channel."""
    return ToolAnswer(
        author=Author(role=Role.TOOL, name=call.recipient),
        content=[TextContent(text=text)],
        recipient="assistant",
        channel=call.channel or None,
        failed=failed,
    )


def text_of(message: Message) -> str:
    """The text of a message's contents."""
    return "".join(content.text for content in message.content if isinstance(content, TextContent))
