"""What a model needs and what hardware gives: weights, keys and values, seconds a step. Arithmetic, no command: the
simulation (queueing.py) and the tables of docs/scaling.md (scaling_page.py) stand on it.

Bytes and FLOPs are counted from the network's shape. Seconds are measured where docs/performance.md has them, else a
roofline: what must be read over a share of the memory's bandwidth, or computed over a share of the peak, whichever is
longer, and a fixed time a step. The two shares and the fixed time are fitted to published figures (scaling_page.py shows
how well).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

from benchmarks.machine import PERFORMANCE_PAGE
from gpt_oss.errors import GptOssError, ParameterError
from gpt_oss.model.config import ModelConfig
from gpt_oss.model.tensors import canonical_tensors

MODELS = {"20b": ModelConfig(), "120b": ModelConfig(num_hidden_layers=36, num_experts=128)}

USABLE_MEMORY = 0.9  # of a GPU's; the rest is the driver's, the graphs', and lost between blocks
STEP_BYTES = 1.5e9  # activations of a large step of prompts
BANDWIDTH_SHARE = 0.6  # fitted: see scaling_page.py
FLOPS_SHARE = 0.25
STEP_S = 0.002  # kernels' starts, sampling, the host
LINK_SHARE = 0.7  # of NVLink's bandwidth, in the sums of tensor parallel
SUM_S = 20e-6  # and what each of them costs at least


# ---- memory ---------------------------------------------------------------------------------------------------------


@cache
def weights_bytes(config: ModelConfig) -> int:
    """As released: experts in MXFP4, norms in float32, all else in bf16."""
    return sum(tensor.size_bytes for tensor in canonical_tensors(config).values())


@cache
def expert_bytes(config: ModelConfig) -> int:
    """Of one expert of one layer."""
    experts = [t.size_bytes for name, t in canonical_tensors(config).items() if re.search(r"\.mlp[12]_", name)]
    return sum(experts) // config.num_hidden_layers // config.num_experts


@cache
def dense_bytes(config: ModelConfig) -> int:
    """Read in every step: all but the experts and the embedding, of which a step needs a few rows."""
    embedding = canonical_tensors(config)["embedding.weight"].size_bytes
    return weights_bytes(config) - embedding - config.num_hidden_layers * config.num_experts * expert_bytes(config)


def windowed_layers(config: ModelConfig) -> int:
    """Even layers: 0, 2, 4, …"""
    return (config.num_hidden_layers + 1) // 2


def layer_token_bytes(config: ModelConfig, value_bytes: float = 2) -> float:
    """A key and a value for every head that has its own. int8 as the cpu backend keeps it: 1 + 4 / head_dim."""
    return 2 * config.num_key_value_heads * config.head_dim * value_bytes


def kv_bytes(config: ModelConfig, tokens: int, value_bytes: float = 2) -> float:
    """Of one sequence. A windowed layer needs the last sliding_window tokens and no more."""
    windowed = windowed_layers(config)
    full = config.num_hidden_layers - windowed
    return layer_token_bytes(config, value_bytes) * (full * tokens + windowed * min(tokens, config.sliding_window))


# ---- hardware -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gpu:
    """From data sheets. memory and bandwidth in bytes; flops: dense bf16; link: bytes a second to the other GPUs."""

    title: str
    memory: float
    bandwidth: float
    flops: float
    link: float = 32e9  # PCIe 4.0 x16


HARDWARE: dict[str, Gpu | None] = {
    "cpu": None,  # the two cores of docs/performance.md
    "rtx4090": Gpu("RTX 4090, 24 GB", 24e9, 1.008e12, 165e12),
    "rtx5090": Gpu("RTX 5090, 32 GB", 32e9, 1.79e12, 210e12, 64e9),
    "l40s": Gpu("L40S, 48 GB", 48e9, 0.864e12, 181e12),
    "a100": Gpu("A100, 80 GB", 80e9, 2.04e12, 312e12, 300e9),
    "h100": Gpu("H100 SXM, 80 GB", 80e9, 3.35e12, 989e12, 450e9),
    "h200": Gpu("H200, 141 GB", 141e9, 4.8e12, 989e12, 450e9),
    "b200": Gpu("B200, 180 GB", 180e9, 8.0e12, 2250e12, 900e9),
    "mi300x": Gpu("MI300X, 192 GB", 192e9, 5.3e12, 1307e12, 448e9),
}


class Timing(Protocol):
    def step_s(self, read: int, position: float, answering: int, contexts: float) -> float:
        """Seconds of a step that reads so many tokens of prompts, on average at this position, and gives a token to so
        many sequences, whose contexts are so long in all."""
        ...


@dataclass(frozen=True)
class Roofline:
    """A model on `gpus` of a kind that share it (tensor parallel), weights and caches in equal parts."""

    config: ModelConfig
    gpu: Gpu
    gpus: int = 1

    def step_s(self, read: int, position: float, answering: int, contexts: float) -> float:
        tokens = read + answering
        reads = self.step_bytes(tokens, answering, contexts) / self.gpus
        flops = self.step_flops(read, position, answering, contexts) / self.gpus
        busy = max(reads / (self.gpu.bandwidth * BANDWIDTH_SHARE), flops / (self.gpu.flops * FLOPS_SHARE))
        return busy + STEP_S + self._sums_s(tokens)

    def step_bytes(self, tokens: int, answering: int, contexts: float) -> float:
        config = self.config
        untouched = (1 - config.experts_per_token / config.num_experts) ** tokens  # experts, routed uniformly
        experts = config.num_hidden_layers * config.num_experts * (1 - untouched) * expert_bytes(config)
        each = contexts / answering if answering else 0
        return dense_bytes(config) + experts + answering * kv_bytes(config, int(each))

    def step_flops(self, read: int, position: float, answering: int, contexts: float) -> float:
        """2 a weight and token, unembedding only where a token is drawn, and attention to what came before."""
        config, tokens = self.config, read + answering
        inner = config.num_attention_heads * config.head_dim
        attention_weights = config.hidden_size * (2 * inner + 2 * config.num_key_value_heads * config.head_dim)
        expert_weights = config.experts_per_token * 3 * config.hidden_size * config.intermediate_size
        flops = 2.0 * tokens * config.num_hidden_layers * (attention_weights + expert_weights)
        flops += 2.0 * (answering + (read > 0)) * config.hidden_size * config.vocab_size
        windowed = windowed_layers(config)
        full = config.num_hidden_layers - windowed
        seen = full * (read * position + contexts) + windowed * tokens * config.sliding_window
        return flops + 4.0 * inner * seen

    def _sums_s(self, tokens: int) -> float:
        """Two all-reduces a layer, of bf16; a ring moves 2 (n - 1) / n of the data over each link."""
        if self.gpus == 1:
            return 0.0
        moved = 2 * (self.gpus - 1) / self.gpus * tokens * self.config.hidden_size * 2
        return 2 * self.config.num_hidden_layers * (SUM_S + moved / (self.gpu.link * LINK_SHARE))


@dataclass(frozen=True)
class Measured:
    """read: prompt tokens a second. decode: tokens a second in all, by the number of sequences."""

    read: float
    decode: tuple[tuple[int, float], ...]

    def step_s(self, read: int, position: float, answering: int, contexts: float) -> float:
        """Between the measured batches on a line; beyond the last one, as steep as between the last two."""
        return read / self.read + self._decode_s(answering)

    def _decode_s(self, answering: int) -> float:
        if answering == 0:
            return 0.0
        points = [(count, count / rate) for count, rate in self.decode]
        if answering <= points[0][0]:
            return points[0][1]
        right = next((i for i, (count, _) in enumerate(points) if count >= answering), len(points) - 1)
        (x0, y0), (x1, y1) = points[right - 1], points[right]
        return y0 + (y1 - y0) * (answering - x0) / (x1 - x0)


def read_measured(page: Path = PERFORMANCE_PAGE) -> Measured:
    """The cpu backend's table in docs/performance.md, 20b. Raises GptOssError where it is not there."""
    text = page.read_text()
    section = re.search(r"<!-- begin benchmarks.cpu -->(.*?)<!-- end", text, re.DOTALL)
    rows = section[1] if section else ""
    read = re.findall(r"\| read (\d+) tokens \| ([\d.]+)", rows)
    decode = re.findall(r"\| decode (\d+) sequences?, context 0 \| ([\d.]+)", rows)
    if not read or len(decode) < 2:
        raise GptOssError(f"{page} has no measured table; run `python -m benchmarks.cpu CHECKPOINT`")
    fastest = max(read, key=lambda row: int(row[0]))[1]
    return Measured(float(fastest), tuple((int(count), float(rate)) for count, rate in decode))


def timing_of(model: str, on: str, gpus: int = 1, measured: Measured | None = None) -> Timing:
    """Raises ParameterError for what is not known or does not fit."""
    if model not in MODELS or on not in HARDWARE or gpus < 1:
        raise ParameterError(f"there are the models {', '.join(MODELS)} and {', '.join(HARDWARE)}, and 1 GPU or more")
    gpu = HARDWARE[on]
    if gpu is None:
        if model != "20b":
            raise ParameterError("only gpt-oss-20b was measured on the cpu")
        return measured or read_measured()
    cache_tokens(model, on, gpus)
    return Roofline(MODELS[model], gpu, gpus)


def cache_tokens(model: str, on: str, gpus: int = 1) -> int:
    """That fit beside the weights, in long sequences. Raises ParameterError where the weights do not."""
    config, gpu = MODELS[model], HARDWARE[on]
    if gpu is None:
        return 2 * config.max_context  # what the cpu backend gives itself at most
    free = gpus * (USABLE_MEMORY * gpu.memory - STEP_BYTES) - weights_bytes(config)
    full = config.num_hidden_layers - windowed_layers(config)
    tokens = int(free / (layer_token_bytes(config) * full))
    if tokens < 8192:
        raise ParameterError(f"gpt-oss-{model} does not fit {gpus} x {gpu.title}")
    return tokens


def sequences_that_fit(model: str, on: str, context: int, gpus: int = 1) -> int:
    """Sequences of `context` tokens whose keys and values fit beside the weights, by the formula of `kv_bytes`."""
    config, gpu = MODELS[model], HARDWARE[on]
    assert gpu is not None
    free = gpus * (USABLE_MEMORY * gpu.memory - STEP_BYTES) - weights_bytes(config)
    return max(0, int(free / kv_bytes(config, context)))
