"""A long history made short by the model itself, as `/v1/responses/compact` gives it."""

from __future__ import annotations

import uuid
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from gpt_oss.server.responses.history import History
from gpt_oss.server.responses.inbound import ResponsesRequest, inbound
from gpt_oss.server.responses.outbound import ResponseFold, usage_of
from gpt_oss.server.service import Service
from gpt_oss.turn import TurnLimits

Json = dict[str, Any]
ASK = (
    "Write down, for yourself, what you need to go on with this conversation after everything above is gone: what was "
    "asked, what was decided and done, what was found out (names, paths and figures exactly), and what is still to do."
)


async def compact(service: Service, request: ResponsesRequest, history: History) -> tuple[list[Json], Json]:
    """(items to go on with, usage): the users' messages as they are, and one compaction item.

    Of a history that is too long for the context, the oldest turns are left out of the summary.
    """
    ask = {"type": "message", "role": "user", "content": ASK}
    bare = request.model_copy(update={"tools": [], "tool_choice": "auto", "text": None, "stream": False})
    wanted = inbound(bare, [*history.items, ask])
    wanted = replace(wanted, plan=replace(wanted.plan, limits=TurnLimits()))
    fold = ResponseFold(wanted, service.model)
    async with aclosing(service.runner.events(wanted.plan)) as events:
        async for event in events:
            fold.push(event)
    said = [part["text"] for item in fold.output if item["type"] == "message" for part in item["content"]]
    kept = [item for item in history.items if item.get("type") == "message" and item.get("role") == "user"]
    sealed = service.seal.close("\n".join(said))
    summary = {"type": "compaction", "id": f"cmp_{uuid.uuid4().hex}", "encrypted_content": sealed}
    assert fold.usage is not None
    return [*kept, summary], dict(usage_of(fold.usage))
