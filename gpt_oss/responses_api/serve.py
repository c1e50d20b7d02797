"""`python -m gpt_oss.responses_api.serve`: `gpt-oss serve` with the flags of OpenAI's reference server."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from gpt_oss.load import backend_names
from gpt_oss.server import command
from gpt_oss.terminal import run_command


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m gpt_oss.responses_api.serve", description=command.run.__doc__)
    parser.add_argument("--checkpoint", default="demo", metavar="FILE", help="default: demo, the package's tiny model")
    parser.add_argument(
        "--port", type=int, default=8000, metavar="PORT", help="port to listen on (default: %(default)s)"
    )
    parser.add_argument(
        "--inference-backend",
        choices=["auto", *backend_names()],
        default="auto",
        metavar="BACKEND",
        help="what computes",
    )
    parser.add_argument("--url", action="append", default=[], help="of the server that computes, for vllm and ollama")
    args = parser.parse_args(argv)
    full = argparse.ArgumentParser()
    command.add_arguments(full)
    given = [args.checkpoint, "--port", str(args.port), "--backend", args.inference_backend]
    given += [part for url in args.url for part in ("--url", url)]
    return run_command(command.run, full.parse_args(given))


if __name__ == "__main__":
    sys.exit(main())
