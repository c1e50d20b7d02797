"""lm-eval's `local-completions`, run for real against `gpt-oss serve demo`: `python -m tests.evals.lm_eval`.

Installs lm-eval into a folder of its own, lets it score the multiple choice of choices.py over HTTP in several of its
ways, and holds every log-likelihood against the float64 reference. Exit code 1 where one is off. Needs PyPI once; not
part of `make test`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from gpt_oss.model.checkpoint import open_checkpoint
from tests.backends.remote.live import free_port
from tests.evals.choices import QUESTIONS, Reference, pairs, write_task

TASK = "gpt_oss_choice"
WAYS = {  # what is added to --model_args, and how many prompts a request has
    "token ids": ("", 1),
    "token ids, 4 at a time": (",num_concurrent=4", 1),
    "token ids, batches of 4": ("", 4),
    "text": (",tokenized_requests=False", 1),
}


@dataclass(frozen=True)
class Served:
    """name: for the table.
    options: of `gpt-oss serve`.
    tolerance: how far a log-likelihood, a sum over several tokens, may be off.
    ways: the keys of WAYS in which it is asked.
    """

    name: str
    options: tuple[str, ...]
    tolerance: float
    ways: tuple[str, ...]


SERVED = (
    Served("torch, float32", ("--backend", "torch", "--precision", "float32"), 0.001, tuple(WAYS)),
    Served("cpu, exact", ("--precision", "exact"), 1.0, ("token ids",)),  # activations in bf16
    Served("cpu, balanced", ("--precision", "balanced"), 3.0, ("token ids",)),  # and in int8
)


def installed(folder: Path) -> Path:
    """A Python that has lm-eval, made where there is none yet."""
    python = folder / "lm_eval" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(python.parent.parent)], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "lm_eval[api]"], check=True)
    return python


@contextmanager
def server(options: Sequence[str], log: Path) -> Iterator[str]:
    """The address of `gpt-oss serve demo`, a process of its own."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "gpt_oss.cli", "serve", "demo", "--no-store", "--port", str(port), *options]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        for _ in range(600):
            assert process.poll() is None, log.read_text()
            try:
                if httpx.get(f"{url}/health", trust_env=False).status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(60)


def scored(python: Path, url: str, way: str, folder: Path) -> tuple[list[tuple[float, bool]], dict[str, float]]:
    """lm-eval's log-likelihoods of all choices in order, and the figures that it reports."""
    out = folder / "out"
    more, batch = WAYS[way]
    arguments = f"model=demo,base_url={url}/v1/completions,tokenizer_backend=remote{more}"
    command = [python, "-m", "lm_eval", "--model", "local-completions", "--model_args", arguments, "--tasks", TASK]
    command += ["--include_path", folder, "--output_path", out, "--log_samples", "--batch_size", str(batch)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "hf")}
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    samples = max(out.rglob("samples_*.jsonl"), key=lambda path: path.stat().st_mtime)
    documents = sorted(map(json.loads, samples.read_text().splitlines()), key=lambda each: each["doc_id"])
    found = [(float(score), str(greedy) == "True") for each in documents for score, greedy in each["filtered_resps"]]
    results = max(out.rglob("results_*.json"), key=lambda path: path.stat().st_mtime)
    figures = json.loads(results.read_text())["results"][TASK]
    return found, {name: figures[f"{name},none"] for name in ("acc", "acc_norm")}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.evals.lm_eval", description=__doc__.splitlines()[0])
    default = Path.home() / ".cache" / "gpt-oss" / "evals"
    parser.add_argument("--work", type=Path, default=default, help="where lm-eval is installed (default: %(default)s)")
    parser.add_argument("--python", type=Path, help="a Python that has lm-eval, in place of installing it")
    args = parser.parse_args()
    python = args.python or installed(args.work)
    with open_checkpoint("demo") as checkpoint:
        wanted = Reference(checkpoint).scores(pairs())
    columns: dict[str, list[tuple[float, bool]]] = {}
    failures = 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_task(folder, TASK)
        for served in SERVED:
            with server(served.options, folder / "server.log") as url:
                for way in served.ways:
                    found, figures = scored(python, url, way, folder)
                    columns[f"{served.name}, {way}"] = found
                    furthest = max(abs(got - right) for (got, _), (right, _) in zip(found, wanted, strict=True))
                    failures += furthest > served.tolerance
                    print(f"{served.name}, {way}: {figures}; furthest off {furthest:.4f}", flush=True)
    print(f"choice: the reference; {'; '.join(columns)}")
    choices = [(question, choice) for question, choices, _ in QUESTIONS for choice in choices]
    for (question, choice), right, *got in zip(choices, wanted, *columns.values(), strict=True):
        print(f"{question} {choice}: {right[0]:.4f}; " + "; ".join(f"{score:.4f}" for score, _ in got))
    print(f"{failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
