"""POST /v1/messages, Anthropic's API: a request as one of Chat Completions, and its deltas as content blocks."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import pydantic
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from gpt_oss.errors import GptOssError
from gpt_oss.harmony.render import Conversation, render_prompt
from gpt_oss.server.chat_completions.inbound import inbound, parse_request
from gpt_oss.server.chat_completions.outbound import ChoiceFold
from gpt_oss.server.chat_completions.routes import deltas, with_reasoning
from gpt_oss.server.errors import RequestError, as_response
from gpt_oss.server.openapi import body_of, read_as
from gpt_oss.server.plan import Plan
from gpt_oss.server.service import service_of
from gpt_oss.server.sse import EventStream, begun, event, unless_gone

Json = dict[str, Any]
MUCH_THOUGHT = 16_000  # tokens of a thinking budget from which on effort is high, and
LITTLE_THOUGHT = 2_000  # below which it is low
KINDS = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error", 413: "request_too_large"}
router = APIRouter()


class MessagesRequest(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="ignore")

    model: str = ""
    messages: list[dict[str, Any]] = pydantic.Field(min_length=1)
    max_tokens: int | None = pydantic.Field(None, ge=1)
    system: str | list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: dict[str, Any] | None = None
    stop_sequences: list[str] | None = None
    stream: bool | None = False
    temperature: float | None = pydantic.Field(None, ge=0, le=1)
    top_p: float | None = pydantic.Field(None, gt=0, le=1)
    top_k: int | None = pydantic.Field(None, ge=0)
    thinking: dict[str, Any] | None = None
    output_config: dict[str, Any] | None = None


@router.post("/v1/messages", openapi_extra=body_of(MessagesRequest))
async def create(request: Request) -> Response:
    service = service_of(request)
    try:
        wanted = read_as(MessagesRequest, await request.json())
        plan = inbound(with_reasoning(service, parse_request(chat_of(wanted)))).plans[0]
        fold = ChoiceFold(plan.aliases, plan.stop_texts)
        blocks = BlockFold(service.model)
        parts = deltas(service, plan, fold)
        if not wanted.stream:
            await unless_gone(request, _all(parts, blocks))
            return JSONResponse(blocks.message(fold))
        stream = await begun(request, _stream(parts, blocks, fold), lambda error: _sent(_error(error)[1]))
        return EventStream(stream, keep_alive=lambda: _sent({"type": "ping"}))
    except (GptOssError, json.JSONDecodeError) as error:
        return _failed(error)


@router.post("/v1/messages/count_tokens", openapi_extra=body_of(MessagesRequest))
async def count_tokens(request: Request) -> Response:
    try:
        plan = _plan(await request.json())
    except (GptOssError, json.JSONDecodeError) as error:
        return _failed(error)
    tokens = render_prompt(Conversation(list(plan.history), plan.response_formats))
    return JSONResponse({"input_tokens": len(tokens)})


def _plan(body: Any) -> Plan:
    return inbound(parse_request(chat_of(read_as(MessagesRequest, body)))).plans[0]


async def _all(parts: AsyncGenerator[Json, None], blocks: BlockFold) -> None:
    async with aclosing(parts):
        async for delta in parts:
            blocks.push(delta)
    blocks.close()


async def _stream(
    parts: AsyncGenerator[Json, None], blocks: BlockFold, fold: ChoiceFold
) -> AsyncGenerator[bytes, None]:
    async with aclosing(parts):
        await anext(parts)  # empty; it tells that the answer can be computed
        yield _sent(blocks.start())
        async for delta in parts:
            for each in blocks.push(delta):
                yield _sent(each)
        for each in [*blocks.close(), *blocks.end(fold)]:
            yield _sent(each)


def _sent(data: Json) -> bytes:
    return event(data, str(data["type"]))


def _failed(error: Exception) -> Response:
    wrong = error if isinstance(error, GptOssError) else RequestError(f"the body is not valid JSON: {error}")
    status, body, headers = _error(wrong)
    return JSONResponse(body, status, headers)


def _error(error: Exception) -> tuple[int, Json, dict[str, str]]:
    status, body, headers = as_response(error)
    kind = KINDS.get(status) or ("rate_limit_error" if status == 429 else "api_error")
    return status, {"type": "error", "error": {"type": kind, "message": body["error"]["message"]}}, headers


# ---- the request ----------------------------------------------------------------------------------------------------


def chat_of(wanted: MessagesRequest) -> Json:
    """The same as a request of Chat Completions. Raises RequestError."""
    messages: list[Json] = []
    system = wanted.system if isinstance(wanted.system, str) else _texts(wanted.system or [], "system")
    if system:
        messages.append({"role": "system", "content": system})
    for number, message in enumerate(wanted.messages):
        messages += _messages(message, f"messages[{number}]")
    tools = [_tool(tool, number) for number, tool in enumerate(wanted.tools or []) if "input_schema" in tool]
    choice: Any = None
    match wanted.tool_choice:
        case {"type": "tool", "name": str(name)}:
            choice = {"type": "function", "function": {"name": name}}
        case {"type": ("auto" | "none") as kind}:
            choice = kind
        case {"type": "any"}:
            choice = "required"
        case None:
            pass
        case _:
            raise RequestError("tool_choice.type is auto, any, tool or none", param="tool_choice")
    return {
        "messages": messages,
        "tools": tools or None,
        "tool_choice": choice,
        "max_tokens": wanted.max_tokens,
        "stop": wanted.stop_sequences,
        "temperature": wanted.temperature,
        "top_p": wanted.top_p,
        "top_k": wanted.top_k,
        "reasoning_effort": _effort(wanted),
    }


def _effort(wanted: MessagesRequest) -> str:
    effort = (wanted.output_config or {}).get("effort")
    if effort in ("low", "medium", "high", "xhigh", "max"):
        return "high" if effort in ("xhigh", "max") else str(effort)
    match wanted.thinking:
        case {"type": "disabled"}:
            return "low"
        case {"type": "enabled", "budget_tokens": int(budget)}:
            return "high" if budget >= MUCH_THOUGHT else "low" if budget < LITTLE_THOUGHT else "medium"
    return "medium"


def _tool(tool: Json, number: int) -> Json:
    if not isinstance(tool.get("name"), str):
        raise RequestError(f"tools[{number}].name is missing", param=f"tools[{number}].name")
    function = {"name": tool["name"], "description": tool.get("description") or "", "parameters": tool["input_schema"]}
    return {"type": "function", "function": function | ({"strict": True} if tool.get("strict") else {})}


def _messages(message: Json, where: str) -> list[Json]:
    """One message as those of Chat Completions: answers of tools stand alone there."""
    role, content = message.get("role"), message.get("content")
    if role not in ("user", "assistant", "system"):
        raise RequestError(f"{where}.role must be user or assistant, not {role!r}", param=f"{where}.role")
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    if not isinstance(content, list):
        raise RequestError(f"{where}.content must be a string or a list", param=f"{where}.content")
    said: list[str] = []
    thoughts: list[str] = []
    calls: list[Json] = []
    answers: list[Json] = []
    for number, block in enumerate(content):
        here = f"{where}.content[{number}]"
        match block:
            case {"type": "text", "text": str(text)}:
                said.append(text)
            case {"type": "thinking", "thinking": str(text)}:
                thoughts.append(text)
            case {"type": "redacted_thinking"}:
                pass
            case {"type": "tool_use", "id": str(identity), "name": str(name)}:
                arguments = json.dumps(block.get("input") or {}, ensure_ascii=False)
                calls.append({"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}})
            case {"type": "tool_result", "tool_use_id": str(identity)}:
                inner = block.get("content")
                text = inner if isinstance(inner, str) else _texts(inner or [], here)
                answers.append({"role": "tool", "tool_call_id": identity, "content": text})
            case {"type": "image" | "document"}:
                raise RequestError(f"{here}: gpt-oss reads text only", param=here)
            case _:
                raise RequestError(f"{here} is no block that can be read here", param=here)
    if role != "assistant":
        return [*answers, *([{"role": role, "content": "\n".join(said)}] if said else [])]
    own: Json = {"role": role, "content": "\n".join(said) or None}
    own |= {"reasoning": "".join(thoughts)} if thoughts else {}
    return [own | ({"tool_calls": calls} if calls else {})]


def _texts(blocks: list[Any], where: str) -> str:
    texts = []
    for block in blocks:
        if not isinstance(block, dict) or not isinstance(block.get("text"), str):
            raise RequestError(f"{where}: only text can be read", param=where)
        texts.append(block["text"])
    return "\n".join(texts)


# ---- the answer -----------------------------------------------------------------------------------------------------


@dataclass
class BlockFold:
    """Deltas of Chat Completions as content blocks. Every method gives the events to send, in order."""

    model: str
    id: str = field(default_factory=lambda: f"msg_{uuid.uuid4().hex}")
    content: list[Json] = field(default_factory=list)
    _open: str | None = None
    _arguments: str = ""

    def start(self) -> Json:
        usage = {"input_tokens": 0, "output_tokens": 0}
        return {"type": "message_start", "message": {**self._head(), "content": [], "usage": usage}}

    def push(self, delta: Mapping[str, Any]) -> list[Json]:
        if "reasoning" in delta:
            return self._text("thinking", delta["reasoning"])
        if delta.get("content"):
            return self._text("text", delta["content"])
        events: list[Json] = []
        for call in delta.get("tool_calls", ()):
            if "id" in call:
                events += self.close()
                name = call["function"]["name"]
                events.append(self._begin({"type": "tool_use", "id": call["id"], "name": name, "input": {}}))
            if call["function"]["arguments"]:
                self._arguments += call["function"]["arguments"]
                events.append(self._delta({"type": "input_json_delta", "partial_json": call["function"]["arguments"]}))
        return events

    def _text(self, kind: str, text: str) -> list[Json]:
        events = []
        if self._open != kind:
            empty = {"type": "thinking", "thinking": "", "signature": ""}
            events = [*self.close(), self._begin(empty if kind == "thinking" else {"type": "text", "text": ""})]
        self.content[-1][kind] += text
        return [*events, self._delta({"type": f"{kind}_delta", kind: text})]

    def _begin(self, block: Json) -> Json:
        self._open, self._arguments = block["type"], ""
        self.content.append(block)
        return {"type": "content_block_start", "index": len(self.content) - 1, "content_block": dict(block)}

    def _delta(self, delta: Json) -> Json:
        return {"type": "content_block_delta", "index": len(self.content) - 1, "delta": delta}

    def close(self) -> list[Json]:
        """The end of the block under way."""
        if self._open is None:
            return []
        if self._open == "tool_use":
            try:
                self.content[-1]["input"] = json.loads(self._arguments or "{}")
            except ValueError:  # cut off by max_tokens
                self.content[-1]["input"] = {}
        self._open = None
        return [{"type": "content_block_stop", "index": len(self.content) - 1}]

    def end(self, fold: ChoiceFold) -> list[Json]:
        usage = _usage(fold)
        stop = {"stop_reason": _stop_reason(fold), "stop_sequence": fold.stopped_by}
        return [{"type": "message_delta", "delta": stop, "usage": usage}, {"type": "message_stop"}]

    def message(self, fold: ChoiceFold) -> Json:
        stop = {"stop_reason": _stop_reason(fold), "stop_sequence": fold.stopped_by}
        return {**self._head(), **stop, "content": self.content, "usage": _usage(fold)}

    def _head(self) -> Json:
        stop = {"stop_reason": None, "stop_sequence": None}
        return {"id": self.id, "type": "message", "role": "assistant", "model": self.model, **stop}


def _stop_reason(fold: ChoiceFold) -> str:
    if fold.stopped_by is not None:
        return "stop_sequence"
    return {"tool_calls": "tool_use", "length": "max_tokens"}.get(fold.finish_reason or "", "end_turn")


def _usage(fold: ChoiceFold) -> Json:
    usage = fold.usage
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_read_input_tokens": usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "output_tokens": usage.output_tokens,
    }
