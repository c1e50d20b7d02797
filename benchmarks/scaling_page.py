"""The tables and the picture of docs/scaling.md: `python -m benchmarks.scaling_page` computes and writes them (minutes).

Memory is arithmetic (capacity.py); users are what the simulation (queueing.py) finds. tests/benchmarks holds the page
against the same functions.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from math import ceil
from pathlib import Path

from tqdm import tqdm

from benchmarks.capacity import (
    HARDWARE,
    MODELS,
    Roofline,
    cache_tokens,
    kv_bytes,
    layer_token_bytes,
    read_measured,
    sequences_that_fit,
    weights_bytes,
    windowed_layers,
)
from benchmarks.machine import cores, replace_section
from benchmarks.queueing import (
    GOALS,
    WORKLOADS,
    Fleet,
    Goal,
    Result,
    Routing,
    plot,
    run_fleet,
    users_that_fit,
    watched_s,
)
from gpt_oss.terminal import run_command

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "scaling.md"
PICTURE = DOCS / "img" / "scaling.png"

CONTEXTS = (1024, 4096, 16_384, 32_768, 65_536, 131_072)
MACHINES = (
    ("20b", "rtx4090", 1), ("20b", "rtx5090", 1), ("20b", "l40s", 1), ("20b", "a100", 1), ("20b", "h100", 1),
    ("20b", "h200", 1), ("20b", "b200", 1), ("20b", "mi300x", 1), ("120b", "a100", 1), ("120b", "h100", 1),
    ("120b", "h100", 2), ("120b", "h200", 1), ("120b", "b200", 1), ("120b", "mi300x", 1),
)  # fmt: skip
CROWDS = (1, 10, 100, 1_000, 10_000, 100_000)
PLANNED = (("20b", "rtx5090", 1), ("20b", "h100", 1), ("120b", "h100", 2), ("120b", "h200", 1), ("120b", "b200", 1))
HEADROOM = 1.25  # more than the average crowd, for hours that are busier
CPU_GOAL = Goal(first_token_s=15.0, between_tokens_s=0.6)
SIMULATED_S = 400.0
# Third parties', from the pages that docs/scaling.md names: (what, tokens a second, how this file computes the same).
PUBLISHED = (
    ("120b, H100, SGLang, 1 sequence", 212, ("120b", "h100", 1)),
    ("120b, H100, SGLang, 8 sequences", 795, ("120b", "h100", 8)),
    ("120b, H100, SGLang, 64 sequences", 1620, ("120b", "h100", 64)),
    ("20b, H100, SGLang, 32 sequences", 2765, ("20b", "h100", 32)),
    ("20b, RTX 4090, llama.cpp, 1 sequence", 225, ("20b", "rtx4090", 1)),
    ("20b, RTX 5090, llama.cpp, 1 sequence", 298, ("20b", "rtx5090", 1)),
)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)])


def size(number: float) -> str:
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if number >= unit:
            return f"{number / unit:,.1f} {name}"
    return f"{number / 1e3:,.0f} kB"


def title(model: str, on: str, gpus: int) -> str:
    gpu = HARDWARE[on]
    assert gpu is not None
    return f"{gpus} x {gpu.title}" if gpus > 1 else gpu.title


# ---- arithmetic -----------------------------------------------------------------------------------------------------


def memory_of_a_conversation() -> str:
    rows = []
    for context in CONTEXTS:
        row = [f"{context:,}"]
        for config in MODELS.values():
            whole = config.num_hidden_layers * layer_token_bytes(config) * context
            row += [
                size(kv_bytes(config, context)),
                size(kv_bytes(config, context, 1 + 4 / config.head_dim)),
                size(whole),
            ]
        rows.append(row)
    heads = [f"{name}{kind}" for name in MODELS for kind in ("", ", int8", ", were all layers full")]
    return table(["tokens", *heads], rows)


def shapes() -> str:
    rows = []
    for name, config in MODELS.items():
        windowed = windowed_layers(config)
        full = config.num_hidden_layers - windowed
        per_token, fixed = (
            layer_token_bytes(config) * full,
            layer_token_bytes(config) * windowed * config.sliding_window,
        )
        rows.append([f"gpt-oss-{name}", size(weights_bytes(config)), f"{full} + {windowed}",
                     f"{per_token:,.0f} B", size(fixed)])  # fmt: skip
    return table(["", "weights", "full + windowed layers", "a token", "and the windows, once"], rows)


def sequences() -> str:
    rows = []
    for model, on, gpus in MACHINES:
        fit = [f"{sequences_that_fit(model, on, context, gpus):,}" for context in (8192, 32_768, 131_072)]
        rows.append([model, title(model, on, gpus), f"{cache_tokens(model, on, gpus):,}", *fit])
    return table(["model", "on", "tokens of cache", "of 8,192", "of 32,768", "of 131,072"], rows)


def calibration() -> str:
    rows = []
    for what, published, (model, on, batch) in PUBLISHED:
        gpu = HARDWARE[on]
        assert gpu is not None
        computed = batch / Roofline(MODELS[model], gpu).step_s(0, 0, batch, 1000 * batch)
        rows.append([what, f"{published:,}", f"{computed:,.0f}", f"{computed / published:.2f}"])
    return table(["", "published, tokens/s", "computed here", "ratio"], rows)


ARITHMETIC = {
    "shapes": shapes,
    "conversation": memory_of_a_conversation,
    "sequences": sequences,
    "calibration": calibration,
}


# ---- simulation -----------------------------------------------------------------------------------------------------


def fitting(model: str, on: str, gpus: int, workload: str) -> tuple[int, Result | None]:
    """Users of one replica, and what they see."""
    fleet = Fleet(model, on, gpus)
    users = users_that_fit(fleet, WORKLOADS[workload], GOALS[workload], seconds=SIMULATED_S)
    seconds = watched_s(users or 1, SIMULATED_S)
    return users, run_fleet(fleet, users, WORKLOADS[workload], seconds=seconds) if users else None


def seen(result: Result | None) -> str:
    if result is None:
        return "–"
    first, between = result.first_token_s["p95"], result.between_tokens_s["p95"]
    return f"{result.output_tokens_per_s:,.0f}; {first:.2f} s, {1000 * between:.0f} ms; {100 * result.prefix_hits:.0f}%"


def users_table(found: dict[tuple[str, str, int, str], tuple[int, Result | None]]) -> str:
    rows = []
    for model, on, gpus in MACHINES:
        chat, agent = found[model, on, gpus, "chat"], found[model, on, gpus, "agent"]
        rows.append([model, title(model, on, gpus), f"**{chat[0]:,}**", seen(chat[1]), f"**{agent[0]:,}**",
                     seen(agent[1])])  # fmt: skip
    return table(
        ["model", "one replica on", "who chat", "tokens/s; p95 first, next; cached", "agents",
         "tokens/s; p95 first, next; cached"], rows,
    )  # fmt: skip


def replicas_for(crowd: int, users: int) -> int:
    """One more than needed where there are several, so that one may fail."""
    needed = ceil(crowd * (HEADROOM if crowd > 1 else 1) / users)
    return needed + (needed > 1)


def plan_table(found: dict[tuple[str, str, int, str], tuple[int, Result | None]]) -> str:
    rows = []
    for crowd in CROWDS:
        row = [f"{crowd:,}"]
        for machine in PLANNED:
            counts = [replicas_for(crowd, found[(*machine, work)][0]) for work in ("chat", "agent")]
            row.append(" / ".join(f"{count:,}" for count in counts))
        rows.append(row)
    return table(["users", *(f"{model}, {title(model, on, gpus)}" for model, on, gpus in PLANNED)], rows)


def cpu_table() -> str:
    measured = read_measured()
    fleet = Fleet("20b", "cpu", max_running=16)
    rows = []
    for name, workload in WORKLOADS.items():
        users = users_that_fit(fleet, workload, CPU_GOAL, seconds=SIMULATED_S)
        result = run_fleet(fleet, max(1, users), workload, seconds=watched_s(max(1, users), SIMULATED_S))
        rows.append([name, f"{users}", seen(result)])
    rates = ", ".join(f"{rate} with {count}" for count, rate in measured.decode)
    said = f"Measured: {measured.read} tokens/s of prompts; decoding, by sequences, {rates} tokens/s in all."
    return said + "\n\n" + table(["", "users", "with that many (1 at least): tokens/s; p95 first, next; cached"], rows)


def routing_table() -> str:
    rows = []
    routings: tuple[Routing, ...] = ("prefix", "least", "random")
    for routing in routings:
        fleet = Fleet("20b", "h100", replicas=4, routing=routing)
        result = run_fleet(fleet, 300, WORKLOADS["agent"], seconds=SIMULATED_S)
        rows.append([routing, f"{100 * result.prefix_hits:.1f}%", f"{result.first_token_s['p50']:.2f} s",
                     f"{result.first_token_s['p95']:.2f} s", f"{1000 * result.between_tokens_s['p95']:.0f} ms",
                     f"{100 * result.utilisation:.0f}%"])  # fmt: skip
    return table(["routing", "of prompts cached", "first token, p50", "p95", "between tokens, p95", "busy"], rows)


def picture(page: Path) -> None:
    results = {}
    routings: tuple[Routing, ...] = ("prefix", "least", "random")
    for routing in routings:
        fleet = Fleet("20b", "h100", replicas=4, routing=routing)
        crowds = (50, 100, 150, 200, 250, 300, 350, 400)
        results[routing] = [
            (users, run_fleet(fleet, users, WORKLOADS["agent"], seconds=SIMULATED_S)) for users in crowds
        ]
    page.parent.mkdir(parents=True, exist_ok=True)
    plot(results, page)


def section(page: Path, name: str) -> str:
    """What stands between the marks of a section."""
    found = re.search(
        rf"<!-- begin scaling.{name} -->\n(.*?)\n<!-- end scaling.{name} -->", page.read_text(), re.DOTALL
    )
    return found[1] if found else ""


def command(args: argparse.Namespace) -> int:
    written = {name: make() for name, make in ARITHMETIC.items()}
    if not args.quick:
        work = [(*machine, workload) for machine in MACHINES for workload in ("chat", "agent")]
        with ProcessPoolExecutor(cores()) as pool:
            entries = pool.map(fitting, *zip(*work, strict=True))
            found = dict(zip(work, tqdm(entries, total=len(work), unit="entry", disable=args.json), strict=True))
        written |= {
            "users": users_table(found),
            "plan": plan_table(found),
            "cpu": cpu_table(),
            "routing": routing_table(),
        }
        picture(PICTURE)
    if not args.json:
        for name, text in written.items():
            replace_section(args.page, f"scaling.{name}", text)
        if not args.quick:
            picture(PICTURE)
    print(json.dumps(written))
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling_page", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--quick", action="store_true", help="only what is arithmetic")
    parser.add_argument("--page", type=Path, default=PAGE, help="the Markdown page that gets the tables")
    parser.add_argument("--json", action="store_true", help="print the JSON line only, and write no page")
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")
    return run_command(command, parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
