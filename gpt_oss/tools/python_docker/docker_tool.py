"""`python`: the model's programs, run in a sandbox; a fresh interpreter for each call, or one for the conversation.

Knows nothing of how a sandbox holds (tools/sandbox). The sandbox is opened by the first call, so that making the tool
never fails: where none works, the model is told, and nothing is run.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

from openai_harmony import Message, ToolNamespaceConfig

from gpt_oss.errors import GptOssError
from gpt_oss.tools.sandbox import Limits, Result, Sandbox, Session, open_sandbox
from gpt_oss.tools.sandbox.choose import DEFAULT_IMAGE
from gpt_oss.tools.tool import Tool, answer, text_of

STATELESS = """\
Use this tool to execute Python code in your chain of thought. The code will not be shown to the user. This tool\
 should be used for internal reasoning, but not for code that is intended to be visible to the user (e.g. when creating\
 plots, tables, or files).
When you send a message containing Python code to python, it will be executed in a fresh, sandboxed interpreter, and\
 only what it prints comes back: use print. Nothing is kept from one call to the next, neither variables nor files.\
 A call is stopped after {seconds:g} seconds. There is no Internet access."""


class PythonTool(Tool):
    """sandbox: see sandbox.CHOICES. stateful: one interpreter for the life of the object, as the models were trained;
    variables are kept and the value of a last expression comes back. image: of a container engine."""

    name = "python"

    def __init__(
        self,
        sandbox: str = "auto",
        *,
        stateful: bool = False,
        limits: Limits | None = None,
        image: str = DEFAULT_IMAGE,
    ) -> None:
        self._choice = sandbox
        self._stateful = stateful
        self._limits = limits or Limits()
        self._image = image
        self._opening = asyncio.Lock()
        self._sandbox: Sandbox | None = None
        self._session: Session | None = None

    @property
    def tool_config(self) -> ToolNamespaceConfig:
        if self._stateful:
            return ToolNamespaceConfig.python()
        text = STATELESS.format(seconds=self._limits.wall_s)
        return ToolNamespaceConfig(name=self.name, description=text, tools=[])

    async def open(self) -> Sandbox:
        """The sandbox, opened and tested now. Raises SandboxError or ParameterError."""
        async with self._opening:
            if self._sandbox is None:
                self._sandbox = await open_sandbox(self._choice, image=self._image)
                self._session = self._sandbox.session(self._limits) if self._stateful else None
            return self._sandbox

    async def close(self) -> None:
        sandbox, self._sandbox = self._sandbox, None
        session, self._session = self._session, None
        if session is not None:
            await session.close()
        if sandbox is not None:
            await sandbox.close()

    async def _process(self, message: Message) -> AsyncIterator[Message]:
        code = code_of(text_of(message))
        try:
            sandbox = await self.open()
            if self._session is not None:
                result = await self._session.execute(code)
            else:
                result = await sandbox.run(code, self._limits)
        except GptOssError as error:
            hint = f" ({error.hint})" if error.hint else ""
            yield answer(message, f"Error: {error}{hint}", failed=True)
        else:
            yield answer(message, describe(result, self._limits), failed=result.timed_out or result.exit_code is None)


def code_of(text: str) -> str:
    """The program of a call: as it is, or from a JSON object, or from a fenced block, in which models also send it."""
    stripped = text.strip()
    if stripped.startswith("{"):
        try:
            given = json.loads(stripped, strict=False)
        except (ValueError, RecursionError):
            given = None
        if isinstance(given, dict):
            for key in ("code", "input", "script", "source"):
                if set(given) == {key} and isinstance(given[key], str):
                    return str(given[key])
    lines = stripped.splitlines()
    if len(lines) >= 2 and lines[0] in ("```", "```python", "```py") and lines[-1] == "```":
        return "\n".join(lines[1:-1]) + "\n"
    return text


def describe(result: Result, limits: Limits) -> str:
    """What the model reads: the output, then what it must know of how it ended."""
    notes = []
    if result.timed_out:
        notes.append(f"Error: stopped after {limits.wall_s:g} seconds.")
    elif result.out_of_memory:
        notes.append(f"Error: more than {limits.memory_bytes >> 20} MiB of memory; processes were killed.")
    elif result.exit_code is None:
        notes.append("Error: the interpreter was killed or has ended itself.")
    if result.state_lost:
        notes.append("The state is lost: all variables and files are gone, the next call starts anew.")
    text = result.output.rstrip("\n")
    return "\n".join([*([text] if text else []), *notes])
