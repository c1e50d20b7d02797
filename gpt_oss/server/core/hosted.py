"""Tools that a client asks for and this server runs: `web_search` is our browser, `code_interpreter` our python,
`mcp` the tools of MCP servers that whoever runs this one has allowed.

The other hosted tools of OpenAI's have no meaning here. A client that lists one among others is served without it; one
that insists on it is refused.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from gpt_oss.errors import GptOssError
from gpt_oss.server.core.body import Fields, Json
from gpt_oss.server.core.errors import RequestError
from gpt_oss.tools.functions import FunctionTool
from gpt_oss.tools.mcp_client import McpServer, connect
from gpt_oss.tools.tool import Tool

KINDS = (
    "web_search", "browser_search", "file_search", "computer", "code_interpreter", "image_generation", "mcp", "shell",
    "local_shell", "tool_search", "apply_patch", "programmatic_tool_calling",
)  # fmt: skip
SECRETS = ("authorization", "headers")  # of MCP servers
SYNONYMS = {"browser_search": "web_search"}
MCP_TIMEOUT_S = 60.0


def is_hosted(kind: object) -> bool:
    """Whether a tool's type is one of OpenAI's own, dated versions included."""
    return any(str(kind).startswith(known) for known in KINDS)


def usual_kind(kind: object) -> str:
    """The type under its usual name."""
    return SYNONYMS.get(str(kind), str(kind))


@dataclass(frozen=True)
class McpTools:
    """A connected server's tools, those that the request allows.

    label: what the client calls the server.
    """

    label: str
    server: McpServer
    tools: tuple[FunctionTool, ...]


@dataclass(frozen=True)
class Hosted:
    """What makes the tools of one request; None where this server has no such tool.

    mcp: URLs that clients may name, each with all below it.
    """

    web_search: Callable[[], Tool] | None = None
    code_interpreter: Callable[[], Tool] | None = None
    mcp: tuple[str, ...] = ()

    async def connect(self, tools: Sequence[Json]) -> list[McpTools]:
        """To the MCP servers among a request's tools; none where this server has no mcp at all. Raises RequestError."""
        connected: list[McpTools] = []
        wanted = [Fields(tool, f"tools[{number}]") for number, tool in enumerate(tools)]
        try:
            for tool in wanted:
                if tool.kind == "mcp" and self.mcp:
                    taken = [known.name for each in connected for known in each.tools]
                    connected.append(await self._connect(tool, taken))
        except BaseException:
            for each in connected:
                await each.server.close()
            raise
        return connected

    async def _connect(self, tool: Fields, taken: Sequence[str]) -> McpTools:
        url, label = tool.word("server_url"), tool.text("server_label")
        if not label:
            raise tool.refuse("server_label", "is missing")
        allowed = next((each for each in self.mcp if url == each or _is_below(url, public_url(each))), None)
        if allowed is None:
            raise tool.refuse("server_url", "is none that this server may use")
        if tool["require_approval"] != "never":
            raise tool.refuse("require_approval", 'must be "never": calls are not held back here')
        try:
            server = await connect(
                _as_user_of(allowed, url), name=label, headers=_headers(tool), timeout_s=MCP_TIMEOUT_S, taken=taken
            )
        except GptOssError as error:
            raise RequestError(f"{tool.where}: {error}", param=tool.where, status=424) from None
        chosen = _allowed(tool)
        known = [each for each in server.tools if chosen is None or any(_means(each.name, name) for name in chosen)]
        return McpTools(label, server, tuple(known))

    def tools(self, kinds: Sequence[object]) -> list[Tool]:
        """Those that are asked for by these types and exist."""
        makers = {"web_search": self.web_search, "code_interpreter": self.code_interpreter}
        wanted = [make for name, make in makers.items() if any(usual_kind(kind).startswith(name) for kind in kinds)]
        return [make() for make in wanted if make is not None]


NOTHING_HOSTED = Hosted()


def recipient_of(kind: str) -> str | None:
    """Whom a forced call of a hosted tool goes to first."""
    if usual_kind(kind).startswith("web_search"):
        return "browser.search"
    return "python" if kind.startswith("code_interpreter") else None


def without_secrets(tool: Mapping[str, Any]) -> Json:
    """A tool as it may be shown and kept: what an MCP server is told to let us in is in neither."""
    if tool.get("type") != "mcp":
        return dict(tool)
    shown = {name: value for name, value in tool.items() if name not in SECRETS}
    if isinstance(url := shown.get("server_url"), str):
        shown["server_url"] = public_url(url)
    return shown


def public_url(url: str) -> str:
    """A URL without the name and the password in it; anything else as it is."""
    start, separator, rest = url.partition("://")
    if not separator:
        return url
    end = min((at for mark in "/?#" if (at := rest.find(mark)) >= 0), default=len(rest))
    return f"{start}://{rest[:end].rpartition('@')[2]}{rest[end:]}"


def _as_user_of(allowed: str, url: str) -> str:
    """The URL with the name and the password of the one that allows it, where the client's has none."""
    user = urlsplit(allowed).netloc.rpartition("@")[0] if "://" in allowed else ""
    return url.replace("://", f"://{user}@", 1) if user and url == public_url(url) else url


def _is_below(url: str, allowed: str) -> bool:
    """Whether a URL is one that is allowed, or lies below it. A command is only allowed as it is."""
    if url == allowed:
        return True
    wanted, root = _parsed(url), _parsed(allowed)
    if wanted is None or root is None or wanted[:3] != root[:3]:
        return False
    path = root[3] if root[3].endswith("/") else f"{root[3]}/"
    return wanted[3] == root[3] or wanted[3].startswith(path)


def _parsed(url: str) -> tuple[str, str, int, str] | None:
    """(scheme, host, port, path) of a URL, with everything that is the same written the same; None for what is none."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    except (ValueError, KeyError):
        return None
    if not parts.hostname or parts.username is not None or "\\" in url or any(c.isspace() for c in url):
        return None
    path = unquote(parts.path) or "/"
    if "%" in path:  # what was encoded twice means different things to different servers
        return None
    normal = posixpath.normpath(f"/{path.lstrip('/')}")
    return parts.scheme, parts.hostname, port, normal


def _headers(tool: Fields) -> dict[str, str]:
    """The headers that a request gives for an MCP server. Raises RequestError."""
    given = tool.object("headers")
    headers = {} if given is None else {name: str(value) for name, value in given.value.items()}
    if tool.text("authorization"):
        headers["Authorization"] = f"Bearer {tool.text('authorization')}"
    return headers


def _allowed(tool: Fields) -> list[str] | None:
    """The names of the tools that a request wants of an MCP server; None for all of them. Raises RequestError."""
    chosen = tool["allowed_tools"]
    if isinstance(chosen, dict):
        chosen = Fields(chosen, tool.at("allowed_tools"))["tool_names"]
    if chosen is None:
        return None
    if not isinstance(chosen, list) or not all(isinstance(name, str) for name in chosen):
        raise tool.refuse("allowed_tools", "must be a list of names")
    return chosen


def _means(own: str, name: str) -> bool:
    """Whether a tool, which may bear its server's name in front, is the one that the client means."""
    return own == name or own.endswith((f"_{name}", f".{name}"))
