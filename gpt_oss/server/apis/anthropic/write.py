"""The parts of an answer as content blocks, and the events of a stream of them. Pure."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

from gpt_oss.events import Usage
from gpt_oss.server.core.answer import Begun, Cited, Closed, Ended, Opened, Part, Piece, Ran
from gpt_oss.server.core.body import Json
from gpt_oss.tools.citations import Citation

STOPS = {"tool_calls": "tool_use", "stop": "end_turn", "unknown_tools": "end_turn"}


class MessageWriter:
    """One message. Every method gives the events to send, in order.

    seal: makes a thought's signature, and what a search gave, in a form that only this server opens.
    """

    def __init__(self, model: str, seal: Callable[[str], str]) -> None:
        self.calls: list[str] = []  # ids
        self.reasoning = ""
        self._model = model
        self._seal = seal
        self._id = f"msg_{uuid.uuid4().hex}"
        self._content: list[Json] = []
        self._searches: list[tuple[Json, str, str]] = []  # under way: their block, recipient and content
        self._searched = 0
        self._started = False
        self._open: Json | None = None
        self._recipient = ""
        self._ended: Ended | None = None

    def push(self, part: Part) -> list[Json]:
        match part:
            case Begun(tokens) if not self._started:
                self._started = True
                usage = {"input_tokens": tokens, "output_tokens": 0}
                usage |= {"cache_read_input_tokens": 0, "cache_creation_input_tokens": 0}
                return [{"type": "message_start", "message": {**self._head(), "content": [], "usage": usage}}]
            case Opened():
                return self._begin(part)
            case Piece(text) if self._open is not None:
                return self._piece(self._open, text)
            case Cited(citation) if self._open is not None:
                return self._cite(self._open, citation)
            case Closed() if self._open is not None:
                return self._close(self._open, part)
            case Ran() if self._searches:
                return self._ran(part)
            case Ended():
                self._ended = part
                delta = {"type": "message_delta", "delta": self._stop(part), "usage": self._usage(part.usage)}
                return [delta, {"type": "message_stop"}]
        return []

    def message(self) -> Json:
        """The whole message."""
        assert self._ended is not None
        return {
            **self._head(),
            **self._stop(self._ended),
            "content": self._content,
            "usage": self._usage(self._ended.usage),
        }

    def _begin(self, opened: Opened) -> list[Json]:
        self._recipient = opened.recipient
        match opened.kind:
            case "reasoning":
                return self._add({"type": "thinking", "thinking": "", "signature": ""})
            case "text":
                return self._add({"type": "text", "text": ""})
            case "hosted":
                self._searched += 1
                block = {"type": "server_tool_use", "id": f"srvtoolu_{uuid.uuid4().hex[:24]}", "name": "web_search"}
                return self._add(block | {"input": {}})
        assert opened.tool is not None
        identity = f"toolu_{uuid.uuid4().hex[:24]}"
        self.calls.append(identity)
        return self._add({"type": "tool_use", "id": identity, "name": opened.tool.name, "input": {}})

    def _add(self, block: Json) -> list[Json]:
        self._open = block
        self._content.append(block)
        return [{"type": "content_block_start", "index": len(self._content) - 1, "content_block": dict(block)}]

    def _piece(self, block: Json, text: str) -> list[Json]:
        match block["type"]:
            case "thinking":
                self.reasoning += text
                block["thinking"] += text
                return [self._delta({"type": "thinking_delta", "thinking": text})] if text else []
            case "text":
                block["text"] += text
                return [self._delta({"type": "text_delta", "text": text})] if text else []
        return [self._delta({"type": "input_json_delta", "partial_json": text})] if text else []

    def _cite(self, block: Json, citation: Citation) -> list[Json]:
        source = citation.source
        found: Json = {"type": "web_search_result_location", "url": source.url, "title": source.title}
        found |= {"cited_text": citation.text, "encrypted_index": ""}
        block.setdefault("citations", []).append(found)
        return [self._delta({"type": "citations_delta", "citation": found})]

    def _close(self, block: Json, closed: Closed) -> list[Json]:
        self._open = None
        events = []
        match block["type"]:
            case "thinking":
                block["signature"] = self._seal(closed.text)
                events.append(self._delta({"type": "signature_delta", "signature": block["signature"]}))
            case "tool_use":
                block["input"] = _object(closed.text)
            case "server_tool_use":
                block["input"] = _object(closed.text)
                self._searches.append((block, self._recipient, closed.text))
        return [*events, {"type": "content_block_stop", "index": len(self._content) - 1}]

    def _ran(self, part: Ran) -> list[Json]:
        block, recipient, written = self._searches.pop(0)
        content: Any = {"type": "web_search_tool_result_error", "error_code": "unavailable"}
        if not part.failed:
            title = str(block["input"].get("query") or block["input"].get("id") or "")
            sealed = self._seal(json.dumps([recipient, written, part.text]))
            content = [{"type": "web_search_result", "title": title, "url": "", "encrypted_content": sealed}]
            content[0]["page_age"] = None
        result = {"type": "web_search_tool_result", "tool_use_id": block["id"], "content": content}
        started = self._add(result)
        self._open = None
        return [*started, {"type": "content_block_stop", "index": len(self._content) - 1}]

    def _delta(self, delta: Json) -> Json:
        return {"type": "content_block_delta", "index": len(self._content) - 1, "delta": delta}

    def _head(self) -> Json:
        stop = {"stop_reason": None, "stop_sequence": None}
        return {"id": self._id, "type": "message", "role": "assistant", "model": self._model, **stop}

    def _stop(self, ended: Ended) -> Json:
        reason = STOPS.get(ended.reason, "max_tokens")
        if ended.stopped_by is not None:
            reason = "stop_sequence"
        return {"stop_reason": reason, "stop_sequence": ended.stopped_by}

    def _usage(self, usage: Usage) -> Json:
        counted: Json = {
            "input_tokens": usage.prompt_tokens - usage.cached_tokens,
            "cache_read_input_tokens": usage.cached_tokens,
            "cache_creation_input_tokens": 0,
            "output_tokens": usage.output_tokens,
        }
        return counted | ({"server_tool_use": {"web_search_requests": self._searched}} if self._searched else {})


def _object(text: str) -> Json:
    """The arguments of a call; empty where it was cut off."""
    try:
        found = json.loads(text or "{}", strict=False)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
