"""What a request comes to, whatever API it came in by: everything that a turn needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpt_oss.harmony.convert import Aliases
from gpt_oss.harmony.grammar import FunctionSchema, answer_grammar
from gpt_oss.harmony.render import AnyMessage, ResponseFormat
from gpt_oss.params import Grammar, SamplingParams
from gpt_oss.tools.toolbox import Toolbox
from gpt_oss.turn import TurnLimits


@dataclass(frozen=True)
class Plan:
    """Functions that the client declares have no body in the toolbox: the turn ends with their calls.

    aliases: their names in the prompt and back. stop_texts: what ends the final answer, not sent itself.
    """

    history: tuple[AnyMessage, ...]
    toolbox: Toolbox = field(default_factory=Toolbox)
    params: SamplingParams = field(default_factory=SamplingParams)
    limits: TurnLimits = field(default_factory=TurnLimits)
    response_formats: tuple[ResponseFormat, ...] = ()
    aliases: Aliases = field(default_factory=Aliases)
    stop_texts: tuple[str, ...] = ()


def grammar_of(
    functions: Sequence[Mapping[str, Any]],
    aliases: Aliases,
    *,
    builtin: Sequence[str] = (),
    tool_choice: str = "auto",
    formats: Sequence[ResponseFormat] = (),
) -> Callable[[], Grammar] | None:
    """The grammar of a request; None where there is nothing to hold the model to.

    functions: {name, parameters, strict} each, under the client's names. tool_choice: see harmony.grammar.
    """
    if not functions and not builtin and not formats:
        return None
    schemas = [FunctionSchema(aliases.in_prompt(f["name"]), f.get("parameters") or None) for f in functions]
    return answer_grammar(
        functions=schemas,
        builtin=builtin,
        tool_choice=aliases.in_prompt(tool_choice),
        response_schema=formats[0].schema if formats else None,
        strict=frozenset(aliases.in_prompt(f["name"]) for f in functions if f.get("strict")),
    )
