"""vLLM's AsyncLLM in this process: token ids in and out, no tokenizer, on as many GPUs as it is told.

Its engine runs in processes of its own and lives on one event loop, which is the bridge's. Written for the public
names of vLLM 0.11 to 0.33: AsyncEngineArgs, SamplingParams, RequestOutputKind, TokensPrompt, AsyncLLM.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from gpt_oss.backends.base import SampledToken
from gpt_oss.backends.bridge import Bridge
from gpt_oss.backends.prompt import room
from gpt_oss.errors import BackendError, ConfigError, GptOssError, ParameterError
from gpt_oss.model.checkpoint import Checkpoint
from gpt_oss.model.config import ModelConfig
from gpt_oss.params import SamplingParams

DTYPES = {"bf16": "bfloat16", "float32": "float32"}


def open_generator(
    checkpoint: Checkpoint, precision: str | None = None, *, gpus: int = 1, context_tokens: int | None = None
) -> VllmGenerator:
    """gpus: how many the model is split over (tensor parallel). context_tokens bounds the KV cache's sequences.

    Raises ConfigError for a layout that vLLM does not read, ParameterError for another precision or number of GPUs,
    BackendError where vLLM does not start, ImportError without it.
    """
    if checkpoint.layout != "huggingface":
        raise ConfigError(
            f"{checkpoint.path} has the {checkpoint.layout} layout, and vLLM reads Hugging Face's only",
            hint=f"gpt-oss convert {checkpoint.path} OUT --to hf, or gpt-oss download … --layout hf",
        )
    if precision is not None and precision not in DTYPES:
        raise ParameterError(f"the vllm backend's precision is {' or '.join(DTYPES)}, not {precision!r}")
    if gpus < 1:
        raise ParameterError(f"the number of GPUs must be 1 or more, not {gpus}")
    return VllmGenerator(
        checkpoint.path,
        checkpoint.config,
        dtype=DTYPES[precision or "bf16"],
        gpus=gpus,
        context_tokens=min(context_tokens or checkpoint.config.max_context, checkpoint.config.max_context),
    )


class VllmGenerator:
    """See backends.base.TokenGenerator."""

    def __init__(
        self, path: os.PathLike[str], config: ModelConfig, *, dtype: str, gpus: int, context_tokens: int
    ) -> None:
        import vllm
        from vllm.v1.engine.async_llm import AsyncLLM

        self.name = f"vllm ({vllm.__version__}, {gpus} GPU{'s' if gpus > 1 else ''})"
        self.config = config
        self.context_tokens = context_tokens
        self._bridge = Bridge(self.name)
        self._numbers = itertools.count()
        args = vllm.AsyncEngineArgs(
            model=os.fspath(path),
            dtype=dtype,
            tensor_parallel_size=gpus,
            max_model_len=context_tokens,
            skip_tokenizer_init=True,
            enable_prefix_caching=True,
            disable_log_stats=True,
        )

        async def start() -> Any:
            return AsyncLLM.from_engine_args(args)

        try:
            self._engine = self._bridge.call(start())
        except Exception as error:  # vLLM's start-up fails in as many ways as there are machines
            self._bridge.close()
            raise BackendError(f"vLLM does not start: {error}", hint="Its own log above says more.") from error

    def generate(self, prompt: Sequence[int], params: SamplingParams) -> AsyncIterator[SampledToken]:
        tokens = [int(token) for token in prompt]
        return self._bridge.stream(lambda: self._answer(tokens, params))

    def generate_sync(self, prompt: Sequence[int], params: SamplingParams) -> Iterator[SampledToken]:
        tokens = [int(token) for token in prompt]
        return self._bridge.stream_sync(lambda: self._answer(tokens, params))

    def close(self) -> None:
        async def end() -> None:
            self._engine.shutdown()

        self._bridge.close(end())

    async def _answer(self, prompt: list[int], params: SamplingParams) -> AsyncGenerator[SampledToken, None]:
        """Closing it makes AsyncLLM.generate abort the request."""
        from vllm import TokensPrompt

        most = room(prompt, self.context_tokens, self.config.vocab_size)
        wanted = sampling_params(params, min(most, params.max_tokens or most))
        stream = self._engine.generate(TokensPrompt(prompt_token_ids=prompt), wanted, f"gpt-oss-{next(self._numbers)}")
        first = True
        try:
            async with aclosing(stream) as outputs:
                async for output in outputs:
                    for token in tokens_of(output, params, first=first):
                        first = False
                        yield token
        except GptOssError:
            raise
        except Exception as error:  # of vLLM's own kinds
            raise BackendError(f"{self.name} failed while computing: {error}") from error


def sampling_params(params: SamplingParams, limit: int) -> Any:
    """As vLLM has them. Raises ParameterError for a grammar, which vLLM's processes cannot call back for."""
    from vllm import SamplingParams as Theirs
    from vllm.sampling_params import RequestOutputKind

    if params.grammar is not None:
        raise ParameterError(
            "vllm cannot hold an answer to a grammar: forced tools and JSON schemas need a backend of our own",
            hint="cpu, torch, triton and transformers have it.",
        )
    return Theirs(
        temperature=params.temperature,
        top_p=params.top_p,
        top_k=params.top_k,
        min_p=params.min_p,
        seed=None if params.seed is None else params.seed % 2**63,
        max_tokens=limit,
        stop_token_ids=list(params.stop_token_ids),
        ignore_eos=True,  # it ends where we say, and only there
        logprobs=params.logprobs,
        logit_bias=dict(params.logit_bias) or None,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )


def tokens_of(output: Any, params: SamplingParams, *, first: bool) -> Iterator[SampledToken]:
    """The new tokens of a RequestOutput. Raises BackendError where vLLM gave up."""
    completion = output.outputs[0]
    reason = completion.finish_reason
    if reason not in (None, "stop", "length"):
        raise BackendError(f"vLLM ended the answer with {reason!r}")
    ids = list(completion.token_ids)
    for place, token in enumerate(ids):
        entry = completion.logprobs[place] if params.logprobs is not None and completion.logprobs else None
        logprob, top = (None, ()) if entry is None else _logprobs(entry, token, params.logprobs or 0)
        yield SampledToken(
            int(token),
            logprob,
            top,
            finish_reason=reason if place + 1 == len(ids) else None,
            cached_tokens=(output.num_cached_tokens or 0) if first and place == 0 else 0,
        )


def _logprobs(entry: Mapping[int, Any], token: int, top: int) -> tuple[float, tuple[tuple[int, float], ...]]:
    """The token's and the `top` likeliest; vLLM adds the sampled token where it is not among them."""
    ranked = sorted(((int(other), float(value.logprob)) for other, value in entry.items()), key=lambda e: (-e[1], e[0]))
    return float(entry[token].logprob), tuple(ranked[:top])
