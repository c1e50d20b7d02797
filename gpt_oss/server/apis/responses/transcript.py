"""What was said before a request's own input: by the response that it follows, in its conversation, or in its items.

Also gives back the reasoning that clients lose between a call and its answer: by item, by call, or out of the seal.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gpt_oss.server.apis.responses import client_tools
from gpt_oss.server.apis.responses.items import BUILT_IN
from gpt_oss.server.apis.responses.read import ResponsesRequest, as_items
from gpt_oss.server.core.body import Json
from gpt_oss.server.core.errors import RequestError
from gpt_oss.server.service import Service
from gpt_oss.server.state.store import UNDER_WAY

CALLS = ("function_call", "custom_tool_call", *client_tools.CALLS)
NOTHING: Mapping[str, Sequence[Json]] = {}
PREFIXES = {
    "message": "msg", "reasoning": "rs", "function_call": "fc", "function_call_output": "fco",
    "custom_tool_call": "ctc", "custom_tool_call_output": "ctco", "compaction": "cmp",
}  # fmt: skip


@dataclass(frozen=True)
class Transcript:
    """Everything that was said.

    items: all of it, for the prompt.
    added: those that this request brings, with ids.
    conversation: the id of the one that it goes on.
    """

    items: list[Json]
    added: list[Json]
    conversation: str | None = None


async def transcript_of(
    request: ResponsesRequest, service: Service, nearby: Mapping[str, Sequence[Json]] = NOTHING
) -> Transcript:
    """nearby: all items that led to a response, and its own, where somebody else than the store remembers them. Raises
    RequestError for what is not kept here."""
    added = with_ids(as_items(request.input))
    earlier: list[Json] = []
    conversation = _conversation_id(request)
    if request.previous_response_id and conversation:
        raise RequestError("previous_response_id and conversation exclude each other", param="previous_response_id")
    if request.previous_response_id and request.previous_response_id in nearby:
        earlier = list(nearby[request.previous_response_id])
    elif request.previous_response_id:
        earlier = await _before(request.previous_response_id, service)
    if conversation:
        store = service.store
        if store is None or await store.conversation(conversation) is None:
            raise RequestError(f"there is no conversation {conversation!r}", param="conversation", status=404)
        earlier = await store.items(conversation)
    items = await _dereferenced([*earlier, *added], service)
    if earlier:
        _check_answers(items, added)
    return Transcript(with_reasoning(items, service), added, conversation)


def _check_answers(items: Sequence[Json], added: Sequence[Json]) -> None:
    """What answers a call answers one that is there; clients that send all of a history may have shortened it, but
    here all of it is known. Raises RequestError."""
    calls = {item.get("call_id") for item in items if item.get("type") in CALLS}
    for number, item in enumerate(added):
        kind = item["type"]
        tool = client_tools.OUTPUTS.get(kind)
        if tool is None and kind not in ("function_call_output", "custom_tool_call_output"):
            continue
        ids = [item.get(name) for name in (tool.call_id_in if tool else ("call_id",))]
        if calls.isdisjoint(ids):
            raise RequestError(f"input[{number}] answers no call that is known: {ids[0]!r}", param=f"input[{number}]")


def with_reasoning(items: Sequence[Json], service: Service) -> list[Json]:
    """Reasoning items get their text back, and hosted calls what they gave, where it is still known."""
    restored: list[Json] = []
    for item in items:
        kind = item.get("type", "message")
        if kind == "reasoning":
            text: str | None = (
                _text(item.get("content"))
                or _unsealed(item, service)
                or service.memory.recall(str(item.get("id")))
                or _text(item.get("summary"))
            )
            item = {**item, "content": [{"type": "reasoning_text", "text": text}], "summary": []}
        elif kind in ("code_interpreter_call", "web_search_call"):
            item = _ran_here(item, service)
        elif kind == "compaction":
            text = service.seal.open(str(item.get("encrypted_content") or ""))
            if text is None:
                raise RequestError("a compaction item was sealed by another server", param="input")
            item = {**item, "text": text}
        restored.append(item)
    return restored


def _text(parts: object) -> str:
    texts = (part.get("text") for part in parts if isinstance(part, dict)) if isinstance(parts, list) else ()
    return "".join(text for text in texts if isinstance(text, str))


def _ran_here(item: Json, service: Service) -> Json:
    """A call of a hosted tool with what it gave, which its item does not hold, where that is still known."""
    kept = service.memory.recall(str(item.get("id")))
    if kept is None:
        return item
    recipient, content, answer = json.loads(kept)
    return {"type": BUILT_IN, "recipient": recipient, "content": content, "answer": answer}


def _unsealed(item: Json, service: Service) -> str | None:
    sealed = item.get("encrypted_content")
    return service.seal.open(sealed) if isinstance(sealed, str) else None


async def _before(previous: str, service: Service) -> list[Json]:
    chain = None if service.store is None else await service.store.chain(previous)
    if chain is None:
        raise RequestError(
            f"there is no response {previous!r} with everything before it",
            param="previous_response_id",
            code="previous_response_not_found",
        )
    if chain[-1].body["status"] in UNDER_WAY:
        raise RequestError(f"response {previous!r} is not finished yet", param="previous_response_id", status=409)
    return [item for each in chain for item in (*each.input_items, *each.body["output"])]


async def _dereferenced(items: list[Json], service: Service) -> list[Json]:
    """item_reference items replaced by what they refer to; of the reasoning in memory, by its text."""
    wanted = [str(item.get("id")) for item in items if item.get("type") == "item_reference"]
    if not wanted:
        return items
    found = {} if service.store is None else await service.store.items_by_id(wanted)
    for name in wanted:
        text = service.memory.recall(name)
        if name not in found and text:
            found[name] = {"type": "reasoning", "id": name, "content": [{"type": "reasoning_text", "text": text}]}
    return [found.get(str(item.get("id")), item) if item.get("type") == "item_reference" else item for item in items]


def with_ids(items: Sequence[Json]) -> list[Json]:
    """Every item with a type and an id."""
    return [_with_id(item) for item in items]


def _with_id(item: Json) -> Json:
    kind = str(item.get("type", "message"))
    if kind == "message" and isinstance(item.get("content"), str):  # as OpenAI's types of items have it
        part: Json = {"type": "input_text", "text": item["content"]}
        if item.get("role") == "assistant":
            part = {"type": "output_text", "text": item["content"], "annotations": [], "logprobs": []}
        item = {**item, "content": [part], "status": "completed"}
    own = item.get("id")
    if isinstance(own, str) and own:
        return {"type": kind, **item}
    return {"type": kind, **item, "id": f"{PREFIXES.get(kind, 'item')}_{uuid.uuid4().hex}"}


def _conversation_id(request: ResponsesRequest) -> str | None:
    match request.conversation:
        case None | str():
            return request.conversation or None
        case {"id": str(name)}:
            return name
    raise RequestError("conversation is an id, or an object with one", param="conversation")
