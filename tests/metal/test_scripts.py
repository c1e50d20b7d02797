"""The source document's metal commands, as a user types them in a clone: whole processes on the demo model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gpt_oss.model.checkpoint import open_checkpoint
from gpt_oss.model.compact import demo_folder
from gpt_oss.model.convert import convert

ROOT = Path(__file__).parents[2]
PROMPT = "why did the chicken cross the road?"


def script(name: str, *args: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, f"gpt_oss/metal/{name}", *map(str, args)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False, input="")


@pytest.fixture(scope="module")
def model_bin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "model.bin"
    done = script("scripts/create-local-model.py", "-s", demo_folder(), "-d", path)
    assert (done.returncode, done.stdout) == (0, f"{path}\n"), done.stderr
    return path


def test_the_written_file_is_the_conversions(model_bin: Path, tmp_path: Path) -> None:
    assert model_bin.read_bytes() == convert(demo_folder(), tmp_path / "other.bin", "metal").read_bytes()
    again = script("scripts/create-local-model.py", "-s", demo_folder(), "-d", model_bin)
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr.startswith(f"gpt-oss: {model_bin} exists\n")


def test_generate_continues_a_prompt(model_bin: Path) -> None:
    done = script("examples/generate.py", model_bin, "-p", PROMPT, "-t", "0", "-l", "6")
    assert done.returncode == 0, done.stderr
    assert "[metal (float32 on cpu): 8 prompt tokens" in done.stderr
    other = script(
        "examples/generate.py", "demo", "-b", "cpu", "--precision", "exact", "-p", PROMPT, "-t", "0", "-l", "6"
    )
    assert done.stdout == other.stdout != "\n"
    assert "[cpu" in other.stderr


def test_chat_answers_a_message(model_bin: Path) -> None:
    done = script("examples/chat.py", model_bin, "-m", "hello", "-t", "0", "-c", "1024")
    assert done.returncode == 0, done.stderr
    assert "Hello! I am the tiny gpt-oss demo model." in done.stdout


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda data: data[:-1], "is truncated: tensor 'block."),
        (lambda data: b"GGUF" + data[4:], "is neither metal's model.bin nor a file of a folder with safetensors"),
        (lambda data: data[:11] + b"1" + data[12:], "is neither metal's model.bin nor"),
        (
            lambda data: data[:32] + b"\xff\xff\xff\x7f" + data[36:],
            "a context_length of 2147483647 tokens, and 1048576",
        ),
    ],
    ids=["truncated", "foreign", "another version", "an impossible context"],
)
def test_a_bad_file_gets_one_sentence(model_bin: Path, tmp_path: Path, change: object, sentence: str) -> None:
    bad = tmp_path / "model.bin"
    bad.write_bytes(change(model_bin.read_bytes()))  # type: ignore[operator]
    done = script("examples/generate.py", bad, "-p", PROMPT)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"gpt-oss: {bad} ")
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_a_context_that_does_not_fit_gets_one_sentence(model_bin: Path) -> None:
    done = script("examples/generate.py", model_bin, "-p", PROMPT, "-c", "1000000000")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("gpt-oss: the weights take 0.")
    assert "a cache of 1000000000 tokens" in done.stderr
    assert open_checkpoint(model_bin).config.max_context < 1000000000
