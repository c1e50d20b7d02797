"""Tools that a client asks for and this server runs: `web_search` is our browser, `code_interpreter` our python,
`mcp` the tools of MCP servers that whoever runs this one has allowed.

The other hosted tools of OpenAI's have no meaning here. A client that lists one among others is served without it; one
that insists on it is refused.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gpt_oss.errors import GptOssError
from gpt_oss.server.errors import RequestError
from gpt_oss.tools.functions import FunctionTool
from gpt_oss.tools.mcp_client import McpServer, connect
from gpt_oss.tools.python_docker.docker_tool import code_of
from gpt_oss.tools.tool import Tool

Json = dict[str, Any]
KINDS = (
    "web_search", "file_search", "computer", "code_interpreter", "image_generation", "mcp", "shell", "local_shell",
    "tool_search", "apply_patch", "programmatic_tool_calling",
)  # fmt: skip
MCP_TIMEOUT_S = 60.0
_SHOWN_URL = re.compile(r"\[\d+\] .*\((\S+)\)\n")  # the first line of a page that the browser shows


def is_hosted(kind: object) -> bool:
    """Whether a tool's type is one of OpenAI's own, dated versions included."""
    return any(str(kind).startswith(known) for known in KINDS)


@dataclass(frozen=True)
class McpTools:
    """A connected server's tools, those that the request allows. label: what the client calls the server."""

    label: str
    server: McpServer
    tools: tuple[FunctionTool, ...]

    def item(self) -> Json:
        """What the client is told of them."""
        listed = [
            {"name": tool.name, "description": tool.description, "input_schema": dict(tool.parameters or {})}
            for tool in self.tools
        ]
        return {"type": "mcp_list_tools", "id": f"mcpl_{uuid.uuid4().hex}", "server_label": self.label, "tools": listed}


@dataclass(frozen=True)
class Hosted:
    """What makes the tools of one request; None where this server has no such tool. mcp: URLs, each with all
    below it."""

    web_search: Callable[[], Tool] | None = None
    code_interpreter: Callable[[], Tool] | None = None
    mcp: tuple[str, ...] = ()

    async def connect(self, tools: Sequence[Json]) -> list[McpTools]:
        """To the MCP servers among a request's tools; none where this server has no mcp at all. Raises RequestError."""
        connected: list[McpTools] = []
        try:
            for number, tool in enumerate(tools):
                if tool.get("type") == "mcp" and self.mcp:
                    taken = [known.name for each in connected for known in each.tools]
                    connected.append(await self._connect(tool, f"tools[{number}]", taken))
        except BaseException:
            for each in connected:
                await each.server.close()
            raise
        return connected

    async def _connect(self, tool: Json, where: str, taken: Sequence[str]) -> McpTools:
        url, label = tool.get("server_url"), tool.get("server_label")
        if not isinstance(label, str) or not label:
            raise RequestError(f"{where}.server_label is missing", param=f"{where}.server_label")
        if not isinstance(url, str) or not any(_is_below(url, allowed) for allowed in self.mcp):
            raise RequestError(f"{where}.server_url is none that this server may use", param=f"{where}.server_url")
        if tool.get("require_approval", "always") != "never":
            raise RequestError(
                f'{where}.require_approval must be "never": calls are not held back here',
                param=f"{where}.require_approval",
            )
        headers = {str(name): str(value) for name, value in (tool.get("headers") or {}).items()}
        if isinstance(tool.get("authorization"), str):
            headers["Authorization"] = f"Bearer {tool['authorization']}"
        try:
            server = await connect(url, name=label, headers=headers, timeout_s=MCP_TIMEOUT_S, taken=taken)
        except GptOssError as error:
            raise RequestError(f"{where}: {error}", param=where, status=424) from None
        chosen = tool.get("allowed_tools")
        chosen = chosen.get("tool_names") if isinstance(chosen, dict) else chosen
        known = tuple(
            each for each in server.tools if chosen is None or any(_means(each.name, label, name) for name in chosen)
        )
        return McpTools(label, server, known)

    def tools(self, kinds: Sequence[object]) -> list[Tool]:
        """Those that are asked for by these types and exist."""
        makers = {"web_search": self.web_search, "code_interpreter": self.code_interpreter}
        wanted = [make for name, make in makers.items() if any(str(kind).startswith(name) for kind in kinds)]
        return [make() for make in wanted if make is not None]


NOTHING_HOSTED = Hosted()


def recipient_of(kind: str) -> str | None:
    """Whom a forced call of a hosted tool goes to first."""
    if kind.startswith("web_search"):
        return "browser.search"
    return "python" if kind.startswith("code_interpreter") else None


def _is_below(url: str, allowed: str) -> bool:
    return url == allowed or url.startswith(allowed if allowed.endswith("/") else f"{allowed}/")


def _means(own: str, label: str, name: object) -> bool:
    """Whether a tool, which may bear its server's name in front, is the one that the client means."""
    return own == name or own.endswith(f"_{name}") or own.endswith(f".{name}")


@dataclass
class HostedCall:
    """One call of ours under way, as an item of the output. Its events' names begin with `kind`."""

    item: Json
    index: int
    recipient: str = ""
    content: str = ""

    @classmethod
    def begin(cls, recipient: str, index: int, container: str) -> HostedCall:
        """recipient: `python` or `browser.METHOD`."""
        if recipient == "python":
            item: Json = {"type": "code_interpreter_call", "id": f"ci_{uuid.uuid4().hex}", "status": "in_progress"}
            return cls(item | {"code": "", "container_id": container, "outputs": None}, index)
        item = {"type": "web_search_call", "id": f"ws_{uuid.uuid4().hex}", "status": "in_progress"}
        return cls(item | {"action": _action(recipient, "{}")}, index)

    @classmethod
    def begin_mcp(cls, name: str, label: str, index: int) -> HostedCall:
        item: Json = {"type": "mcp_call", "id": f"mcp_{uuid.uuid4().hex}", "status": "in_progress", "name": name}
        item |= {"server_label": label, "arguments": "", "output": None, "error": None, "approval_request_id": None}
        return cls(item, index)

    @property
    def kind(self) -> str:
        return str(self.item["type"])

    @property
    def doing(self) -> str | None:
        """The event of its being run; MCP has none."""
        return {"code_interpreter_call": "interpreting", "web_search_call": "searching"}.get(self.kind)

    @property
    def pieces(self) -> tuple[str, str, str] | None:
        """Of what its content is streamed as: the end of the events' names before .delta, after, and the field."""
        names = {"code_interpreter_call": ("_code", "code"), "mcp_call": ("_arguments", "arguments")}
        found = names.get(self.kind)
        return None if found is None else (f"{found[0]}.delta", f"{found[0]}.done", found[1])

    @property
    def is_python(self) -> bool:
        return self.kind == "code_interpreter_call"

    def called(self, recipient: str, content: str) -> None:
        """The call is whole."""
        self.recipient, self.content = recipient, content
        if self.kind == "mcp_call":
            self.item |= {"arguments": content, "status": "calling"}
        elif self.is_python:
            self.item |= {"code": code_of(content), "status": "interpreting"}
        else:
            self.item |= {"action": _action(recipient, content), "status": "searching"}

    def answered(self, answer: str, *, failed: bool, outputs: bool, results: bool = False) -> None:
        """outputs: whether the client wants to see what the program printed. results: what the browser showed."""
        self.item["status"] = "failed" if failed else "completed"
        if self.kind == "mcp_call":
            problem = {"type": "mcp_tool_execution_error", "content": [{"type": "text", "text": answer}]}
            self.item |= {"error": problem} if failed else {"output": answer}
        elif self.is_python:
            self.item["outputs"] = [{"type": "logs", "logs": answer}] if outputs else None
        elif results:
            self.item["results"] = [{"type": "text", "text": answer}]
        shown = _SHOWN_URL.match(answer) if self.kind == "web_search_call" else None
        if shown and self.item["action"]["type"] != "search":
            self.item["action"]["url"] = shown[1]


def _action(recipient: str, content: str) -> Json:
    """What a call of the browser does, as OpenAI's items say it."""
    try:
        given = json.loads(content, strict=False)
    except (ValueError, RecursionError):
        given = {}
    given = given if isinstance(given, dict) else {}
    match recipient.removeprefix("functions.").removeprefix("browser."):
        case "open":
            target = given.get("id")
            return {"type": "open_page", "url": target if isinstance(target, str) else None}
        case "find":
            return {"type": "find_in_page", "pattern": str(given.get("pattern", "")), "url": ""}
        case _:
            query = str(given.get("query", ""))
            return {"type": "search", "query": query, "queries": [query] if query else []}
