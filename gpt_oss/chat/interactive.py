"""The chat at a terminal: a prompt with history, the answer as it is drawn, Ctrl-C to stop it, commands."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import termios
import time
from collections.abc import Awaitable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path

from openai_harmony import Message
from prompt_toolkit import PromptSession
from prompt_toolkit.completion import NestedCompleter
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.styles import Style
from rich.console import Console
from rich.text import Text

from gpt_oss.chat.commands import COMMANDS, Next, run_command
from gpt_oss.chat.markdown import ModelMarkdown
from gpt_oss.chat.notices import STOPPED, end_notice, error_notice, trimmed_notice
from gpt_oss.chat.raw import RawFold
from gpt_oss.chat.screen import Screen
from gpt_oss.chat.state import Asked, Chat
from gpt_oss.chat.terminal import DIM, ERROR, NOTICE, AnswerView
from gpt_oss.chat.text import visible, well_formed
from gpt_oss.errors import GptOssError
from gpt_oss.events import ContextTrimmed, TurnDone
from gpt_oss.harmony import ParsedMessage
from gpt_oss.tools.tool import text_of

FRAME_S = 0.08  # between two drawings of the tail


def _terminal_screen() -> Screen:
    return Screen(Console(markup=False, emoji=False, highlight=False, soft_wrap=False))


async def ask_once(chat: Chat, question: str) -> bool:
    """One question without a prompt; False where an error was told in place of an answer."""
    with _quiet_keyboard():
        return await answer(chat, _terminal_screen(), question)


async def talk(chat: Chat) -> None:
    """Prompt, answer, prompt …, until Ctrl-D or /quit."""
    with _quiet_keyboard():
        await _talk(chat, _terminal_screen())


async def _talk(chat: Chat, screen: Screen) -> None:
    prompt = _prompt_session(chat)
    screen.print(Text(f"{visible(chat.label)} · {visible(chat.session.generator.name)} · /help", DIM))
    edit = ""
    while True:
        try:
            line = await prompt.prompt_async("> ", default=edit)
        except KeyboardInterrupt:  # clears the line
            edit = ""
            continue
        except EOFError:
            return
        edit = ""
        if not line.strip():
            continue
        step = Next(ask=line)
        if line.startswith("/"):
            try:
                step = run_command(chat, line)
            except GptOssError as error:
                screen.print(Text(error_notice(error), ERROR))
                continue
        if step.quit:
            return
        if step.replay:
            _replay(screen, chat)
        if step.say:
            screen.print(Text(visible(step.say), DIM))
        if step.ask is not None:
            await answer(chat, screen, step.ask)
        edit = step.edit


async def answer(chat: Chat, screen: Screen, question: str) -> bool:
    """Ask and draw. An error is told in a sentence, and the chat goes on; False where there was one."""
    chat.asked = Asked(question, tuple(chat.session.messages))
    return await (_answer_raw if chat.look.raw else _answer)(chat, screen, question)


async def _answer(chat: Chat, screen: Screen, question: str) -> bool:
    view = AnswerView(screen, chat.look, chat.status)

    async def draw() -> None:
        while True:
            began = time.monotonic()
            view.draw()
            took = time.monotonic() - began
            await asyncio.sleep(max(FRAME_S, 4 * took))  # a long table or listing must not hold up the tokens

    async def fold() -> None:
        async with aclosing(chat.session.stream(well_formed(question))) as events:
            async for event in events:
                chat.meter.add(event)
                view.add(event)

    with screen.tail():
        drawing = asyncio.create_task(draw())
        try:
            if not await _until_interrupted(fold()):
                view.interrupted()
        except GptOssError as error:
            view.failed(error_notice(error))
            return False
        finally:
            drawing.cancel()
            view.close()
    return True


async def _answer_raw(chat: Chat, screen: Screen, question: str) -> bool:
    def write(text: str, special: bool) -> None:
        if special:
            screen.console.print(Text(text, "bold magenta"), end="", soft_wrap=True)
        else:
            screen.text(text)

    raw = RawFold(write, skip_known=True)
    notices: list[str | None] = []

    async def fold() -> None:
        async with aclosing(chat.session.stream(well_formed(question))) as events:
            async for event in events:
                chat.meter.add(event)
                raw.add(event)
                match event:
                    case ContextTrimmed():
                        notices.append(trimmed_notice(event))
                    case TurnDone():
                        notices.append(end_notice(event))

    try:
        finished = await _until_interrupted(fold())
    except GptOssError as error:
        screen.print(Text(error_notice(error), ERROR))
        return False
    raw.end()
    for notice in (*notices, None if finished else STOPPED):
        if notice:
            screen.print(Text(notice, NOTICE))
    return True


async def _until_interrupted(work: Awaitable[None]) -> bool:
    """Wait for it; Ctrl-C cancels it, and then this is False."""
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work)
    loop.add_signal_handler(signal.SIGINT, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        if not task.cancelled():
            raise  # it was this function's caller that was cancelled
        return False
    finally:
        loop.remove_signal_handler(signal.SIGINT)
    return True


@contextmanager
def _quiet_keyboard() -> Iterator[None]:
    """Keys typed while there is no prompt are kept for the next one, and not echoed into an answer."""
    before = termios.tcgetattr(sys.stdin)
    quiet = termios.tcgetattr(sys.stdin)
    quiet[0] &= ~termios.ICRNL  # Enter stays Enter
    quiet[3] &= ~(termios.ECHO | termios.ICANON)
    termios.tcsetattr(sys.stdin, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSANOW, before)


def _replay(screen: Screen, chat: Chat) -> None:
    """Questions and final answers of the history."""
    for message in chat.session.messages:
        if isinstance(message, ParsedMessage):
            if message.header.channel not in ("analysis", "commentary"):
                screen.print(ModelMarkdown(visible(message.content)), Text())
        elif isinstance(message, Message) and message.author.role.value == "user":
            screen.print(Text(f"> {visible(text_of(message))}", "bold"), Text())


def _prompt_session(chat: Chat) -> PromptSession[str]:
    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    @keys.add("c-j")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    words = dict.fromkeys(COMMANDS)
    completions = {
        **words,
        "/effort": {"low", "medium", "high"},
        "/tools": {"on": set(chat.tools.names), "off": set(chat.tools.names)},
    }
    return PromptSession(
        multiline=True,
        key_bindings=keys,
        history=_history(),
        completer=NestedCompleter.from_nested_dict(completions),
        complete_while_typing=False,
        prompt_continuation="  ",
        bottom_toolbar=chat.status,
        style=Style.from_dict({"bottom-toolbar": "noreverse fg:ansibrightblack"}),
    )


def _history() -> History:
    """What was typed in earlier chats, readable by the user alone; kept in memory where it cannot be written."""
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    path = state / "gpt-oss" / "chat-history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600))
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(path))
