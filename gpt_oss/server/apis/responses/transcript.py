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
from gpt_oss.server.core.aside import aside
from gpt_oss.server.core.body import Fields, Json
from gpt_oss.server.core.errors import RequestError
from gpt_oss.server.core.hosted import without_secrets
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
    added = await aside(lambda: with_ids(as_items(request.input)))
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
        await aside(lambda: _check_answers(items, added))
    return Transcript(await aside(lambda: with_reasoning(items, service)), added, conversation)


def _check_answers(items: Sequence[Json], added: Sequence[Json]) -> None:
    """What answers a call answers one that is there; clients that send all of a history may have shortened it, but
    here all of it is known. Raises RequestError."""
    known = [Fields(item, "input") for item in items]
    calls = {item.word("call_id") for item in known if item.kind in CALLS}
    for number, each in enumerate(added):
        item = Fields(each, f"input[{number}]")
        tool = client_tools.OUTPUTS.get(item.kind)
        if tool is None and item.kind not in ("function_call_output", "custom_tool_call_output"):
            continue
        ids = [item.word(name) for name in (tool.call_id_in if tool else ("call_id",))]
        if calls.isdisjoint(ids):
            raise RequestError(f"{item.where} answers no call that is known: {ids[0]!r}", param=item.where)


def with_reasoning(items: Sequence[Json], service: Service) -> list[Json]:
    """Reasoning items get their text back, and hosted calls what they gave, where it is still known."""
    return [_restored(Fields(item, "input"), service) for item in items]


def _restored(item: Fields, service: Service) -> Json:
    match item.kind:
        case "reasoning":
            text = (
                _text(item, "content")
                or service.seal.open(item.word("encrypted_content"))
                or service.memory.recall(item.word("id"))
                or _text(item, "summary")
            )
            return {**item.value, "content": [{"type": "reasoning_text", "text": text}], "summary": []}
        case "code_interpreter_call" | "web_search_call":
            return _ran_here(item, service)
        case "compaction":
            opened = service.seal.open(item.word("encrypted_content"))
            if opened is None:
                raise RequestError("a compaction item was sealed by another server", param="input")
            return {**item.value, "text": opened}
    return dict(item.value)


def _text(item: Fields, name: str) -> str:
    return "".join(part.word("text") for part in item.inners(name))


def _ran_here(item: Fields, service: Service) -> Json:
    """A call of a hosted tool with what it gave, which its item does not hold, where that is still known."""
    kept = service.memory.recall(item.word("id"))
    if kept is None:
        return dict(item.value)
    recipient, content, answer = json.loads(kept)
    return {"type": BUILT_IN, "recipient": recipient, "content": content, "answer": answer}


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
    references = [item for item in (Fields(each, "input") for each in items) if item.kind == "item_reference"]
    if not references:
        return items
    wanted = [item.word("id") for item in references]
    found = {} if service.store is None else await service.store.items_by_id(wanted)
    for name in wanted:
        text = service.memory.recall(name)
        if name not in found and text:
            found[name] = {"type": "reasoning", "id": name, "content": [{"type": "reasoning_text", "text": text}]}
    return [_referred(item, found) for item in items]


def _referred(item: Json, found: Mapping[str, Json]) -> Json:
    match item:
        case {"type": "item_reference", "id": str(name)} if name in found:
            return found[name]
    return item


def with_ids(items: Sequence[Json]) -> list[Json]:
    """Every item with a type and an id, as it may be kept."""
    return [_with_id(Fields(item, f"input[{number}]")) for number, item in enumerate(items)]


def _with_id(item: Fields) -> Json:
    kind = item.text("type") or "message"
    whole = {"type": kind, **item.value}
    if kind == "message" and isinstance(item["content"], str):  # as OpenAI's types of items have it
        part: Json = {"type": "input_text", "text": item["content"]}
        if item["role"] == "assistant":
            part = {"type": "output_text", "text": item["content"], "annotations": [], "logprobs": []}
        whole |= {"content": [part], "status": "completed"}
    if isinstance(item["tools"], list):
        whole["tools"] = [without_secrets(tool) if isinstance(tool, dict) else tool for tool in item["tools"]]
    if not item.word("id"):
        prefix = PREFIXES.get(kind, "item")
        whole["id"] = f"{prefix}_{uuid.uuid4().hex}"
    return whole


def _conversation_id(request: ResponsesRequest) -> str | None:
    match request.conversation:
        case None | str():
            return request.conversation or None
        case {"id": str(name)}:
            return name
    raise RequestError("conversation is an id, or an object with one", param="conversation")
