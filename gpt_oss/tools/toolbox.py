"""The tools of one conversation: what the prompt says of them, and which of them a recipient means."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from openai_harmony import ToolNamespaceConfig

from gpt_oss.errors import ParameterError
from gpt_oss.tools.functions import NAMESPACE, FunctionTool, function_tool
from gpt_oss.tools.tool import Tool

PREFIX = f"{NAMESPACE}."


def _as_is(_: list[str]) -> Mapping[str, str]:
    return {}


@dataclass(frozen=True)
class Toolbox:
    """The tools of a conversation.

    built_in: in the system message, called on the analysis channel.
    functions: in the developer message, called on the commentary channel.
    prompt_names: the name in the prompt of each function that is renamed there (harmony/aliases.py).
    """

    built_in: tuple[Tool, ...] = ()
    functions: tuple[FunctionTool, ...] = ()
    prompt_names: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls, tools: Iterable[Tool | Callable[..., Any]], prompt_names: Callable[[list[str]], Mapping[str, str]] = _as_is
    ) -> Toolbox:
        """Tools, and typed callables that become functions.

        prompt_names: gives the names in the prompt of functions that need another one than their own.
        Raises ParameterError for two tools of the same name.
        """
        made = [tool if isinstance(tool, Tool) else function_tool(tool) for tool in tools]
        box = cls(
            tuple(tool for tool in made if not isinstance(tool, FunctionTool)),
            tuple(tool for tool in made if isinstance(tool, FunctionTool)),
            prompt_names([tool.name for tool in made if isinstance(tool, FunctionTool)]),
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

    def name_in_prompt(self, function: str) -> str:
        return self.prompt_names.get(function, function)

    @cached_property
    def _by_prompt_name(self) -> Mapping[str, FunctionTool]:
        return {self.name_in_prompt(tool.name): tool for tool in self.functions}

    @cached_property
    def _by_name(self) -> Mapping[str, FunctionTool]:
        return {tool.name: tool for tool in self.functions}

    def find(self, recipient: str) -> tuple[Tool, str] | None:
        """The tool that a recipient means and the recipient as that tool knows it, or None.

        Models write a namespace too many (`functions.python`, `functions.browser.search`) and too few (`get_weather`).
        """
        bare = recipient.removeprefix(PREFIX)
        function = self._by_prompt_name.get(bare) or self._by_name.get(bare)
        if function is not None and (recipient.startswith(PREFIX) or bare in self._by_prompt_name):
            return function, f"{PREFIX}{function.name}"
        for tool in self.built_in:
            if bare == tool.name or bare.startswith(f"{tool.name}."):
                return tool, bare
        if function is not None:
            return function, f"{PREFIX}{function.name}"
        function = self._by_prompt_name.get(recipient) or self._by_name.get(recipient)  # a name with such a prefix
        return None if function is None else (function, f"{PREFIX}{function.name}")

    @property
    def recipients(self) -> list[str]:
        """Every name that may be called, as the prompt has it."""
        names: list[str] = []
        for tool in self.built_in:
            methods = tool.tool_config.tools
            names += [f"{tool.name}.{method.name}" for method in methods] if methods else [tool.name]
        return names + [f"{PREFIX}{self.name_in_prompt(tool.name)}" for tool in self.functions]

    async def close(self) -> None:
        """Close every tool, also when one fails to; the first failure is raised afterwards."""
        tools: Sequence[Tool] = (*self.built_in, *self.functions)
        results = await asyncio.gather(*(tool.close() for tool in tools), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
