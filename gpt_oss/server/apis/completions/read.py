"""A body of /v1/completions as what is wanted. Pure, but for the time that encoding takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pydantic

from gpt_oss.params import SamplingParams
from gpt_oss.server.core.errors import RequestError
from gpt_oss.server.core.sampling import SamplingFields, sampling_params, stop_texts
from gpt_oss.server.core.tokenising import check_tokens
from gpt_oss.server.openapi import read_as
from gpt_oss.vocabulary import ENDOFTEXT, RETURN, encode_with_special

MOST_CHOICES = 128
MOST_LOGPROBS = 20
NO_LIMIT = -1  # as max_tokens


class CompletionRequest(SamplingFields):
    """OpenAI's fields, and vLLM's for token ids and for the prompt's log probabilities."""

    model: str = ""
    prompt: str | list[int] | list[str] | list[list[int]] = "<|endoftext|>"
    max_tokens: int = pydantic.Field(16, ge=NO_LIMIT)
    n: int = pydantic.Field(1, ge=1, le=16)
    best_of: int | None = None
    suffix: str | None = None
    stream: bool = False
    stream_options: dict[str, Any] = pydantic.Field(default_factory=dict)
    logprobs: int | None = pydantic.Field(None, ge=0, le=MOST_LOGPROBS)
    prompt_logprobs: int | None = pydantic.Field(None, ge=0, le=MOST_LOGPROBS)
    echo: bool = False
    stop_token_ids: list[int] = pydantic.Field(default_factory=list)
    ignore_eos: bool = False
    return_token_ids: bool = False
    return_tokens_as_token_ids: bool = False


@dataclass(frozen=True)
class Wanted:
    """What a request asks for.

    prompts: token ids of each.
    n: continuations of each prompt.
    params: of the continuations; None where none is wanted, only the prompts' scores.
    stops: texts that end a continuation.
    echo: whether the prompt's text, and its log probabilities where there are any, come before the continuation.
    logprobs: how many likely tokens are listed next to each token; None without log probabilities.
    prompt_logprobs: the same of vLLM's list for the prompt alone.
    stream: whether the texts come in pieces; with_usage: and the counts after them.
    with_ids: whether token ids come back; as_ids: whether listed tokens are called by their ids.
    """

    prompts: tuple[list[int], ...]
    n: int
    params: SamplingParams | None
    stops: tuple[str, ...]
    echo: bool
    logprobs: int | None
    prompt_logprobs: int | None
    stream: bool
    with_usage: bool
    with_ids: bool
    as_ids: bool

    @property
    def scored(self) -> int | None:
        """How many likely tokens the scores of the prompts need; None where prompts are not scored."""
        echoed = self.logprobs if self.echo else None
        return max((n for n in (echoed, self.prompt_logprobs) if n is not None), default=None)


def read(body: Any) -> Wanted:
    """Raises RequestError, which names the field."""
    given = read_as(CompletionRequest, body)
    if given.suffix:
        raise RequestError("gpt-oss writes on, it does not fill in", param="suffix")
    if given.best_of not in (None, given.n):
        raise RequestError("best_of is not supported", param="best_of")
    wanted = Wanted(
        prompts=_prompts(given),
        n=given.n,
        params=_params(given) if given.max_tokens else None,
        stops=stop_texts(given),
        echo=given.echo,
        logprobs=given.logprobs,
        prompt_logprobs=given.prompt_logprobs,
        stream=given.stream,
        with_usage=bool(given.stream_options.get("include_usage")),
        with_ids=given.return_token_ids,
        as_ids=given.return_tokens_as_token_ids,
    )
    if len(wanted.prompts) * wanted.n > MOST_CHOICES:
        raise RequestError(f"at most {MOST_CHOICES} texts are made at a time", param="prompt")
    return wanted


def _prompts(given: CompletionRequest) -> tuple[list[int], ...]:
    """Token ids of every prompt. Special tokens may be written out in text."""
    parts: list[Any] = [given.prompt] if isinstance(given.prompt, str) else list(given.prompt)
    if parts and all(isinstance(part, int) for part in parts):
        parts = [parts]
    prompts = tuple(encode_with_special(part) if isinstance(part, str) else list(part) for part in parts)
    if not prompts or not all(prompts):
        raise RequestError("a prompt has at least one token", param="prompt")
    check_tokens((token for prompt in prompts for token in prompt), "prompt")
    return prompts


def _params(given: CompletionRequest) -> SamplingParams:
    usual = () if given.ignore_eos else (ENDOFTEXT, RETURN)
    return sampling_params(
        given,
        max_tokens=None if given.max_tokens == NO_LIMIT else given.max_tokens,
        logprobs=given.logprobs,
        stop_token_ids=(*usual, *given.stop_token_ids),
    )
