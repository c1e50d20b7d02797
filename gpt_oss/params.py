"""What a caller may ask of sampling. Plain data; the meaning is in engine/sampling.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gpt_oss.errors import ParameterError


class Grammar(Protocol):
    """A decode-time constraint on one answer; a fresh one is made for each request."""

    def mask(self) -> NDArray[np.uint32] | None:
        """Bit t of word t // 32 is set where token t may come next; None where anything may."""
        ...

    def accept(self, token: int) -> None:
        """The token that was sampled."""
        ...

    @property
    def whole(self) -> bool:
        """Whether the answer so far may end: a stop token after anything else has cut it off."""
        ...


@dataclass(frozen=True)
class SamplingParams:
    """temperature and top_p default to what the models were released with.

    temperature: 0 is greedy. top_p in (0, 1]; top_k 0 is off; min_p in [0, 1] is relative to the likeliest token.
    seed: None draws one from the system; the same seed, prompt and model give the same tokens whatever else runs.
    max_tokens: None means up to the context. logprobs: None for none, 0 for the sampled token's, k for the top k
    as well; they are of the model's own distribution at temperature 1, before any of the filters above.
    logit_bias: added to the logits. Penalties: OpenAI's definition, over the tokens of the answer so far.
    Raises ParameterError for a value out of range.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    max_tokens: int | None = None
    stop_token_ids: tuple[int, ...] = ()
    logprobs: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    grammar: Callable[[], Grammar] | None = None

    def __post_init__(self) -> None:
        def check(ok: bool, field_name: str, wanted: str) -> None:
            if not ok:
                found = getattr(self, field_name)
                raise ParameterError(f"{field_name} must be {wanted}, not {found!r}", field=field_name)

        check(math.isfinite(self.temperature) and self.temperature >= 0, "temperature", "a number of 0 or more")
        check(0 < self.top_p <= 1, "top_p", "over 0 and at most 1")
        check(self.top_k >= 0, "top_k", "0 (off) or more")
        check(0 <= self.min_p <= 1, "min_p", "from 0 to 1")
        check(self.max_tokens is None or self.max_tokens >= 1, "max_tokens", "1 or more")
        check(self.logprobs is None or 0 <= self.logprobs <= 100, "logprobs", "from 0 to 100")
        check(math.isfinite(self.presence_penalty), "presence_penalty", "a number")
        check(math.isfinite(self.frequency_penalty), "frequency_penalty", "a number")
        check(all(math.isfinite(b) for b in self.logit_bias.values()), "logit_bias", "a map of token ids to numbers")
