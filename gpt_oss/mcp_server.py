"""The tools as Model Context Protocol servers: `gpt-oss mcp browser`, `gpt-oss mcp python`, on stdio or over HTTP.

What a tool says of itself to a prompt (its ToolNamespaceConfig) is what a client is told, and nothing is written twice.
Knows nothing of models. Needs the official SDK: `pip install 'gpt-oss[mcp]'`.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from gpt_oss import __version__
from gpt_oss.errors import MissingDependencyError, ParameterError
from gpt_oss.terminal import run_command

if TYPE_CHECKING:  # imported where they are used: the command line reads this file for every `--help`
    from mcp.server import Server, ServerRequestContext
    from openai_harmony import Message, ToolNamespaceConfig

    from gpt_oss.tools.tool import Tool

    Context: TypeAlias = ServerRequestContext[Any, Any]

MakeTool: TypeAlias = "Callable[[], Tool]"

TEXT = "code"  # the argument of a tool that takes plain text instead of arguments: for python, its program
PATH = "/mcp"
DEFAULT_ADDRESS = "127.0.0.1:8765"
SHUTDOWN_S = 1  # for calls that are running when a server is asked to stop


@dataclass(frozen=True)
class Offer:
    """What a tool offers to clients. methods: each with its description and the schema of its arguments.

    A namespace without methods is one method of the same name, which takes text.
    """

    namespace: str
    instructions: str | None
    methods: dict[str, tuple[str, dict[str, Any]]]
    takes_text: bool

    @classmethod
    def of(cls, config: ToolNamespaceConfig) -> Offer:
        if not config.tools:
            schema = {"type": "object", "properties": {TEXT: {"type": "string"}}, "required": [TEXT]}
            return cls(config.name, None, {config.name: (config.description or "", schema)}, True)
        methods = {tool.name: (tool.description, tool.parameters or {"type": "object"}) for tool in config.tools}
        return cls(config.name, config.description, methods, False)

    def call(self, method: str, arguments: dict[str, Any]) -> Message:
        """The message with which a model would make this call. Raises ParameterError where there is no text to send."""
        from openai_harmony import Message, Role

        if not self.takes_text:
            recipient, text = f"{self.namespace}.{method}", json.dumps(arguments, ensure_ascii=False)
        elif isinstance(arguments.get(TEXT), str):
            recipient, text = self.namespace, arguments[TEXT]
        else:
            raise ParameterError(f"{method} needs `{TEXT}`: a string")
        return Message.from_role_and_content(Role.ASSISTANT, text).with_recipient(recipient).with_channel("analysis")


def build_server(offer: Offer, tool_of: Callable[[Context], Tool]) -> Server[Any]:
    """A server of the SDK. tool_of: the tool that belongs to the client of a request."""
    from mcp import MCPError, types
    from mcp.server import Server

    async def list_tools(context: Context, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        return types.ListToolsResult(
            tools=[
                types.Tool(name=name, description=description, input_schema=schema)
                for name, (description, schema) in offer.methods.items()
            ]
        )

    async def call_tool(context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
        if params.name not in offer.methods:
            known = ", ".join(offer.methods)
            raise MCPError(types.INVALID_PARAMS, f"there is no tool {params.name!r}; the tools are: {known}")
        try:
            call = offer.call(params.name, params.arguments or {})
            text, failed = await _answer(tool_of(context), call)
        except ParameterError as error:
            text, failed = f"Error: {error}", True
        except Exception as error:  # a tool's defect is told to the client, as a turn tells it to a model
            text, failed = f"Error: {type(error).__name__}: {error}", True
        return types.CallToolResult(content=[types.TextContent(text=text)], is_error=failed)

    return Server(
        f"gpt-oss {offer.namespace}",
        version=__version__,
        instructions=offer.instructions,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


async def _answer(tool: Tool, call: Message) -> tuple[str, bool]:
    """The text of a tool's answers, and whether it failed."""
    from gpt_oss.tools.tool import ToolAnswer, text_of

    async with aclosing(tool.process(call)) as stream:
        answers = [answer async for answer in stream]
    failed = any(isinstance(answer, ToolAnswer) and answer.failed for answer in answers)
    return "\n".join(map(text_of, answers)), failed


async def serve_stdio(make_tool: MakeTool) -> None:
    """Serve one client, on stdin and stdout, until it closes them; a signal ends the process."""
    from mcp.server.stdio import stdio_server

    tool = make_tool()
    server = build_server(Offer.of(tool.tool_config), lambda _: tool)

    async def serve() -> None:
        async with stdio_server() as (read, write):
            await server.run(read, write, server.create_initialization_options())

    signals: asyncio.Queue[int] = asyncio.Queue()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, signals.put_nowait, number)
    serving, signalled = asyncio.create_task(serve()), asyncio.create_task(signals.get())
    try:
        await asyncio.wait({serving, signalled}, return_when=asyncio.FIRST_COMPLETED)
        if signalled.done():
            serving.cancel()
            await asyncio.wait({serving}, timeout=SHUTDOWN_S)
    finally:
        await tool.close()
    if signalled.done():
        os._exit(128 + signalled.result())  # a thread that reads stdin would hold the interpreter's own exit
    signalled.cancel()
    await serving


async def serve_http(
    make_tool: MakeTool, address: str = DEFAULT_ADDRESS, *, allow_public: bool = False, hosts: Iterable[str] = ()
) -> None:
    """Serve clients over streamable HTTP, each with a tool of its own, until a signal; says where on stderr.

    address: HOST:PORT, where port 0 is any that is free. allow_public: also one that others can reach. hosts: names by
    which they do; a request that names another is refused, for it may come from a web page (DNS rebinding).

    Raises ParameterError for an address that cannot be had or is not allowed.
    """
    import uvicorn
    from mcp.server.transport_security import TransportSecuritySettings

    sample = make_tool()
    offer = Offer.of(sample.tool_config)
    await sample.close()
    listening = _listen(address, allow_public)
    names = {"127.0.0.1", "localhost", "[::1]", *hosts}
    if allow_public:
        names |= {_bracketed(_parse(address)[0]), socket.gethostname(), socket.getfqdn()}
    security = TransportSecuritySettings(
        allowed_hosts=[form for name in names for form in (name, f"{name}:*")],
        allowed_origins=[
            f"{scheme}://{form}" for scheme in ("http", "https") for name in names for form in (name, f"{name}:*")
        ],
    )
    server = build_server(offer, _per_session(make_tool))
    _ask_for_sessions(server)
    app = server.streamable_http_app(streamable_http_path=PATH, transport_security=security)
    host, port = listening.getsockname()[:2]
    print(f"{server.name}: http://{_bracketed(host)}:{port}{PATH}", file=sys.stderr, flush=True)
    with listening:
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=SHUTDOWN_S)
        await uvicorn.Server(config).serve(sockets=[listening])


def _per_session(make_tool: MakeTool) -> Callable[[Context], Tool]:
    """A tool for each session, closed when it ends: by its client, or after a while without requests."""

    def tool_of(context: Context) -> Tool:
        connection = context.session._connection  # the SDK (2.3) has no other way to what lives as long as a session
        tool: Tool | None = connection.state.get("tool")
        if tool is None:
            tool = connection.state["tool"] = make_tool()
            connection.exit_stack.push_async_callback(tool.close)
        return tool

    return tool_of


def _ask_for_sessions(server: Server[Any]) -> None:
    """Have clients shake hands, for the newest protocol (2026-07-28) has no sessions over HTTP and so no tool to keep.

    A client that insists on it is served nevertheless, with a new tool for each call.
    """
    from mcp.types import DiscoverResult, RequestParams
    from mcp.types.version import HANDSHAKE_PROTOCOL_VERSIONS

    async def discover(context: Context, params: RequestParams) -> DiscoverResult:
        return DiscoverResult(
            supported_versions=list(HANDSHAKE_PROTOCOL_VERSIONS),
            capabilities=server.get_capabilities(protocol_version=context.protocol_version),
            instructions=server.instructions,
        )

    server.add_request_handler("server/discover", RequestParams, discover)


def _listen(address: str, allow_public: bool) -> socket.socket:
    host, port = _parse(address)
    try:
        family, kind, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        if not (allow_public or ipaddress.ip_address(where[0]).is_loopback):
            raise ParameterError(
                f"{host} can be reached by others, who could then use the tool",
                hint="use 127.0.0.1, or --allow-public where a proxy or firewall decides who they are",
            )
        listening = socket.socket(family, kind)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(where)
    except OSError as error:
        raise ParameterError(f"cannot listen at {address}: {error}") from error
    listening.listen()
    return listening


def _parse(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ParameterError(f"{address!r} is no address: write HOST:PORT, such as {DEFAULT_ADDRESS}")
    return host, int(port)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


# ----------------------------------------------------------------------------------------------------------------------
# The command line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    servers = parser.add_subparsers(dest="server", metavar="TOOL", required=True)

    browser = servers.add_parser("browser", help="search the web, open pages, find text in them")
    browser.add_argument("--backend", metavar="NAME", help="who searches (default: whose key the environment has)")

    python = servers.add_parser("python", help="run Python programs in a sandbox")
    python.add_argument("--sandbox", default="auto", metavar="NAME", help="what contains them (default: %(default)s)")
    python.add_argument(
        "--stateful", action="store_true", help="one interpreter for a session, instead of a fresh one for each call"
    )

    for server in (browser, python):
        server.add_argument(
            "--http",
            nargs="?",
            const=DEFAULT_ADDRESS,
            metavar="HOST:PORT",
            help=f"serve over HTTP instead of stdio (without a value: {DEFAULT_ADDRESS})",
        )
        server.add_argument(
            "--allow-public",
            action="store_true",
            help="let HOST be one that other machines can reach; nobody is asked who they are",
        )
        server.add_argument(
            "--allow-host",
            action="append",
            default=[],
            metavar="NAME",
            help="a name by which clients reach it over HTTP; may be repeated",
        )
        server.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help="show a traceback when something fails"
        )


def run(args: argparse.Namespace) -> int:
    try:
        import mcp  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            f"MCP servers need the package mcp: {error}", hint="pip install 'gpt-oss[mcp]'"
        ) from error
    asyncio.run(_run(args))
    return 0


async def _run(args: argparse.Namespace) -> None:
    make_tool = await _tool_maker(args)
    if args.http:
        await serve_http(make_tool, args.http, allow_public=args.allow_public, hosts=args.allow_host)
    else:
        await serve_stdio(make_tool)


async def _tool_maker(args: argparse.Namespace) -> MakeTool:
    """Raises GptOssError where this machine cannot have the tool, which the first client need not find out."""
    if args.server == "browser":
        from gpt_oss.tools.simple_browser import SimpleBrowserTool, choose_backend

        return lambda: SimpleBrowserTool(choose_backend(args.backend))

    from gpt_oss.tools.python_docker.docker_tool import PythonTool

    python = PythonTool(args.sandbox)
    try:
        await python.open()
    finally:
        await python.close()
    return lambda: PythonTool(args.sandbox, stateful=args.stateful)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m gpt_oss.mcp_server", description="Serve a tool to MCP clients.")
    add_arguments(parser)
    return run_command(run, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
