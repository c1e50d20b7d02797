"""A small tool as an MCP server, for the tests: on stdio, or over HTTP at the address that is given.

EVENTS, a file that the environment may name, gets a line for what its clients cannot see.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from openai_harmony import Message, ToolDescription, ToolNamespaceConfig

from gpt_oss.mcp_server import serve_http, serve_stdio
from gpt_oss.tools.tool import Tool, answer, text_of

WRITE = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}


def happened(event: str) -> None:
    if path := os.environ.get("EVENTS"):
        with Path(path).open("a") as file:
            file.write(f"{event}\n")


class Notes(Tool):
    """It keeps what it is told, so that tests see whose tool they have."""

    name = "notes"

    def __init__(self) -> None:
        self._kept: list[str] = []

    @property
    def tool_config(self) -> ToolNamespaceConfig:
        tools = [
            ToolDescription.new("write", "Keep a text.", WRITE),
            *(ToolDescription.new(name, f"It will {name}.", None) for name in ("fail", "break", "wait", "print")),
        ]
        return ToolNamespaceConfig(name=self.name, description="Keeps texts.", tools=tools)

    async def _process(self, message: Message) -> AsyncIterator[Message]:
        match message.recipient:
            case "notes.write":
                self._kept.append(json.loads(text_of(message))["text"])
                yield answer(message, " ".join(self._kept))
            case "notes.fail":
                yield answer(message, "Error: nothing can be done", failed=True)
            case "notes.print":
                print("not for the client")
                yield answer(message, "first")
                yield answer(message, "second")
            case "notes.wait":
                happened("waits")
                try:
                    await asyncio.sleep(600)
                except asyncio.CancelledError:
                    happened("cancelled")
                    raise
            case _:
                raise ValueError("a defect")

    async def close(self) -> None:
        happened("closed")


if __name__ == "__main__":
    asyncio.run(serve_http(Notes, sys.argv[1]) if len(sys.argv) > 1 else serve_stdio(Notes))
