"""The tools of one conversation: what the prompt says of them, and which of them a recipient means."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from openai_harmony import ToolNamespaceConfig

from gpt_oss.errors import ParameterError
from gpt_oss.tools.functions import NAMESPACE, FunctionTool, function_tool
from gpt_oss.tools.tool import Tool

PREFIX = f"{NAMESPACE}."


@dataclass(frozen=True)
class Toolbox:
    """built_in: in the system message, called on analysis. functions: in the developer message, on commentary."""

    built_in: tuple[Tool, ...] = ()
    functions: tuple[FunctionTool, ...] = ()

    @classmethod
    def of(cls, tools: Iterable[Tool | Callable[..., Any]]) -> Toolbox:
        """Tools, and typed callables that become functions. Raises ParameterError for two of the same name."""
        made = [tool if isinstance(tool, Tool) else function_tool(tool) for tool in tools]
        box = cls(
            tuple(tool for tool in made if not isinstance(tool, FunctionTool)),
            tuple(tool for tool in made if isinstance(tool, FunctionTool)),
        )
        for kind in (box.built_in, box.functions):
            names = [tool.name for tool in kind]
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                raise ParameterError(f"two tools are called {twice!r}: a model could not tell them apart")
        return box

    @property
    def namespaces(self) -> list[ToolNamespaceConfig]:
        """Of the built-in tools, for the system message."""
        return [tool.tool_config for tool in self.built_in]

    def find(self, recipient: str) -> tuple[Tool, str] | None:
        """The tool that a recipient means and the recipient as that tool knows it, or None.

        Models write a namespace too many (`functions.python`, `functions.browser.search`) and too few (`get_weather`).
        """
        bare = recipient.removeprefix(PREFIX)
        functions = {tool.name: tool for tool in self.functions}
        if recipient.startswith(PREFIX) and bare in functions:
            return functions[bare], recipient
        for tool in self.built_in:
            if bare == tool.name or bare.startswith(f"{tool.name}."):
                return tool, bare
        if bare in functions:
            return functions[bare], f"{PREFIX}{bare}"
        return None

    @property
    def recipients(self) -> list[str]:
        """Every name that may be called, for telling a model which there are."""
        names: list[str] = []
        for tool in self.built_in:
            methods = tool.tool_config.tools
            names += [f"{tool.name}.{method.name}" for method in methods] if methods else [tool.name]
        return names + [f"{PREFIX}{tool.name}" for tool in self.functions]

    async def close(self) -> None:
        """Close every tool, also when one fails to; the first failure is raised afterwards."""
        tools: Sequence[Tool] = (*self.built_in, *self.functions)
        results = await asyncio.gather(*(tool.close() for tool in tools), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
