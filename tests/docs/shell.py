"""Whether a command that a page shows is one that works: argparse accepts it, the target and the extra exist.

Commands of others are named here, each with the reason that it is not tried.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Iterator
from unittest import mock

from gpt_oss.cli import build_parser
from tests.docs.blocks import REPOSITORY

FOREIGN = {
    "apt": "Debian's",
    "xcode-select": "Apple's",
    "wsl": "Microsoft's",
    "git": "a clone of what the reader has",
    "hf": "Hugging Face's; downloads",
    "codex": "OpenAI's; tests/clients runs it",
    "claude": "Anthropic's; tests/clients runs it",
    "copilot": "GitHub's; tests/clients runs it",
    "cline": "Cline's; tests/clients runs it",
    "qwen": "Qwen Code's; tests/clients runs it",
    "aider": "aider's; tests/clients runs it",
    "open-webui": "Open WebUI's; tests/clients runs it",
    "llm": "somebody else's; tests/clients runs it",
    "npx": "npm's",
    "docker": "a container engine's",
    "systemctl": "the system's",
    "launchctl": "the system's",
    "nvidia-smi": "NVIDIA's",
    "vllm": "vLLM's",
    "ollama": "Ollama's",
    "llama-server": "llama.cpp's",
    "ray": "Ray's",
    "serve": "Ray Serve's",
    "lms": "LM Studio's",
    "uv": "Astral's",
    "kubectl": "Kubernetes'",
    "man": "the system's",
    "cp": "the system's",
    "mkdir": "the system's",
    "cd": "the shell's",
    "echo": "the shell's",
    "printf": "the shell's",
    "cat": "the system's",
    ".": "the shell's",
    "source": "the shell's",
    "export": "the shell's",
    "curl": "run against a live server (test_blocks.py)",
}


class NotACommandError(Exception):
    """What is wrong with it, in one sentence."""


def commands(text: str) -> Iterator[str]:
    """The commands of a block, each with its continuation lines and quoted lines; comments and prompts are gone."""
    held = ""
    for line in text.split("\n"):
        if not held and (not line.strip() or line.lstrip().startswith("#")):
            continue
        held += line.removeprefix("$ ") if not held else f"\n{line}"
        if held.endswith("\\") or not _quotes_are_closed(held):
            continue
        yield held
        held = ""
    if held:
        raise NotACommandError(f"it does not end: {held!r}")


def _quotes_are_closed(text: str) -> bool:
    try:
        shlex.split(text, comments=True)
    except ValueError:
        return False
    return True


def check(command: str) -> None:
    """Raises NotACommandError for the first program of a command line that is none, or whose arguments it refuses."""
    lexer = shlex.shlex(re.sub(r"<(\w+)>", r"\1", command), posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    words: list[str] = []
    redirected = False
    for word in [*lexer, ";"]:
        if set(word) <= set("|&;"):
            if words:
                _check_program(words)
            words = []
        elif set(word) <= set("<>") or re.fullmatch(r"\d?>+|&>", word):
            redirected = True
            if words[-1:] == ["2"] and "2>" in command:
                words.pop()
        elif redirected:
            redirected = False
        else:
            words.append(word)


def _check_program(words: list[str]) -> None:
    while re.fullmatch(r"[A-Z_][A-Z0-9_]*=.*", words[0]) or words[0] == "sudo":
        words = words[1:]
        if not words:
            return
    program, arguments = words[0], words[1:]
    if program == "gpt-oss":
        _parse(build_parser(), arguments)
    elif program in ("python", "python3"):
        _check_python(arguments)
    elif program == "torchrun":
        _check_torchrun(arguments)
    elif program == "pip":
        _check_extras(" ".join(arguments))
    elif program == "make":
        _check_targets(arguments)
    elif program == "mkdocs":
        if not {*arguments} & {"serve", "build"}:
            raise NotACommandError(f"mkdocs has no {arguments}")
    elif "/" in program and not program.startswith(("/", "~")):
        if not (REPOSITORY / program).is_file():
            raise NotACommandError(f"there is no script {program}")
    elif program not in FOREIGN:
        raise NotACommandError(
            f"{program!r} is no program of ours; name it in tests/docs/shell.py, or say why it is not run"
        )


def _parse(parser: argparse.ArgumentParser, arguments: list[str]) -> None:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            parser.parse_args(arguments)
    except SystemExit as end:
        if end.code:
            raise NotACommandError(said.getvalue().strip().split("\n")[-1]) from None


class _Parsed(BaseException):
    """Past every `except Exception` of the program that parses."""


def _check_python(arguments: list[str]) -> None:
    if arguments[:2] == ["-m", "venv"]:
        return
    if arguments[:1] == ["-m"]:
        if arguments[1].split(".")[0] not in ("gpt_oss", "benchmarks", "tests"):
            raise NotACommandError(f"{arguments[1]} is no module of ours")
        _run_until_parsed(arguments[1], arguments[2:])
    elif not (REPOSITORY / arguments[0]).is_file():
        raise NotACommandError(f"there is no file {arguments[0]}")
    elif "argparse" in (REPOSITORY / arguments[0]).read_text(encoding="utf-8"):
        _run_until_parsed(arguments[0], arguments[1:])


def _run_until_parsed(program: str, arguments: list[str]) -> None:
    """Runs a module or a script up to the moment when argparse has accepted its arguments."""
    original = argparse.ArgumentParser.parse_args

    def parse_args(parser: argparse.ArgumentParser, args: list[str] | None = None, namespace: object = None) -> object:
        original(parser, args, namespace)  # type: ignore[call-overload]
        raise _Parsed

    said = io.StringIO()
    run = runpy.run_path if program.endswith(".py") else runpy.run_module
    path = str(REPOSITORY / program) if program.endswith(".py") else program
    try:
        with (
            mock.patch.object(argparse.ArgumentParser, "parse_args", parse_args),
            mock.patch.object(sys, "argv", [program, *arguments]),
            contextlib.redirect_stderr(said),
            contextlib.redirect_stdout(said),
        ):
            run(path, run_name="__main__")
    except _Parsed:
        return
    except SystemExit as end:
        if not end.code:
            return
        raise NotACommandError(said.getvalue().strip().split("\n")[-1] or str(end.code)) from None
    except ImportError as error:
        raise NotACommandError(f"python -m {program}: {error}") from error
    raise NotACommandError(f"{program} has no arguments to check")


def _check_torchrun(arguments: list[str]) -> None:
    from torch.distributed.run import get_args_parser

    module = arguments.index("-m")
    _parse(get_args_parser(), arguments)
    _check_python(arguments[module:])


def _check_extras(text: str) -> None:
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    extras = {"metal", *settings["project"]["optional-dependencies"]}
    for names in re.findall(r"(?:gpt-oss|\.)\[([\w,-]+)\]", text):
        for name in names.split(","):
            if name not in extras:
                raise NotACommandError(f"the package has no extra {name!r}; it has {', '.join(sorted(extras))}")


def _check_targets(arguments: list[str]) -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    for word in arguments:
        if "=" not in word and not re.search(rf"^{re.escape(word)}:", makefile, re.MULTILINE):
            raise NotACommandError(f"the Makefile has no target {word!r}")
