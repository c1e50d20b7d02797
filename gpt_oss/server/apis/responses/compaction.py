"""A long history made short by the model itself, as `/v1/responses/compact` gives it."""

from __future__ import annotations

import uuid
from contextlib import aclosing
from dataclasses import replace

from gpt_oss.server.apis.responses.read import ResponsesRequest, read_request
from gpt_oss.server.apis.responses.transcript import Transcript
from gpt_oss.server.apis.responses.write import usage_of
from gpt_oss.server.core.answer import Answer, Closed, Opened, parts_of
from gpt_oss.server.core.aside import aside
from gpt_oss.server.core.body import Json
from gpt_oss.server.service import Service
from gpt_oss.turn import TurnLimits

ASK = (
    "Write down, for yourself, what you need to go on with this conversation after everything above is gone: what was "
    "asked, what was decided and done, what was found out (names, paths and figures exactly), and what is still to do."
)


async def compact(service: Service, request: ResponsesRequest, transcript: Transcript) -> tuple[list[Json], Json]:
    """(items to go on with, usage): the users' messages as they are, and one compaction item.

    Of a history that is too long for the context, the oldest turns are left out of the summary.
    """
    ask = {"type": "message", "role": "user", "content": ASK}
    bare = request.model_copy(update={"tools": [], "tool_choice": "auto", "text": None, "stream": False})
    read = await aside(lambda: read_request(bare, [*transcript.items, ask]))
    wanted = replace(read.ask, limits=TurnLimits())
    answer = Answer(wanted.tools)
    said: list[str] = []
    kind = ""
    async with aclosing(parts_of(service.asker, wanted, answer)) as parts:
        async for part in parts:
            match part:
                case Opened():
                    kind = part.kind
                case Closed(text) if kind == "text":
                    said.append(text)
    kept = [item for item in transcript.items if item.get("type") == "message" and item.get("role") == "user"]
    sealed = service.seal.close("\n".join(said))
    summary = {"type": "compaction", "id": f"cmp_{uuid.uuid4().hex}", "encrypted_content": sealed}
    return [*kept, summary], usage_of(answer.usage)
