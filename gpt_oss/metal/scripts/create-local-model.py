"""Write metal/model.bin from a checkpoint: create-local-model.py -s <model_dir> -d <output_file>."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gpt_oss.model.convert import convert
from gpt_oss.terminal import run_command


def run(args: argparse.Namespace) -> int:
    print(convert(args.src, args.dst, "metal", overwrite=args.force, progress=True))
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="create-local-model.py", description=__doc__)
    parser.add_argument("-s", "--src", metavar="DIR", required=True, help="the checkpoint to read")
    parser.add_argument("-d", "--dst", metavar="FILE", type=Path, required=True, help="the model file to write")
    parser.add_argument("--force", action="store_true", help="replace FILE if it exists")
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")
    return run_command(run, parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
