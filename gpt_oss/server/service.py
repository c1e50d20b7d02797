"""What every route needs, made once."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starlette.requests import Request

from gpt_oss.server.core.hosted import NOTHING_HOSTED, Hosted
from gpt_oss.server.keys import Keys
from gpt_oss.server.runner import Runner
from gpt_oss.server.state.memory import Memory, Seal
from gpt_oss.server.state.store import Store

if TYPE_CHECKING:
    from gpt_oss.server.apis.responses.live import LiveResponse


SIZES = ["20b", "120b"]
USUAL_NAMES = ("gpt-oss-{}", "gpt-oss:{}", "openai/gpt-oss-{}")


@dataclass
class Service:
    """What every route needs.

    model: the name under which the one model of this server goes; any name in a request is answered by it.
    keys: what a client may show; none, and everybody may ask.
    store: None, and nothing is kept.
    live: responses under way that can be asked for by id.
    listed: the names that /v1/models lists.
    """

    runner: Runner
    model: str
    keys: Keys = field(default_factory=Keys)
    store: Store | None = None
    seal: Seal = field(default_factory=Seal)
    memory: Memory = field(default_factory=Memory)
    hosted: Hosted = NOTHING_HOSTED
    live: dict[str, LiveResponse] = field(default_factory=dict)
    listed: list[str] = field(default_factory=list)
    started: int = field(default_factory=lambda: int(time.time()))

    @property
    def names(self) -> list[str]:
        """Every name that clients have for a model like this one, its own first."""
        sizes = [size for size in SIZES if size in self.model] or SIZES
        usual = [form.format(size) for size in sizes for form in USUAL_NAMES]
        return list(dict.fromkeys([self.model, *usual]))

    def identity(self, prefix: str) -> dict[str, Any]:
        """id, created and model of an answer."""
        return {"id": f"{prefix}{uuid.uuid4().hex}", "created": int(time.time()), "model": self.model}


def service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service
