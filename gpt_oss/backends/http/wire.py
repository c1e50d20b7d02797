"""What one kind of server is asked and how it answers: the part of a remote backend that differs from kind to kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from gpt_oss.backends.base import SampledToken
from gpt_oss.errors import ParameterError
from gpt_oss.params import SamplingParams

Json: TypeAlias = dict[str, Any]
Feature: TypeAlias = Literal["top_k", "min_p", "seed", "logprobs", "top_logprobs", "logit_bias", "penalties"]
EVERYTHING: frozenset[Feature] = frozenset(
    ("top_k", "min_p", "seed", "logprobs", "top_logprobs", "logit_bias", "penalties")
)


@dataclass(frozen=True)
class Heard:
    """What one event of an answer said.

    tokens: new ones, without a finish_reason. ended: the server is done. stop_token: what it stopped at, where it keeps
    that token back.
    """

    tokens: tuple[SampledToken, ...] = ()
    ended: Literal["stop", "length"] | None = None
    stop_token: int | None = None


NOTHING = Heard()


class Reader(Protocol):
    """Reads one answer, event by event."""

    def push(self, event: Json) -> Heard:
        """Raises KeyError, TypeError, ValueError or AttributeError for an event that is not of this wire."""
        ...

    def finish(self) -> Heard:
        """The stream is over in good order, and no event said so."""
        ...


class Wire(Protocol):
    """name: for people. model: as the server calls it. path: what is posted to. framing: server-sent events, or a line
    of JSON each. features: what of SamplingParams it honours beside temperature, top_p, max_tokens and stop tokens.
    marks_last: the event that brings an answer's last token also says that it is the last; elsewhere a token is held
    until the next event."""

    @property
    def name(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def framing(self) -> Literal["events", "lines"]: ...
    @property
    def features(self) -> frozenset[Feature]: ...
    @property
    def marks_last(self) -> bool: ...

    def body(self, prompt: Sequence[int], params: SamplingParams, limit: int) -> Json:
        """Of the request. limit: most tokens of the answer, at least 1."""
        ...

    def reader(self, prompt: Sequence[int], params: SamplingParams) -> Reader: ...


def check(name: str, features: frozenset[Feature], params: SamplingParams) -> None:
    """Raises ParameterError for what such a server would ignore: an answer that is not what was asked for is worse."""
    asked: dict[str, bool] = {
        "top_k": params.top_k > 0,
        "min_p": params.min_p > 0,
        "seed": params.seed is not None and params.temperature > 0,
        "logprobs": params.logprobs is not None,
        "top_logprobs": bool(params.logprobs),
        "logit_bias": bool(params.logit_bias),
        "penalties": bool(params.presence_penalty or params.frequency_penalty),
    }
    missing = next((feature for feature, wanted in asked.items() if wanted and feature not in features), None)
    if missing is not None:
        raise ParameterError(f"{name} takes no {missing}; leave it out or choose a backend that has it")
    if params.grammar is not None:
        raise ParameterError(
            f"{name} cannot hold an answer to a grammar: forced tools and JSON schemas need a backend of our own",
            hint="cpu, torch, triton and transformers have it.",
        )
