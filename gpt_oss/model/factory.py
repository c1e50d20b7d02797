"""Random checkpoints of any shape, for tests and benchmarks: seeded, the same weights in every layout, as a stream.

The scales of the weights are chosen so that activations behave as in a trained network: a residual stream of order one,
attention and router that prefer something, logits with a standard deviation of a few units.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from statistics import NormalDist

import numpy as np

from gpt_oss.model.config import ModelConfig
from gpt_oss.model.convert import write_checkpoint
from gpt_oss.model.layout import LayoutName
from gpt_oss.model.mxfp4 import decode_bf16
from gpt_oss.model.tensors import (
    BF16,
    E8M0_BIAS,
    Array,
    Index,
    TensorSpec,
    canonical_tensors,
)

_RMS_OF_RANDOM_NIBBLES = math.sqrt(68.5 / 8)  # of e2m1 values, all sixteen codes alike


@dataclass(frozen=True)
class RandomWeights:
    """Weights made up as they are asked for. Each chunk depends only on the seed, the tensor's name and its place."""

    config: ModelConfig
    seed: int = 0
    quantized: bool = True

    @cached_property
    def _specs(self) -> dict[str, TensorSpec]:
        return canonical_tensors(self.config)

    def tensor(self, name: str, index: Index = ()) -> Array:
        if name not in self._specs:  # mlp1_weight or mlp2_weight as bf16
            blocks = self.tensor(f"{name}.blocks", index[:1])
            return decode_bf16(blocks, self.tensor(f"{name}.scales", index[:1]))[(slice(None), *index[1:])]
        spec = self._specs[name]
        start, stop, step = (index[0] if index else slice(None)).indices(spec.shape[0])
        rows = spec.chunk_rows
        first = start // rows
        pieces = [self._chunk(name, spec, number) for number in range(first, max(first + 1, -(-stop // rows)))]
        whole = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        return whole[(slice(start - first * rows, stop - first * rows, step), *index[1:])]

    def _chunk(self, name: str, spec: TensorSpec, number: int) -> Array:
        """Rows number * chunk_rows … of the tensor."""
        begin = number * spec.chunk_rows
        shape = (min(spec.chunk_rows, spec.shape[0] - begin), *spec.shape[1:])
        key = hashlib.blake2b(f"{self.seed}/{name}/{number}".encode(), digest_size=16).digest()
        bits = np.random.SFC64(int.from_bytes(key, "little"))
        if name.endswith(".blocks"):
            return _random_bytes(bits, math.prod(shape)).reshape(shape)
        if name.endswith(".scales"):
            deviation, _ = _distribution(name.removesuffix(".scales"), self.config)
            return _scale_table(deviation)[_random_bytes(bits, math.prod(shape))].reshape(shape)
        deviation, mean = _distribution(name, self.config)
        codes = _random_bytes(bits, 2 * math.prod(shape)).view(np.uint16)
        return _normal_table(deviation, mean)[codes].reshape(shape).astype(spec.dtype, copy=False)


def _random_bytes(bits: np.random.BitGenerator, count: int) -> Array:
    words: Array = bits.random_raw(-(-count // 8))
    return words.view(np.uint8)[:count]


def _distribution(name: str, config: ModelConfig) -> tuple[float, float]:
    """Standard deviation and mean of a tensor.

    A normalised input has a standard deviation of 1, so a linear layer's output has about deviation · sqrt(inputs).
    Branches are added to the stream 2 · layers times: their deviation shrinks with the depth, so that the stream stays
    of order one.
    """
    hidden, inter = config.hidden_size, config.intermediate_size
    heads_out = config.num_attention_heads * config.head_dim
    branch = 1.5 / math.sqrt(2 * config.num_hidden_layers)
    table = {
        "embedding.weight": (1.0, 0.0),
        "norm.scale": (0.1, 1.0),
        "attn.qkv.weight": (1.0 / math.sqrt(hidden), 0.0),
        "attn.qkv.bias": (0.2, 0.0),
        "attn.sinks": (1.0, 4.0),  # some percent of the softmax beside a hundred keys
        "attn.out.weight": (3 * branch / math.sqrt(heads_out), 0.0),  # attention averages, which takes most of v away
        "attn.out.bias": (0.1 * branch, 0.0),
        "mlp.gate.weight": (1.5 / math.sqrt(hidden), 0.0),
        "mlp.gate.bias": (0.3, 0.0),
        "mlp.mlp1_weight": (1.5 / math.sqrt(hidden), 0.0),
        "mlp.mlp1_bias": (0.2, 0.0),
        "mlp.mlp2_weight": (branch / math.sqrt(inter), 0.0),
        "mlp.mlp2_bias": (0.1 * branch, 0.0),
        "unembedding.weight": (2.5 / math.sqrt(hidden), 0.0),
    }
    name = "norm.scale" if name.endswith("norm.scale") else name
    return table[name.split(".", 2)[2] if name.startswith("block.") else name]


@lru_cache
def _normal_table(deviation: float, mean: float) -> Array:
    """[65536] bf16: the normal distribution's quantiles, so that a value is one gather by 16 random bits.

    Norm scales are widened to float32 afterwards: representable in bf16, as the released ones, so they survive
    the Hugging Face layout.
    """
    return (_standard_quantiles() * deviation + mean).astype(BF16)


@lru_cache
def _standard_quantiles() -> Array:
    inverse = NormalDist().inv_cdf
    upper = np.array([inverse(0.5 + (i + 0.5) / 65536) for i in range(32768)], dtype=np.float32)
    return np.concatenate([-upper[::-1], upper])


@lru_cache
def _scale_table(deviation: float) -> Array:
    """[256] e8m0: four neighbouring scales around the one that gives random nibbles this standard deviation."""
    spread = np.array([-1, 0, 0, 1])
    rms = _RMS_OF_RANDOM_NIBBLES * math.sqrt(np.mean(4.0**spread))
    middle = E8M0_BIAS + round(math.log2(deviation / rms))
    return (middle + spread[np.arange(256) % 4]).astype(np.uint8)


def write_random_checkpoint(
    path: str | Path,
    config: ModelConfig,
    *,
    seed: int = 0,
    layout: LayoutName = "original",
    quantized: bool = True,
    progress: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write a random checkpoint and return where it is. The same seed is the same network in every layout.

    quantized=False writes the experts as bf16 (the same values), as dequantised fine-tunes have them.
    Raises CheckpointError as write_checkpoint does.
    """
    weights = RandomWeights(config, seed, quantized)
    return write_checkpoint(path, weights, layout, overwrite=overwrite, progress=progress)
