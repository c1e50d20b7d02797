"""No sandbox at all: the model's code runs as you do. Only by its full name, `dangerously-unsandboxed`.

Covered: time, the size of the output, memory. Not covered: everything else. Files, keys and the network of this machine
are the model's.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gpt_oss.tools.sandbox.base import Limits, Result
from gpt_oss.tools.sandbox.leftovers import scratch_folder
from gpt_oss.tools.sandbox.process import Launch, ProcessSession, run_once


class Unsandboxed:
    name = "dangerously-unsandboxed"
    about = "no sandbox: the code may do what you may do"

    async def run(self, code: str, limits: Limits) -> Result:
        return await run_once(self, code, limits)

    def session(self, limits: Limits) -> ProcessSession:
        return ProcessSession(self, limits)

    async def close(self) -> None:
        return None

    @asynccontextmanager
    async def launch(self, limits: Limits, *, keep: bool) -> AsyncIterator[Launch]:
        async with scratch_folder() as folder:
            env = {key: value for key, value in os.environ.items() if key in ("PATH", "HOME", "LANG", "VIRTUAL_ENV")}
            yield Launch([sys.executable], {**env, "TMPDIR": folder}, cwd=folder, watch_memory=True)
