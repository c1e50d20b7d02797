"""The cpu backend beside llama.cpp (and its fork ik_llama.cpp) on the same weights, in one session.

    python -m benchmarks.vs_llama_cpp CHECKPOINT --llama-bin FOLDER [--ik-bin FOLDER] [--gguf FILE] [--rounds 2]

FOLDER holds llama-bench and llama-batched-bench as their own build makes them. The GGUF (Q8_0 attention and
embeddings, MXFP4 experts: what is in circulation) is written beside the checkpoint where it is missing. Engines run in
turn, A B A B; before each its own file is read into memory and the others' are dropped, for two files of 13 GB do not
fit into 24 GB at once. Ratios are of medians; the spread is the range over the rounds. Writes a table into
docs/performance.md, JSON on its last line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import (
    PERFORMANCE_PAGE,
    cores,
    describe_machine,
    drop_from_page_cache,
    replace_section,
    run,
    warm_page_cache,
)
from gpt_oss.errors import ParameterError
from gpt_oss.model.checkpoint import open_checkpoint
from gpt_oss.model.gguf import write_gguf
from gpt_oss.terminal import run_command

TIMEOUT_S = 1800.0
Figures = dict[str, float]  # case, as benchmarks.cpu writes it: tokens a second


@dataclass(frozen=True)
class Engine:
    """name: for the table. files: what must be in memory. measure: runs every case once."""

    name: str
    files: Path
    measure: Callable[[], Figures]


def ours(checkpoint: Path, cases: list[str], steps: int, threads: int, precision: str) -> Figures:
    command = [sys.executable, "-m", "benchmarks.cpu", str(checkpoint), "--json", "--no-first-token", "--repeats", "1"]
    command += ["--cases", " ".join(cases), "--steps", str(steps), "--threads", str(threads), "--precision", precision]
    answer = json.loads(run(command, timeout_s=TIMEOUT_S).splitlines()[-1])
    return {result["case"]: statistics.median(result["tokens_per_s"]) for result in answer["results"]}


def llama(folder: Path, gguf: Path, cases: list[str], steps: int, threads: int, *, repack: bool = False) -> Figures:
    """llama-bench for prompts and one sequence, llama-batched-bench for several. repack: ik_llama.cpp's fast path, the
    weights repacked at load, which its two programs are told differently."""
    figures: Figures = {}
    shared = ["-m", str(gguf), "-t", str(threads)]
    prompts = [case.split(":")[1] for case in cases if case.startswith("prefill")]
    decoding = [case.split(":")[1].split("@") for case in cases if case.startswith("decode")]
    command = [str(folder / "llama-bench"), *shared, "-r", "1", "-o", "json", "-p", ",".join(prompts) or "0"]
    command += ["-n", str(steps) if ["1", "0"] in decoding else "0", *(["-rtr", "1"] if repack else [])]
    for row in json.loads(run(command, timeout_s=TIMEOUT_S)):
        figures[f"prefill:{row['n_prompt']}" if row["n_prompt"] else "decode:1@0"] = float(row["avg_ts"])
    several = [count for count, context in decoding if count != "1" and context == "0"]
    if several:
        command = [str(folder / "llama-batched-bench"), *shared, "-c", "4096", "-npp", "16", "-ntg", str(steps)]
        command += ["-npl", ",".join(several), *(["-rtr"] if repack else [])]
        output = run(command, timeout_s=TIMEOUT_S)
        for line in output.splitlines():
            cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
            if len(cells) == 10 and cells[2].isdigit():  # PP, TG, B, N_KV, T_PP, S_PP, T_TG, S_TG, T, S
                figures[f"decode:{cells[2]}@0"] = float(cells[7])
    return figures


def compare(engines: list[Engine], rounds: int, report: Callable[[str], None]) -> dict[str, dict[str, list[float]]]:
    """engine: case: a figure for each round."""
    found: dict[str, dict[str, list[float]]] = {engine.name: {} for engine in engines}
    for number in range(rounds):
        for engine in engines:
            for other in engines:
                if other.files != engine.files:
                    drop_from_page_cache(other.files)
            warm_page_cache(engine.files)
            figures = engine.measure()
            report(f"round {number + 1}, {engine.name}: " + ", ".join(f"{c} {v:.1f}" for c, v in figures.items()))
            for case, value in figures.items():
                found[engine.name].setdefault(case, []).append(value)
    return found


def markdown(found: Mapping[str, Mapping[str, list[float]]], cases: list[str], heading: str) -> str:
    names = list(found)
    mine, peers = names[0], names[1:]
    lines = [
        heading,
        "",
        "| tokens/s | " + " | ".join(names) + " | " + " | ".join(f"ratio to {p}" for p in peers) + " |",
    ]
    lines.append("|---" * (1 + len(names) + len(peers)) + "|")
    for case in cases:
        cells = [_spread(found[name].get(case)) for name in names]
        own = found[mine].get(case)
        for peer in peers:
            theirs = found[peer].get(case)
            cells.append(f"{statistics.median(own) / statistics.median(theirs):.2f}" if own and theirs else "–")
        lines.append(f"| {case} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _spread(values: list[float] | None) -> str:
    if not values:
        return "–"
    return f"{statistics.median(values):.1f} ({min(values):.1f}–{max(values):.1f})"


def command(args: argparse.Namespace) -> int:
    checkpoint = Path(args.checkpoint)
    gguf = args.gguf or checkpoint.with_name(f"{checkpoint.name}-q8_0.gguf")
    for folder in filter(None, (args.llama_bin, args.ik_bin)):
        if not (folder / "llama-bench").exists():
            raise ParameterError(f"{folder} has no llama-bench; give the folder of a llama.cpp build's programs")
    if not gguf.exists():
        with open_checkpoint(checkpoint) as opened:
            write_gguf(opened, gguf, precision="q8_0", progress=not args.json)
    cases, steps, threads = args.cases.split(), args.steps, args.threads
    engines = [Engine("ours", checkpoint, lambda: ours(checkpoint, cases, steps, threads, args.precision))]
    engines.append(Engine("llama.cpp", gguf, lambda: llama(args.llama_bin, gguf, cases, steps, threads)))
    if args.ik_bin:
        repacked = lambda: llama(args.ik_bin, gguf, cases, steps, threads, repack=True)  # noqa: E731
        engines.append(Engine("ik_llama.cpp", gguf, repacked))
    say = (lambda text: None) if args.json else (lambda text: print(text, flush=True))
    found = compare(engines, args.rounds, say)
    machine = describe_machine()
    rounds = f"{args.rounds} round{'s' if args.rounds > 1 else ''}"
    heading = f"{checkpoint.name}, {args.precision}, {threads} threads, {rounds} in turn; {machine}."
    table = markdown(found, cases, heading)
    if not args.json:
        replace_section(args.page, "benchmarks.vs_llama_cpp", table)
        print(table)
    summary: dict[str, Any] = {"machine": machine, "threads": threads, "figures": found}
    print(json.dumps(summary))
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.vs_llama_cpp", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT")
    parser.add_argument("--llama-bin", type=Path, required=True, help="folder of llama-bench and llama-batched-bench")
    parser.add_argument("--ik-bin", type=Path, help="the same of ik_llama.cpp")
    parser.add_argument("--gguf", type=Path, help="the same weights as GGUF (default: beside the checkpoint)")
    parser.add_argument("--cases", default="prefill:128 prefill:512 decode:1@0 decode:4@0 decode:8@0")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=24, help="tokens in one decoding run (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--precision", default="balanced", choices=["balanced", "exact"])
    parser.add_argument("--page", type=Path, default=PERFORMANCE_PAGE, help="the Markdown page that gets the table")
    parser.add_argument("--json", action="store_true", help="print the JSON line only, and write no page")
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")
    return run_command(command, parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
