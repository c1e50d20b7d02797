"""Every code block of README and docs: Python is run, commands are parsed, the cheap ones run, curl asks a live server.

What stands for a real checkpoint, a server's address or somebody's program is in the short tables below.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpt_oss.backends.base import TokenGenerator
from gpt_oss.load import load as gpt_oss_load
from tests.docs import shell
from tests.docs.blocks import PAGES, REPOSITORY, Block, blocks
from tests.docs.demo_server import Served

# In place of what a reader has, the tests have this. `{url}` is the live server's.
IN_PYTHON = {
    '"gpt-oss-20b/original"': '"demo"',
    '"openai/gpt-oss-20b"': '"demo"',
    "http://127.0.0.1:8000": "{url}",
    '"npx -y some-server"': f"[{sys.executable!r}, '-m', 'tests.tools.mcp_server']",
    "choose_backend()": 'choose_backend("demo")',
}
IN_COMMANDS = {
    r"\bopenai/gpt-oss-(20b|120b)\b|\bCHECKPOINT\b|\bgpt-oss-20b/original/?": "demo",
    r"\bgpt-oss generate\b": "gpt-oss generate -l 4",  # most tokens: the toy does not stop outside of Harmony
    r"http://127\.0\.0\.1:8000": "{url}",
    r"\bcurl ": "curl --silent --show-error --fail ",
}
# Commands that take a second or two and need nothing but the files below. The others are parsed.
RUN = re.compile(
    r"curl |(echo .* \| )?gpt-oss (--version|doctor$|harmony|apply-patch|generate .*(-p|--prompt-tokens)|chat .*-m )"
)
MORE_THAN_A_DEMO = re.compile(r"--mcp|--adapter|--backend|--url|-b\b")
FILES = {
    "messages.json": '[{"role": "user", "content": "Hello"}]',
    "ids.json": "[200005, 17196, 200008, 13225, 200007]",
    "patch": "*** Begin Patch\n*** Add File: new.txt\n+Hello\n*** End Patch",
    "FOLDER/old.txt": "old\n",
}
COMMANDS = ("shell", "bash", "sh", "console", "powershell")
SHOWN = ("", "text")  # what a program said, a picture: no code


def is_program(block: Block) -> bool:
    return block.language == "python" and not block.not_run


page = pytest.mark.parametrize("page", PAGES, ids=str)
ALL = [block for path in PAGES for block in blocks(path)]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[TokenGenerator]]:
    """The models that a page opens; pages need not close them, but the tests' process goes on."""
    generators: list[TokenGenerator] = []

    def load(*arguments: Any, **options: Any) -> TokenGenerator:
        generators.append(gpt_oss_load(*arguments, **options))
        return generators[-1]

    monkeypatch.setattr("gpt_oss.load.load", load)
    yield generators
    for generator in generators:
        generator.close()


@pytest.mark.parametrize("page", [p for p in PAGES if any(is_program(b) for b in blocks(p))], ids=str)
def test_python(
    page: Path, served: Served, opened: list[TokenGenerator], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The blocks of a page are run in order, in one namespace, as a reader would; a `text` block below one is what it
    prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("OLLAMA_HOST", served.url)
    every = blocks(page)
    names: dict[str, Any] = {"__name__": f"the code of {page}"}
    for block, following in pairwise([*every, None]):
        if block is not None and is_program(block):
            said = run_python(block, names, served.url)
            if following is not None and following.language == "text" and not following.not_run:
                assert said.strip() == following.text.strip(), block.where
    names.clear()


def run_python(block: Block, names: dict[str, Any], url: str) -> str:
    code = block.text
    for written, here in IN_PYTHON.items():
        code = code.replace(written, here.replace("{url}", url))
    compiled = compile(code, block.where, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        waiting = eval(compiled, names)
        if inspect.isawaitable(waiting):
            asyncio.run(_awaited(waiting))
    return said.getvalue()


async def _awaited(waiting: Any) -> None:
    await waiting


@page
def test_commands_are_commands(page: Path) -> None:
    wrong = []
    for block in blocks(page):
        if block.language in COMMANDS and not block.not_run:
            try:
                for command in shell.commands(block.text):
                    shell.check(command)
            except shell.NotACommandError as error:
                wrong.append(f"{block.where}: {error}")
    assert not wrong, "\n".join(wrong)


def cheap_commands() -> list[str]:
    every = [
        re.sub(r"\s+#.*", "", command)
        for block in ALL
        if block.language in COMMANDS and not block.not_run
        for command in shell.commands(block.text)
    ]
    return [command for command in dict.fromkeys(every) if RUN.match(command) and not MORE_THAN_A_DEMO.search(command)]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_cheap_commands_run(served: Served, tmp_path: Path) -> None:
    found = cheap_commands()
    assert len(found) > 10
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "XDG_STATE_HOME": str(tmp_path),
    }
    for command in found:
        here = command
        for written, instead in IN_COMMANDS.items():
            here = re.sub(written, instead.replace("{url}", served.url), here)
        done = subprocess.run(
            ["bash", "-c", here], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, f"{here}\n{done.stderr}"
        assert done.stdout.strip(), here


DATA = {
    "json": lambda text: [
        json.loads(line) for line in ([text] if text[:1] in "[{" and "\n{" not in text else text.split("\n"))
    ],
    "toml": tomllib.loads,
    "yaml": yaml.safe_load,
    "yml": yaml.safe_load,
}


@pytest.mark.parametrize("block", [b for b in ALL if b.language in DATA], ids=lambda block: block.where)
def test_data_parses(block: Block) -> None:
    assert DATA[block.language](block.text)


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@pytest.mark.parametrize("block", [b for b in ALL if b.language in ("js", "ts")], ids=lambda block: block.where)
def test_javascript_is_javascript(block: Block, tmp_path: Path) -> None:
    script = tmp_path / "block.mjs"
    script.write_text(block.text)
    done = subprocess.run(["node", "--check", str(script)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{block.where}: {done.stderr}"


def test_every_block_is_run_or_says_why_not() -> None:
    known = {"python", *COMMANDS, *SHOWN, *DATA, "js", "ts"}
    wrong = [f"{b.where} is {b.language!r}" for b in ALL if b.language not in known and not b.not_run]
    assert not wrong, f"a block of another language is run by nothing; say why above it: {wrong}"
