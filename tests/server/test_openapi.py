"""Whatever a stranger sends to any route, the server does not fail: schemathesis on our own OpenAPI document."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

from gpt_oss.backends.scripted import ScriptedGenerator
from gpt_oss.server.app import create_app
from gpt_oss.server.gate import ServerOptions
from gpt_oss.server.runner import Runner
from gpt_oss.server.service import Service
from gpt_oss.server.state.store import Store
from gpt_oss.vocabulary import encode_with_special
from tests.server.test_chat_completions import ANSWER

FEW = settings(
    max_examples=10, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


def test_no_request_makes_it_fail(tmp_path: Path) -> None:
    answer = encode_with_special(ANSWER)
    runner = Runner(ScriptedGenerator(lambda _: answer, context_tokens=8192))
    app = create_app(Service(runner, "tiny", store=Store(str(tmp_path / "server.db"))), ServerOptions(ollama=True))
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    statuses: set[int] = set()
    for found in schema.get_all_operations():
        operation = found.ok()

        @FEW
        @given(case=operation.as_strategy())
        def check(case: Any) -> None:
            response = case.call()
            statuses.add(response.status_code)
            assert response.status_code < 500, response.text
            if response.status_code >= 400:
                assert "error" in response.json()

        check()
    assert {200, 400, 404} <= statuses
