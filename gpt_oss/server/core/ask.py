"""What a request comes to, whatever API it came in by: everything that a turn needs."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from gpt_oss.errors import HarmonyError
from gpt_oss.harmony.history import History
from gpt_oss.harmony.render import AnyMessage, Conversation, ResponseFormat, render_prompt
from gpt_oss.params import SamplingParams
from gpt_oss.server.core.errors import RequestError
from gpt_oss.server.core.sampling import SamplingFields, sampling_params
from gpt_oss.server.core.tools import AUTO, NO_TOOLS, Choice, ToolSet
from gpt_oss.turn import TurnLimits

# What clients say of effort, and the three of it that the models were trained with.
EFFORTS = {
    "none": "low", "minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high",
}  # fmt: skip


@dataclass(frozen=True)
class Ask:
    """A request, ready to be answered.

    history: the conversation, with the newest question at its end.
    tools: those of the client end the turn with their calls.
    params: of the first round.
    later: of the rounds after it, where they differ; see turn.py.
    response_formats: what the final answer must be.
    stop_texts: what ends the answer, not sent itself.
    warnings: what of the request is not held to.
    """

    history: tuple[AnyMessage, ...]
    tools: ToolSet = NO_TOOLS
    params: SamplingParams = field(default_factory=SamplingParams)
    later: tuple[SamplingParams, ...] = ()
    limits: TurnLimits = field(default_factory=TurnLimits)
    response_formats: tuple[ResponseFormat, ...] = ()
    stop_texts: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def prompt(self) -> list[int]:
        """The tokens of the first round's prompt."""
        return render_prompt(Conversation(list(self.history), self.response_formats))

    def numbered(self, number: int) -> Ask:
        """The ask of one of several answers: they differ also where the request has a seed."""
        if number == 0 or self.params.seed is None:
            return self
        return replace(self, params=replace(self.params, seed=self.params.seed + number))


def effort_of(given: object, field_name: str) -> str:
    """The effort that a client's word means; medium where it says nothing. Raises RequestError."""
    if given is None:
        return "medium"
    if not isinstance(given, str) or given not in EFFORTS:
        raise RequestError(f"{field_name} must be one of {', '.join(EFFORTS)}, not {given!r:.40}", param=field_name)
    return EFFORTS[given]


def ask_of(
    history: History,
    tools: ToolSet,
    fields: SamplingFields,
    *,
    choice: Choice = AUTO,
    formats: Sequence[ResponseFormat] = (),
    effort: str = "medium",
    max_tokens: int | None = None,
    logprobs: int | None = None,
    stop_texts: Sequence[str] = (),
    drop_oldest: bool = False,
    most_calls: int | None = None,
    today: str | None = None,
) -> Ask:
    """The ask that the parts of a request come to.

    drop_oldest: a history that is too long loses its oldest turns; without, it is refused.
    most_calls: of tools that run here.
    today: None is the day on which it is asked.
    Raises RequestError.
    """
    try:
        conversation = history.conversation(
            tools.declarations,
            reasoning_effort=effort,
            formats=formats,
            current_date=today or datetime.date.today().isoformat(),
            built_in=tools.namespaces,
        )
        warnings = tools.left_out(formats)
        params_of = partial(sampling_params, fields, max_tokens=max_tokens, logprobs=logprobs)
        first = params_of(grammar=tools.first_grammar(choice, formats))
        later: tuple[SamplingParams, ...] = ()
        if tools.built_in or any(spec.runs for spec in tools.specs):
            calling = params_of(grammar=tools.next_grammar(choice, formats))
            later = (calling,)
            if most_calls is not None:
                last = params_of(grammar=tools.last_grammar(choice, formats))
                later = (calling,) * (min(most_calls, TurnLimits().rounds) - 1) + (last,)
    except HarmonyError as error:
        raise RequestError(str(error), param=error.field) from None
    tools.toolbox  # noqa: B018  # made here, on the thread that reads, rather than by the turn on the event loop
    return Ask(
        tuple(conversation.messages),
        tools,
        first,
        later,
        TurnLimits(tokens=max_tokens, drop_oldest=drop_oldest),
        tuple(formats),
        tuple(stop_texts),
        warnings,
    )
