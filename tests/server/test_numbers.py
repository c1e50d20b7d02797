"""Numbers of events: one after the other, whatever is published while the last ones are written down."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from gpt_oss.backends.scripted import ScriptedGenerator
from gpt_oss.server.apis.responses.live import LiveResponse
from gpt_oss.server.apis.responses.read import ResponsesRequest, read_request
from gpt_oss.server.apis.responses.write import ResponseWriter
from gpt_oss.server.runner import Runner
from gpt_oss.vocabulary import encode_with_special
from tests.server.test_chat_completions import ANSWER


async def test_a_keep_alive_while_the_end_is_written_down_takes_no_number(tmp_path: Path) -> None:
    writing, go_on = asyncio.Event(), asyncio.Event()
    kept: list[Any] = []

    async def at_start() -> None:
        pass

    async def at_end(events: list[Any]) -> None:
        writing.set()
        await go_on.wait()
        kept.extend(events)

    runner = Runner(ScriptedGenerator([encode_with_special(ANSWER)]))
    writer = ResponseWriter(read_request(ResponsesRequest(input="Hi")), "tiny")
    live = LiveResponse(writer, runner, at_start, at_end)
    await writing.wait()
    assert not live.keep_alive()
    go_on.set()
    await live.task
    events = [event async for event in live.after(-1)]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events == kept
    assert events[-1]["type"] == "response.completed"
