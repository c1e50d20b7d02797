"""A package `vllm` with the public names that in_process.py uses, as vLLM 0.33.0 declares them, on an engine of ours.

Written from the signatures of the published wheel; test_signatures.py holds it against the real package where that is
installed. It is as strict as the real one: an argument that is not declared is an error.
"""

from __future__ import annotations

import asyncio
import enum
import sys
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, TypedDict

from gpt_oss.backends.base import TokenGenerator
from gpt_oss.params import SamplingParams as Ours


class TokensPrompt(TypedDict):
    prompt_token_ids: list[int]


@dataclass
class AsyncEngineArgs:
    model: str
    dtype: str = "auto"
    tensor_parallel_size: int = 1
    max_model_len: int | None = None
    skip_tokenizer_init: bool = False
    enable_prefix_caching: bool | None = None
    disable_log_stats: bool = False


class RequestOutputKind(enum.Enum):
    CUMULATIVE = 0
    DELTA = 1
    FINAL_ONLY = 2


@dataclass
class SamplingParams:
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    logprobs: int | None = None
    logit_bias: dict[int, float] | None = None
    detokenize: bool = True
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: Sequence[int]
    cumulative_logprob: float | None
    logprobs: list[dict[int, Logprob]] | None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass
class RequestOutput:
    request_id: str
    outputs: list[CompletionOutput]
    finished: bool
    num_cached_tokens: int | None = None


@dataclass
class AsyncLLM:
    """batch: tokens that one output has, as with --stream-interval. aborted: requests that were left early."""

    args: AsyncEngineArgs
    engine: TokenGenerator
    batch: int = 1
    aborted: list[str] = field(default_factory=list)
    asked: list[SamplingParams] = field(default_factory=list)
    is_shut_down: bool = False
    ends_with: str | None = None

    @classmethod
    def from_engine_args(cls, engine_args: AsyncEngineArgs) -> AsyncLLM:
        asyncio.get_running_loop()  # the real one starts tasks on it
        raise AssertionError("the fixture gives the engine")

    async def generate(
        self, prompt: TokensPrompt, sampling_params: SamplingParams, request_id: str, *, priority: int = 0
    ) -> AsyncGenerator[RequestOutput, None]:
        assert sampling_params.output_kind is RequestOutputKind.DELTA
        assert not sampling_params.detokenize, "there is no tokenizer"
        self.asked.append(sampling_params)
        ours = Ours(
            temperature=sampling_params.temperature,
            top_p=sampling_params.top_p,
            top_k=sampling_params.top_k,
            min_p=sampling_params.min_p,
            seed=sampling_params.seed,
            max_tokens=sampling_params.max_tokens,
            stop_token_ids=tuple(sampling_params.stop_token_ids or ()),
            logprobs=sampling_params.logprobs,
            logit_bias=sampling_params.logit_bias or {},
            presence_penalty=sampling_params.presence_penalty,
            frequency_penalty=sampling_params.frequency_penalty,
        )
        held = []
        cached = 0
        try:
            async with aclosing(self.engine.generate(prompt["prompt_token_ids"], ours)) as tokens:  # type: ignore[type-var]
                async for token in tokens:
                    await asyncio.sleep(0)
                    held.append(token)
                    cached += token.cached_tokens
                    if len(held) < self.batch and token.finish_reason is None:
                        continue
                    rows = [
                        {each.id: Logprob(each.logprob or 0.0, 1)}
                        | {i: Logprob(value, n + 1) for n, (i, value) in enumerate(each.top_logprobs)}
                        for each in held
                    ]
                    completion = CompletionOutput(
                        index=0,
                        text="",
                        token_ids=[each.id for each in held],
                        cumulative_logprob=None,
                        logprobs=None if sampling_params.logprobs is None else rows,
                        finish_reason=self.ends_with or token.finish_reason,
                    )
                    held = []
                    yield RequestOutput(request_id, [completion], token.finish_reason is not None, cached)
        except (asyncio.CancelledError, GeneratorExit):
            self.aborted.append(request_id)
            raise

    def shutdown(self, timeout: float | None = None) -> None:
        self.is_shut_down = True


@contextmanager
def installed(engine: TokenGenerator, **options: Any) -> Iterator[list[AsyncLLM]]:
    """`import vllm` gives this file's names, and engines that compute with ours; they are listed as they are made."""
    made: list[AsyncLLM] = []

    class Fixed(AsyncLLM):
        @classmethod
        def from_engine_args(cls, engine_args: AsyncEngineArgs) -> AsyncLLM:
            asyncio.get_running_loop()
            made.append(AsyncLLM(engine_args, engine, **options))
            return made[-1]

    names: dict[str, dict[str, Any]] = {
        "vllm": {
            "__version__": "0.33.0",
            "AsyncEngineArgs": AsyncEngineArgs,
            "SamplingParams": SamplingParams,
            "TokensPrompt": TokensPrompt,
        },
        "vllm.sampling_params": {"RequestOutputKind": RequestOutputKind, "SamplingParams": SamplingParams},
        "vllm.v1": {},
        "vllm.v1.engine": {},
        "vllm.v1.engine.async_llm": {"AsyncLLM": Fixed},
    }
    before = {name: sys.modules.get(name) for name in names}
    for name, content in names.items():
        module = ModuleType(name)
        vars(module).update(content)
        sys.modules[name] = module
    try:
        yield made
    finally:
        for name, module_before in before.items():
            if module_before is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module_before
