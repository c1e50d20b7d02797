"""What every command shares: how an error, an interrupt and a closed pipe end it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

from gpt_oss.errors import GptOssError

INTERRUPTED = 130  # the shell's code for a command ended by Ctrl-C


def run_command(command: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    """Run it and return its exit code: 2 after one sentence on stderr for an error that a user can act on."""
    try:
        return command(args)
    except GptOssError as error:
        if getattr(args, "debug", False):
            raise
        print(f"gpt-oss: {error}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `| head` has read enough; keep the interpreter from failing on its last flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
