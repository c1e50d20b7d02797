"""What every route needs, made once."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

from gpt_oss.server.runner import Runner


@dataclass
class Service:
    """model: the name under which the one model of this server goes; any name in a request is answered by it.

    keys: what a client may show; none, and everybody may ask.
    """

    runner: Runner
    model: str
    keys: frozenset[str] = frozenset()
    started: int = field(default_factory=lambda: int(time.time()))

    def identity(self, prefix: str) -> dict[str, Any]:
        """id, created and model of an answer."""
        return {"id": f"{prefix}{uuid.uuid4().hex}", "created": int(time.time()), "model": self.model}


def service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service
