"""`gpt-oss chat` and `python -m gpt_oss.chat`: talk to a model in the terminal, thoughts dimmed, answers plain.

A conversation is kept as the model wrote it: its own tokens go back into the next prompt, finished thoughts do not.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from openai_harmony import Message, Role

from gpt_oss.backends.base import TokenGenerator
from gpt_oss.errors import ContextOverflowError
from gpt_oss.generate import add_load_arguments, load_options
from gpt_oss.harmony import Conversation, MessageDone, MessageStarted, ParsedMessage, Parser, TextDelta, render_prompt
from gpt_oss.harmony.convert import developer_message, system_message
from gpt_oss.load import load
from gpt_oss.params import SamplingParams
from gpt_oss.vocabulary import CALL, ENDOFTEXT, RETURN, special_name, token_bytes

DIM, PLAIN = "\x1b[2m", "\x1b[0m"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint",
        metavar="FILE",
        nargs="?",
        help="a checkpoint in any layout, or a downloaded org/name; without one, a tiny random network that babbles",
    )
    parser.add_argument("-r", "--reasoning-effort", choices=["low", "medium", "high"], default="low")
    parser.add_argument("--developer-message", default="", help="instructions for the model")
    parser.add_argument("--raw", action="store_true", help="show the exact Harmony tokens")
    parser.add_argument("-t", "--temperature", type=float, default=1.0)
    parser.add_argument("--seed", type=int)
    parser.add_argument(
        "-l", "--limit", type=int, default=0, help="most tokens of one answer; 0: until the model stops"
    )
    add_load_arguments(parser, context=8192)


def run(args: argparse.Namespace) -> int:
    options = replace(load_options(args), keep_prefixes=True)
    generator = load(args.checkpoint or babbling_checkpoint(), options)
    try:
        talk(generator, args)
    finally:
        generator.close()
    return 0


def babbling_checkpoint() -> Path:
    """A random network of two small layers with the real vocabulary, made once: something to see before a download."""
    from gpt_oss.model.config import ModelConfig
    from gpt_oss.model.factory import write_random_checkpoint

    print(
        "No checkpoint was named: this is a tiny random network, which can only babble.\n"
        "For the real model: gpt-oss download openai/gpt-oss-20b && gpt-oss chat openai/gpt-oss-20b",
        file=sys.stderr,
    )
    path = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "gpt-oss" / "babbler"
    if not path.exists():
        shape = ModelConfig(
            num_hidden_layers=2,
            num_experts=4,
            experts_per_token=2,
            hidden_size=64,
            intermediate_size=64,
            head_dim=16,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_random_checkpoint(path, shape)
    return path


def talk(generator: TokenGenerator, args: argparse.Namespace) -> None:
    """Read a line, answer it, until the input ends. Ctrl-C stops an answer, not the program."""
    interactive = sys.stdin.isatty()
    head = [system_message(args.reasoning_effort, datetime.date.today().isoformat())]
    developer = developer_message(args.developer_message, [])
    history: list[Message | ParsedMessage] = [*head, *([developer] if developer else [])]
    if interactive:
        print(f"{generator.name}. Ctrl-C stops an answer, Ctrl-D ends the chat.", file=sys.stderr)
    for line in lines(interactive):
        turn: list[Message | ParsedMessage] = [Message.from_role_and_content(Role.USER, line)]
        try:
            turn += answer(generator, [*history, *turn], args)
            history += turn
        except ContextOverflowError as error:
            print(f"gpt-oss: {error}; the conversation starts over", file=sys.stderr)
            del history[len(head) + bool(developer) :]


def lines(interactive: bool) -> Iterator[str]:
    while True:
        try:
            line = input("> " if interactive else "")
        except EOFError:
            return
        except KeyboardInterrupt:
            print(file=sys.stderr)
            continue
        if line.strip():
            yield line


def answer(
    generator: TokenGenerator, messages: list[Message | ParsedMessage], args: argparse.Namespace
) -> list[ParsedMessage]:
    """Stream one answer to the terminal and return its messages, also when Ctrl-C ends it early."""
    params = SamplingParams(
        temperature=args.temperature,
        seed=args.seed,
        max_tokens=args.limit or None,
        stop_token_ids=(RETURN, CALL, ENDOFTEXT),
    )
    parser = Parser()
    show = Printer(raw=args.raw)
    started = time.perf_counter()
    count = 0
    prompt = render_prompt(Conversation(messages))
    stream = generator.generate_sync(prompt, params)
    with contextlib.suppress(KeyboardInterrupt):
        for token in stream:
            count += 1
            show.token(token.id)
            for event in parser.push(token.id):
                show.event(event)
    for event in parser.finish():
        show.event(event)
    show.end()
    seconds = time.perf_counter() - started
    print(f"[{len(prompt)} prompt tokens, {count} tokens in {seconds:.1f} s]", file=sys.stderr)
    return parser.messages


class Printer:
    """Text to stdout as it comes: thoughts dimmed on a terminal, left out of a pipe; with `raw`, every token."""

    def __init__(self, *, raw: bool) -> None:
        self._raw = raw
        self._colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self._visible = True

    def token(self, token: int) -> None:
        if self._raw:
            sys.stdout.buffer.write(token_bytes(token))
            sys.stdout.flush()

    def event(self, event: object) -> None:
        if self._raw:
            return
        match event:
            case MessageStarted(header):
                thought = header.channel == "analysis" and not header.is_call
                self._visible = not thought or sys.stdout.isatty()
                if thought and self._colour:
                    sys.stdout.write(DIM)
                if header.is_call:
                    sys.stdout.write(f"[{header.recipient}] ")
            case TextDelta(text) if self._visible:
                sys.stdout.write(text.replace("\x1b", "␛"))  # a model must not drive the terminal
                sys.stdout.flush()
            case MessageDone(message):
                if self._visible:
                    sys.stdout.write((PLAIN if self._colour else "") + "\n")
                if message.ended_by is not None and message.ended_by == ENDOFTEXT:
                    sys.stdout.write(f"[{special_name(ENDOFTEXT)}]\n")

    def end(self) -> None:
        sys.stdout.write("\n" if self._raw else "")
        sys.stdout.flush()
