"""The randomness of sampling, as a pure function: Gumbel noise for (seed, position, token).

A token is drawn as argmax_i(logit_i / T + gumbel(seed, position, i)), an exact draw from softmax(logits / T).
Because the noise depends on nothing else, a draw does not depend on the batch, on chunking, on speculation (a drafted
token is right exactly when it equals this draw), or on which backend computes it; csrc/noise.h is the same function.

    mix(z): z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9; z = (z ^ z >> 27) * 0x94D049BB133111EB; z ^ z >> 31 (splitmix64)
    key    = mix(seed + 0x9E3779B97F4A7C15 * (position + 1))
    bits   = mix(key + 0x9E3779B97F4A7C15 * (token + 1))
    u      = ((bits >> 12) + 0.5) * 2**-52     in (0, 1), exact in float64
    gumbel = -log(-log(u))
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _bits(seed: int, position: int, tokens: NDArray[np.uint64]) -> NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        start = np.array([seed % 2**64], np.uint64) + _GOLDEN * np.array([position + 1], np.uint64)
        return _mix(_mix(start) + _GOLDEN * (tokens + np.uint64(1)))


def gumbel(seed: int, position: int, tokens: NDArray[np.int64]) -> NDArray[np.float64]:
    """float64, one for each id in `tokens`. `seed` is taken modulo 2**64; `position` is the absolute position in the
    sequence of the token being drawn (the prompt's length for the first one of an answer)."""
    bits = _bits(seed, position, tokens.astype(np.uint64))
    u = ((bits >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
    return -np.log(-np.log(u))


def likely_winners(seed: int, position: int, scaled: NDArray[np.float32]) -> NDArray[np.int64]:
    """Ids among which argmax(scaled + gumbel) is certain to be, ascending: a handful of 201,088.

    Noise in float32 costs a fifth of exact noise and is off by less than 0.001 + 1e-5 |scaled|: what lies further than
    that below the best cannot win.
    """
    bits = _bits(seed, position, np.arange(len(scaled), dtype=np.uint64))
    u = (bits >> np.uint64(12)).astype(np.float32) * np.float32(2.0**-52) + np.float32(2.0**-53)
    # 1 - u keeps its precision where u is near 1, which is where large noise comes from.
    rest = (~bits >> np.uint64(12)).astype(np.float32) * np.float32(2.0**-52) + np.float32(2.0**-53)
    with np.errstate(divide="ignore"):
        exponential = np.where(rest < 0.01, rest + rest * rest / 2, -np.log(u))
        total = scaled - np.log(exponential)
    best = total.max()
    return np.flatnonzero(total >= best - 0.01 - 1e-4 * abs(best))
