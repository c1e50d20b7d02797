"""Many clients at once on a running server: `python -m benchmarks.serve_load [--url URL]`.

Streams of mixed lengths, of which a share hangs up in the middle. Prints throughput, time to the first token and
between tokens, errors, and whether the server has let go of everything afterwards. Without --url it starts a server of
its own on CHECKPOINT.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random

import httpx
import numpy as np
from tqdm import tqdm

WORDS = [
    "apple",
    "river",
    "stone",
    "cloud",
    "paper",
    "green",
    "seven",
    "early",
    "north",
    "table",
    "light",
    "water",
    "music",
    "green",
    "tower",
]


@dataclass
class Tally:
    """first, between: seconds."""

    first: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)
    pieces: int = 0
    finished: int = 0
    hung_up: int = 0
    refused: int = 0
    errors: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Job:
    prompt: str
    tokens: int
    hangs_up_after: int | None


def jobs(count: int, share: float, longest: int, tokens: int, rng: Random) -> list[Job]:
    """Prompts of 10 to `longest` words, log-uniform; answers of a quarter of `tokens` to all of them."""
    made = []
    for number in range(count):
        words = int(10 * (longest / 10) ** rng.random())
        text = f"{number}. " + " ".join(rng.choice(WORDS) for _ in range(words))
        wanted = rng.randrange(tokens // 4, tokens + 1)
        gone = rng.randrange(1, max(2, wanted // 2)) if rng.random() < share else None
        made.append(Job(text, wanted, gone))
    return made


async def one(client: httpx.AsyncClient, job: Job, tally: Tally) -> None:
    body = {"model": "m", "prompt": job.prompt, "max_tokens": job.tokens, "stream": True, "return_token_ids": True}
    started = last = time.monotonic()
    seen = 0
    try:
        async with client.stream("POST", "/v1/completions", json=body) as response:
            if response.status_code == 429:
                tally.refused += 1
                return
            if response.status_code != 200:
                tally.errors.append(f"{response.status_code}: {(await response.aread()).decode()[:200]}")
                return
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                now = time.monotonic()
                (tally.between if seen else tally.first).append(now - (last if seen else started))
                last, seen = now, seen + len(json.loads(line[6:])["choices"][0].get("token_ids", [0]))
                tally.pieces += 1
                if job.hangs_up_after is not None and seen >= job.hangs_up_after:
                    tally.hung_up += 1
                    return
        tally.finished += 1
    except httpx.HTTPError as error:
        tally.errors.append(f"{type(error).__name__}: {error}")


async def load(url: str, wanted: list[Job], streams: int) -> tuple[Tally, float]:
    tally = Tally()
    queue = list(reversed(wanted))
    bar = tqdm(total=len(wanted), unit="stream")
    started = time.monotonic()
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=httpx.Limits(max_connections=streams)) as client:

        async def worker() -> None:
            while queue:
                await one(client, queue.pop(), tally)
                bar.update()

        await asyncio.gather(*(worker() for _ in range(streams)))
    bar.close()
    return tally, time.monotonic() - started


def figures(url: str) -> dict[str, float]:
    lines = (line for line in httpx.get(f"{url}/metrics").text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


@contextmanager
def server(checkpoint: str, streams: int) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["serve", checkpoint, "--port", str(port), "--no-store", "--max-concurrent", str(streams)]
    command = [sys.executable, "-m", "gpt_oss.cli", *words, "--no-code-interpreter"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            assert process.poll() is None, "the server did not start; `gpt-oss serve` says why"
            try:
                httpx.get(f"{url}/health")
                break
            except httpx.ConnectError:
                time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(60)


def report(tally: Tally, seconds: float, before: dict[str, float], after: dict[str, float]) -> dict[str, object]:
    def grown(name: str) -> float:
        return after.get(name, 0) - before.get(name, 0)

    def percentiles(values: list[float]) -> dict[str, float]:
        return {f"p{p}": round(1000 * float(np.percentile(values, p)), 1) for p in (50, 90, 99)} if values else {}

    free = "gpt_oss_engine_free_blocks"
    return {
        "finished": tally.finished,
        "hung_up": tally.hung_up,
        "refused": tally.refused,
        "errors": tally.errors,
        "seconds": round(seconds, 1),
        "output_tokens_per_s": round(grown("gpt_oss_output_tokens_total") / seconds, 1),
        "prompt_tokens_per_s": round(grown("gpt_oss_prompt_tokens_total") / seconds, 1),
        "time_to_first_token_ms": percentiles(tally.first),
        "between_tokens_ms": percentiles(tally.between),
        "still_running": after["gpt_oss_answers_running"] + after.get("gpt_oss_engine_running", 0),
        "still_waiting": after["gpt_oss_answers_waiting"] + after.get("gpt_oss_engine_waiting", 0),
        "blocks_missing": before.get(free, 0) - after.get(free, 0),
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve_load", description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", nargs="?", default="demo", help="of the server that is started (default: demo)")
    parser.add_argument("--url", help="a server that runs already, without the /v1")
    parser.add_argument("--streams", type=int, default=64, help="at a time (default: %(default)s)")
    parser.add_argument("--requests", type=int, default=256, help="in all (default: %(default)s)")
    parser.add_argument("--hang-up", type=float, default=0.1, metavar="SHARE", help="default: %(default)s")
    parser.add_argument("--longest", type=int, default=800, metavar="WORDS", help="prompt (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=64, help="of the longest answer (default: %(default)s)")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    def run(url: str) -> dict[str, object]:
        wanted = jobs(args.requests, args.hang_up, args.longest, args.tokens, Random(1))
        before = figures(url)
        tally, seconds = asyncio.run(load(url, wanted, args.streams))
        time.sleep(2)  # within which the server must have let go of those that hung up
        return report(tally, seconds, before, figures(url))

    if args.url:
        result = run(args.url)
    else:
        with server(args.checkpoint, args.streams) as url:
            result = run(url)
    if args.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name.replace('_', ' '):<24}{value}")
    return 1 if result["errors"] or result["still_running"] or result["still_waiting"] else 0


if __name__ == "__main__":
    sys.exit(main())
