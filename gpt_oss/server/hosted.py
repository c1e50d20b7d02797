"""Tools that a client asks for and this server runs: `web_search` is our browser, `code_interpreter` our python.

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

from gpt_oss.tools.python_docker.docker_tool import code_of
from gpt_oss.tools.tool import Tool

Json = dict[str, Any]
KINDS = (
    "web_search", "file_search", "computer", "code_interpreter", "image_generation", "mcp", "shell", "local_shell",
    "tool_search", "apply_patch", "programmatic_tool_calling",
)  # fmt: skip
_SHOWN_URL = re.compile(r"\[\d+\] .*\((\S+)\)\n")  # the first line of a page that the browser shows


def is_hosted(kind: object) -> bool:
    """Whether a tool's type is one of OpenAI's own, dated versions included."""
    return any(str(kind).startswith(known) for known in KINDS)


@dataclass(frozen=True)
class Hosted:
    """What makes the tools of one request; None where this server has no such tool."""

    web_search: Callable[[], Tool] | None = None
    code_interpreter: Callable[[], Tool] | None = None

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


@dataclass
class HostedCall:
    """One call of ours under way, as an item of the output. Its events' names begin with `kind`."""

    item: Json
    index: int

    @classmethod
    def begin(cls, recipient: str, index: int, container: str) -> HostedCall:
        """recipient: `python` or `browser.METHOD`."""
        if recipient == "python":
            item: Json = {"type": "code_interpreter_call", "id": f"ci_{uuid.uuid4().hex}", "status": "in_progress"}
            return cls(item | {"code": "", "container_id": container, "outputs": None}, index)
        item = {"type": "web_search_call", "id": f"ws_{uuid.uuid4().hex}", "status": "in_progress"}
        return cls(item | {"action": _action(recipient, "{}")}, index)

    @property
    def kind(self) -> str:
        return str(self.item["type"])

    @property
    def is_python(self) -> bool:
        return self.kind == "code_interpreter_call"

    def called(self, recipient: str, content: str) -> None:
        """The call is whole."""
        if self.is_python:
            self.item |= {"code": code_of(content), "status": "interpreting"}
        else:
            self.item |= {"action": _action(recipient, content), "status": "searching"}

    def answered(self, answer: str, *, failed: bool, outputs: bool) -> None:
        """outputs: whether the client wants to see what the program printed."""
        self.item["status"] = "failed" if failed else "completed"
        if self.is_python:
            self.item["outputs"] = [{"type": "logs", "logs": answer}] if outputs else None
        elif (shown := _SHOWN_URL.match(answer)) and self.item["action"]["type"] != "search":
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
