"""The sandbox that this machine has, or a reason for skipping."""

from __future__ import annotations

import asyncio

import pytest

from gpt_oss.tools.sandbox import Sandbox, SandboxError, open_sandbox


@pytest.fixture(scope="session")
def sandbox() -> Sandbox:
    try:
        return asyncio.run(open_sandbox("bwrap"))
    except SandboxError as error:
        pytest.skip(f"no bubblewrap here: {error}")
