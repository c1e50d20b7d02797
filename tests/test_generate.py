"""The two entry points, as a user runs them: whole processes, real files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gpt_oss.vocabulary import decode


def process(command: list[str], stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120, check=False)


def run(*args: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return process([sys.executable, "-m", "gpt_oss.cli", *map(str, args)], stdin)


def generated(*args: str | Path) -> list[dict[str, object]]:
    answer = run("generate", *args, "--json")
    assert answer.returncode == 0, answer.stderr
    return [json.loads(line) for line in answer.stdout.splitlines()]


@pytest.mark.parametrize("backend", ["cpu", "torch"])
@pytest.mark.parametrize("temperature", ["0", "1"])
def test_the_three_layouts_answer_alike(tiny_checkpoints: dict[str, Path], backend: str, temperature: str) -> None:
    flags = ["--prompt-tokens", "1,2,3", "--seed", "7", "-t", temperature, "-l", "12", "--backend", backend]
    answers = [generated(path, *flags) for path in tiny_checkpoints.values()]
    ids = [[line["token"] for line in answer] for answer in answers]
    assert len(ids[0]) == 12
    assert ids[0] == ids[1] == ids[2]


def test_json_lines_carry_token_text_and_logprob(tiny_checkpoints: dict[str, Path]) -> None:
    lines = generated(tiny_checkpoints["original"], "--prompt-tokens", "5 6", "--seed", "1", "-l", "30")
    assert all(set(line) == {"token", "text", "logprob"} for line in lines)
    assert all(isinstance(line["logprob"], float) and line["logprob"] <= 0 for line in lines)
    assert "".join(str(line["text"]) for line in lines) == decode([int(str(line["token"])) for line in lines])


def test_the_module_and_the_command_print_the_same_text(tiny_checkpoints: dict[str, Path]) -> None:
    flags = [str(tiny_checkpoints["metal"]), "--prompt-tokens", "9", "--seed", "3", "-l", "8"]
    module = process([sys.executable, "-m", "gpt_oss.generate", *flags])
    command = run("generate", *flags)
    assert module.returncode == command.returncode == 0
    assert module.stdout == command.stdout != ""
    assert "tokens/s" in command.stderr


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--prompt-tokens", "1,x"], "--prompt-tokens takes ids"),
        (["--prompt-tokens", "1,99999999"], "99999999"),
        (["--prompt-tokens", "-1"], "-1"),
        (["-p", ""], "the prompt is empty"),
        (["-t", "-1"], "temperature must be"),
        (["--top-p", "0"], "top_p must be"),
        (["--precision", "fp3"], "precision"),
        (["--threads", "0"], "threads"),
        (["-c", "2", "--prompt-tokens", "1,2,3,4,5"], "context"),
    ],
)
def test_bad_input_gets_one_sentence(tiny_checkpoints: dict[str, Path], flags: list[str], sentence: str) -> None:
    prompt = [] if {"-p", "--prompt-tokens"} & set(flags) else ["--prompt-tokens", "1"]
    prompt += ["-l", "3"]
    answer = run("generate", tiny_checkpoints["original"], *flags, *prompt)
    assert answer.returncode == 2
    assert answer.stderr.startswith("gpt-oss: ")
    assert sentence in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_missing_checkpoint_says_where_it_looked(tmp_path: Path) -> None:
    answer = run("generate", tmp_path / "nowhere", "-p", "hello")
    assert answer.returncode == 2
    assert str(tmp_path / "nowhere") in answer.stderr


def test_a_closed_pipe_is_no_error(tiny_checkpoints: dict[str, Path]) -> None:
    flags = f"{tiny_checkpoints['original']} --prompt-tokens 1 -l 400 --json"
    command = f"{sys.executable} -m gpt_oss.cli generate {flags} | head -n 1"
    answer = process(["bash", "-c", f"set -o pipefail; {command}"])
    assert answer.stdout.count("\n") == 1
    assert "Traceback" not in answer.stderr


def test_importing_the_package_is_quick_and_light() -> None:
    script = "import sys, gpt_oss; print(sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    answer = process([sys.executable, "-c", script])
    assert answer.stdout.strip() == "[]"


def test_help_names_every_command_without_heavy_imports() -> None:
    heavy = "{'torch', 'transformers'} & set(sys.modules)"
    script = f"import sys; from gpt_oss.cli import build_parser; print(build_parser().format_help(), {heavy})"
    answer = process([sys.executable, "-c", script])
    for command in ("chat", "generate", "download", "convert", "harmony", "doctor"):
        assert command in answer.stdout
    assert "set()" in answer.stdout
