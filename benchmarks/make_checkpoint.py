"""Write a checkpoint of random weights in a released model's shape: `python -m benchmarks.make_checkpoint --size 20b`.

Streams: memory stays at a few chunks whatever the size. The last line is JSON: where it is, bytes, seconds, MB/s.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gpt_oss.model.config import ModelConfig
from gpt_oss.model.factory import write_random_checkpoint
from gpt_oss.model.layout import LayoutName
from gpt_oss.terminal import run_command

SIZES = {
    "20b": ModelConfig(),
    "120b": ModelConfig(num_hidden_layers=36, num_experts=128),
    "tiny": ModelConfig(
        num_hidden_layers=2,
        num_experts=8,
        experts_per_token=2,
        hidden_size=64,
        intermediate_size=64,
        head_dim=16,
        num_attention_heads=8,
        num_key_value_heads=2,
    ),
}
LAYOUTS: dict[str, LayoutName] = {"original": "original", "hf": "huggingface", "metal": "metal"}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.make_checkpoint", description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="20b", help="default: %(default)s")
    parser.add_argument("--layout", choices=LAYOUTS, default="original", help="default: %(default)s")
    parser.add_argument("--layers", type=int, metavar="N", help="fewer layers than the model has")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", help="default: checkpoints/random-SIZE-LAYOUT")
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")
    return parser


def run(args: argparse.Namespace) -> int:
    config = replace(SIZES[args.size], **({"num_hidden_layers": args.layers} if args.layers is not None else {}))
    start_s = time.perf_counter()
    path = write_random_checkpoint(
        args.output or Path("checkpoints") / f"random-{args.size}-{args.layout}",
        config,
        seed=args.seed,
        layout=LAYOUTS[args.layout],
        progress=True,
        overwrite=args.force,
    )
    seconds = time.perf_counter() - start_s
    size_bytes = sum(file.stat().st_size for file in (path.iterdir() if path.is_dir() else [path]))
    result = {"path": str(path), "bytes": size_bytes, "seconds": seconds, "MB/s": size_bytes / 1e6 / seconds}
    print(json.dumps(result))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(run, build_parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
