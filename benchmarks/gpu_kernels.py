"""Each kernel of the triton backend alone, at the released shapes, on a GPU: `python -m benchmarks.gpu_kernels`.

A kernel is launched in a CUDA graph, again and again over more data than the second-level cache holds; its median time
comes with its bytes and FLOPs, and their shares of this GPU's copy bandwidth and bf16 matmul rate. `--tune` also tries
other ways of cutting the work, which processes of their own compile at the same time before anything is measured.
`--shape tiny` is for trying the script itself, in Triton's interpreter too. One JSON object a line.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu import SCALES, SHAPES, copy_bandwidth, matmul_rate
from gpt_oss.backends.triton import attention, dense, experts, mxfp4, norm, rotary, route, sampling
from gpt_oss.backends.triton.model import BLOCK_TOKENS, INTERPRETED
from gpt_oss.model.config import ModelConfig

DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
DTYPE = torch.float32 if INTERPRETED else torch.bfloat16
COLD_BYTES = 300 << 20  # of different data between two readings of the same
MOST_SETS = 16
GRAPH_S = 0.004  # that a graph takes, about
MOST_LAUNCHES = 48  # of a graph
REPLAYS = 5
COMPILERS = 12  # processes

Call = Callable[[], object]
Setting = tuple[dict[Any, Any], object, Any]  # names of a module or shapes by size, which one, and what it is set to


@dataclass(frozen=True)
class Case:
    """A kernel at a size. make: calls that do the same work on different data. options: what --tune tries instead."""

    kernel: str
    size: str
    make: Callable[[], Sequence[Call]]
    bytes: float
    flops: float = 0.0
    options: Sequence[Setting] = field(default_factory=tuple)


# ---- inputs ---------------------------------------------------------------------------------------------------------


def normal(*shape: int, dtype: torch.dtype = DTYPE) -> Tensor:
    return torch.randn(shape, device=DEVICE, dtype=torch.float32).to(dtype)


def int32(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.int32)).to(DEVICE)


def random_matrices(count: int, rows: int, columns: int) -> experts.Matrices:
    groups = mxfp4.groups_of(columns)
    words = torch.randint(-(2**31), 2**31, (count, rows, groups * 16), dtype=torch.int32, device=DEVICE)
    scales = torch.randint(*SCALES, (count, groups, rows, 4), dtype=torch.uint8, device=DEVICE).view(torch.int32)
    return experts.Matrices(words, scales[..., 0], normal(count, rows), columns)


def sets_of(bytes_each: float) -> int:
    return 1 if INTERPRETED else max(1, min(MOST_SETS, int(COLD_BYTES / bytes_each) + 1))


# ---- cases ----------------------------------------------------------------------------------------------------------


def dense_cases(c: ModelConfig, tokens: int) -> Iterator[Case]:
    queries = c.num_attention_heads * c.head_dim
    qkv = queries + 2 * c.num_key_value_heads * c.head_dim
    shapes = {
        "qkv": (qkv, c.hidden_size),
        "out": (c.hidden_size, queries),
        "gate": (c.num_experts, c.hidden_size),
        "unembedding": (c.vocab_size, c.hidden_size),
    }
    options = [
        (vars(dense), "_FEW", dense.Shape(rows, warps))
        for rows, warps in ((1, 1), (1, 2), (1, 4), (2, 2), (2, 8), (4, 4), (4, 8), (8, 8))
    ]
    for name, (rows, columns) in shapes.items():
        if tokens > 64 and name == "unembedding":
            continue
        count = rows * columns

        def make(rows: int = rows, columns: int = columns) -> list[Call]:
            x = normal(tokens, columns)
            weights = [normal(rows, columns) for _ in range(sets_of(rows * columns * DTYPE.itemsize))]
            return [lambda w=w: dense.linear(x, w) for w in weights]

        moved = (count + tokens * (rows + columns)) * DTYPE.itemsize
        yield Case(name, f"{tokens} tokens", make, moved, 2.0 * count * tokens, options if tokens <= 8 else ())
        if 1 < tokens <= dense.FEW_TOKENS or tokens == 8:  # where the other product takes over
            continue
        if tokens == 1:

            def make_torch(rows: int = rows, columns: int = columns) -> list[Call]:
                x = normal(tokens, columns)
                weights = [normal(rows, columns) for _ in range(sets_of(rows * columns * DTYPE.itemsize))]
                return [lambda w=w: torch.nn.functional.linear(x, w) for w in weights]

            yield Case(f"{name}, torch's", f"{tokens} tokens", make_torch, moved, 2.0 * count * tokens)


def expert_cases(c: ModelConfig, tokens: int) -> Iterator[Case]:
    hidden, inter, k, count = c.hidden_size, c.intermediate_size, c.experts_per_token, c.num_experts
    pairs, generator = tokens * k, np.random.default_rng(0)
    few = pairs <= experts.FEW_TOKENS * count
    sets = 1 if INTERPRETED or not few else max(1, min(MOST_SETS, count // k))
    if tokens == 1:
        choices = generator.permutation(count)[: sets * k].reshape(sets, 1, k)  # each expert once
    else:
        choices = np.argsort(generator.random((sets, tokens, count)), -1)[..., :k]
    active = float(np.mean([len(np.unique(chosen)) for chosen in choices]))
    own = experts.tile_tokens(pairs, count, 227 * 1024)
    tiles = [own, *(() if few or INTERPRETED else [tile for tile in (64, 128, 256) if tile != own])]
    settings = (
        [(32, 2, 3), (32, 2, 4), (32, 2, 6), (32, 2, 8), (64, 4, 3), (64, 4, 4), (64, 4, 6), (64, 4, 8), (64, 2, 4),
         (128, 4, 4), (128, 8, 4), (128, 8, 6), (16, 1, 6)]
        if few
        else [(128, 8, 2), (128, 8, 3), (128, 8, 4), (128, 8, 2, 128), (128, 4, 2), (128, 4, 3), (64, 4, 2), (64, 4, 3),
              (64, 4, 2, 168), (256, 8, 2)]
    )  # fmt: skip
    for tile in tiles:
        for name, rows, columns in (("mlp1", 2 * inter, hidden), ("mlp2", hidden, inter)):
            shapes = experts.SHAPES1 if name == "mlp1" else experts.SHAPES2
            place = (vars(experts), "FEWEST") if pairs <= experts.FEWEST_PAIRS else (shapes, tile)

            def make(name: str = name, rows: int = rows, columns: int = columns, tile: int = tile) -> list[Call]:
                groups = [route.group(int32(chosen), count, tile) for chosen in choices]
                matrices = random_matrices(count, rows, columns)
                x = normal(tokens if name == "mlp1" else pairs, columns)
                if name == "mlp1":
                    return [lambda g=g: experts.mlp1(x, matrices, g, 7.0) for g in groups]
                return [lambda g=g: experts.mlp2(x, matrices, g, tokens) for g in groups]

            yield Case(
                name,
                f"{tokens} tokens, tiles of {tile}",
                make,
                active * rows * (columns * 17 / 32 + 2) + pairs * (rows + columns) * DTYPE.itemsize,
                2.0 * pairs * rows * columns,
                [(*place, experts.Shape(*setting)) for setting in (settings if tile < 256 else settings[:1])],
            )


def decode_cases(c: ModelConfig, batch: int, context: int) -> Iterator[Case]:
    heads, kv_heads, dim = c.num_attention_heads, c.num_key_value_heads, c.head_dim
    width = context // BLOCK_TOKENS
    for window in (None, c.sliding_window):
        seen = min(context, window or context)
        moved = batch * seen * 2 * kv_heads * dim * DTYPE.itemsize
        sets = sets_of(batch * context * 2 * kv_heads * dim * DTYPE.itemsize)
        splits = 1 if window else attention.splits_for(batch, kv_heads, 132)

        def make(window: int | None = window, sets: int = sets, splits: int = splits) -> list[Call]:
            keys, values = (normal(sets * batch * context, kv_heads, dim) for _ in range(2))
            q, sinks = normal(batch, heads, dim), normal(heads)
            blocks = np.random.default_rng(1).permutation(sets * batch * width).reshape(sets, batch, width)
            positions, sequences = int32(np.full(batch, context - 1)), int32(np.arange(batch))
            pages = [
                attention.Pages(keys, values, int32(table), BLOCK_TOKENS, window or attention.EVERYTHING)
                for table in blocks
            ]
            return [lambda p=p: attention.decode(q, p, sinks, positions, sequences, splits) for p in pages]

        options = [
            (vars(attention), "DECODE", attention.Shape(16, *setting))
            for setting in (
                (32, 2, 4),
                (64, 2, 3),
                (64, 2, 5),
                (64, 4, 4),
                (64, 4, 5),
                (128, 4, 3),
                (128, 4, 4),
                (128, 8, 3),
            )
        ]
        name = f"decode attention{', window' if window else ''}"
        flops = 4.0 * batch * seen * heads * dim
        yield Case(name, f"{batch} tokens at {context}", make, moved, flops, options)


def prefill_cases(c: ModelConfig, tokens: int) -> Iterator[Case]:
    heads, kv_heads, dim = c.num_attention_heads, c.num_key_value_heads, c.head_dim
    for window in (None, c.sliding_window):
        seen = np.minimum(np.arange(1, tokens + 1), window or tokens).sum()

        def make(window: int | None = window) -> list[Call]:
            q, sinks = normal(tokens, heads, dim), normal(heads)
            keys, values = (normal(tokens, kv_heads, dim) for _ in range(2))
            table = int32(np.random.default_rng(1).permutation(tokens // BLOCK_TOKENS)[None])
            pages = attention.Pages(keys, values, table, BLOCK_TOKENS, window or attention.EVERYTHING)
            positions, sequences = int32(np.arange(tokens)), int32(np.zeros(tokens))

            def call() -> object:
                return attention.prefill(q, pages, sinks, positions, sequences, runs[attention.PREFILL.rows])

            runs = {}
            for rows in (64, 128, 256):
                with mock.patch.object(vars(attention), "PREFILL", attention.Shape(rows, 64, 8, 3)):
                    step = attention.run_tokens(heads // kv_heads)
                first = np.arange(0, tokens, step)
                runs[rows] = int32(np.stack([first, np.minimum(first + step, tokens)], 1))
            return [call]

        options = [
            (vars(attention), "PREFILL", attention.Shape(*setting))
            for setting in (
                (64, 64, 4, 3), (128, 64, 4, 3), (128, 64, 8, 2), (128, 64, 8, 4), (128, 128, 8, 2), (128, 128, 8, 3),
                (128, 32, 4, 4), (256, 64, 8, 3), (256, 128, 8, 2),
            )
        ]  # fmt: skip
        moved = tokens * (2 * heads + 2 * kv_heads) * dim * DTYPE.itemsize
        name = f"prefill attention{', window' if window else ''}"
        yield Case(name, f"{tokens} tokens", make, moved, float(4 * heads * dim * seen), options)


def small_cases(c: ModelConfig, tokens: int) -> Iterator[Case]:
    hidden, k, count = c.hidden_size, c.experts_per_token, c.num_experts
    heads, kv_heads, dim = c.num_attention_heads, c.num_key_value_heads, c.head_dim
    size = f"{tokens} tokens"

    def make_norm() -> list[Call]:
        x, scale = normal(tokens, hidden, dtype=torch.float32), normal(hidden, dtype=torch.float32)
        terms, shares = normal(tokens, k, hidden), normal(tokens, k, dtype=torch.float32)
        return [lambda: norm.add_norm(x, scale, 1e-5, DTYPE, terms, shares)]

    def make_rotary() -> list[Call]:
        qkv, angles = normal(tokens, (heads + 2 * kv_heads) * dim), normal(tokens, dim // 2, dtype=torch.float32)
        keys, values = (normal(-(-tokens // BLOCK_TOKENS) * BLOCK_TOKENS, kv_heads, dim) for _ in range(2))
        positions, sequences = int32(np.arange(tokens)), int32(np.zeros(tokens))
        table = int32(np.arange(-(-tokens // BLOCK_TOKENS))[None])
        return [
            lambda: rotary.rotate_and_store(
                qkv, angles, angles, positions, sequences, table, keys, values, BLOCK_TOKENS
            )
        ]

    def make_assign() -> list[Call]:
        logits, positions = normal(tokens, count), int32(np.zeros(tokens))
        tile = experts.tile_tokens(tokens * k, count, 227 * 1024)
        return [lambda: route.assign(logits, positions, k, tile)]

    def make_sample() -> list[Call]:
        logits, seeds = normal(tokens, c.vocab_size), torch.arange(tokens, device=DEVICE)
        temperatures = torch.ones(tokens, dtype=torch.float64, device=DEVICE)
        return [lambda: sampling.sample(logits, c.usable_vocab_size, temperatures, seeds, int32_positions)]

    int32_positions = int32(np.arange(tokens))
    width = heads + 2 * kv_heads
    yield Case("norm", size, make_norm, tokens * hidden * (8 + (k + 1) * DTYPE.itemsize))
    yield Case("rotary", size, make_rotary, 2 * tokens * width * dim * DTYPE.itemsize)
    yield Case("route", size, make_assign, tokens * (count * DTYPE.itemsize + 8 * k))
    if tokens <= 64:
        yield Case("sample", size, make_sample, tokens * c.vocab_size * DTYPE.itemsize)


def cases_of(c: ModelConfig, few: Sequence[int], many: Sequence[int], contexts: Sequence[int]) -> Iterator[Case]:
    for tokens in few:
        yield from dense_cases(c, tokens)
        yield from small_cases(c, tokens)
        yield from expert_cases(c, tokens)
        for context in contexts:
            yield from decode_cases(c, tokens, context)
    for tokens in many:
        yield from dense_cases(c, tokens)
        yield from small_cases(c, tokens)
        yield from expert_cases(c, tokens)
        yield from prefill_cases(c, tokens)


def cases(shape: str) -> Iterator[Case]:
    """Those of 120b that are not 20b's too: what depends on the number of experts."""
    c = SHAPES[shape]
    if shape == "tiny":
        yield from cases_of(c, (1, 3), (65,), (64,))
    elif shape == "120b":
        for tokens in (1, 8, 64, 2048, 8192):
            yield from expert_cases(c, tokens)
        yield from small_cases(c, 64)
    else:
        yield from cases_of(c, (1, 8, 64), (2048, 8192), (1024, 8192))


# ---- measuring ------------------------------------------------------------------------------------------------------


@contextmanager
def set_to(option: Setting | None) -> Iterator[None]:
    if option is None:
        yield
    else:
        place, name, value = option
        with mock.patch.dict(place, {name: value}):
            yield


def seconds_each(calls: Sequence[Call]) -> float:
    """Of one call in a graph, the median of some replays."""
    if INTERPRETED:
        started = time.perf_counter()
        for call in calls:
            call()
        return (time.perf_counter() - started) / len(calls)
    calls[0]()  # compiles
    once = elapsed(calls[-1])
    calls = [
        call for call, _ in zip(cycle(calls), range(max(1, min(MOST_LAUNCHES, int(GRAPH_S / once)))), strict=False)
    ]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    graph.replay()
    return float(np.median([elapsed(graph.replay) for _ in range(REPLAYS)])) / len(calls)


def elapsed(work: Call) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    work()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def try_or_say(work: Callable[[], float]) -> float | str:
    """Settings that do not fit this GPU are part of what is found out."""
    try:
        return work()
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0][:120]}" if str(error) else type(error).__name__


def report(shape: str, case: Case, took: float | str, bandwidth: float, rate: float) -> dict[str, object]:
    row: dict[str, object] = {"shape": shape, "kernel": case.kernel, "size": case.size}
    if isinstance(took, str):
        return row | {"error": took}
    row |= {"us": round(took * 1e6, 2), "gb_per_s": round(case.bytes / took / 1e9, 1)}
    row |= {"of_copy": round(case.bytes / took / bandwidth, 3)}
    if case.flops:
        row |= {"tflops": round(case.flops / took / 1e12, 2), "of_matmul": round(case.flops / took / rate, 3)}
    return row


def compile_all() -> None:
    """What this process will launch, into Triton's cache on the disk, by processes side by side."""
    own = [sys.executable, "-m", "benchmarks.gpu_kernels", *sys.argv[1:]]
    running = [
        subprocess.Popen([*own, "--compile", str(part)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for part in range(COMPILERS)
    ]
    for process in running:
        process.wait()


def compile_part(wanted: Sequence[tuple[str, Case]], tune: bool, part: int) -> None:
    number = 0
    for _, case in wanted:
        options = [None, *(case.options if tune else ())]
        mine = [option for i, option in enumerate(options) if (number + i) % COMPILERS == part]
        number += len(options)
        if mine:
            call = case.make()[0]
            for option in mine:
                with set_to(option):
                    try_or_say(lambda call=call: float(call() is None))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_kernels", description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, action="append", help="repeatable (default: 20b and 120b)")
    parser.add_argument("--kernel", action="append", help="only kernels whose name starts so; repeatable")
    parser.add_argument("--tune", action="store_true", help="try other settings of each kernel, and say which is best")
    parser.add_argument("--compile", type=int, metavar="PART", help=f"only compile that part of {COMPILERS}, then end")
    parser.add_argument(
        "--compiled", action="store_true", help="all parts were compiled before: do not begin with that"
    )
    args = parser.parse_args()
    if not INTERPRETED and not torch.cuda.is_available():
        parser.error("torch finds no GPU; TRITON_INTERPRET=1 with --shape tiny tries the script without one")
    shapes = args.shape or ["20b", "120b"]
    torch.manual_seed(0)
    wanted = [
        (shape, case)
        for shape in shapes
        for case in cases(shape)
        if not args.kernel or case.kernel.startswith(tuple(args.kernel))
    ]
    if args.compile is not None:
        compile_part(wanted, args.tune, args.compile)
        return 0
    started = time.perf_counter()
    if not (INTERPRETED or args.compiled):
        compile_all()
    bandwidth, rate = copy_bandwidth(DEVICE), matmul_rate(DEVICE)
    print(
        json.dumps(
            {"copy_gb_per_s": round(bandwidth / 1e9, 1), "bf16_tflops": round(rate / 1e12, 2),
             "compiled_s": round(time.perf_counter() - started, 1)}
        )
    )  # fmt: skip
    for shape, case in wanted:
        calls = case.make()
        took = try_or_say(lambda calls=calls: seconds_each(calls))
        row = report(shape, case, took, bandwidth, rate)
        if args.tune and case.options:
            tried: dict[str, float | str] = {}
            for option in case.options:
                with set_to(option):
                    found = try_or_say(lambda calls=calls: seconds_each(calls))
                label = ",".join(str(value) for value in vars(option[2]).values())
                tried[label] = round(found * 1e6, 2) if isinstance(found, float) else found[:40]
            fits = {label: us for label, us in tried.items() if isinstance(us, float)}
            row |= {"best": min(fits, key=fits.__getitem__) if fits else None, "tried": tried}
        print(json.dumps(row), flush=True)
        del calls
        if not INTERPRETED:
            torch.cuda.empty_cache()
    return 0


if __name__ == "__main__":
    sys.exit(main())
