"""`gpt-oss completion SHELL`: a script for bash, zsh or fish, made from the commands' own arguments (shtab).

Knows which arguments are files or folders by their metavars; everything else is in the parser.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

SHELLS = ("bash", "zsh", "fish")
FILES = {"FILE", "CHECKPOINT", "DATA", "OUTPUT"}
FOLDERS = {"FOLDER"}


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """For a shell of SHELLS; `parser` is changed no more than by notes for shtab."""
    import shtab

    for action in _actions(parser):
        names = {action.metavar} if isinstance(action.metavar, str) else {action.dest.upper()}
        if names & FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif names & FOLDERS:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    return str(shtab.complete(parser, shell))


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                yield from _actions(sub)
        else:
            yield action
