"""A small MCP server for the tests, made with the official SDK: on stdio, or over HTTP where a port is given.

Most of its tools misbehave, each in a way of its own. STARTS, a file that the environment may name, gets a line with
the process id for each start; CANCELLED gets one for each call that was cancelled.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from mcp import MCPError, types
from mcp.server import Server, ServerRequestContext
from mcp.server.lowlevel.server import NotificationOptions
from mcp.server.stdio import stdio_server

Context = ServerRequestContext[Any, Any]
Result = types.CallToolResult
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def text(value: str, **more: Any) -> Result:
    return Result(content=[types.TextContent(text=value)], **more)


def note(variable: str, line: str) -> None:
    if path := os.environ.get(variable):
        with Path(path).open("a") as file:
            file.write(f"{line}\n")


async def add(ctx: Context, given: dict[str, Any]) -> Result:
    return text(str(given["a"] + given["b"]))


async def echo(ctx: Context, given: dict[str, Any]) -> Result:
    return text(given["text"])


async def big(ctx: Context, given: dict[str, Any]) -> Result:
    return text("é" * given["characters"])


async def several(ctx: Context, given: dict[str, Any]) -> Result:
    return Result(
        content=[
            types.TextContent(text="first"),
            types.ImageContent(data=PIXEL, mime_type="image/png"),
            types.ResourceLink(uri="file:///notes.txt", name="notes", mime_type="text/plain"),
            types.EmbeddedResource(resource=types.TextResourceContents(uri="memo://1", text="remember")),
            types.EmbeddedResource(resource=types.BlobResourceContents(uri="blob://2", blob="AAAA")),
            types.TextContent(text="last"),
        ]
    )


async def data(ctx: Context, given: dict[str, Any]) -> Result:
    return Result(content=[], structured_content={"city": "Łódź", "celsius": -3})


async def nothing(ctx: Context, given: dict[str, Any]) -> Result:
    return Result(content=[])


async def fail(ctx: Context, given: dict[str, Any]) -> Result:
    return text("no such file: a.txt", is_error=True)


async def refuse(ctx: Context, given: dict[str, Any]) -> Result:
    raise MCPError(types.INVALID_PARAMS, "b must be a number")


async def sleep(ctx: Context, given: dict[str, Any]) -> Result:
    try:
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        note("CANCELLED", "sleep")
        raise
    return text("awake")


async def crash(ctx: Context, given: dict[str, Any]) -> Result:
    print("fatal: out of cheese", file=sys.stderr, flush=True)
    os._exit(3)


async def crash_later(ctx: Context, given: dict[str, Any]) -> Result:
    asyncio.get_running_loop().call_later(0.05, os._exit, 3)
    return text("soon")


async def change(ctx: Context, given: dict[str, Any]) -> Result:
    del TOOLS["big"]
    TOOLS["fresh"] = echo
    await ctx.session.send_tool_list_changed()
    return text("changed")


TOOLS: dict[str, Callable[[Context, dict[str, Any]], Awaitable[Result]]] = {
    "add": add,
    "echo": echo,
    "big": big,
    "several": several,
    "data": data,
    "nothing": nothing,
    "fail": fail,
    "refuse": refuse,
    "sleep": sleep,
    "crash": crash,
    "crash later": crash_later,
    "crash/later": crash_later,
    "change": change,
}
SCHEMAS: dict[str, dict[str, Any]] = {
    "add": {"a": {"type": "number"}, "b": {"type": "number"}},
    "echo": {"text": {"type": "string", "description": "what to say"}},
    "big": {"characters": {"type": "integer"}},
}


async def list_tools(ctx: Context, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
    """Five at a time, so that a client has to turn pages."""
    start = int(params.cursor) if params and params.cursor else 0
    names = list(TOOLS)
    tools = [
        types.Tool(
            name=name,
            description=f"The tool {name}.",
            input_schema={"type": "object", "properties": SCHEMAS.get(name, {})},
        )
        for name in names[start : start + 5]
    ]
    return types.ListToolsResult(tools=tools, next_cursor=str(start + 5) if start + 5 < len(names) else None)


async def call_tool(ctx: Context, params: types.CallToolRequestParams) -> Result:
    return await TOOLS[params.name](ctx, params.arguments or {})


async def main() -> None:
    note("STARTS", str(os.getpid()))
    server = Server("test server", on_list_tools=list_tools, on_call_tool=call_tool)
    if len(sys.argv) > 1:
        import uvicorn

        config = uvicorn.Config(server.streamable_http_app(), port=int(sys.argv[1]), log_level="error")
        await uvicorn.Server(config).serve()
        return
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options(NotificationOptions(tools_changed=True)))


if __name__ == "__main__":
    asyncio.run(main())
