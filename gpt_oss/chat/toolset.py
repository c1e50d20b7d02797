"""From the flags -b, -p, -a and --mcp to tools. What a tool needs is imported only when its flag is given."""

from __future__ import annotations

import argparse
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from gpt_oss.errors import MissingDependencyError
from gpt_oss.harmony.aliases import prompt_names
from gpt_oss.tools.tool import Tool
from gpt_oss.tools.toolbox import Toolbox


@dataclass
class Toolset:
    """Every tool of a chat; `off` names those that the user has switched off. Closing it ends what they run."""

    tools: list[Tool] = field(default_factory=list)
    off: set[str] = field(default_factory=set)
    resources: AsyncExitStack = field(default_factory=AsyncExitStack)

    @property
    def names(self) -> list[str]:
        return [tool.name for tool in self.tools]

    def toolbox(self) -> Toolbox:
        """Those that are on. Raises ParameterError where two have the same name."""
        return Toolbox.of((tool for tool in self.tools if tool.name not in self.off), prompt_names)

    def add(self, tool: Tool) -> None:
        self.tools.append(tool)
        self.resources.push_async_callback(tool.close)

    async def close(self) -> None:
        await self.resources.aclose()


async def open_tools(args: argparse.Namespace) -> Toolset:
    """Raises GptOssError where a tool cannot be had; what was opened until then is closed."""
    tools = Toolset()
    try:
        await _open(tools, args)
        tools.toolbox()
    except BaseException:
        await tools.close()
        raise
    return tools


async def _open(tools: Toolset, args: argparse.Namespace) -> None:
    if args.browser:
        from gpt_oss.tools.simple_browser import SimpleBrowserTool
        from gpt_oss.tools.simple_browser.backend import choose_backend

        tools.add(SimpleBrowserTool(backend=choose_backend(args.browser_backend)))
    if args.python:
        from gpt_oss.tools.python_docker.docker_tool import PythonTool

        python = PythonTool(args.python_sandbox, stateful=True)  # as the models were trained
        tools.add(python)
        await python.open()  # a machine without a sandbox is told so now, not by the model
    if args.apply_patch:
        from gpt_oss.tools.patch_tool import ApplyPatchTool

        tools.add(ApplyPatchTool(args.root))
    for spec in args.mcp:
        try:
            from gpt_oss.tools.mcp_client import connect
        except ImportError as error:
            raise MissingDependencyError(f"--mcp needs more: {error}", hint="pip install 'gpt-oss[mcp]'") from error
        server = await connect(spec)
        tools.resources.push_async_callback(server.close)
        for tool in server.tools:
            tools.add(tool)
