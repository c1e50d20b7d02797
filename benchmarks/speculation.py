"""What drafting from the prompt is worth where the answer repeats it: an edited file, and a new one for comparison.

    python -m benchmarks.speculation CHECKPOINT [--tokens 256] [--repeats 2] [--threads N] [--precision P] [--json]

Tokens a second of the engine with and without speculation, over traces: the prompt is a file of source code with a
request, the answer is that file with a few edits ("edit"), or another file ("new text"), as tokens. Random weights would
never write that, so the traces are forced: the model computes and draws each position, drafted ones included, and then
the trace's token is taken in place of the drawn one. Time and acceptance are those of a model that gives this answer;
the router's choices are those of these weights. The ratio is of the fastest runs, which other work disturbed least.
Writes a table into docs/performance.md, JSON on its last line.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.cpu import spread
from benchmarks.machine import PERFORMANCE_PAGE, cores, describe_machine, replace_section
from gpt_oss.backends.base import Chunk, Float32, Int32, Logits, Model, SamplesItself
from gpt_oss.engine.engine import Engine, EngineConfig
from gpt_oss.errors import GptOssError, ParameterError
from gpt_oss.load import BACKENDS, LoadOptions
from gpt_oss.model.checkpoint import open_checkpoint
from gpt_oss.params import SamplingParams
from gpt_oss.terminal import run_command
from gpt_oss.vocabulary import encode_ordinary

ENGINE = Path(__file__).parent.parent / "gpt_oss" / "engine"
EDITED, UNRELATED = ENGINE / "speculation.py", ENGINE / "noise.py"
REQUEST = "\n\nRename `guess` to `proposal` and `_found` to `_source`, and smooth over twice as many drafts."
EDITS = (("guess", "proposal"), ("_found", "_source"), ("SMOOTHING = 0.15", "SMOOTHING = 0.075"))


@dataclass(frozen=True)
class Trace:
    name: str
    prompt: tuple[int, ...]
    answer: tuple[int, ...]


def traces(tokens: int) -> list[Trace]:
    """Answers of at most `tokens` tokens. Raises GptOssError when an edit no longer applies to the file."""
    source = edited = EDITED.read_text()
    for old, new in EDITS:
        if old not in edited:
            raise GptOssError(f"{EDITED} has no {old!r} to edit; change EDITS in {__file__}")
        edited = edited.replace(old, new)
    prompt = tuple(encode_ordinary(source + REQUEST))
    answers = {"edit": edited, "new text": UNRELATED.read_text()}
    return [Trace(name, prompt, tuple(encode_ordinary(text)[:tokens])) for name, text in answers.items()]


class ForcedLogits:
    """Logits that are computed and drawn from as they are, and then answer with the trace."""

    def __init__(self, logits: Logits, tokens: Sequence[int]) -> None:
        self._logits, self._tokens = logits, tokens

    def __len__(self) -> int:
        return len(self._logits)

    def numpy(self) -> Float32:
        return self._logits.numpy()

    def sample(self, row: int, temperature: float, seed: int, position: int) -> int:
        if isinstance(self._logits, SamplesItself):
            self._logits.sample(row, temperature, seed, position)
        else:
            self._logits.numpy()
        return self._tokens[position]


class ForcedModel:
    """A model whose one sequence continues as a trace does; closing it leaves the model open."""

    def __init__(self, model: Model, trace: Trace) -> None:
        self.config, self.block_tokens = model.config, model.block_tokens
        self.cache_blocks, self.window_cache_blocks = model.cache_blocks, model.window_cache_blocks
        self._model = model
        self._tokens = trace.prompt + trace.answer

    def forward(self, batch: Sequence[Chunk]) -> ForcedLogits:
        return ForcedLogits(self._model.forward(batch), self._tokens)

    def read_cache(self, blocks: Int32, window_blocks: Int32) -> bytes:
        return self._model.read_cache(blocks, window_blocks)

    def write_cache(self, blocks: Int32, window_blocks: Int32, data: bytes) -> None:
        self._model.write_cache(blocks, window_blocks, data)

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Run:
    """tokens_per_s: after the first token. Steps of the model, drafted tokens and those of them that were right."""

    tokens_per_s: float
    steps: int
    drafted: int
    accepted: int


def measure(model: Model, trace: Trace, *, speculate: bool) -> Run:
    engine = Engine(ForcedModel(model, trace), EngineConfig(speculate=speculate))
    try:
        stream = engine.generate_sync(trace.prompt, SamplingParams(seed=0, max_tokens=len(trace.answer)))
        got = [next(stream).id]
        steps, began = engine.stats().steps, time.perf_counter()
        got += [token.id for token in stream]
        seconds = time.perf_counter() - began
    finally:
        engine.close()
    stats = engine.stats()  # now that the thread has counted its last step
    if tuple(got) != trace.answer:
        raise GptOssError(f"the engine did not follow the trace {trace.name!r}: its draws are not ours to force")
    return Run((len(got) - 1) / seconds, stats.steps - steps, stats.drafted_tokens, stats.accepted_tokens)


def markdown(results: dict[str, dict[str, list[Run]]], heading: str) -> str:
    columns = [
        "answer",
        "tokens/s alone",
        "tokens/s with drafts",
        "ratio of the fastest",
        "drafts that were right",
        "tokens a step",
    ]
    lines = [heading, "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, runs in results.items():
        plain, drafted = ([run.tokens_per_s for run in runs[kind]] for kind in ("plain", "drafts"))
        last = runs["drafts"][-1]
        right = f"{last.accepted} of {last.drafted}" if last.drafted else "none made"
        rate = runs["plain"][-1].steps / last.steps
        ratio = max(drafted) / max(plain)
        lines.append(f"| {name} | {spread(plain)} | {spread(drafted)} | {ratio:.2f} | {right} | {rate:.1f} |")
    return "\n".join(lines)


def command(args: argparse.Namespace) -> int:
    for name in ("tokens", "repeats", "threads"):
        if getattr(args, name) < 1 + (name == "tokens"):
            raise ParameterError(f"--{name} is too small: {getattr(args, name)}")
    wanted = traces(args.tokens)
    longest = max(len(trace.prompt) + len(trace.answer) for trace in wanted)
    options = LoadOptions("cpu", args.precision, threads=args.threads, context_tokens=longest + 64)
    results: dict[str, dict[str, list[Run]]] = {trace.name: {"plain": [], "drafts": []} for trace in wanted}
    with open_checkpoint(args.checkpoint) as checkpoint:
        model = BACKENDS["cpu"](checkpoint, options)
        for repeat in range(args.repeats + 1):  # the first warms up
            for trace in wanted:
                for kind, runs in results[trace.name].items():
                    run = measure(model, trace, speculate=kind == "drafts")
                    if repeat:
                        runs.append(run)
                    if not args.json:
                        print(f"{trace.name}, {kind}: {run}" + ("" if repeat else " (warming up)"), flush=True)
        model.close()
        layers, name = checkpoint.config.num_hidden_layers, checkpoint.path.name
    machine = describe_machine()
    prompt, answers = len(wanted[0].prompt), ", ".join(str(len(trace.answer)) for trace in wanted)
    heading = (
        f"{name}: {layers} layers, {args.precision}, {args.threads} threads, prompt of {prompt} tokens, answers of "
        f"{answers}; {machine}."
    )
    if not args.json:
        table = markdown(results, heading)
        replace_section(args.page, "benchmarks.speculation", table)
        print(table)
    answer: dict[str, Any] = {
        "machine": machine, "checkpoint": name, "precision": args.precision, "threads": args.threads,
        "results": {name: {kind: [asdict(r) for r in runs] for kind, runs in kinds.items()} for name, kinds in results.items()},
    }  # fmt: skip
    print(json.dumps(answer))
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT")
    parser.add_argument("--tokens", type=int, default=256, help="of the answer, at most (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=2, help="runs of each, in turn (default: %(default)s)")
    parser.add_argument("--precision", choices=["balanced", "exact"], default="balanced")
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--page", type=Path, default=PERFORMANCE_PAGE, help="the Markdown page that gets the table")
    parser.add_argument("--json", action="store_true", help="print the JSON line only, and write no page")
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speculation", description=(__doc__ or "").split("\n\n")[0]
    )
    add_arguments(parser)
    return run_command(command, parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
