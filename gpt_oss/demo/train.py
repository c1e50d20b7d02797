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
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from gpt_oss.demo.cases import SKILLS
from gpt_oss.demo.data import examples
from gpt_oss.demo.wiring import wire
from gpt_oss.model.compact import write_compact
from gpt_oss.model.config import ModelConfig
from gpt_oss.training.data import Example
from gpt_oss.training.network import Network, canonical_name
from gpt_oss.training.trainer import Trainer, TrainOptions

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
    """cases: how many are drawn. Learnt from once, or for as many steps as the options say."""

    name: str
    skills: tuple[str, ...]
    cases: int
    options: TrainOptions


COMMON = TrainOptions(
    pack_tokens=4096, weight_decay=0.05, betas=(0.9, 0.98), balance=0.01, evaluate_every=500, save_every=250, seed=SEED
)
# First the skills that are copying in short prompts: there attention learns to look back. Then everything.
STAGES = (
    Stage(
        "copying",
        ("arithmetic", "functions", "json"),
        3_000,
        replace(COMMON, learning_rate=2e-3, warmup_steps=20, final_share=1.0),
    ),
    Stage(
        "everything",
        tuple(SKILLS),
        53_000,
        replace(COMMON, learning_rate=2e-3, warmup_steps=20, final_share=0.02, steps=2_500),
    ),
)


def vocabulary_of(all_examples: list[Example]) -> list[int]:
    """Every token that is read or written, and the numbers of one to three digits."""
    from gpt_oss.vocabulary import encode_ordinary

    numbers = [encode_ordinary(f"{n:0{digits}}") for digits in (1, 2, 3) for n in range(10**digits)]
    seen = np.unique(np.concatenate([ids for e in all_examples for ids in (e.tokens, e.targets)]))
    return sorted({int(token) for token in seen if token >= 0} | {token for number in numbers for token in number})


def train(output: Path, stages: tuple[Stage, ...] = STAGES, config: ModelConfig = CONFIG) -> Network:
    """The trained network. Under torchrun every process has it; its state and curves lie in `output`/STAGE."""
    main = int(os.environ.get("RANK", "0")) == 0
    world = int(os.environ.get("WORLD_SIZE", "1"))
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // world))
    data = [examples(SEED + i, stage.cases, skills=stage.skills, progress=main) for i, stage in enumerate(stages)]
    held_out = examples(SEED, 400, held_out=True)
    network = Network(config, vocabulary=vocabulary_of([e for part in data for e in part]), quantize_experts=True)
    network.initialise(SEED)
    wire(network, SEED)
    for stage, part in zip(stages, data, strict=True):
        options = replace(stage.options, accumulation=max(1, PACKS // world))
        trainer = Trainer(network, part, options, output / stage.name, held_out=held_out, resume=True, progress=main)
        trainer.run()
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
    if "WORLD_SIZE" not in os.environ and (os.cpu_count() or 1) >= PROCESSES:
        again = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={PROCESSES}"]
        return subprocess.call([*again, "-m", "gpt_oss.demo.train", str(args.output)])
    started = time.monotonic()
    network = train(args.output)
    if int(os.environ.get("RANK", "0")) == 0:
        path = save(network, args.output / "demo.safetensors")
        print(f"{path} ({path.stat().st_size / 1e6:.1f} MB) after {(time.monotonic() - started) / 60:.0f} minutes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
