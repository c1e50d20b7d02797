"""Continue a prompt on Apple's GPU: generate.py model.bin -p "why did the chicken cross the road?".

The same as `gpt-oss generate --backend metal`, whose flags it has; any layout of a checkpoint will do.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from gpt_oss.generate import add_arguments, run
from gpt_oss.terminal import run_command


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="generate.py", description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.set_defaults(backend="metal")
    return run_command(run, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
