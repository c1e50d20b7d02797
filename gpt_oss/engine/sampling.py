"""From a row of logits to a token: bias, penalties and grammar, then temperature, top_k, top_p and min_p, then a draw.

A draw is argmax(logit / temperature + noise), see noise.py: no sort, no sum over the vocabulary. The filters
see softmax(logits / temperature): top_k keeps the k likeliest, top_p the smallest set of those whose share reaches
top_p, min_p what has at least min_p times the likeliest's probability. The likeliest token always stays.
"""

from __future__ import annotations

import os
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gpt_oss.backends.base import Draw, Float32, Logits, SampledToken, SamplesItself
from gpt_oss.engine.noise import gumbel, likely_winners
from gpt_oss.errors import ParameterError
from gpt_oss.params import Grammar, SamplingParams

Float64 = NDArray[np.float64]
Ids = NDArray[np.int64]


class Sampler:
    """The sampling state of one request: its seed, the counts that penalties need, its grammar."""

    def __init__(self, params: SamplingParams, usable_vocab: int) -> None:
        bad = [token for token in params.logit_bias if not 0 <= token < usable_vocab]
        if bad:
            sentence = f"logit_bias names token {bad[0]}, and the model's are 0 to {usable_vocab - 1}"
            raise ParameterError(sentence, field="logit_bias")
        self.params = params
        self.seed = int.from_bytes(os.urandom(8), "little") if params.seed is None else params.seed % 2**64
        self._usable = usable_vocab
        self._counts: dict[int, int] = {}
        self._grammar: Grammar | None = params.grammar() if params.grammar is not None else None
        self._stuck = False  # the grammar allows no token that the model has
        self._bias_ids = np.fromiter(params.logit_bias.keys(), np.int64)
        self._bias = np.fromiter(params.logit_bias.values(), np.float32)
        self._penalised = params.presence_penalty != 0 or params.frequency_penalty != 0
        filtered = params.top_p < 1 or params.top_k > 0 or params.min_p > 0
        edited = self._penalised or params.logit_bias or params.grammar is not None
        self._plain = not filtered and not edited and params.logprobs is None

    @property
    def draw(self) -> Draw | None:
        """For backends that sample themselves; None where a token's draw needs more than this."""
        return Draw(self.params.temperature, self.seed) if self._plain else None

    def next(self, logits: Logits, row: int, position: int) -> SampledToken:
        """Draw the token at `position` from one row, and remember it. It has a finish_reason where it ends the answer
        by itself: "stop", or "length" where a grammar wanted more or knew no way on."""
        if self._plain and isinstance(logits, SamplesItself):
            token = logits.sample(row, self.params.temperature, self.seed, position)
            return SampledToken(token, finish_reason=self._end(token))
        values = logits.numpy()[row, : self._usable]
        token = self._draw(values, position)
        if self._penalised:
            self._counts[token] = self._counts.get(token, 0) + 1
        if self._grammar is not None:
            self._grammar.accept(token)
        if self.params.logprobs is None:
            return SampledToken(token, finish_reason=self._end(token))
        logprob, top = log_probabilities(values, token, self.params.logprobs)
        return SampledToken(token, logprob, top, self._end(token))

    def _end(self, token: int) -> Literal["stop", "length"] | None:
        if self._stuck:
            return "length"
        if token not in self.params.stop_token_ids:
            return None
        return "stop" if self._grammar is None or self._grammar.whole else "length"

    def score(self, row: Float32, token: int) -> SampledToken:
        """A token that is there already, as though it had been drawn from a row of logits; nothing is remembered."""
        return SampledToken(token, *log_probabilities(row[: self._usable], token, self.params.logprobs or 0))

    def _draw(self, values: Float32, position: int) -> int:
        params = self.params
        values = self._edited(values)
        if params.temperature == 0:
            return int(np.argmax(values))
        ids = kept(values, params)
        if ids is None:
            scaled = values / np.float32(params.temperature)
            ids = likely_winners(self.seed, position, scaled)
        exact = values[ids].astype(np.float64) / params.temperature
        return int(ids[np.argmax(exact + gumbel(self.seed, position, ids))])

    def _edited(self, values: Float32) -> Float32:
        """Logits after bias, penalties and grammar; the input is not changed."""
        mask = self._grammar.mask() if self._grammar is not None else None
        if not len(self._bias_ids) and not self._counts and mask is None:
            return values
        values = values.copy()
        values[self._bias_ids] += self._bias
        if self._counts:
            ids = np.fromiter(self._counts.keys(), np.int64)
            counts = np.fromiter(self._counts.values(), np.float32)
            values[ids] -= self.params.presence_penalty + self.params.frequency_penalty * counts
        if mask is not None:
            allowed = np.unpackbits(mask.view(np.uint8), bitorder="little")[: len(values)].astype(bool)
            if not allowed.any():
                self._stuck = True
                return values
            values[: len(allowed)][~allowed] = -np.inf
            values[len(allowed) :] = -np.inf
        return values


def kept(values: Float32, params: SamplingParams) -> Ids | None:
    """Ids that the filters leave, ascending; None where nothing is filtered. Equal logits share their fate in top_k
    and min_p; in top_p the lower id counts as the likelier."""
    if params.top_k == 0 and params.top_p == 1 and params.min_p == 0:
        return None
    ids: Ids = np.arange(len(values))
    if 0 < params.top_k < len(values):
        ids = np.flatnonzero(values >= np.partition(values, -params.top_k)[-params.top_k])
    if params.top_p < 1:
        ids = nucleus(values, ids, params)
    if params.min_p > 0:
        threshold = values.max() + params.temperature * np.log(params.min_p)
        ids = ids[values[ids] >= threshold]
    return ids


def nucleus(values: Float32, ids: Ids, params: SamplingParams) -> Ids:
    """The smallest set of the likeliest of `ids` whose share of the probability of all `ids` reaches top_p.

    Sorts only as many as it needs: the first thousand, then eight times as many, and so on.
    """
    logits = values[ids].astype(np.float64) / params.temperature
    weights = np.exp(logits - logits.max())
    goal = params.top_p * weights.sum()
    size = 1024
    while True:
        size = min(size, len(ids))
        top = np.argpartition(-weights, size - 1)[:size] if size < len(ids) else np.arange(len(ids))
        top = top[np.lexsort((ids[top], -weights[top]))]
        reached = np.cumsum(weights[top])
        if reached[-1] >= goal or size == len(ids):
            count = int(np.searchsorted(reached, goal)) + 1
            return np.sort(ids[top[:count]])
        size *= 8


def log_probabilities(values: Float32, token: int, top: int) -> tuple[float, tuple[tuple[int, float], ...]]:
    """The token's log probability at temperature 1, minus infinity for one that has no logit, and the `top` likeliest
    tokens with theirs, likeliest first."""
    greatest = values.max()
    log_sum = float(greatest) + float(np.log(np.exp(values - greatest).sum(dtype=np.float64)))
    own = float(values[token]) - log_sum if token < len(values) else -np.inf
    return own, tuple((int(i), float(values[i]) - log_sum) for i in _likeliest(values, min(top, len(values))))


def _likeliest(values: Float32, count: int) -> Ids:
    """The ids of so many of the greatest values, the greatest first."""
    if count <= 1:
        return np.array([values.argmax()][:count], np.int64)
    ids = np.argpartition(-values, count - 1)[:count]
    return ids[np.lexsort((ids, -values[ids]))]
