"""Writes docs/cli.md's tables from the parsers that print `--help`: `python docs/cli_reference.py`.

Tables, not pasted `--help` texts: argparse lays those out differently in each version of Python. The words are the
parsers' own.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from generated import DOCS, between, main

from gpt_oss.cli import build_parser


def reference() -> str:
    return "\n".join(_command(parser) for parser in commands(build_parser()))


def commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Every parser that a user can call, in the order of `--help`, a group before its members."""
    for sub in _subparsers(parser).values():
        yield sub
        yield from commands(sub)


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    found = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return {name: sub for action in found for name, sub in cast("dict", action.choices).items()}


def _command(parser: argparse.ArgumentParser) -> str:
    depth = "##" if len(parser.prog.split()) == 2 else "###"
    lines = [f"{depth} {parser.prog}", ""]
    if parser.description:
        lines += [parser.description, ""]
    rows = [row for action in parser._actions if (row := _row(action))]
    if rows:
        lines += ["| | |", "|---|---|", *rows, ""]
    return "\n".join(lines)


def _row(action: argparse.Action) -> str | None:
    if action.help == argparse.SUPPRESS or isinstance(action, argparse._HelpAction):
        return None
    if isinstance(action, argparse._SubParsersAction):
        return f"| `{action.metavar}` | {', '.join(cast('dict', action.choices))} |"
    text = (action.help or "") % {**vars(action), "prog": ""}
    if action.choices is not None:
        text += f"; one of {', '.join(f'`{choice}`' for choice in action.choices)}"
    value = _value(action)
    *short, last = action.option_strings or [""]
    names = [f"`{name}`" for name in short] + [f"`{f'{last} {value}'.strip()}`"]
    return f"| {', '.join(names)} | {_cell(text)} |"


def _value(action: argparse.Action) -> str:
    """What stands behind an option, or for an argument; choices stand in the text."""
    if action.nargs == 0 or (action.choices is not None and action.metavar is None and action.option_strings):
        return ""
    metavar = action.metavar if isinstance(action.metavar, str) else action.dest.replace("_", "-").upper()
    return f"[{metavar}]" if action.nargs == "?" else metavar


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").replace("<", "&lt;").strip()


def files() -> dict[Path, str]:
    page = DOCS / "cli.md"
    return {page: between(page, "python docs/cli_reference.py", reference())}


if __name__ == "__main__":
    sys.exit(main(files()))
