"""The triton backend on a GPU, against what the same GPU can do: `python -m benchmarks.gpu`.

Random weights of a released shape are made on the device. In one run: the error of a few layers against float32, the
copy bandwidth and the bf16 matmul rate of this GPU, decode at several batches and contexts with its bytes and their
share of that bandwidth, prefill with its FLOPs and their share of that rate, and the peak of memory. `--shape tiny` is
for trying the script itself, in Triton's interpreter too.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from gpt_oss.backends import torch as torch_backend
from gpt_oss.backends.base import Chunk, Draw
from gpt_oss.backends.sequence import SingleSequence
from gpt_oss.backends.torch.ranks import Ranks
from gpt_oss.backends.torch.weights import Share, Vocabulary
from gpt_oss.backends.triton import TritonModel, mxfp4, open_model
from gpt_oss.backends.triton.experts import Matrices
from gpt_oss.backends.triton.memory import OTHER_BYTES, Sizes, activation_bytes
from gpt_oss.backends.triton.model import BLOCK_TOKENS, INTERPRETED
from gpt_oss.backends.triton.weights import Block, NetworkWeights, weights_bytes
from gpt_oss.model.config import ModelConfig
from gpt_oss.model.factory import RandomWeights

SHAPES = {
    "20b": ModelConfig(),
    "120b": ModelConfig(num_hidden_layers=36, num_experts=128),
    "tiny": ModelConfig(
        num_hidden_layers=2, num_experts=4, experts_per_token=2, vocab_size=1024, hidden_size=128,
        intermediate_size=128, head_dim=32, num_attention_heads=4, num_key_value_heads=2,
    ),
}  # fmt: skip
SCALES = (116, 122)  # e8m0 codes of random blocks: weights of about the size of the released ones


# ---- the machine ----------------------------------------------------------------------------------------------------


def seconds(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Of one call, the median; warm."""
    work()
    times = []
    for _ in range(repeats):
        _wait(device)
        started = time.perf_counter()
        work()
        _wait(device)
        times.append(time.perf_counter() - started)
    return float(np.median(times))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def copy_bandwidth(device: torch.device) -> float:
    """Bytes a second, read and written together."""
    count = (4 << 30) if device.type == "cuda" else 64 << 20
    source = torch.empty(count, dtype=torch.uint8, device=device).zero_()
    target = torch.empty_like(source)
    return 2 * count / seconds(lambda: target.copy_(source), device, 10)


def matmul_rate(device: torch.device) -> float:
    """FLOPs a second of a large bf16 product."""
    size = 8192 if device.type == "cuda" else 512
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / seconds(lambda: a @ b, device, 10)


# ---- the model ------------------------------------------------------------------------------------------------------


def random_weights(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> NetworkWeights:
    generator = torch.Generator(device).manual_seed(1)

    def normal(*shape: int, scale: float = 0.02, kind: torch.dtype = dtype) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device=device, dtype=torch.float32).mul_(scale).to(kind)

    def matrices(rows: int, columns: int) -> Matrices:
        experts, groups = config.num_experts, mxfp4.groups_of(columns)
        shape = (experts, rows, groups * mxfp4.WORDS.value)  # of any bits: each is a weight, wherever it is arranged
        words = torch.randint(-(2**31), 2**31, shape, generator=generator, device=device, dtype=torch.int32)
        scales = torch.randint(
            *SCALES, (experts, groups, rows, 4), generator=generator, device=device, dtype=torch.uint8
        )
        return Matrices(words, scales.view(torch.int32)[..., 0], normal(experts, rows), columns)

    hidden, inter = config.hidden_size, config.intermediate_size
    queries = config.num_attention_heads * config.head_dim
    rows = queries + 2 * config.num_key_value_heads * config.head_dim

    def block() -> Block:
        ones = torch.ones(hidden, device=device)
        return Block(
            attention_norm=ones, qkv_weight=normal(rows, hidden), qkv_bias=normal(rows),
            sinks=normal(config.num_attention_heads, scale=1.0), out_weight=normal(hidden, queries),
            out_bias=normal(hidden), mlp_norm=ones, gate_weight=normal(config.num_experts, hidden),
            gate_bias=normal(config.num_experts), mlp1=matrices(2 * inter, hidden), mlp2=matrices(hidden, inter),
        )  # fmt: skip

    def vocabulary() -> Vocabulary:
        return Vocabulary(normal(config.vocab_size, hidden, scale=1.0), 0, config.vocab_size)

    layers = tqdm(range(config.num_hidden_layers), unit=" layers", desc="random weights")
    blocks = [block() for _ in layers]
    return NetworkWeights(vocabulary(), blocks, torch.ones(hidden, device=device), vocabulary())


def errors_against_float32(config: ModelConfig, device: torch.device, dtype: str) -> dict[str, float]:
    """Relative, of the logits of 200 tokens after two layers, prompt and answers, with torch in float32 as the truth;
    beside ours those of torch in the same precision. Experts and vocabulary are few: those weights come from the host.
    """
    return _errors(
        replace(config, num_hidden_layers=2, num_experts=min(8, config.num_experts), vocab_size=1024), device, dtype
    )


@cache
def _errors(small: ModelConfig, device: torch.device, dtype: str) -> dict[str, float]:
    weights = RandomWeights(small, seed=3)
    tokens = np.random.default_rng(3).integers(0, small.vocab_size, 200)

    def logits(open_it: Callable[..., object], dtype: str) -> np.ndarray:
        sequence = SingleSequence(open_it(weights, dtype=dtype, device=str(device), cache_tokens=256))  # type: ignore[arg-type]
        prompt = sequence.forward(tokens[:190], logits=None)
        return np.concatenate([prompt, *(sequence.forward(tokens[i : i + 1]) for i in range(190, 200))])

    right = logits(torch_backend.open_model, "float32")

    def error(found: np.ndarray) -> float:
        return round(float(np.linalg.norm(found - right) / np.linalg.norm(right)), 5)

    return {
        "relative_error": error(logits(open_model, dtype)),
        "of_torch": error(logits(torch_backend.open_model, dtype)),
    }


# ---- bytes and FLOPs ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Costs:
    config: ModelConfig
    itemsize: int

    @property
    def _dense_values(self) -> int:
        """Of attention and router, a layer."""
        c = self.config
        heads = (c.num_attention_heads + 2 * c.num_key_value_heads) * c.head_dim
        return c.hidden_size * (heads + c.num_attention_heads * c.head_dim + c.num_experts)

    @property
    def _expert_values(self) -> int:
        return 3 * self.config.hidden_size * self.config.intermediate_size

    def decode_bytes(self, batch: int, context: int) -> float:
        """That a step must read: each weight once, of the experts those that somebody chose, and keys and values."""
        c = self.config
        chosen = c.num_experts * (1 - (1 - c.experts_per_token / c.num_experts) ** batch)
        layer = self._dense_values * self.itemsize + chosen * self._expert_values * 17 / 32
        per_key = 2 * c.num_key_value_heads * c.head_dim * self.itemsize
        seen = sum(min(context, c.sliding_window) if c.is_windowed(i) else context for i in range(c.num_hidden_layers))
        return c.num_hidden_layers * layer + c.vocab_size * c.hidden_size * self.itemsize + batch * seen * per_key

    def prefill_flops(self, tokens: int) -> float:
        """Active ones; causal attention counted once, the unembedding for one token."""
        c = self.config
        values = self._dense_values + c.experts_per_token * self._expert_values
        seen = [min(c.sliding_window, tokens) if c.is_windowed(i) else tokens / 2 for i in range(c.num_hidden_layers)]
        attention = 4 * c.num_attention_heads * c.head_dim * tokens * sum(seen)
        return 2 * tokens * c.num_hidden_layers * values + attention + 2 * c.vocab_size * c.hidden_size


# ---- the run --------------------------------------------------------------------------------------------------------


def decode_rate(model: TritonModel, batch: int, context: int, steps: int, device: torch.device) -> float:
    """Tokens a second of `batch` answers at this context; keys and values are whatever lies in the cache."""
    width = -(-(context + steps + 2) // BLOCK_TOKENS)
    tables = np.arange(batch * width, dtype=np.int32).reshape(batch, width) % model.cache_blocks
    rng = np.random.default_rng(1)
    tokens = rng.integers(0, model.config.usable_vocab_size, batch).astype(np.int32)

    def step(number: int) -> None:
        position = context + number
        used = position // BLOCK_TOKENS + 1
        chunks = [
            Chunk(tokens[i : i + 1], position, tables[i, :used], tables[i, :used], 1, Draw(1.0, i))
            for i in range(batch)
        ]
        logits = model.forward(chunks)
        for row in range(batch):
            tokens[row] = logits.sample(row, 1.0, row, position + 1)

    for number in range(2):  # compiles, and captures the graph
        step(number)
    _wait(device)
    started = time.perf_counter()
    for number in range(2, 2 + steps):
        step(number)
    _wait(device)
    return batch * steps / (time.perf_counter() - started)


def cache_that_fits(config: ModelConfig, kind: torch.dtype, device: torch.device, prompt_tokens: int) -> int:
    """Tokens. With fewer than a batch needs, its sequences share blocks: what is computed is the same, and faster only
    if blocks are read twice out of the GPU's own cache."""
    if device.type != "cuda":
        return 1 << 20
    free = torch.cuda.mem_get_info(device)[0] - OTHER_BYTES - prompt_tokens * activation_bytes(config, kind)
    return int(free / (2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * kind.itemsize))


def prefill_seconds(model: TritonModel, tokens: int, device: torch.device) -> float:
    blocks = np.arange(-(-tokens // BLOCK_TOKENS), dtype=np.int32)
    prompt = np.random.default_rng(2).integers(0, model.config.usable_vocab_size, tokens).astype(np.int32)

    def work() -> None:
        for first in range(0, tokens, model.prompt_tokens):
            end = min(tokens, first + model.prompt_tokens)
            used = blocks[: -(-end // BLOCK_TOKENS)]
            logits = model.forward([Chunk(prompt[first:end], first, used, used, int(end == tokens), Draw(0.0, 0))])
        logits.sample(0, 0.0, 0, tokens)

    return seconds(work, device, 3)


def set_shape(setting: str) -> None:
    """experts.FEWEST=64,4,6: how a kernel's work is cut, in the order in which gpu_kernels names what it tried."""
    name, values = setting.split("=")
    module, attribute = name.split(".")
    place = importlib.import_module(f"gpt_oss.backends.triton.{module}")
    kind = type(getattr(place, attribute))
    setattr(place, attribute, kind(*(None if value == "None" else int(value) for value in values.split(","))))


# ---- the table ------------------------------------------------------------------------------------------------------


def table(lines: Iterable[str]) -> str:
    """Markdown of what --json printed."""
    rows = [json.loads(line) for line in lines if line.startswith("{")]
    text = []
    for row in rows:
        if "gpu" in row:
            rates = f"copies {row['copy_gb_per_s']:.0f} GB/s, multiplies bf16 at {row['bf16_tflops']:.0f} TFLOP/s"
            text += [f"{row['gpu']}: {rates}.", ""]
            text += [
                "| shape | what | tokens/s | a step | needs | share of this GPU's rate |",
                "|---|---|---|---|---|---|",
            ]
        elif "decode_batch" in row:
            text += [
                f"| {row['shape']} | decode {row['decode_batch']} at {row['context']} | {row['tokens_per_s']:,.0f} "
                f"| {row['step_ms']:.2f} ms | {row['step_gb']:.1f} GB | {row['of_copy_bandwidth']:.0%} of copying |"
            ]
        elif "prefill" in row:
            text += [
                f"| {row['shape']} | prefill {row['prefill']} | {row['tokens_per_s']:,.0f} "
                f"| {row['ms']:.1f} ms | {row['tflop']:.1f} TFLOP | {row['of_bf16_rate']:.0%} of multiplying |"
            ]
    text += [""]
    for row in rows:
        if "relative_error" in row:
            text += [f"{row['shape']}: error of two layers {row['relative_error']}, of torch's {row['of_torch']}.  "]
        elif "peak_gb" in row:
            text += [f"{row['shape']}: weights {row['weights_gb']} GB, peak {row['peak_gb']} GB.  "]
    return "\n".join(text)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, action="append", help="repeatable (default: 20b and 120b)")
    parser.add_argument("--batch", type=int, action="append", help="repeatable (default: 1, 8, 64)")
    parser.add_argument("--context", type=int, action="append", help="repeatable (default: 1024, 8192)")
    parser.add_argument("--prompt", type=int, action="append", help="repeatable (default: 2048, 8192)")
    parser.add_argument("--steps", type=int, default=64, help="of decode (default: %(default)s)")
    parser.add_argument("--json", action="store_true")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SETTING",
        help="of a kernel, as experts.FEWEST=64,4,6; repeatable",
    )
    parser.add_argument("--table", type=Path, metavar="FILE", help="only print what --json had written, as Markdown")
    args = parser.parse_args()
    if args.table:
        print(table(args.table.read_text().splitlines()))
        return 0
    for setting in args.set:
        set_shape(setting)
    if INTERPRETED:
        device, dtype = torch.device("cpu"), "float32"
    elif torch.cuda.is_available():
        device, dtype = torch.device("cuda"), "bf16"
    else:
        parser.error("torch finds no GPU; TRITON_INTERPRET=1 with --shape tiny tries the script without one")
    kind = {"bf16": torch.bfloat16, "float32": torch.float32}[dtype]
    bandwidth, rate = copy_bandwidth(device), matmul_rate(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "interpreter"

    def tell(**result: object) -> None:
        line = json.dumps(result) if args.json else "  ".join(f"{k.replace('_', ' ')} {v}" for k, v in result.items())
        print(line, flush=True)

    tell(gpu=name, copy_gb_per_s=round(bandwidth / 1e9, 1), bf16_tflops=round(rate / 1e12, 2))
    for shape in args.shape or ["20b", "120b"]:
        config = SHAPES[shape]
        costs = Costs(config, kind.itemsize)
        tell(shape=shape, **errors_against_float32(config, device, dtype))
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        contexts, batches = args.context or [1024, 8192], args.batch or [1, 8, 64]
        weights = random_weights(config, kind, device)
        prompts = args.prompt or [2048, 8192]
        held = max(contexts) * max(batches) + max(batches) * (args.steps + 2 * BLOCK_TOKENS)
        held = min(max(held, *prompts), cache_that_fits(config, kind, device, max(prompts)))
        model = TritonModel(config, weights, kind, device, Ranks(device), Sizes(held, max(prompts)))
        for batch in batches:
            for context in contexts:
                speed = decode_rate(model, batch, context, args.steps, device)
                moved = costs.decode_bytes(batch, context)
                share = moved * speed / batch / bandwidth
                tell(
                    shape=shape, decode_batch=batch, context=context, tokens_per_s=round(speed, 1),
                    step_ms=round(1e3 * batch / speed, 3), step_gb=round(moved / 1e9, 3), of_copy_bandwidth=round(share, 3),
                )  # fmt: skip
        for tokens in prompts:
            took = prefill_seconds(model, tokens, device)
            flops = costs.prefill_flops(tokens)
            tell(
                shape=shape, prefill=tokens, tokens_per_s=round(tokens / took, 1), ms=round(1e3 * took, 2),
                tflop=round(flops / 1e12, 3), of_bf16_rate=round(flops / took / rate, 3),
            )  # fmt: skip
        kept = weights_bytes(config, Share(config, 0, 1), kind)
        peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
        tell(shape=shape, weights_gb=round(kept / 1e9, 2), peak_gb=round(peak / 1e9, 2))
        del model, weights
    return 0


if __name__ == "__main__":
    sys.exit(main())
