"""The recipe of the demo model, one command: `python -m gpt_oss.demo.train OUTPUT`.

Generates the data, trains in one process a core (at most two), and writes `demo.safetensors` (model/compact.py) and the
loss curve into OUTPUT. A run that was interrupted goes on where it last saved.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from gpt_oss.demo.cases import BROAD, CLOSE, NARROW, SHARES, Breadth
from gpt_oss.demo.data import examples
from gpt_oss.demo.wiring import wire
from gpt_oss.model.compact import write_compact
from gpt_oss.model.config import ModelConfig
from gpt_oss.training.data import Example
from gpt_oss.training.network import Network, canonical_name
from gpt_oss.training.trainer import Trainer, TrainOptions

KINDS = ("tokens", "targets")
PROCESSES = 2  # together they learn from PACKS packs a step, whatever their number
PACKS = 2
SEED = 20
CONFIG = ModelConfig(
    num_hidden_layers=4,
    num_experts=8,
    experts_per_token=4,
    hidden_size=192,
    intermediate_size=128,
    head_dim=64,
    num_attention_heads=4,
    num_key_value_heads=2,
)


@dataclass(frozen=True)
class Stage:
    """cases: how many are drawn. Learnt from once, or for as many steps as the options say; until: it ends after so
    many of them, while the learning rate is still high."""

    name: str
    shares: Mapping[str, float]
    cases: int
    options: TrainOptions
    breadth: Breadth = BROAD
    until: int | None = None


COMMON = TrainOptions(
    pack_tokens=4096, weight_decay=0.05, betas=(0.9, 0.98), balance=0.01, evaluate_every=500, save_every=250, seed=SEED
)
# What is hard to learn, more often.
HARD = {
    **SHARES,
    "other": 6,
    "without_tool": 3,
    "arithmetic": 12,
    "functions": 30,
    "json": 24,
    "browser": 30,
    "rename": 9,
}
HARDER = {**HARD, "arithmetic": 8, "functions": 34, "json": 26, "rename": 7}
# First the skills that are copying in short prompts: there attention learns to look back. Then everything, broader than
# it will be asked; then what it will be asked; then cases where there is more to choose from.
STAGES = (
    Stage(
        "copying",
        {name: SHARES[name] for name in ("arithmetic", "functions", "json")},
        3_000,
        replace(COMMON, learning_rate=2e-3, warmup_steps=20, final_share=1.0),
    ),
    Stage(
        "everything",
        SHARES,
        60_000,
        replace(COMMON, learning_rate=2e-3, warmup_steps=20, final_share=0.02, steps=2_200),
        until=1_500,
    ),
    Stage(
        "asked",
        HARD,
        100_000,
        replace(COMMON, learning_rate=1.5e-3, warmup_steps=20, final_share=0.01, steps=5_000),
        NARROW,
    ),
    Stage(
        "chosen",
        HARDER,
        75_000,
        replace(COMMON, learning_rate=1e-3, warmup_steps=20, final_share=0.01, steps=4_000),
        CLOSE,
    ),
)


def vocabulary_of(all_examples: list[Example]) -> list[int]:
    """Every token that is read or written, and the numbers of one to three digits."""
    from gpt_oss.vocabulary import encode_ordinary

    numbers = [encode_ordinary(f"{n:0{digits}}") for digits in (1, 2, 3) for n in range(10**digits)]
    seen = np.unique(np.concatenate([ids for e in all_examples for ids in (e.tokens, e.targets)]))
    return sorted({int(token) for token in seen if token >= 0} | {token for number in numbers for token in number})


@dataclass(frozen=True)
class Draw:
    """Examples that are drawn once, into a file of this name, and read by every process."""

    name: str
    seed: int
    cases: int
    shares: Mapping[str, float] = field(default_factory=lambda: SHARES)
    breadth: Breadth = NARROW
    held_out: bool = False


def draws_of(stages: tuple[Stage, ...]) -> list[Draw]:
    """What each stage learns from, and the cases that measure."""
    data = [Draw(each.name, SEED + i, each.cases, each.shares, each.breadth) for i, each in enumerate(stages)]
    return [*data, Draw("held-out", SEED, 400, held_out=True)]


def drawn(output: Path, draw: Draw, *, progress: bool = False) -> list[Example]:
    """The examples of a draw, made if `output` does not hold them yet."""
    path = output / f"{draw.name}.npz"
    if not path.exists():
        made = examples(
            draw.seed,
            draw.cases,
            held_out=draw.held_out,
            shares=draw.shares,
            breadth=draw.breadth,
            progress=progress,
        )
        output.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}")
        tokens, targets = (np.concatenate([getattr(e, kind) for e in made]).astype(np.int32) for kind in KINDS)
        np.savez_compressed(partial, tokens=tokens, targets=targets, lengths=[len(e) for e in made])
        partial.replace(path)
    with np.load(path) as stored:
        ends = stored["lengths"].cumsum()[:-1]
        sequences = [np.split(stored[kind].astype(np.int64), ends) for kind in KINDS]
    return [Example(*each) for each in zip(*sequences, strict=True)]


def train(output: Path, stages: tuple[Stage, ...] = STAGES, config: ModelConfig = CONFIG) -> Network:
    """The trained network. Under torchrun every process has it; its state and curves lie in `output`/STAGE."""
    main = int(os.environ.get("RANK", "0")) == 0
    world = int(os.environ.get("WORLD_SIZE", "1"))
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // world))
    *data, held_out = (drawn(output, each) for each in draws_of(stages))
    broad = [part for stage, part in zip(stages, data, strict=True) if stage.breadth == BROAD]  # the rest is rare
    vocabulary = vocabulary_of([example for part in broad for example in part])
    network = Network(config, vocabulary=vocabulary, quantize_experts=True)
    network.initialise(SEED)
    wire(network, SEED)
    for stage, part in zip(stages, data, strict=True):
        options = replace(stage.options, accumulation=max(1, PACKS // world))
        trainer = Trainer(network, part, options, output / stage.name, held_out=held_out, resume=True, progress=main)
        trainer.run(stage.until)
    return network


def save(network: Network, path: Path) -> Path:
    """Write the network as a compact file."""
    assert network.vocabulary is not None
    tensors = {canonical_name(name): p.detach().float().numpy() for name, p in network.named_parameters()}
    return write_compact(path, network.config, network.vocabulary, tensors)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m gpt_oss.demo.train", description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="folder for the run; an interrupted one goes on")
    args = parser.parse_args()
    started = time.monotonic()
    alone = "WORLD_SIZE" not in os.environ
    if alone:
        for each in draws_of(STAGES):
            drawn(args.output, each, progress=True)
    path = args.output / "demo.safetensors"
    failed = 0
    if alone and (os.cpu_count() or 1) >= PROCESSES:
        again = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={PROCESSES}"]
        failed = subprocess.call([*again, "-m", "gpt_oss.demo.train", str(args.output)])
    else:
        network = train(args.output)
        if int(os.environ.get("RANK", "0")) == 0:
            save(network, path)
    if alone and not failed:
        print(f"{path} ({path.stat().st_size / 1e6:.1f} MB) after {(time.monotonic() - started) / 60:.0f} minutes")
    return failed


if __name__ == "__main__":
    sys.exit(main())
