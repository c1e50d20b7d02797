"""The two protocols that hold the house together.

`Model` is what we compute ourselves: one `forward` over a paged KV cache. It knows nothing of requests, sampling,
text or Harmony; `gpt_oss.engine` turns any `Model` into a `TokenGenerator`.
`TokenGenerator` is all that anything above sees: token ids in, token ids out.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from gpt_oss.errors import ParameterError
from gpt_oss.model.config import ModelConfig
from gpt_oss.params import SamplingParams

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]

FREED = -1  # a windowed block that no query can see any more


@dataclass(frozen=True)
class Draw:
    """How the tokens after a chunk will be drawn, as far as SamplesItself.sample can: see there."""

    temperature: float
    seed: int


@dataclass(frozen=True)
class Chunk:
    """New tokens of one sequence in one `Model.forward`.

    tokens: int32 [n], n >= 1, computed at positions position .. position + n - 1.
    position: absolute position of tokens[0]; the keys and values of all earlier positions lie in the cache.
    blocks: int32 [ceil((position + n) / block_tokens)]; blocks[i] is the physical block, in the pool of the
        full-attention layers, that holds positions i * block_tokens .. (i + 1) * block_tokens - 1.
    window_blocks: the same for the pool of the sliding-window layers; FREED where the block lies wholly before
        the window of every token of this chunk.
    logits: how many of the chunk's last positions need logits: 0 (a prompt's earlier chunks), 1 (the usual), or
        more (verification of drafted tokens; all of them where a prompt is scored).
    draw: what `sample` will be asked of these logits, each for the position after its own, where that is known before:
        a backend may then draw in the same step. Only a hint.
    """

    tokens: Int32
    position: int
    blocks: Int32
    window_blocks: Int32
    logits: int = 1
    draw: Draw | None = None


class Logits(Protocol):
    """The logits of one `forward`: a row for each position asked for, in the order of the batch.

    Valid until the next `forward` of the same model: backends may compute rows only when they are read.
    """

    def __len__(self) -> int: ...

    def numpy(self) -> Float32:
        """float32 [rows, vocab_size]."""
        ...


@runtime_checkable
class SamplesItself(Protocol):
    """Logits that can draw a token without computing every logit, with exactly the answer of the full row."""

    def sample(self, row: int, temperature: float, seed: int, position: int) -> int:
        """argmax over i < config.usable_vocab_size of logit_i / temperature + gumbel(seed, position, i), see
        engine/noise.py; temperature 0 is the plain argmax, the lowest id winning ties."""
        ...


class Model(Protocol):
    """A network on some hardware, with its weights and its paged KV cache.

    One thread at a time may call `forward`. Cache blocks belong to the caller: the model neither allocates nor
    frees, it writes keys and values of the tokens it is given where `Chunk.blocks` says, and reads what lies
    before them. Calling again with a smaller `position` (a rewind) overwrites and is always allowed.
    Two chunks of one batch may share blocks that both only read (a common prefix).
    """

    config: ModelConfig
    block_tokens: int
    cache_blocks: int  # physical blocks in the pool of the full-attention layers
    window_cache_blocks: int  # physical blocks in the pool of the sliding-window layers

    def forward(self, batch: Sequence[Chunk]) -> Logits: ...

    def read_cache(self, blocks: Int32, window_blocks: Int32) -> bytes:
        """The keys and values in these blocks, in a form that `write_cache` of the same model and version takes."""
        ...

    def write_cache(self, blocks: Int32, window_blocks: Int32, data: bytes) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class SampledToken:
    """One token of an answer. The last one of a stream, and only it, has a finish_reason: "stop" (it is one of
    stop_token_ids, and is itself delivered; a grammar's answer is whole) or "length" (max_tokens or the context is used
    up, or a grammar ended without a whole answer)."""

    id: int
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()
    finish_reason: Literal["stop", "length"] | None = None
    cached_tokens: int = 0  # on the first token: how many prompt tokens came from the prefix cache


class TokenGenerator(Protocol):
    """Prompt tokens in, sampled tokens out. Closing the iterator early cancels the request.

    Raises ContextOverflowError when the prompt leaves no room, ParameterError for bad params, CapacityError when
    the queue is full, BackendError when the backend fails.
    """

    name: str  # for people: "cpu (avx512-amx, balanced)", "ollama http://…"
    context_tokens: int  # prompt plus answer may not exceed this

    def generate(self, prompt: Sequence[int], params: SamplingParams) -> AsyncIterator[SampledToken]: ...

    def generate_sync(self, prompt: Sequence[int], params: SamplingParams) -> Iterator[SampledToken]: ...

    def close(self) -> None: ...


@runtime_checkable
class Scorer(Protocol):
    """A TokenGenerator that can also say how likely a text is that is there already."""

    def score(self, prompt: Sequence[int], top: int) -> AsyncIterator[SampledToken]:
        """The prompt's tokens after the first, each as though it had been drawn after those before it: with its log
        probability at temperature 1, and the `top` likeliest tokens with theirs. A token that is never drawn has minus
        infinity. The last has the finish_reason "length"; there is none where the prompt is one token.

        The prompt may fill the context. What was computed stays in the prefix cache, for a `generate` that follows.
        """
        ...

    def score_sync(self, prompt: Sequence[int], top: int) -> Iterator[SampledToken]: ...


def scorer_of(generator: TokenGenerator) -> Scorer:
    """The generator itself, where it is a Scorer. Raises ParameterError where it is none."""
    if isinstance(generator, Scorer):
        return generator
    raise ParameterError(
        f"{generator.name} cannot score a prompt, so it gives no log probabilities of a prompt's tokens",
        hint="cpu, torch, triton, metal and transformers can.",
    )
