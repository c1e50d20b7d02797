"""What every route needs, made once."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from starlette.requests import HTTPConnection

from gpt_oss.server.core.hosted import NOTHING_HOSTED, Hosted
from gpt_oss.server.keys import Keys
from gpt_oss.server.runner import Asker, Runner
from gpt_oss.server.state.memory import Memory, Seal
from gpt_oss.server.state.owed import Owed
from gpt_oss.server.state.store import Store

if TYPE_CHECKING:
    from gpt_oss.server.apis.responses.live import LiveResponse


SIZES = ["20b", "120b"]
NOBODY = "(no key)"  # whoever comes where a key is needed, and has shown none: pages that anyone may see
USUAL_NAMES = ("gpt-oss-{}", "gpt-oss:{}", "openai/gpt-oss-{}")


@dataclass
class Service:
    """What every route needs. With keys, a route has it as it is for the key that was shown: see `seen_by`.

    model: the name under which the one model of this server goes; any name in a request is answered by it.
    keys: what a client may show; none, and everybody may ask.
    store: None, and nothing is kept.
    live: responses under way that can be asked for, by whose they are and by id.
    listed: the names that /v1/models lists.
    share: everything is for every key.
    owed: what could not be written yet.
    whose: the name of the key that was shown; "" where that makes no difference.
    """

    runner: Runner
    model: str
    keys: Keys = field(default_factory=Keys)
    store: Store | None = None
    seal: Seal = field(default_factory=Seal)
    memory: Memory = field(default_factory=Memory)
    hosted: Hosted = NOTHING_HOSTED
    live: dict[tuple[str, str], LiveResponse] = field(default_factory=dict)
    listed: list[str] = field(default_factory=list)
    started: int = field(default_factory=lambda: int(time.time()))
    share: bool = False
    owed: Owed = field(default_factory=Owed)
    whose: str = ""

    def seen_by(self, owner: str | None) -> Service:
        """The service for the holder of a key, for whom what other keys have made does not exist unless all is shared.

        owner: the key's name; None where none is needed.
        """
        if not self.keys:
            return self
        name = owner or NOBODY
        whose = "" if self.share else name
        store = None if self.store is None else self.store.seen_by(name, sees_all=self.share)
        return replace(self, store=store, memory=self.memory.seen_by(whose), whose=whose)

    @property
    def asker(self) -> Asker:
        """What runs asks for whoever asks."""
        return self.runner.asker(self.whose)

    def add_live(self, identity: str, live: LiveResponse) -> None:
        self.live[self.whose, identity] = live

    def live_response(self, identity: str) -> LiveResponse | None:
        """A response under way, where it exists for whoever asks."""
        return self.live.get((self.whose, identity))

    def drop_live(self, identity: str) -> None:
        self.live.pop((self.whose, identity), None)

    @property
    def names(self) -> list[str]:
        """Every name that clients have for a model like this one, its own first."""
        sizes = [size for size in SIZES if size in self.model] or SIZES
        usual = [form.format(size) for size in sizes for form in USUAL_NAMES]
        return list(dict.fromkeys([self.model, *usual]))

    def identity(self, prefix: str) -> dict[str, Any]:
        """id, created and model of an answer."""
        return {"id": f"{prefix}{uuid.uuid4().hex}", "created": int(time.time()), "model": self.model}


def service_of(connection: HTTPConnection) -> Service:
    """The service for whoever asks; gate.py says who that is."""
    service: Service = connection.app.state.service
    return service.seen_by(getattr(connection.state, "owner", None))
