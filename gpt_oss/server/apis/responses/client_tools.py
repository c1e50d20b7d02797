"""Tool types of OpenAI's that the client runs: shell, local_shell, apply_patch and tool_search of its own.

To the model each is a function; to the client a call is an item of the tool's own type. A function's content becomes
the item's fields here, and an item of a history, or its output, what the function was given and answered. Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from gpt_oss.server.core.body import Fields, Json

_TEXT: Json = {"type": "string"}
_WHOLE: Json = {"type": "integer", "minimum": 0}
_COMMANDS: Json = {"type": "array", "items": _TEXT, "minItems": 1}

# One file a patch, for an item of type apply_patch_call holds one operation.
_PATCH_GRAMMAR = r"""
start: "*** Begin Patch\n" change "*** End Patch" "\n"?
change: "*** Add File: " PATH ADDED*
    | "*** Delete File: " PATH
    | "*** Update File: " PATH (ROW+ hunk* | hunk+)
hunk: AT ROW+ ("*** End of File\n")?
PATH: /[^\n]+\n/
ADDED: /\+[^\n]*\n/
AT: /@@( [^\n]*)?\n/
ROW: /[ +-][^\n]*\n/
"""
_PATCH = re.compile(
    r"\s*\*\*\* Begin Patch\n\*\*\* (Add|Delete|Update) File: ([^\n]+)\n(.*?)(?:\*\*\* End Patch\s*)?", re.DOTALL
)
_VERBS = {"create_file": "Add", "delete_file": "Delete", "update_file": "Update"}


@dataclass(frozen=True)
class ClientTool:
    """type: of the declaration. name: in the prompt. prefix: of its items' ids. parameters: of what the model writes,
    where that is JSON. call_id_in: the field of an output that says which call it answers."""

    type: str
    name: str
    prefix: str
    description: str
    parameters: Json | None = None
    syntax: Literal["json", "lark"] = "json"
    definition: str = ""
    call_id_in: tuple[str, ...] = ("call_id",)

    @property
    def call(self) -> str:
        return f"{self.type}_call"

    @property
    def output(self) -> str:
        return "tool_search_output" if self.type == "tool_search" else f"{self.call}_output"


CLIENT_TOOLS: Mapping[str, ClientTool] = {
    tool.type: tool
    for tool in (
        ClientTool(
            "shell",
            "run_commands",
            "sh",
            "Runs shell commands on the user's machine, each in a shell of its own.",
            {
                "type": "object",
                "properties": {"commands": _COMMANDS, "timeout_ms": _WHOLE, "max_output_length": _WHOLE},
                "required": ["commands"],
                "additionalProperties": False,
            },
        ),
        ClientTool(
            "local_shell",
            "run_command",
            "lsh",
            "Runs a command on the user's machine. `command` is the program and its arguments, for a shell's features"
            ' ["bash", "-c", "…"].',
            {
                "type": "object",
                "properties": {"command": _COMMANDS, "working_directory": _TEXT, "timeout_ms": _WHOLE},
                "required": ["command"],
                "additionalProperties": False,
            },
            call_id_in=("call_id", "id"),  # OpenAI's type says id, and some send call_id
        ),
        ClientTool(
            "apply_patch",
            "apply_patch",
            "apc",
            "Creates, changes or deletes one file on the user's machine; call it once for each file. It takes a patch:"
            " `*** Begin Patch`, then `*** Add File: PATH` and lines that begin with `+`, or `*** Delete File: PATH`,"
            " or `*** Update File: PATH` and hunks that begin with `@@` and hold lines of context (` `), removed lines"
            " (`-`) and new ones (`+`); then `*** End Patch`.",
            syntax="lark",
            definition=_PATCH_GRAMMAR,
        ),
        ClientTool(
            "tool_search",
            "tool_search",
            "tsc",
            "Finds tools that are not listed here; those that it finds can be called from then on.",
            {"type": "object", "properties": {"query": _TEXT}, "required": ["query"], "additionalProperties": False},
        ),
    )
}
CALLS: Mapping[str, ClientTool] = {tool.call: tool for tool in CLIENT_TOOLS.values()}
OUTPUTS: Mapping[str, ClientTool] = {tool.output: tool for tool in CLIENT_TOOLS.values()}


def is_for_client(tool: Fields) -> bool:
    """Whether the client runs what it declares so; a container or a search of the server's own is none of ours."""
    if tool.kind == "shell" and tool.inner("environment").kind:
        return tool.inner("environment").kind == "local"
    if tool.kind == "tool_search":
        return tool.word("execution") == "client"
    return tool.kind in CLIENT_TOOLS


# ---- from the model to the client -----------------------------------------------------------------------------------


def fields_of(tool: ClientTool, text: str) -> Json:
    """What the item of a call holds. What does not parse, which only a model without a grammar can write, is handed on
    in the field where the client will see that it is wrong."""
    if tool.type == "apply_patch":
        return {"operation": _operation(text)}
    found = _object(text)
    if tool.type == "tool_search":
        return {"execution": "client", "arguments": {"query": text} if found is None else found}
    given = Fields(found or {}, tool.type)
    if tool.type == "shell":
        limits = {name: given[name] for name in ("timeout_ms", "max_output_length")}
        return {"action": {"commands": _strings(given["commands"], text), **limits}, "environment": None}
    action = {"type": "exec", "command": _strings(given["command"], text), "env": {}}
    return {"action": action | {name: given[name] for name in ("working_directory", "timeout_ms")}}


def _object(text: str) -> Json | None:
    try:
        found = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _strings(given: object, text: str) -> list[str]:
    return [str(each) for each in given] if isinstance(given, list) else [text] if text else []


def _operation(text: str) -> Json:
    found = _PATCH.fullmatch(text)
    if found is None:
        return {"type": "update_file", "path": "", "diff": text}
    kind = next(kind for kind, verb in _VERBS.items() if verb == found[1])
    return {"type": kind, "path": found[2]} | ({} if kind == "delete_file" else {"diff": found[3]})


# ---- from the client to the model -----------------------------------------------------------------------------------


def content_of(tool: ClientTool, item: Fields) -> str:
    """What the model wrote, of a call's item."""
    if tool.type == "tool_search":
        return json.dumps(item["arguments"] or {}, ensure_ascii=False)
    if tool.type == "apply_patch":
        given = item.inner("operation")
        head = f"*** {_VERBS.get(given.kind, 'Update')} File: {given.word('path')}\n"
        body = given.word("diff")
        ending = "" if body.endswith("\n") or not body else "\n"
        return f"*** Begin Patch\n{head}{body}{ending}*** End Patch"
    assert tool.parameters is not None
    given = item.inner("action")
    known = {name: given[name] for name in tool.parameters["properties"] if given[name] is not None}
    return json.dumps(known, ensure_ascii=False)


def answer_of(tool: ClientTool, item: Fields) -> str:
    """What the model reads, of an output's item."""
    if tool.type == "tool_search":
        return f"Found: {', '.join(_names(item)) or 'nothing'}."
    if tool.type == "apply_patch":
        said = (item.word("status") or "completed", item.word("output"))
        return "\n".join(text for text in said if text)
    if not isinstance(item["output"], list):
        return item.word("output")
    return "\n".join(_ran(each) for each in item.inners("output"))


def _names(found: Fields) -> list[str]:
    return [
        name
        for tool in found.inners("tools")
        for name in (_names(tool) if tool.kind == "namespace" else [tool.word("name")])
    ]


def _ran(command: Fields) -> str:
    """One command's output, and how it ended where that is not well."""
    said = [command.word("stdout"), command.word("stderr")]
    match command["outcome"]:
        case {"type": "timeout"}:
            said.append("[timed out]")
        case {"type": "exit", "exit_code": int(code)} if code:
            said.append(f"[exit code {code}]")
    return "\n".join(text.rstrip("\n") for text in said if text)
