"""How an answer is sampled: the fields that the APIs share, and what they come to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import pydantic

from gpt_oss.errors import ParameterError
from gpt_oss.params import Grammar, SamplingParams
from gpt_oss.server.core import stops
from gpt_oss.server.core.errors import RequestError

GREEDY_BELOW = 1e-6  # a temperature that is nothing but greedy, and that could overflow what divides by it
MOST_BIAS = 100.0


def _no_limit(value: Any) -> Any:
    return None if value == -1 and not isinstance(value, bool) else value


# Of an answer's tokens; some clients write -1 for no limit.
TokenLimit = Annotated[Annotated[int, pydantic.Field(ge=1)] | None, pydantic.BeforeValidator(_no_limit)]
Bias = Annotated[float, pydantic.Field(ge=-MOST_BIAS, le=MOST_BIAS)]


class SamplingFields(pydantic.BaseModel):
    """The fields by which requests say how to sample, under OpenAI's names."""

    model_config = pydantic.ConfigDict(extra="ignore")

    temperature: float | None = pydantic.Field(default=None, ge=0, le=2)
    top_p: float | None = pydantic.Field(default=None, gt=0, le=1)
    top_k: int | None = pydantic.Field(default=None, ge=-1)
    min_p: float | None = pydantic.Field(default=None, ge=0, le=1)
    presence_penalty: float | None = pydantic.Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = pydantic.Field(default=None, ge=-2, le=2)
    logit_bias: dict[int, Bias] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None


def sampling_params(
    fields: SamplingFields,
    *,
    max_tokens: int | None,
    logprobs: int | None = None,
    grammar: Callable[[], Grammar] | None = None,
    stop_token_ids: tuple[int, ...] = (),
) -> SamplingParams:
    """What the engine is asked for. Raises RequestError, naming the field."""
    temperature = 1.0 if fields.temperature is None else fields.temperature
    try:
        return SamplingParams(
            temperature=0.0 if temperature < GREEDY_BELOW else temperature,
            top_p=1.0 if fields.top_p is None else fields.top_p,
            top_k=max(0, fields.top_k or 0),
            min_p=fields.min_p or 0.0,
            seed=fields.seed,
            max_tokens=max_tokens,
            stop_token_ids=stop_token_ids,
            logprobs=logprobs,
            logit_bias=fields.logit_bias or {},
            presence_penalty=fields.presence_penalty or 0.0,
            frequency_penalty=fields.frequency_penalty or 0.0,
            grammar=grammar,
        )
    except ParameterError as error:
        raise RequestError(str(error), param=error.field) from None


def stop_texts(fields: SamplingFields, name: str = "stop") -> tuple[str, ...]:
    """The stop texts of a request; empty ones mean nothing. name: the field's. Raises RequestError."""
    given = (fields.stop,) if isinstance(fields.stop, str) else tuple(fields.stop or ())
    if len(given) > stops.MOST or any(len(text) > stops.LONGEST for text in given):
        raise RequestError(f"{name}: at most {stops.MOST} texts of {stops.LONGEST} characters each", param=name)
    return tuple(text for text in given if text)
