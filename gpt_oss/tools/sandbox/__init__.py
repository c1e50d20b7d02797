"""Where the python tool runs what a model wrote: bubblewrap, a container, macOS's seatbelt, or expressly nothing."""

from gpt_oss.tools.sandbox.base import Limits, Result, Sandbox, SandboxError, Session
from gpt_oss.tools.sandbox.choose import CHOICES, open_sandbox

__all__ = ["CHOICES", "Limits", "Result", "Sandbox", "SandboxError", "Session", "open_sandbox"]
