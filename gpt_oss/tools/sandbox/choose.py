"""Which sandbox: the system's own where it works, a container engine, or, by its full name, none. Fails closed."""

from __future__ import annotations

import asyncio
import sys
from functools import cache

from gpt_oss.errors import ParameterError
from gpt_oss.tools.sandbox.base import Sandbox, SandboxError

CHOICES = ("auto", "bwrap", "docker", "podman", "seatbelt", "dangerously-unsandboxed")
DEFAULT_IMAGE = "python:3.11"


async def open_sandbox(name: str = "auto", *, image: str = DEFAULT_IMAGE) -> Sandbox:
    """A sandbox that was seen to hold. auto: bubblewrap on Linux, seatbelt on macOS, else a container; never none.

    What processes that were killed have left is swept first. Raises SandboxError with what to install, ParameterError
    for a name that does not exist.
    """
    await asyncio.to_thread(_sweep_once)
    if name == "auto":
        return await _first(("seatbelt",) if sys.platform == "darwin" else ("bwrap",), image)
    match name:
        case "bwrap":
            from gpt_oss.tools.sandbox.bubblewrap import open_bubblewrap

            return await open_bubblewrap()
        case "seatbelt":
            from gpt_oss.tools.sandbox.seatbelt import open_seatbelt

            return await open_seatbelt()
        case "docker" | "podman":
            from gpt_oss.tools.sandbox.container import open_container

            return await open_container(name, image)
        case "dangerously-unsandboxed":
            from gpt_oss.tools.sandbox.unsandboxed import Unsandboxed

            return Unsandboxed()
        case _:
            raise ParameterError(f"there is no sandbox {name!r}; choose one of {', '.join(CHOICES)}")


@cache
def _sweep_once() -> None:
    from gpt_oss.tools.sandbox import cgroup, leftovers

    leftovers.sweep(cgroup.homes() if sys.platform == "linux" else ())


async def _first(own: tuple[str, ...], image: str) -> Sandbox:
    problems: list[str] = []
    hint: str | None = None
    for name in (*own, "docker", "podman"):
        try:
            return await open_sandbox(name, image=image)
        except SandboxError as error:
            problems.append(f"{name}: {error}")
            hint = hint or error.hint
    raise SandboxError(f"no sandbox works here, so no code is run ({'; '.join(problems)})", hint=hint)
