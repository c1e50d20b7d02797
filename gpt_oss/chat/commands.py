"""What a line that begins with a slash does. Works on the chat's state and says what to do next; draws nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gpt_oss.chat.saved import SavedChat, read, save
from gpt_oss.chat.state import Chat, last_asked
from gpt_oss.chat.text import one_line, plural
from gpt_oss.errors import ParameterError
from gpt_oss.harmony.history import EFFORTS


@dataclass(frozen=True)
class Next:
    """say: for the user to read. ask: a question to ask now. edit: what the next prompt begins with.
    replay: show the conversation again. quit: end the chat.
    """

    say: str = ""
    ask: str | None = None
    edit: str = ""
    replay: bool = False
    quit: bool = False


@dataclass(frozen=True)
class Command:
    usage: str
    help: str
    run: Callable[[Chat, str], Next]


def run_command(chat: Chat, line: str) -> Next:
    """Raises ParameterError, one sentence, for an unknown command or a wrong argument; then nothing has changed."""
    name, _, argument = line.strip().partition(" ")
    command = COMMANDS.get(name)
    if command is None:
        raise ParameterError(
            f"there is no command {one_line(name, 40)}; /help lists them, a blank in front sends it as text"
        )
    argument = argument.strip()
    if argument and " " not in command.usage:
        raise ParameterError(f"{name} takes no argument")
    return command.run(chat, argument)


def _help(chat: Chat, _: str) -> Next:
    width = max(len(command.usage) for command in COMMANDS.values())
    lines = [f"{command.usage:{width}}  {command.help}" for command in COMMANDS.values()]
    keys = "Alt-Enter or Ctrl-J: a new line. Ctrl-C: stop the answer. Ctrl-D: end the chat."
    return Next("\n".join([*lines, "", keys]))


def _save(chat: Chat, argument: str) -> Next:
    path = _path(argument, "/save")
    session = chat.session
    save(path, SavedChat(chat.label, session.reasoning_effort, tuple(session.messages)))
    return Next(f"{plural(len(session.messages), 'message')} saved to {path}.")


def _load(chat: Chat, argument: str) -> Next:
    path = _path(argument, "/load")
    saved = read(path)
    chat.session.messages[:] = saved.messages
    chat.session.reasoning_effort = saved.reasoning_effort
    chat.asked = last_asked(saved.messages)
    chat.count_context()
    return Next(f"{plural(len(saved.messages), 'message')} loaded from {path}.", replay=True)


def _tools(chat: Chat, argument: str) -> Next:
    tools = chat.tools
    if argument:
        switch, _, name = argument.partition(" ")
        name = name.strip()
        if switch not in ("on", "off") or name not in tools.names:
            known = ", ".join(tools.names) or "none: start the chat with -b, -p, -a or --mcp"
            raise ParameterError(f"/tools takes on or off and a tool's name; the tools are {known}")
        (tools.off.discard if switch == "on" else tools.off.add)(name)
        chat.session.toolbox = tools.toolbox()
        chat.count_context()
    if not tools.names:
        return Next("There are no tools: start the chat with -b, -p, -a or --mcp.")
    return Next("\n".join(f"{'off' if name in tools.off else 'on ':3}  {name}" for name in tools.names))


def _effort(chat: Chat, argument: str) -> Next:
    if argument and argument not in EFFORTS:
        raise ParameterError(f"/effort takes one of {', '.join(EFFORTS)}, not {one_line(argument, 40)}")
    chat.session.reasoning_effort = argument or chat.session.reasoning_effort
    return Next(f"Reasoning effort: {chat.session.reasoning_effort}.")


def _retry(chat: Chat, _: str) -> Next:
    asked = chat.take_back()
    if asked is None:
        raise ParameterError("there is nothing to ask again yet")
    return Next(ask=asked.question)


def _edit(chat: Chat, _: str) -> Next:
    asked = chat.take_back()
    if asked is None:
        raise ParameterError("there is no question to change yet")
    return Next("The question and its answer are taken back.", edit=asked.question)


def _clear(chat: Chat, _: str) -> Next:
    chat.session.forget()
    chat.asked = None
    chat.count_context()
    return Next("The conversation starts over.")


def _raw(chat: Chat, _: str) -> Next:
    chat.look.raw = not chat.look.raw
    return Next("Harmony tokens are shown as they are." if chat.look.raw else "Answers are shown as text.")


def _think(chat: Chat, _: str) -> Next:
    chat.look.thoughts = not chat.look.thoughts
    return Next("Thoughts are shown." if chat.look.thoughts else "Thoughts are folded to a line.")


def _quit(chat: Chat, _: str) -> Next:
    return Next(quit=True)


def _path(argument: str, name: str) -> Path:
    if not argument:
        raise ParameterError(f"{name} needs the name of a file")
    try:
        return Path(argument).expanduser()
    except RuntimeError as error:
        raise ParameterError(f"{name} cannot find that file: {error}") from error


COMMANDS = {
    command.usage.partition(" ")[0]: command
    for command in (
        Command("/help", "this list", _help),
        Command("/save FILE", "keep the conversation, with the model's very tokens", _save),
        Command("/load FILE", "go on with a conversation that was saved", _load),
        Command("/tools [on|off NAME]", "list the tools, or switch one", _tools),
        Command("/effort [low|medium|high]", "how long the model thinks", _effort),
        Command("/retry", "ask the last question again", _retry),
        Command("/edit", "take the last question back and change it", _edit),
        Command("/clear", "start over", _clear),
        Command("/raw", "show the exact Harmony tokens, or text again", _raw),
        Command("/think", "show thoughts, or fold them to a line", _think),
        Command("/quit", "end the chat", _quit),
    )
}
