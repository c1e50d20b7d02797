"""Tools of a Model Context Protocol server as functions: `server = await connect("npx some-server")`, `server.tools`.

Knows nothing of prompts and turns. Whatever a server does (it ends, hangs, changes its tools), the model gets an answer
that it can read. Needs the official SDK: `pip install 'gpt-oss[mcp]'`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import shlex
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TextIO, TypeAlias

from gpt_oss.errors import GptOssError, MissingDependencyError, ParameterError
from gpt_oss.tools.functions import Arguments, FunctionTool, ToolError

if TYPE_CHECKING:
    from mcp import Client
    from mcp.client._transport import TransportStreams
    from mcp.types import CallToolResult, ContentBlock
    from mcp.types import Tool as RemoteTool

    Transport: TypeAlias = AbstractAsyncContextManager[TransportStreams]

LONGEST_ANSWER = 100_000  # characters: some 25,000 tokens, a fifth of the models' context
LONGEST_NAME = 128  # of a function
LONGEST_PREFIX = 40
MOST_PAGES = 100  # of a server's list of tools
LARGEST_EVENT = 16 << 20  # bytes of one message over HTTP
KEPT_STDERR = 4096  # bytes


class McpError(GptOssError):
    """A server cannot be started, reached or understood; the message says which and why."""


async def connect(
    spec: str | Sequence[str],
    *,
    name: str | None = None,
    headers: Mapping[str, str] | None = None,
    env: Mapping[str, str] | None = None,
    timeout_s: float = 120.0,
    taken: Collection[str] = (),
) -> McpServer:
    """Connect to a server and list its tools.

    spec: an http(s) URL (streamable HTTP), or a command line that starts a server on stdio, as one string or as a list.
    name: how tools of it are told from others (default: what the server calls itself). headers: of every HTTP request.
    env: beside HOME, LOGNAME, PATH, SHELL, TERM and USER all that the command gets of the environment.
    timeout_s: for connecting, and for each call. taken: names that its tools cannot have, since others have them.

    The answer belongs to the event loop that it was made in. Raises ParameterError for a spec that is neither, McpError
    where no server answers, MissingDependencyError without the SDK.
    """
    endpoint = _endpoint(spec, headers, env)
    try:
        import mcp  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            f"MCP servers need the package mcp: {error}", hint="pip install 'gpt-oss[mcp]'"
        ) from error
    log = logging.getLogger("mcp")
    if not log.handlers:  # or Python writes what the SDK logs to stderr, onto the screen of a chat
        log.addHandler(logging.NullHandler())
    server = McpServer(endpoint, name, timeout_s, taken)
    await server._open()
    return server


class McpServer:
    """A connected server (see `connect`). name: letters, digits, _ and -. tools: as the server listed them last."""

    def __init__(self, endpoint: _Endpoint, name: str | None, timeout_s: float, taken: Collection[str]) -> None:
        self.name = _legal(name or "")[:LONGEST_PREFIX]
        self._endpoint = endpoint
        self._timeout_s = timeout_s
        self._taken = frozenset(taken)
        self._known: dict[str, FunctionTool] = {}  # every tool ever listed, by the server's name for it
        self._listed: list[str] = []
        self._link: _Link | None = None
        self._connecting = asyncio.Lock()
        self._stale = False
        self._restarted = False  # since it last answered
        self._closed = False

    @property
    def tools(self) -> list[FunctionTool]:
        return [self._known[remote] for remote in self._listed]

    async def refresh(self) -> list[FunctionTool]:
        """The tools, listed again if the server has said that they changed. Raises McpError if it does not answer."""
        if self._stale:
            try:
                async with asyncio.timeout(self._timeout_s):
                    await self._list(await self._connected())
            except TimeoutError:
                raise McpError(f"{self._title} did not list its tools within {self._timeout_s:g} s") from None
        return self.tools

    async def close(self) -> None:
        """End the connection, and the process that was started for it. From any task, and more than once."""
        self._closed = True
        if self._link is not None:
            await self._link.close()

    @property
    def _title(self) -> str:
        return f"the MCP server {self.name or self._endpoint.label!r}"

    async def _open(self) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._list(await self._connected())
        except BaseException as error:
            await self.close()
            if isinstance(error, TimeoutError):
                raise McpError(f"{self._title} did not answer within {self._timeout_s:g} s") from None
            raise

    async def _connected(self) -> _Link:
        """The connection, made again where it is lost; a command is started again once, until it answers a call."""
        async with self._connecting:
            if self._closed:
                raise McpError(f"{self._title} is closed")
            if self._link is not None and self._link.alive:
                return self._link
            if self._link is not None:
                if self._restarted and self._endpoint.is_command:
                    raise McpError(f"{self._title} has ended again and is not started once more")
                await self._link.close()
                self._restarted = True
                self._stale = True
            try:
                self._link = _Link(self._endpoint, self._tools_changed)
                await self._link.ready()
            except Exception as error:
                reason, said = _reason(error), self._endpoint.stderr.text
                raise McpError(
                    f"{self._title} cannot be reached: {reason}", hint=f"it said: {said}" if said else None
                ) from error
            return self._link

    def _tools_changed(self) -> None:
        self._stale = True

    async def _list(self, link: _Link) -> None:
        self._stale = False  # before asking: what changes meanwhile makes it stale again
        remotes: list[RemoteTool] = []
        cursor = None
        try:
            for _ in range(MOST_PAGES):
                page = await link.client.list_tools(cursor=cursor)
                remotes += page.tools
                cursor = page.next_cursor
                if cursor is None:
                    break
        except Exception as error:
            self._stale = True
            raise McpError(f"{self._title} does not list its tools: {await link.failed(error)}") from error
        if not self.name:
            info = link.client.server_info
            self.name = _legal(info.name if info else "")[:LONGEST_PREFIX] or "mcp"
        for remote in remotes:
            self._learn(remote)
        self._listed = list(dict.fromkeys(remote.name for remote in remotes))

    def _learn(self, remote: RemoteTool) -> None:
        """A new tool, or what is new about a known one: who holds the object sees that too."""
        parameters = dict(remote.input_schema) if remote.input_schema.get("properties") else None
        known = self._known.get(remote.name)
        if known is not None:
            known.description, known.parameters = remote.description or "", parameters
            return

        async def run(arguments: Arguments) -> str:
            return await self._call(remote.name, arguments)

        used = self._taken | {tool.name for tool in self._known.values()}
        name = _unused(_legal(remote.name) or "tool", self.name, used)
        self._known[remote.name] = FunctionTool(name, remote.description or "", parameters, run)

    async def _call(self, remote: str, arguments: Arguments) -> str:
        try:
            async with asyncio.timeout(self._timeout_s):
                link = await self._connected()
                if self._stale:
                    await self._list(link)
                if remote not in self._listed:
                    names = ", ".join(tool.name for tool in self.tools) or "none"
                    raise ToolError(f"{self._title} no longer has this tool; its tools are now: {names}")
                try:
                    result = await link.client.call_tool(remote, arguments)
                except Exception as error:
                    raise ToolError(await self._went_wrong(link, error)) from error
        except McpError as error:
            raise ToolError(str(error)) from error
        except TimeoutError:
            raise ToolError(
                f"{self._title} did not answer within {self._timeout_s:g} s; the call was stopped"
            ) from None
        self._restarted = False
        text = text_of_result(result)
        if result.is_error:
            raise ToolError(text)
        return text

    async def _went_wrong(self, link: _Link, error: Exception) -> str:
        reason = await link.failed(error)
        if link.alive:
            return reason
        return f"{self._title} was lost during the call ({reason}), which may have been carried out or not"


def text_of_result(result: CallToolResult) -> str:
    """What the model reads: the texts, a line for whatever else there is, and JSON where there is only data."""
    parts = [_describe(block) for block in result.content]
    if not parts and result.structured_content is not None:
        parts = [json.dumps(result.structured_content, ensure_ascii=False)]
    text = "\n".join(parts)
    if len(text) > LONGEST_ANSWER:
        text = f"{text[:LONGEST_ANSWER]}\n[{len(text) - LONGEST_ANSWER:,} more characters were left out]"
    return text


def _describe(block: ContentBlock) -> str:
    match block.type:
        case "text":
            return block.text
        case "image" | "audio":
            return f"[{block.type}: {block.mime_type}, {_bytes_of(block.data)}]"
        case "resource_link":
            about = ", ".join(filter(None, (block.name, block.mime_type, block.description)))
            return f"[resource: {block.uri} ({about})]"
        case "resource":
            held = block.resource
            kind = f", {held.mime_type}" if held.mime_type else ""
            text = getattr(held, "text", None)
            size = "" if text is not None else f", {_bytes_of(getattr(held, 'blob', ''))}"
            return f"[resource: {held.uri}{kind}{size}]" + (f"\n{text}" if text is not None else "")


def _bytes_of(base64: str) -> str:
    return f"{len(base64.rstrip('=')) * 3 // 4:,} bytes"


def _legal(name: str) -> str:
    """A name made of what a function's may have; dots too become underscores, as they divide a recipient."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:LONGEST_NAME]


def _unused(name: str, prefix: str, used: Collection[str]) -> str:
    """name, or prefix_name, or prefix_name_2 …: the first that is not used."""
    candidate, number = name, 1
    while candidate in used:
        end = f"_{number}" if number > 1 else ""
        candidate = f"{prefix}_{name}"[: LONGEST_NAME - len(end)] + end
        number += 1
    return candidate


# ----------------------------------------------------------------------------------------------------------------------
# The connection


class _Tail:
    """The end of what a process wrote to stderr, which is not for the screen of a chat."""

    def __init__(self) -> None:
        self._bytes = b""

    @property
    def text(self) -> str:
        return self._bytes.decode(errors="replace").strip()

    @asynccontextmanager
    async def pipe(self) -> AsyncIterator[TextIO]:
        """The file to write to. What is written after the end of the context is lost."""
        self._bytes = b""
        loop = asyncio.get_running_loop()
        reading, writing = os.pipe()

        def read() -> None:
            some = os.read(reading, 1 << 16)
            self._bytes = (self._bytes + some)[-KEPT_STDERR:]
            if not some:
                loop.remove_reader(reading)

        loop.add_reader(reading, read)
        try:
            with os.fdopen(writing, "w") as file:
                yield file
        finally:
            loop.remove_reader(reading)
            os.close(reading)


@dataclass(frozen=True)
class _Endpoint:
    """label: how an error names it. transport: opens it; the event is set when the other side has ended."""

    label: str
    is_command: bool
    transport: Callable[[asyncio.Event], Transport]
    stderr: _Tail


def _endpoint(spec: str | Sequence[str], headers: Mapping[str, str] | None, env: Mapping[str, str] | None) -> _Endpoint:
    if isinstance(spec, str) and re.match(r"https?://", spec, re.IGNORECASE):
        if env:
            raise ParameterError(f"{spec} is a URL: `env` is for a server that is started by a command")
        url = spec
        return _Endpoint(url, False, lambda ended: _http(url, headers or {}), _Tail())
    try:
        command = shlex.split(spec) if isinstance(spec, str) else list(spec)
    except ValueError as error:
        raise ParameterError(f"{spec!r} is neither a URL nor a command line: {error}") from error
    if not command:
        raise ParameterError("an MCP server is given by its URL or by the command that starts it, not by nothing")
    if headers:
        raise ParameterError(f"{command[0]!r} is a command: `headers` are for a server that has a URL")
    stderr = _Tail()
    return _Endpoint(shlex.join(command), True, lambda ended: _stdio(command, env or {}, stderr, ended), stderr)


@asynccontextmanager
async def _http(url: str, headers: Mapping[str, str]) -> AsyncIterator[TransportStreams]:
    import httpx2
    from mcp.client.streamable_http import streamable_http_client

    # Reading may take as long as the call may, which is bounded elsewhere.
    async with (
        httpx2.AsyncClient(headers=dict(headers), timeout=httpx2.Timeout(30, read=None)) as client,
        streamable_http_client(url, http_client=client, max_sse_event_size=LARGEST_EVENT) as streams,
    ):
        yield streams


@asynccontextmanager
async def _stdio(
    command: Sequence[str], env: Mapping[str, str], stderr: _Tail, ended: asyncio.Event
) -> AsyncIterator[TransportStreams]:
    import anyio
    from mcp import StdioServerParameters, stdio_client
    from mcp.shared.message import SessionMessage

    parameters = StdioServerParameters(
        command=command[0], args=list(command[1:]), env=dict(env), encoding_error_handler="replace"
    )
    async with (
        stderr.pipe() as errlog,
        stdio_client(parameters, errlog) as (read, write),
        anyio.create_task_group() as group,
    ):
        errlog.close()  # the process has it now
        sender, receiver = anyio.create_memory_object_stream[SessionMessage | Exception](0)

        async def relay() -> None:
            async with sender:
                async for message in read:
                    await sender.send(message)
            ended.set()

        group.start_soon(relay)
        yield receiver, write
        group.cancel_scope.cancel()


class _Link:
    """One connection. A task of its own opens, holds and closes it, for the SDK's task groups must be left by the task
    that entered them; requests may come from any task."""

    def __init__(self, endpoint: _Endpoint, tools_changed: Callable[[], None]) -> None:
        import anyio

        self._endpoint = endpoint
        self._tools_changed = tools_changed
        self._ended = asyncio.Event()
        self._client: Client | None = None
        self._opened = asyncio.Event()
        self._failure: Exception | None = None
        self._scope = anyio.CancelScope()  # unlike the task's own cancel, it lets the SDK end the process in peace
        self._task = asyncio.create_task(self._hold(), name=f"MCP: {endpoint.label}")

    async def ready(self) -> None:
        """Wait until requests can be made. Raises what the SDK raises; cancelled, it leaves nothing behind."""
        try:
            await self._opened.wait()
        except asyncio.CancelledError:
            await self.close()
            raise
        if self._client is None:
            await self.close()
            raise self._failure or ConnectionError("it was closed")

    @property
    def alive(self) -> bool:
        return not (self._ended.is_set() or self._task.done())

    @property
    def client(self) -> Client:
        assert self._client is not None, "ready() raises where there is none"
        return self._client

    async def close(self) -> None:
        self._scope.cancel()
        await asyncio.wait({self._task})

    async def failed(self, error: Exception) -> str:
        """Why a request failed, in words. A connection that is of no more use is closed."""
        from mcp import MCPError
        from mcp.types import CONNECTION_CLOSED, INVALID_REQUEST

        code = error.code if isinstance(error, MCPError) else None
        # An invalid request over HTTP is most likely a session that the server no longer knows.
        if code == CONNECTION_CLOSED or (code == INVALID_REQUEST and not self._endpoint.is_command):
            await self.close()
        return _reason(self._failure or error)

    async def _hold(self) -> None:
        from mcp import MCPError
        from mcp.types import METHOD_NOT_FOUND, UNSUPPORTED_PROTOCOL_VERSION

        try:
            with self._scope:
                try:
                    # The handshake first: every server of today knows it, and some hang on what comes before it.
                    await self._serve("legacy")
                except Exception as error:
                    cause = _first(error)
                    if not (
                        isinstance(cause, MCPError) and cause.code in (METHOD_NOT_FOUND, UNSUPPORTED_PROTOCOL_VERSION)
                    ):
                        raise
                    await self._serve("auto")
        except Exception as error:  # told by `ready` and `failed`
            self._failure = error
        finally:
            self._opened.set()

    async def _serve(self, mode: Literal["legacy", "auto"]) -> None:
        from mcp import Client
        from mcp.types import Implementation, ToolListChangedNotification

        from gpt_oss import __version__

        async def on_message(message: object) -> None:
            if isinstance(message, ToolListChangedNotification):
                self._tools_changed()

        transport = self._endpoint.transport(self._ended)
        about = Implementation(name="gpt-oss", version=__version__)
        client = Client(transport, mode=mode, client_info=about, message_handler=on_message, cache=None)
        async with client:
            self._client = client
            self._opened.set()
            await self._ended.wait()


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _reason(error: BaseException) -> str:
    """One line of an exception, of the first one where it is a group of them."""
    from mcp import MCPError

    cause = _first(error)
    text = " ".join(str(cause).split())
    return text if text and isinstance(cause, MCPError) else f"{type(cause).__name__}: {text}".rstrip(": ")
