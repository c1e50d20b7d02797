"""The real chat on a model that plays back a script: `python -m tests.chat.scripted_chat SCRIPT [flags of the chat]`.

SCRIPT is a JSON list, a reply for each time that the model speaks: {"says": Harmony text}
or {"tokens": [ids]}; "delay_s" waits before each token, "fails" is the error behind the last.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from gpt_oss.backends.scripted import Reply, ScriptedGenerator
from gpt_oss.chat import add_arguments, talk
from gpt_oss.errors import BackendError
from gpt_oss.terminal import run_command
from gpt_oss.vocabulary import encode_with_special


def run(args: argparse.Namespace) -> int:
    script = json.loads(Path(args.script).read_bytes())
    return talk(ScriptedGenerator([reply(**entry) for entry in script], context_tokens=args.context), args, "scripted")


def reply(says: str = "", tokens: Sequence[int] = (), delay_s: float = 0.0, fails: str = "") -> Reply:
    return Reply(tokens or encode_with_special(says), delay_s=delay_s, error=BackendError(fails) if fails else None)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("script")
    add_arguments(parser)
    sys.exit(run_command(run, parser.parse_args()))
