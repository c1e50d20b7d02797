"""A minute's worth of the fuzzer, always the same requests; `make fuzz` goes on with others."""

from __future__ import annotations

from pathlib import Path

from tests.fuzz.__main__ import run
from tests.fuzz.harness import wrong
from tests.fuzz.mutate import Sent

REQUESTS = 4_000


async def test_no_request_makes_the_server_fail(tmp_path: Path) -> None:
    found = await run(tmp_path, seed=20, seconds=90, most=REQUESTS)
    told = [f"{count} x {kind}\n{sent}" for kind, (sent, count) in found.faults.items()]
    assert not told, "\n\n".join(told)
    assert found.requests > 200


def test_the_fuzzer_knows_a_fault() -> None:
    """An answer of each kind that it is there to find."""
    asked = Sent("POST", "/v1/chat/completions", (), b"")
    json_type = {"content-type": "application/json"}
    for path, status, headers, body in (
        (asked.path, 500, json_type, b"{}"),
        (asked.path, 400, json_type, b'{"error": "no"}'),
        ("/v1/messages", 400, json_type, b'{"error": {"message": "m", "type": "t", "param": null, "code": null}}'),
        ("/api/chat", 400, json_type, b'{"error": {"message": "m"}}'),
        (asked.path, 200, json_type, b'{"a": NaN}'),
        (asked.path, 200, json_type, b"{"),
        (asked.path, 200, {"content-type": "text/event-stream"}, b"data: {\n\n"),
        (asked.path, 200, {"content-type": "text/event-stream"}, b'data: {"error": "the server has failed"}\n\n'),
        (asked.path, 200, {"content-type": "application/x-ndjson"}, b'{"response": ""}\n'),
        (asked.path, 200, json_type | {"warning": "a\nb"}, b"{}"),
    ):
        assert wrong(Sent("POST", path, (), b""), status, headers, body) is not None
    assert wrong(asked, 200, json_type, b"{}") is None
