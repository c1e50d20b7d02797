"""gpt-oss on hardware of your own: inference, Harmony, tools and serving.

    from gpt_oss import Session, load_model

Names are imported when they are first used, so that `import gpt_oss` takes a millisecond.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpt_oss.errors import GptOssError
    from gpt_oss.load import LoadOptions
    from gpt_oss.load import load as load_model
    from gpt_oss.params import SamplingParams
    from gpt_oss.session import Answer, AsyncSession, Session
    from gpt_oss.tools.functions import FunctionTool, ToolError, function_tool
    from gpt_oss.tools.tool import Tool
    from gpt_oss.turn import Turn, TurnLimits

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "AsyncSession",
    "FunctionTool",
    "GptOssError",
    "LoadOptions",
    "SamplingParams",
    "Session",
    "Tool",
    "ToolError",
    "Turn",
    "TurnLimits",
    "function_tool",
    "load_model",
]

_HOMES = {
    "Answer": "gpt_oss.session",
    "AsyncSession": "gpt_oss.session",
    "FunctionTool": "gpt_oss.tools.functions",
    "GptOssError": "gpt_oss.errors",
    "LoadOptions": "gpt_oss.load",
    "SamplingParams": "gpt_oss.params",
    "Session": "gpt_oss.session",
    "Tool": "gpt_oss.tools.tool",
    "ToolError": "gpt_oss.tools.functions",
    "Turn": "gpt_oss.turn",
    "TurnLimits": "gpt_oss.turn",
    "function_tool": "gpt_oss.tools.functions",
    "load_model": "gpt_oss.load",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'gpt_oss' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), "load" if name == "load_model" else name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
