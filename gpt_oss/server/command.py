"""`gpt-oss serve`: flags, the model, the socket, and an orderly end."""

from __future__ import annotations

import argparse
import ipaddress
import logging
import sys

from gpt_oss.errors import MissingDependencyError, ParameterError
from gpt_oss.generate import add_load_arguments, load_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        nargs="?",
        default="demo",
        help="a folder, a model.bin, or a downloaded org/name (default: demo, the tiny model of this package)",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="default: %(default)s")
    parser.add_argument("--model-name", metavar="NAME", help="the name that clients see (default: the checkpoint's)")
    parser.add_argument(
        "--api-key", action="append", default=[], metavar="KEY", help="what clients must show; repeatable"
    )
    parser.add_argument("--no-key", action="store_true", help="serve beyond this machine without a key")
    parser.add_argument("--max-concurrent", type=int, default=32, help="answers at a time (default: %(default)s)")
    parser.add_argument("--max-queue", type=int, default=128, help="requests that may wait (default: %(default)s)")
    parser.add_argument("--drain", type=float, default=30.0, metavar="SECONDS", help="to finish at the end")
    add_load_arguments(parser, context=32768)


def run(args: argparse.Namespace) -> int:
    """Serve a model over HTTP, as OpenAI's API does."""
    _check_address(args)
    try:
        import uvicorn

        from gpt_oss.server.app import ServerOptions, create_app
    except ImportError as error:
        raise MissingDependencyError(f"the server needs more: {error}", hint="pip install 'gpt-oss[serve]'") from error
    from gpt_oss.chat import model_label
    from gpt_oss.harmony.grammar import answer_grammar
    from gpt_oss.load import load
    from gpt_oss.server.runner import Runner
    from gpt_oss.server.service import Service

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    generator = load(args.checkpoint, load_options(args))
    try:
        answer_grammar(json_object=True)  # builds the token table now rather than in the first request
        runner = Runner(generator, max_concurrent=args.max_concurrent, max_queue=args.max_queue)
        service = Service(runner, args.model_name or model_label(args.checkpoint), frozenset(args.api_key))
        app = create_app(service, ServerOptions(drain_s=args.drain))
        print(f"Serving {service.model} on http://{args.host}:{args.port}/v1 ({generator.name})", file=sys.stderr)
        uvicorn.run(app, host=args.host, port=args.port, log_level="warning", timeout_graceful_shutdown=int(args.drain))
    finally:
        generator.close()
    return 0


def _check_address(args: argparse.Namespace) -> None:
    """Raises ParameterError for an address that others can reach, without a key."""
    try:
        local = args.host == "localhost" or ipaddress.ip_address(args.host).is_loopback
    except ValueError:
        local = False
    if not (local or args.api_key or args.no_key):
        raise ParameterError(
            f"{args.host} can be reached by others", hint="Set --api-key, or say --no-key if that is meant."
        )
    if not 0 < args.port < 65536:
        raise ParameterError(f"a port is 1 to 65535, not {args.port}")
