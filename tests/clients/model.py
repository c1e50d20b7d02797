"""What stands in for the model when real clients are run: a function from the prompt to the answer.

It reads the prompt as a model does, so it knows which tools the client has declared, and calls those. Coding agents
have different tools for the same work: READ, EDIT and RUN are the table of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from gpt_oss.vocabulary import decode, encode_with_special

THINK = "<|channel|>analysis<|message|>{}<|end|><|start|>assistant"
FINAL = "<|channel|>final<|message|>{}<|return|>"
CALL = "<|channel|>commentary to=functions.{} <|constrain|>json<|message|>{}<|call|>"
FREE = "<|channel|>commentary to=functions.{}<|message|>{}<|call|>"
PATCH = "*** Begin Patch\n*** Update File: {}\n@@\n-print('old')\n+print('new')\n*** End Patch"

REPAIR = "Please repair {0}/main.py, then run {0}/test.py."
LOOK = "Please look at {0}/picture.png, then say so."
PARTS = 8
SUMMARY = "The user has asked this:"
READ_PARTS = "Please read what {0}/part.py prints for 1 and all that follow, one at a time."

_DECLARED = re.compile(r"^type (\w+) = \(_: (.*?)\) => any;$", re.DOTALL | re.MULTILINE)
_PARAMETER = re.compile(r"^\s*\"?(\w+)\"?\??:", re.MULTILINE)
_TASK = re.compile(r"Please (repair|look at|read what) (\S+)/(?:main\.py|picture\.png|part\.py)")
_SUMMARIZE = re.compile(r"(?:creat|generat|provid|writ)e\b[^.]{0,80}(?:summary|snapshot)", re.IGNORECASE)
_PART = re.compile(r"This is part (\d+)\.")


@dataclass(frozen=True)
class Tool:
    """One client's way to do a thing: the tool's name, and its arguments, in which `{file}` and the like are filled in.

    It fits a prompt that declares the name with all of these parameters. A text in place of arguments is free-form."""

    name: str
    arguments: dict[str, Any] | str

    def fits(self, declared: dict[str, set[str]]) -> bool:
        wanted = set(self.arguments) if isinstance(self.arguments, dict) else set()
        return self.name in declared and wanted <= declared[self.name] and bool(wanted) == bool(declared[self.name])

    def call(self, **values: str) -> str:
        if isinstance(self.arguments, str):
            return FREE.format(self.name, _filled(self.arguments, values))
        return CALL.format(self.name, json.dumps(_filled(self.arguments, values)))


READ = (
    Tool("Read", {"file_path": "{file}"}),  # Claude Code
    Tool("Read", {"filepath": "{file}"}),  # Continue
    Tool("read", {"filePath": "{file}"}),  # opencode
    Tool("read", {"path": "{file}"}),  # pi
    Tool("read_file", {"file_path": "{file}"}),  # Qwen Code
    Tool("read_files", {"files": [{"path": "{file}"}]}),  # Cline
    Tool("view", {"path": "{file}"}),  # Copilot
    Tool("exec_command", {"cmd": "cat {file}"}),  # Codex
)
SEE = (Tool("view_image", {"path": "{file}"}), *READ)  # Codex has one for pictures
EDIT = (
    Tool("Edit", {"file_path": "{file}", "old_string": "'old'", "new_string": "'new'"}),
    Tool("MultiEdit", {"file_path": "{file}", "edits": [{"old_string": "'old'", "new_string": "'new'"}]}),
    Tool("edit", {"filePath": "{file}", "oldString": "'old'", "newString": "'new'"}),
    Tool("edit", {"path": "{file}", "edits": [{"oldText": "'old'", "newText": "'new'"}]}),
    Tool("edit", {"file_path": "{file}", "old_string": "'old'", "new_string": "'new'"}),
    Tool("edit", {"path": "{file}", "old_str": "'old'", "new_str": "'new'"}),
    Tool("apply_patch", {"input": PATCH.format("{file}")}),
    Tool("apply_patch", PATCH.format("{file}")),
    Tool("exec_command", {"cmd": "sed -i s/old/new/ {file}"}),
)
RUN = (
    Tool("Bash", {"command": "{command}"}),
    Tool("user_bash", {"command": "{command}", "description": "Run it"}),  # the prompt's name of a bash
    Tool("user_bash", {"command": "{command}"}),
    Tool("run_shell_command", {"command": "{command}", "is_background": False}),
    Tool("run_commands", {"commands": ["{command}"]}),
    Tool("exec_command", {"cmd": "{command}"}),
)


class Model:
    """The answer to each prompt. compactions: how often a client has asked for a summary of the conversation."""

    def __init__(self) -> None:
        self.compactions = 0

    def __call__(self, prompt: list[int]) -> Sequence[int]:
        return encode_with_special(self.said(decode(prompt)))

    def said(self, text: str) -> str:
        messages = text.split("<|start|>")[1:-1]
        users = [number for number, message in enumerate(messages) if message.startswith("user")]
        asked = messages[users[-1]].split("<|message|>", 1)[1] if users else ""
        tasks = _tasks(messages, users) or _tasks(messages, range(len(messages)))
        if tasks and _SUMMARIZE.search(asked.rpartition(SUMMARY)[2]):
            self.compactions += 1
            last = max(map(int, _PART.findall(text)), default=0)
            summary = f"{SUMMARY} {READ_PARTS.format(tasks[-1][1][1])} And what came last: This is part {last}."
            return FINAL.format(f"<summary>{summary}</summary>")
        if tasks:
            number, (kind, folder) = tasks[-1]
            results = [message for message in messages[number:] if message.startswith("functions.")]
            return _work(kind, folder, text, results)
        return _chat(text, messages, asked)


def _tasks(messages: Sequence[str], numbers: Iterable[int]) -> list[tuple[int, tuple[str, str]]]:
    """The tasks in some of the messages, each with its message's number: the kind of work, and the folder."""
    return [(number, found[-1]) for number in numbers if (found := _TASK.findall(messages[number]))]


def _work(kind: str, folder: str, text: str, results: list[str]) -> str:
    """What a coding agent's model says next, by the results that its calls have had."""
    declared = {name: set(_PARAMETER.findall(body)) for name, body in _DECLARED.findall(text)}

    def call(tools: tuple[Tool, ...], file: str = "", command: str = "") -> str:
        tool = next((tool for tool in tools if tool.fits(declared)), None)
        if tool is None:
            return FINAL.format(f"No tool fits among {', '.join(declared) or 'none'}.")
        return tool.call(file=f"{folder}/{file}", command=command)

    if kind == "read what":
        last = max(map(int, _PART.findall(text)), default=0)
        if last == PARTS:
            return FINAL.format("All parts were read.")
        return call(RUN, command=f"python3 {folder}/part.py {last + 1}")
    if kind == "look at":
        return FINAL.format("I looked.") if results else call(SEE, "picture.png")
    if "SEARCH/REPLACE" in text:  # aider, which has no tools
        edit = "main.py\n```python\n<<<<<<< SEARCH\nprint('old')\n=======\nprint('new')\n>>>>>>> REPLACE\n```"
        return FINAL.format(f"I repair it.\n\n{edit}\n")
    match len(results):
        case 0:
            return THINK.format("I read it first.") + call(READ, "main.py")
        case 1:
            return call(EDIT, "main.py") if "print('old')" in results[0] else FINAL.format("It could not be read.")
        case 2:
            return call(RUN, command=f"python3 {folder}/test.py")
        case _:
            return FINAL.format("The test passes." if "all is well" in results[-1] else "The test fails.")


def _chat(text: str, messages: list[str], asked: str) -> str:
    """What the model says to a chat's user: it greets, calls the tool that fits, and fills in a form."""
    answered = messages[-1].startswith("functions.")
    if "weather" in asked and "get_weather" in text and not answered:
        return THINK.format("I ask.") + CALL.format("get_weather", '{"city": "Oslo"}')
    if answered and "get_weather" in messages[-1]:
        return FINAL.format("It rains in Oslo.")
    if "edit main.py" in asked and not answered:
        return THINK.format("I edit.") + CALL.format("exec_command", '{"cmd": "sed -i s/old/new/ main.py"}')
    if "patch main.py" in asked and not answered:
        return THINK.format("I patch.") + FREE.format("apply_patch", PATCH.format("main.py"))
    if "run a command" in asked and not answered:
        return CALL.format("run_commands", '{"commands": ["echo rain"]}')
    if answered:
        return FINAL.format("Done.")
    if "report" in asked:
        return FINAL.format('{"city": "Oslo", "rain": true}')
    return THINK.format("Be friendly.") + FINAL.format("Hello!")


def _filled(value: Any, values: dict[str, str]) -> Any:
    """The same with `{file}` and the like replaced, in every text inside."""
    if isinstance(value, str):
        return re.sub(r"\{(\w+)\}", lambda match: values[match[1]], value)
    if isinstance(value, list):
        return [_filled(item, values) for item in value]
    return {key: _filled(item, values) for key, item in value.items()} if isinstance(value, dict) else value
