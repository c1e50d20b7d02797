"""What shells and `man` make of the commands: completions in the shells themselves, the page as it is committed."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gpt_oss.cli import build_parser, main
from gpt_oss.shell_completion import SHELLS, script

REPOSITORY = Path(__file__).parents[2]
COMMANDS = ["chat", "completion", "convert", "doctor", "download", "generate", "harmony", "serve", "train", "version"]


def shell(name: str, text: str) -> str:
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    return subprocess.run([name, "-c", text], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("name", SHELLS)
def test_every_command_is_in_every_script(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", name]) == 0
    text = capsys.readouterr().out
    for command in COMMANDS:
        assert command in text


def complete_in_bash(words: list[str], path: Path) -> list[str]:
    array = " ".join(f"'{word}'" for word in words)
    return shell(
        "bash",
        f"source {path}; COMP_WORDS=({array}); COMP_CWORD={len(words) - 1}; "
        '_shtab_gpt_oss; printf "%s\\n" "${COMPREPLY[@]}"',
    ).split()


def test_bash_completes_commands_choices_and_files(tmp_path: Path) -> None:
    path = tmp_path / "completion.bash"
    path.write_text(script(build_parser(), "bash"))
    assert complete_in_bash(["gpt-oss", "gen"], path) == ["generate"]
    assert complete_in_bash(["gpt-oss", "convert", "--to", ""], path) == ["original", "hf", "metal", "gguf"]
    assert "--temperature" in complete_in_bash(["gpt-oss", "generate", "--"], path)
    assert complete_in_bash(["gpt-oss", "completion", "f"], path) == ["fish"]
    assert str(path) in complete_in_bash(["gpt-oss", "generate", f"{tmp_path}/comp"], path)


def test_zsh_takes_the_script(tmp_path: Path) -> None:
    path = tmp_path / "_gpt-oss"
    path.write_text(script(build_parser(), "zsh"))
    shell("zsh", f"zsh -n {path}")
    assert path.read_text().startswith("#compdef gpt-oss")


def test_fish_completes_commands_and_choices(tmp_path: Path) -> None:
    path = tmp_path / "gpt-oss.fish"
    path.write_text(script(build_parser(), "fish"))
    answer = shell("fish", f'source {path}; complete -C "gpt-oss gen"; complete -C "gpt-oss convert --to "')
    assert [line.split("\t")[0] for line in answer.splitlines()] == ["generate", "original", "hf", "metal", "gguf"]


def man_script() -> Any:
    spec = importlib.util.spec_from_file_location("man_script", REPOSITORY / "packaging" / "man.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_manual_page_is_that_of_the_commands() -> None:
    pytest.importorskip("argparse_manpage")
    module = man_script()
    assert module.PAGE.read_text(encoding="utf-8") == module.text(), "the commands have changed: `make man`"


def test_man_shows_the_page_without_complaint() -> None:
    if shutil.which("man") is None:
        pytest.skip("man is not installed")
    page = REPOSITORY / "deploy" / "man" / "gpt-oss.1"
    command = ["man", "--warnings", "-E", "UTF-8", "-Tutf8", "-P", "cat", "-l", str(page)]
    shown = subprocess.run(
        command, capture_output=True, text=True, check=True, env={"MANWIDTH": "80", "PATH": "/usr/bin:/bin"}
    )
    plain = re.sub(".\b", "", shown.stdout)  # bold is a letter over itself
    assert "gpt-oss - run gpt-oss-20b and gpt-oss-120b" in plain
    assert "--temperature" in plain
    assert "warning" not in shown.stderr
