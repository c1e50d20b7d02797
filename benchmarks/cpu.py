"""How fast a checkpoint runs here: reading prompts, answering one or several users, the first token, memory.

    python -m benchmarks.cpu CHECKPOINT [--precision balanced|exact] [--kv bf16|int8] [--threads N] [--json]

Drives the `Model` protocol itself, without the engine. Every figure stands between two probes of the machine's memory
bandwidth; decoding is judged by the bytes that it must read against them. Tokens are drawn from random ones by the
model's own sampler at temperature 1, as an answer's are. Writes a table into docs/performance.md, JSON on its last line.

A case is written prefill:TOKENS, or decode:SEQUENCES@CONTEXT. A prompt goes in chunks of --chunk-tokens, as the engine
cuts it. A context is computed once and copied to the other sequences (so each reads keys and values of its own).
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import PERFORMANCE_PAGE, cores, describe_machine, files_under, replace_section, resident_memory
from benchmarks.probe import BandwidthProbe
from gpt_oss.backends.base import FREED, Chunk, Int32, Logits, Model, SamplesItself
from gpt_oss.errors import GptOssError, ParameterError
from gpt_oss.load import BACKENDS, LoadOptions
from gpt_oss.model.checkpoint import open_checkpoint
from gpt_oss.model.config import ModelConfig
from gpt_oss.terminal import run_command

DEFAULT_CASES = "prefill:128 prefill:512 prefill:2048 " + " ".join(
    f"decode:{sequences}@{context}" for context in (0, 2048, 8192) for sequences in (1, 2, 4, 8)
)
FIRST_TOKEN_PROMPT = 16  # tokens
WARM_UP_PROMPT = 128  # tokens; enough to touch nearly every expert
SEED = 0


@dataclass(frozen=True)
class Case:
    """tokens: of the prompt, 0 for decoding. sequences and context (tokens before the first): of decoding."""

    tokens: int = 0
    sequences: int = 1
    context: int = 0

    def __str__(self) -> str:
        return f"prefill:{self.tokens}" if self.tokens else f"decode:{self.sequences}@{self.context}"


@dataclass(frozen=True)
class Result:
    """tokens_per_s: of all sequences together, one for each repetition. probe_gb_per_s: before and after them.
    bytes_per_step: what one forward of decoding must read; None for a prompt."""

    case: str
    tokens_per_s: tuple[float, ...]
    probe_gb_per_s: tuple[float, float]
    bytes_per_step: float | None = None
    sequences: int = 1

    @property
    def gb_per_s(self) -> float | None:
        if self.bytes_per_step is None:
            return None
        return self.bytes_per_step * statistics.median(self.tokens_per_s) / self.sequences / 1e9


def parse_case(text: str) -> Case:
    """Raises ParameterError for what is not a case."""
    if match := re.fullmatch(r"prefill:(\d+)", text):
        case = Case(tokens=int(match[1]))
        if case.tokens:
            return case
    if match := re.fullmatch(r"decode:(\d+)@(\d+)", text):
        case = Case(sequences=int(match[1]), context=int(match[2]))
        if case.sequences:
            return case
    raise ParameterError(f"{text!r} is not a case; write prefill:TOKENS or decode:SEQUENCES@CONTEXT")


def distinct_experts(config: ModelConfig, tokens: int) -> float:
    """How many experts of a layer `tokens` tokens need, expected for a router without preferences."""
    return config.num_experts * (1 - (1 - config.experts_per_token / config.num_experts) ** tokens)


def bytes_per_step(config: ModelConfig, precision: str, sequences: int, context: int, kv: str = "bf16") -> float:
    """What one forward with one new token in each of `sequences` must read: weights once, the cache of each sequence.

    exact: bf16 attention weights; balanced: int8 and a float16 scale for every 32. Both: MXFP4 experts (17 bytes for
    32), the unembedding like attention's weights (in balanced its int8 screen), the cache in bf16 or in int8 with
    a float32 scale for each head's key and value.
    """
    attention_bytes = 2.0 if precision == "exact" else 34 / 32
    heads, kv_heads, head_dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    attention = config.hidden_size * (2 * heads + 2 * kv_heads) * head_dim
    expert = 3 * config.hidden_size * config.intermediate_size
    layers = range(config.num_hidden_layers)
    keys = sum(min(context, config.sliding_window) if config.is_windowed(n) else context for n in layers)
    return (
        len(layers) * (attention * attention_bytes + expert * distinct_experts(config, sequences) * 17 / 32)
        + config.usable_vocab_size * config.hidden_size * attention_bytes
        + sequences * keys * 2 * kv_heads * (head_dim * 2 if kv == "bf16" else head_dim + 4)
    )


def operations_per_prompt_token(config: ModelConfig) -> int:
    """Multiplications and additions of the matrices that every prompt token passes (not attention's, nor the logits')."""
    attention = config.hidden_size * (2 * config.num_attention_heads + 2 * config.num_key_value_heads) * config.head_dim
    experts = config.experts_per_token * 3 * config.hidden_size * config.intermediate_size
    return 2 * config.num_hidden_layers * (attention + experts)


class BenchSequence:
    """The block tables of one sequence: a run of blocks in the full pool, a ring of them in the windowed pool."""

    def __init__(self, model: Model, blocks: range, window_blocks: range) -> None:
        self._model = model
        self._blocks = blocks
        self._ring = window_blocks

    def tables(self, position: int, tokens: int) -> tuple[Int32, Int32]:
        """blocks and window_blocks of a Chunk at `position`."""
        size = self._model.block_tokens
        used = -(-(position + tokens) // size)
        first_seen = max(0, position - self._model.config.sliding_window + 1) // size
        blocks = np.arange(self._blocks.start, self._blocks.start + used, dtype=np.int32)
        ring = self._ring.start + np.arange(used, dtype=np.int32) % len(self._ring)
        return blocks, np.where(np.arange(used) < first_seen, FREED, ring).astype(np.int32)

    def chunk(self, position: int, tokens: Int32, logits: int = 1) -> Chunk:
        blocks, window_blocks = self.tables(position, len(tokens))
        return Chunk(tokens=tokens, position=position, blocks=blocks, window_blocks=window_blocks, logits=logits)

    def copy_from(self, other: BenchSequence, tokens: int) -> None:
        """Take over the keys and values of the other's first `tokens` tokens, a few blocks at a time."""
        mine, theirs = self.tables(tokens, 0), other.tables(tokens, 0)
        none = np.zeros(0, np.int32)
        for start in range(0, len(mine[0]), 8):
            part = slice(start, start + 8)
            self._model.write_cache(mine[0][part], none, self._model.read_cache(theirs[0][part], none))
        live = mine[1] != FREED
        self._model.write_cache(none, mine[1][live], self._model.read_cache(none, theirs[1][live]))


class Bench:
    """A model and the sequences that its cache is cut into; the first one reads the prompts.

    Raises ParameterError when the cache cannot hold the cases.
    """

    def __init__(self, model: Model, cases: Sequence[Case], *, steps: int, chunk_tokens: int) -> None:
        self.model, self.steps, self.chunk_tokens = model, steps, chunk_tokens
        window, size = model.config.sliding_window, model.block_tokens
        sequences = max(case.sequences for case in cases)
        longest = [max(longest_sequence(c, steps) for c in cases if c.sequences > n) for n in range(sequences)]
        longest[0] = max(longest[0], WARM_UP_PROMPT + 1)
        rings = [-(-(window + (max(chunk_tokens, steps) if n == 0 else steps)) // size) + 2 for n in range(sequences)]
        block = window_block = 0
        self.sequences: list[BenchSequence] = []
        for tokens, ring in zip(longest, rings, strict=True):
            count = -(-tokens // size)
            ring = min(ring, count)
            self.sequences.append(
                BenchSequence(model, range(block, block + count), range(window_block, window_block + ring))
            )
            block, window_block = block + count, window_block + ring
        if block > model.cache_blocks or window_block > model.window_cache_blocks:
            raise ParameterError(
                f"the cases need {block} and {window_block} cache blocks of {size} tokens, and the model has "
                f"{model.cache_blocks} and {model.window_cache_blocks}; choose fewer sequences or a shorter context"
            )
        self._random = np.random.default_rng(SEED)
        self._context = 0  # tokens of a prompt that the first sequence holds

    def random_tokens(self, count: int) -> Int32:
        return self._random.integers(0, self.model.config.usable_vocab_size, count, dtype=np.int32)

    def read_prompt(self, tokens: int, *, start: int = 0) -> float:
        """Compute a random prompt at positions start .. tokens - 1 of the first sequence, one row of logits at its end;
        the seconds that it took."""
        prompt = self.random_tokens(tokens - start)
        began = time.perf_counter()
        for at in range(start, tokens, self.chunk_tokens):
            part = prompt[at - start : at - start + self.chunk_tokens]
            logits = self.model.forward([self.sequences[0].chunk(at, part, logits=int(at + len(part) == tokens))])
        draw(logits, 0, tokens)
        seconds = time.perf_counter() - began
        self._context = tokens
        return seconds

    def prepare_context(self, case: Case) -> None:
        if case.context < self._context:
            self._context = 0
        if case.context > self._context:
            self.read_prompt(case.context, start=self._context)
        for other in self.sequences[1 : case.sequences]:
            if case.context:
                other.copy_from(self.sequences[0], case.context)

    def decode(self, case: Case) -> float:
        """`steps` tokens for each sequence after the case's context; the seconds that they took."""
        tokens = [self.random_tokens(1) for _ in range(case.sequences)]
        began = time.perf_counter()
        for position in range(case.context, case.context + self.steps):
            active = zip(self.sequences[: case.sequences], tokens, strict=True)
            logits = self.model.forward([sequence.chunk(position, token) for sequence, token in active])
            tokens = [np.array([draw(logits, row, position + 1)], np.int32) for row in range(case.sequences)]
        return time.perf_counter() - began

    def samples(self, case: Case, repeats: int) -> tuple[float, ...]:
        """Tokens a second, `repeats` times."""
        if case.tokens:
            return tuple(case.tokens / self.read_prompt(case.tokens) for _ in range(repeats))
        self.prepare_context(case)
        return tuple(case.sequences * self.steps / self.decode(case) for _ in range(repeats))


def longest_sequence(case: Case, steps: int) -> int:
    return case.tokens or case.context + steps


def draw(logits: Logits, row: int, position: int) -> int:
    """A token at temperature 1, by the model's own sampler where it has one."""
    if isinstance(logits, SamplesItself):
        return logits.sample(row, 1.0, SEED, position)
    return int(np.argmax(logits.numpy()[row]))


def cache_tokens(cases: Iterable[Case], steps: int) -> int:
    """What all sequences of the largest case hold together."""
    sequences = [case.sequences * (longest_sequence(case, steps) + 64) for case in cases]
    return max(WARM_UP_PROMPT + 64, *sequences) + max(longest_sequence(case, steps) for case in cases)


def measure(
    model: Model,
    cases: Sequence[Case],
    *,
    precision: str,
    threads: int,
    kv: str = "bf16",
    repeats: int = 3,
    steps: int = 32,
    chunk_tokens: int = 512,
    report: Callable[[Result], None] = lambda result: None,
) -> list[Result]:
    """Run every case `repeats` times on a warmed-up model, `steps` tokens in one decoding run; `report` sees each result
    as it comes. Cases run in order of their context, so that a longer one continues a shorter one's prompt.

    Raises ParameterError when the model's cache is too small for the cases.
    """
    bench = Bench(model, cases, steps=steps, chunk_tokens=chunk_tokens)
    probe = BandwidthProbe(threads)
    bench.read_prompt(WARM_UP_PROMPT)
    bench.decode(Case())
    results = []
    for case in sorted(cases, key=lambda case: (case.tokens == 0, case.context, case.tokens, case.sequences)):
        before = probe.measure()
        samples = bench.samples(case, repeats)
        middle = case.context + steps // 2
        step_bytes = None if case.tokens else bytes_per_step(model.config, precision, case.sequences, middle, kv)
        results.append(Result(str(case), samples, (before, probe.measure()), step_bytes, case.sequences))
        report(results[-1])
    probe.close()
    return results


def first_token(checkpoint: str, options: LoadOptions) -> None:
    """Open, read a short prompt, draw a token and print it: the child process of `time_first_token`. JSON after it."""
    began = time.perf_counter()
    with open_checkpoint(checkpoint) as opened:
        model = BACKENDS[options.backend](opened, options)
        bench = Bench(model, [Case(tokens=FIRST_TOKEN_PROMPT)], steps=1, chunk_tokens=FIRST_TOKEN_PROMPT)
        open_s = time.perf_counter() - began
        cold_s = bench.read_prompt(FIRST_TOKEN_PROMPT)
        print("first token", flush=True)
        warm_s = min(bench.read_prompt(FIRST_TOKEN_PROMPT) for _ in range(3))
        bench.read_prompt(WARM_UP_PROMPT)
        memory = resident_memory()
        print(json.dumps({"open_s": open_s, "cold_s": cold_s, "warm_s": warm_s, "memory": memory and asdict(memory)}))
        model.close()


def time_first_token(arguments: Sequence[str]) -> dict[str, Any]:
    """Start this program anew with --first-token; seconds from the start of the process to the first token, and what
    the child says: open_s, cold_s (the first prompt), warm_s (the same again), memory after a longer prompt, in bytes."""
    command = [sys.executable, "-m", "benchmarks.cpu", *arguments, "--first-token"]
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        total_s = time.perf_counter() - began
        lines = child.stdout.read().splitlines()
    if child.returncode or not lines:
        raise GptOssError(
            f"the process that times the first token ended with code {child.returncode}; run {' '.join(command)}"
        )
    return {"total_s": total_s, **json.loads(lines[-1])}


def spread(values: Sequence[float], digits: int = 1) -> str:
    """12.3 (11.9 to 12.5): the median, and the range where there is one."""
    text = f"{statistics.median(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def markdown(
    results: Sequence[Result], first: dict[str, Any] | None, config: ModelConfig, heading: str, file_bytes: int
) -> str:
    operations = operations_per_prompt_token(config)
    lines = [heading, "", "| what | tokens/s | reads or computes | of the bandwidth around it |", "|---|---|---|---|"]
    for result in results:
        case, speed = parse_case(result.case), statistics.median(result.tokens_per_s)
        bandwidth = statistics.mean(result.probe_gb_per_s)
        if result.gb_per_s is None or result.bytes_per_step is None:
            lines.append(
                f"| read {case.tokens} tokens | {spread(result.tokens_per_s)} | {operations * speed / 1e12:.2f} TOPS | |"
            )
            continue
        who = "1 sequence" if case.sequences == 1 else f"{case.sequences} sequences"
        share = f"{result.gb_per_s / bandwidth:.0%} of {bandwidth:.0f} GB/s"
        reads = f"{result.bytes_per_step / 1e9:.2f} GB a step, {result.gb_per_s:.1f} GB/s"
        lines.append(f"| decode {who}, context {case.context} | {spread(result.tokens_per_s)} | {reads} | {share} |")
    if first:
        lines += [
            "",
            f"Process start to first token, {FIRST_TOKEN_PROMPT}-token prompt: {first['total_s']:.2f} s, of which opening "
            f"{first['open_s']:.2f} s and the prompt {first['cold_s']:.2f} s ({first['warm_s']:.2f} s when repeated).",
        ]
        if first["memory"]:
            lines[-1] += (
                f" Resident then: {first['memory']['anonymous'] / 2**20:.0f} MiB of its own and "
                f"{first['memory']['file'] / 2**30:.1f} GiB of mapped files; the checkpoint has {file_bytes / 2**30:.1f} GiB."
            )
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT")
    parser.add_argument(
        "--cases", default=DEFAULT_CASES, help='for example "prefill:512 decode:4@2048" (default: all of the table)'
    )
    parser.add_argument("--backend", choices=list(BACKENDS), default="cpu")
    parser.add_argument(
        "--precision", default=None, help="as the backend has it (cpu: balanced, exact; torch: bf16, float32)"
    )
    parser.add_argument("--kv", choices=["bf16", "int8"], default="bf16", help="keys and values of the cpu backend")
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--repeats", type=int, default=3, help="runs of each case (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=32, help="tokens in one decoding run (default: %(default)s)")
    parser.add_argument(
        "--chunk-tokens",
        type=int,
        default=512,
        help="a prompt is computed in parts of this size (default: %(default)s)",
    )
    parser.add_argument("--page", type=Path, default=PERFORMANCE_PAGE, help="the Markdown page that gets the table")
    parser.add_argument("--json", action="store_true", help="print the JSON line only, and write no page")
    parser.add_argument("--no-first-token", action="store_true", help="do not start a process to time its first token")
    parser.add_argument("--first-token", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")


def command(args: argparse.Namespace) -> int:
    cases = [parse_case(text) for text in args.cases.split()]
    if not cases:
        raise ParameterError("--cases is empty; write at least one, such as prefill:512")
    for name in ("threads", "repeats", "steps", "chunk_tokens"):
        if getattr(args, name) < 1:
            raise ParameterError(f"--{name.replace('_', '-')} must be 1 or more, not {getattr(args, name)}")
    precision = args.precision or ("balanced" if args.backend == "cpu" else "bf16")
    options = LoadOptions(backend=args.backend, precision=precision, kv=args.kv, threads=args.threads)
    if args.first_token:
        first_token(args.checkpoint, LoadOptions(**{**asdict(options), "context_tokens": 4096}))
        return 0
    first = None
    if not args.no_first_token:
        shared = ["--backend", args.backend, "--precision", precision, "--kv", args.kv, "--threads", str(args.threads)]
        first = time_first_token([args.checkpoint, *shared])
    say = (lambda text: None) if args.json else (lambda text: print(text, flush=True))
    options = LoadOptions(**{**asdict(options), "context_tokens": cache_tokens(cases, args.steps)})
    with open_checkpoint(args.checkpoint) as checkpoint:
        model = BACKENDS[args.backend](checkpoint, options)
        results = measure(
            model, cases, precision=precision, kv=args.kv, threads=args.threads, repeats=args.repeats, steps=args.steps,
            chunk_tokens=args.chunk_tokens,
            report=lambda result: say(f"{result.case}: {spread(result.tokens_per_s)} tokens/s"),
        )  # fmt: skip
        model.close()
        config, name = checkpoint.config, checkpoint.path.name
        file_bytes = sum(file.stat().st_size for file in files_under(checkpoint.path))
    machine = describe_machine()
    kept = " int8 keys and values," if args.kv == "int8" else ""
    heading = f"{name}: {config.num_hidden_layers} layers, {args.backend}, {precision},{kept} {args.threads} threads; {machine}."
    if not args.json:
        table = markdown(results, first, config, heading, file_bytes)
        replace_section(args.page, "benchmarks.cpu", table)
        print(table)
    print(json.dumps({
        "machine": machine, "checkpoint": name, "layers": config.num_hidden_layers, "backend": args.backend,
        "precision": precision, "kv": args.kv, "threads": args.threads, "results": [asdict(result) for result in results], "first_token": first,
    }))  # fmt: skip
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu", description=(__doc__ or "").split("\n\n")[0])
    add_arguments(parser)
    return run_command(command, parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
