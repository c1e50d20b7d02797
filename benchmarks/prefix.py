"""What a prompt costs that was seen before: the first token of a long prompt, of a longer one, and after a restart.

    python -m benchmarks.prefix CHECKPOINT [--tokens 10000] [--new 16] [--json]

An agent resends its whole conversation at each step. Drives the engine as a user does: the prompt; the prompt with a few
tokens more, several times; then the generator is closed and opened anew, with the prefix cache that it left on disk.
Writes a table into docs/performance.md, JSON on its last line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.machine import PERFORMANCE_PAGE, cores, describe_machine, replace_section
from gpt_oss.backends.base import TokenGenerator
from gpt_oss.engine.engine import Engine, EngineConfig
from gpt_oss.load import BACKENDS, LoadOptions
from gpt_oss.model.checkpoint import open_checkpoint
from gpt_oss.params import SamplingParams
from gpt_oss.terminal import run_command


def first_token(generator: TokenGenerator, prompt: Sequence[int]) -> tuple[float, int]:
    """(seconds until the first token, prompt tokens that came from the cache)."""
    began = time.perf_counter()
    token = next(iter(generator.generate_sync(prompt, SamplingParams(max_tokens=1, seed=0))))
    return time.perf_counter() - began, token.cached_tokens


def command(args: argparse.Namespace) -> int:
    options = LoadOptions("cpu", args.precision, context_tokens=args.tokens + 4096, threads=args.threads)
    random = np.random.default_rng(0)
    prompt = random.integers(0, 199_000, args.tokens).tolist()
    rows: list[tuple[str, float, int]] = []

    with tempfile.TemporaryDirectory() as folder, open_checkpoint(args.checkpoint) as checkpoint:

        def engine() -> Engine:
            file = Path(folder) / "prefixes"
            config = EngineConfig(context_tokens=options.context_tokens, prefix_file=file, prefix_identity="bench")
            return Engine(BACKENDS["cpu"](checkpoint, options), config)

        def row(name: str, seconds: float, cached: int) -> None:
            rows.append((name, seconds, cached))
            if not args.json:
                print(f"{name}: {seconds * 1000:.0f} ms, {cached} tokens from the cache", flush=True)

        def longer() -> tuple[float, int]:
            runs = [first_token(opened, [*prompt, *random.integers(0, 199_000, args.new).tolist()]) for _ in range(5)]
            return statistics.median(seconds for seconds, _ in runs), min(cached for _, cached in runs)

        opened = engine()
        first_token(opened, prompt[:64])
        row(f"{args.tokens} tokens, never seen", *first_token(opened, prompt))
        row(f"the same and {args.new} more (median of 5)", *longer())
        began = time.perf_counter()
        opened.close()
        closing = time.perf_counter() - began
        began = time.perf_counter()
        opened = engine()
        reopening = time.perf_counter() - began
        row(f"the same and {args.new} more, after a restart", *first_token(opened, [*prompt, *range(args.new)]))
        opened.close()

    machine = describe_machine()
    lines = [
        f"{checkpoint.path.name}, cpu, {args.precision}, {args.threads} threads; {machine}.",
        "",
        "| prompt | first token | from the cache |",
        "|---|---|---|",
        *(f"| {name} | {seconds * 1000:,.0f} ms | {cached} tokens |" for name, seconds, cached in rows),
        "",
        f"Saving the cache at the end took {closing:.1f} s; opening the checkpoint and the saved cache {reopening:.1f} s.",
    ]
    if not args.json:
        replace_section(args.page, "benchmarks.prefix", "\n".join(lines))
    print(json.dumps({"machine": machine, "rows": rows, "closing_s": closing, "reopening_s": reopening}))
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prefix", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("checkpoint", metavar="CHECKPOINT")
    parser.add_argument("--tokens", type=int, default=10_000, help="length of the prompt (default: %(default)s)")
    parser.add_argument("--new", type=int, default=16, help="tokens more in the second prompt (default: %(default)s)")
    parser.add_argument("--precision", choices=["balanced", "exact"], default="balanced")
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--page", type=Path, default=PERFORMANCE_PAGE, help="the Markdown page that gets the table")
    parser.add_argument("--json", action="store_true", help="print the JSON line only, and write no page")
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")
    return run_command(command, parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
