"""Talk to a model on Apple's GPU: chat.py model.bin.

The same as `gpt-oss chat --backend metal`, whose flags and tools it has; any layout of a checkpoint will do.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from gpt_oss.chat import add_arguments, run
from gpt_oss.terminal import run_command


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="chat.py", description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.set_defaults(backend="metal")
    return run_command(run, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
