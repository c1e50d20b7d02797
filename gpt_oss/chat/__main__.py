"""`python -m gpt_oss.chat`."""

import argparse
import sys

from gpt_oss.chat import add_arguments, run
from gpt_oss.terminal import run_command

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m gpt_oss.chat", description="Talk to a model in the terminal.")
    add_arguments(parser)
    sys.exit(run_command(run, parser.parse_args()))
