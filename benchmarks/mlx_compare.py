"""The metal backend beside mlx-lm, on the same random weights: `python -m benchmarks.mlx_compare [CHECKPOINT]`.

Needs `pip install mlx-lm`. Each engine lives in a process of its own and generates greedily through its own public
generator: ours through the engine, mlx-lm through generate_step. They take turns, so that what else the machine does hits
both; a first round warms up and does not count. On a Mac, where both run in bf16 on the GPU:

    python -m benchmarks.mlx_compare openai/gpt-oss-20b --prompt 2048 --steps 256

Without a checkpoint a random one is made (--shape). On CPUs both run in float32, for which mlx-lm's weights are converted:
in bf16, as it would open them there, it is slower. Prints tokens a second, of a CPU also per second of processor time,
which other programs disturb less; JSON on the last line.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import IO, Any

import numpy as np

from benchmarks.machine import describe_machine, replace_section
from gpt_oss.errors import GptOssError
from gpt_oss.model.checkpoint import open_checkpoint
from gpt_oss.model.config import ModelConfig
from gpt_oss.model.factory import write_random_checkpoint
from gpt_oss.params import SamplingParams
from gpt_oss.terminal import run_command

SHAPES = {
    # 40 million parameters: seconds on two cores.
    "small": ModelConfig(
        num_hidden_layers=4, num_experts=8, vocab_size=32768, hidden_size=768, intermediate_size=768,
        num_attention_heads=16, num_key_value_heads=4,
    ),
    # Two layers of the 20b as they are, with a quarter of the vocabulary.
    "20b-layers": ModelConfig(num_hidden_layers=2, vocab_size=50272),
    "20b": ModelConfig(),
}  # fmt: skip
ENGINES = ("ours", "mlx-lm")
Generate = Callable[[list[int], int], Iterator[object]]  # prompt, steps: a token each time


# ---- in the processes -----------------------------------------------------------------------------------------------


def open_ours(checkpoint: str) -> Generate:
    from gpt_oss.load import LoadOptions, load

    generator = load(checkpoint, LoadOptions(backend="metal", context_tokens=8192, speculate=False))
    print(f"ours: {generator.name}", file=sys.stderr)
    return lambda prompt, steps: generator.generate_sync(prompt, SamplingParams(temperature=0.0, max_tokens=steps))


def open_mlx_lm(checkpoint: str) -> Generate:
    import mlx.core as mx
    import mlx_lm
    from mlx_lm.generate import generate_step
    from mlx_lm.utils import load_model

    model, _ = load_model(open_checkpoint(checkpoint).path)
    if not mx.metal.is_available():
        model.set_dtype(mx.float32)
    mx.eval(model.parameters())
    print(f"mlx-lm: {mlx_lm.__version__}, mlx {mx.__version__}", file=sys.stderr)
    return lambda prompt, steps: generate_step(mx.array(prompt), model, max_tokens=steps)


def serve(engine: str, checkpoint: str) -> int:
    """A round for each line of stdin; its times on a line of stdout."""
    generate = {"ours": open_ours, "mlx-lm": open_mlx_lm}[engine](checkpoint)
    print("ready", flush=True)
    for line in sys.stdin:
        task = json.loads(line)
        clocks = [(time.perf_counter(), time.process_time())]
        for number, _ in enumerate(generate(task["prompt"], task["steps"])):
            if number == 0:
                clocks.append((time.perf_counter(), time.process_time()))
        clocks.append((time.perf_counter(), time.process_time()))
        (wall0, cpu0), (wall1, cpu1), (wall2, cpu2) = clocks
        prefill, decode = len(task["prompt"]), task["steps"] - 1
        answer = {
            "prefill": prefill / (wall1 - wall0), "decode": decode / (wall2 - wall1),
            "prefill_cpu": prefill / (cpu1 - cpu0), "decode_cpu": decode / (cpu2 - cpu1),
        }  # fmt: skip
        print(json.dumps(answer), flush=True)
    return 0


# ---- beside each other ----------------------------------------------------------------------------------------------


@dataclass
class Worker:
    stdin: IO[str]
    stdout: IO[str]
    name: str

    def ask(self, task: dict[str, Any]) -> dict[str, float]:
        self.stdin.write(json.dumps(task) + "\n")
        self.stdin.flush()
        return dict(json.loads(self._line()))

    def wait_until_ready(self) -> None:
        assert self._line() == "ready\n"

    def _line(self) -> str:
        line = self.stdout.readline()
        if not line:
            raise GptOssError(f"{self.name} ended early: see its output above")
        return line


@contextmanager
def worker(engine: str, checkpoint: str) -> Iterator[Worker]:
    command = [sys.executable, "-m", "benchmarks.mlx_compare", "--serve", engine, checkpoint]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None  # noqa: PT018
        try:
            started = Worker(process.stdin, process.stdout, engine)
            started.wait_until_ready()
            yield started
        finally:
            process.stdin.close()
            process.terminate()


def compare(checkpoint: str, prompts: list[int], steps: int, rounds: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    vocab = open_checkpoint(checkpoint).config.usable_vocab_size
    results = []
    with worker("ours", checkpoint) as ours, worker("mlx-lm", checkpoint) as theirs:
        for length in prompts:
            runs: dict[str, list[dict[str, float]]] = {name: [] for name in ENGINES}
            for number in range(rounds + 1):
                task = {"prompt": rng.integers(0, vocab, length).tolist(), "steps": steps}
                for one in (ours, theirs) if number % 2 else (theirs, ours):
                    answer = one.ask(task)
                    if number:
                        runs[one.name].append(answer)
            results.append({"prompt": length, "steps": steps, "rounds": rounds, **summary(runs)})
    return results


def summary(runs: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Medians of tokens a second, and of the rounds' ratios, ours to mlx-lm's."""
    found: dict[str, Any] = {}
    for key in runs["ours"][0]:
        pairs = list(zip(*([run[key] for run in runs[name]] for name in ENGINES), strict=True))
        found[key] = {
            "ours": round(median(a for a, _ in pairs), 2),
            "mlx-lm": round(median(b for _, b in pairs), 2),
            "ratio": round(median(a / b for a, b in pairs), 2),
        }
    return found


def table(results: list[dict[str, Any]], what: str, on_cpu: bool) -> str:
    names = {"prefill": "read {prompt} tokens", "decode": "{steps} tokens after {prompt}"}
    if on_cpu:
        names |= {key + "_cpu": text + ", per second of processor time" for key, text in names.items()}
    lines = [f"{what}; {describe_machine()}.", "", "| tokens/s | ours | mlx-lm | ratio |", "|---|---|---|---|"]
    for result in results:
        for key, text in names.items():
            row = result[key]
            lines.append(f"| {text.format(**result)} | {row['ours']} | {row['mlx-lm']} | {row['ratio']} |")
    return "\n".join(lines)


def run(args: argparse.Namespace) -> int:
    if args.serve:
        return serve(args.serve, args.checkpoint)
    import mlx.core as mx

    on_cpu = not mx.metal.is_available()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = args.checkpoint
        if checkpoint is None:
            path = Path(folder) / args.shape
            checkpoint = str(write_random_checkpoint(path, SHAPES[args.shape], seed=1, layout="huggingface"))
        results = compare(checkpoint, args.prompt or [128, 512], args.steps, args.rounds)
    what = f"{args.checkpoint or f'random weights ({args.shape})'}, {'float32 on the CPU' if on_cpu else 'bf16 on the GPU'}"
    text = table(results, what, on_cpu)
    print(text)
    if args.page is not None:
        replace_section(args.page, "benchmarks.mlx_compare", text)
    print(json.dumps({"benchmark": "mlx_compare", "what": what, "results": results}))
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mlx_compare", description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", nargs="?", metavar="CHECKPOINT", help="Hugging Face layout (default: random)")
    parser.add_argument("--shape", choices=SHAPES, default="small", help="of a random one (default: %(default)s)")
    parser.add_argument("--prompt", type=int, action="append", help="tokens; repeatable (default: 128 and 512)")
    parser.add_argument("--steps", type=int, default=32, help="tokens of an answer (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="that count (default: %(default)s)")
    parser.add_argument("--page", type=Path, help="a Markdown page that gets the table")
    parser.add_argument("--serve", choices=ENGINES, help=argparse.SUPPRESS)
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")
    return run_command(run, parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
