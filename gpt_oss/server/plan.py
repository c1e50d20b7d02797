"""What a request comes to, whatever API it came in by: everything that a turn needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gpt_oss.harmony.convert import Aliases
from gpt_oss.harmony.grammar import FunctionSchema, answer_grammar
from gpt_oss.harmony.render import AnyMessage, ResponseFormat
from gpt_oss.params import Grammar, SamplingParams
from gpt_oss.tools.toolbox import Toolbox
from gpt_oss.turn import TurnLimits

# What clients say of effort, and the three of it that the models were trained with.
EFFORTS = {
    "none": "low", "minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high",
}  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """Functions that the client declares have no body in the toolbox: the turn ends with their calls.

    later: params of the rounds behind the first, where they differ; see turn.py. aliases: functions' names in the
    prompt and back. stop_texts: what ends the final answer, not sent itself.
    """

    history: tuple[AnyMessage, ...]
    toolbox: Toolbox = field(default_factory=Toolbox)
    params: SamplingParams = field(default_factory=SamplingParams)
    later: tuple[SamplingParams, ...] = ()
    limits: TurnLimits = field(default_factory=TurnLimits)
    response_formats: tuple[ResponseFormat, ...] = ()
    aliases: Aliases = field(default_factory=Aliases)
    stop_texts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Choice:
    """of: as harmony.grammar has it. allowed: what may be called, where that is not everything that is declared."""

    of: str
    allowed: frozenset[str] | None = None


def grammar_of(
    functions: Sequence[FunctionSchema],
    *,
    strict: frozenset[str] = frozenset(),
    builtin: Sequence[str] = (),
    tool_choice: str = "auto",
    formats: Sequence[ResponseFormat] = (),
) -> Callable[[], Grammar] | None:
    """The grammar of a request; None where there is nothing to hold the model to. Names are those of the prompt.

    tool_choice: see harmony.grammar. Raises HarmonyError.
    """
    if not functions and not builtin and not formats:
        return None
    return answer_grammar(
        functions=functions,
        builtin=builtin,
        tool_choice=tool_choice,
        response_schema=formats[0].schema if formats else None,
        strict=strict,
    )
