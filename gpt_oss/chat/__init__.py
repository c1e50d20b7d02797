"""`gpt-oss chat` and `python -m gpt_oss.chat`: talk to a model, at a terminal or in a pipe, with tools.

Here are the flags and the choice of a face; heavy imports wait until a chat begins. Knows no backend.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gpt_oss.generate import add_load_arguments, load_options

if TYPE_CHECKING:
    from gpt_oss.backends.base import TokenGenerator

DEMO = "demo"  # as model/compact.py has it, which is imported only when a chat begins
DEMO_NOTICE = (
    "This is the demo model: a toy that calculates, calls tools and knows nothing. Try: What is 4821 * 377?\n"
    "For the real one: gpt-oss download openai/gpt-oss-20b && gpt-oss chat openai/gpt-oss-20b"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint",
        metavar="FILE",
        nargs="?",
        default=DEMO,
        help="a checkpoint in any layout, or a downloaded org/name (default: demo, the tiny model of this package)",
    )
    parser.add_argument(
        "-r",
        "--reasoning-effort",
        choices=["low", "medium", "high"],
        default="low",
        help="how long the model thinks (default: %(default)s)",
    )
    _add_tool_arguments(parser)
    parser.add_argument("--developer-message", default="", help="instructions for the model")
    parser.add_argument("-m", "--message", metavar="TEXT", help="ask this one question and exit")
    parser.add_argument("--raw", action="store_true", help="show the exact Harmony tokens")
    parser.add_argument("-t", "--temperature", type=float, default=1.0, help="0 is greedy (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="the same seed gives the same answers")
    parser.add_argument("-l", "--limit", type=int, default=0, help="most tokens of one turn; 0: until the model stops")
    add_load_arguments(parser, context=8192, short_backend=False)


def _add_tool_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-a", "--apply-patch", action="store_true", help="let the model edit files under --root")
    parser.add_argument("-b", "--browser", action="store_true", help="let the model search and read the web")
    parser.add_argument(
        "--show-browser-results", action="store_true", help="show the pages in full, not their first lines"
    )
    parser.add_argument("-p", "--python", action="store_true", help="let the model run Python in a sandbox")
    parser.add_argument("--root", type=Path, default=Path("."), metavar="FOLDER", help="for -a (default: here)")
    parser.add_argument(
        "--browser-backend", metavar="NAME", help="for -b: who searches (default: whose key the environment has)"
    )
    parser.add_argument(
        "--python-sandbox", default="auto", metavar="NAME", help="for -p: what contains it (default: %(default)s)"
    )
    parser.add_argument(
        "--mcp",
        action="append",
        default=[],
        metavar="COMMAND_OR_URL",
        help="a Model Context Protocol server whose tools the model may call; may be repeated",
    )


def run(args: argparse.Namespace) -> int:
    from gpt_oss.load import computes_elsewhere, load

    options = replace(load_options(args), keep_prefixes=True)
    if sys.stderr.isatty():
        print("Loading …", end="\r", file=sys.stderr, flush=True)
    generator = load(args.checkpoint, options)
    if args.checkpoint == DEMO and not computes_elsewhere(options):
        _prepare_demo(args)
        print(DEMO_NOTICE, file=sys.stderr)
    try:
        return talk(generator, args, model_label(getattr(generator, "served_model", args.checkpoint)))
    finally:
        generator.close()


def _prepare_demo(args: argparse.Namespace) -> None:
    """The demo model calculates with python: it is on unless other tools were chosen, where there is a sandbox for it.
    Its browser reads the pages that come with it unless another backend is named."""
    if not (args.python or args.browser or args.apply_patch or args.mcp):
        args.python = _sandbox_works(args.python_sandbox)
    if args.browser_backend is None:
        args.browser_backend = "demo"


def _sandbox_works(name: str) -> bool:
    import asyncio

    from gpt_oss.errors import GptOssError
    from gpt_oss.tools.sandbox import open_sandbox

    async def trial() -> None:
        await (await open_sandbox(name)).close()

    try:
        asyncio.run(trial())
    except GptOssError:
        return False
    return True


def model_label(checkpoint: str) -> str:
    """A checkpoint's name for people: `gpt-oss-20b` for `models/gpt-oss-20b/original`."""
    parts = [part for part in Path(checkpoint).parts if part not in (os.sep, ".", "original", "metal", "model.bin")]
    return parts[-1] if parts else checkpoint


def talk(generator: TokenGenerator, args: argparse.Namespace, label: str) -> int:
    """The chat itself, on any generator; gives the exit code. The generator stays the caller's to close."""
    import asyncio

    from gpt_oss.chat import plain
    from gpt_oss.chat.state import Chat, Look
    from gpt_oss.chat.toolset import open_tools
    from gpt_oss.params import SamplingParams
    from gpt_oss.session import AsyncSession
    from gpt_oss.turn import TurnLimits

    plain.be_robust()
    with asyncio.Runner() as runner:
        tools = runner.run(open_tools(args))
        try:
            session = AsyncSession(
                generator,
                tools=tools.tools,
                instructions=args.developer_message,
                reasoning_effort=args.reasoning_effort,
                params=SamplingParams(temperature=args.temperature, seed=args.seed),
                limits=TurnLimits(tokens=args.limit or None),
            )
            look = Look(raw=args.raw, browser_results=args.show_browser_results)
            chat = Chat(session, tools, label, look)
            # The lively chat needs a Unix terminal; elsewhere the plain one asks line by line.
            if sys.stdin.isatty() and sys.stdout.isatty() and sys.platform != "win32":
                from gpt_oss.chat import interactive

                if args.message is None:
                    runner.run(interactive.talk(chat))
                elif not runner.run(interactive.ask_once(chat, args.message)):
                    return 2
            else:
                plain.talk(chat, runner, plain.questions(sys.stdin) if args.message is None else iter([args.message]))
            return 0
        finally:
            runner.run(tools.close())
