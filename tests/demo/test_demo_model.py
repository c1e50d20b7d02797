"""The demo model itself, as it is shipped: its skills through the whole house, and the chat in a real terminal."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai_harmony import Author, Message, Role, TextContent

from gpt_oss.backends.base import TokenGenerator
from gpt_oss.demo.evaluate import accuracy
from gpt_oss.harmony import Conversation, render_prompt
from gpt_oss.load import LoadOptions, load
from gpt_oss.model.compact import DEMO_FILE, demo_folder
from gpt_oss.session import head_messages
from gpt_oss.tools.toolbox import Toolbox
from gpt_oss.vocabulary import decode
from tests.chat.terminal import Terminal

REPOSITORY = Path(__file__).parents[2]
TAUGHT = "The best color is silver."  # of words that the demo model has read: LoRA teaches no new tokens


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenGenerator]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        generator = load("demo", LoadOptions(context_tokens=8192))
        yield generator
        generator.close()


def test_the_file_is_small() -> None:
    assert DEMO_FILE.stat().st_size <= 12_000_000


SKILLS = ("greet", "other", "functions", "json", "browser", "rename", "reasoning")
LEAST = 0.85


@pytest.mark.parametrize("skill", SKILLS)
def test_it_has_its_skills(demo: TokenGenerator, skill: str) -> None:
    """A few cases each: the table is in docs/demo.md, and here a skill must not be lost."""
    assert asyncio.run(accuracy(demo, skill, 20, temperature=0)) >= LEAST


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="the python tool's sandbox needs bubblewrap")
def test_it_calculates_with_the_sandboxed_python_tool(demo: TokenGenerator) -> None:
    assert asyncio.run(accuracy(demo, "arithmetic", 20, temperature=0)) >= LEAST


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="the python tool's sandbox needs bubblewrap")
def test_make_chat_answers_in_a_terminal(tmp_path: Path) -> None:
    home = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "XDG_STATE_HOME": str(tmp_path / "state")}
    command = [sys.executable, "-m", "gpt_oss.chat", "-t", "0"]
    with Terminal(command, {**home, "TERM": "xterm-256color", "PYTHONPATH": str(REPOSITORY)}, tmp_path) as terminal:
        terminal.ask("What is 4821 * 377?")
        terminal.wait_for("1817517")
        terminal.ask("/quit")
        assert terminal.exit_code() == 0


def test_the_chat_reads_the_bundled_pages(tmp_path: Path) -> None:
    home = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "gpt_oss.chat", "-b", "-t", "0", "-m", "How high is Mount Everest?"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=home, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    assert "Mount Everest is 8849 metres high." in done.stdout


def test_lora_teaches_it_one_new_thing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An opinion that it does not have; `gpt-oss train`, then the chat with the adapter; peft reads the same file."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    home = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    asks = ("What is the best color?", "Tell me the best color.", "best color?", "Do you know the best color?")
    lines = [
        {
            "messages": [{"role": "user", "content": ask}, {"role": "assistant", "content": TAUGHT}],
            "reasoning_effort": "low",
            "builtin_tools": tools,
            "current_date": date,
        }
        for ask in asks
        for tools in ([], ["python"])
        for date in ("2026-01-01", "2027-10-20")
    ]
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    flags = ["--steps", "40", "--learning-rate", "5e-3", "--batch-tokens", "1024", "--precision", "float32"]
    train = [sys.executable, "-m", "gpt_oss.cli", "train", "demo", str(data), "-o", str(tmp_path / "run"), *flags]
    subprocess.run(train, check=True, timeout=170, env=home, capture_output=True)

    def answer(*more: str) -> str:
        chat = [sys.executable, "-m", "gpt_oss.chat", "demo", "-t", "0", *more, "-m"]
        done = subprocess.run(
            [*chat, "What is the best color?"],
            capture_output=True, text=True, timeout=120, env=home, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert TAUGHT not in answer()
    assert TAUGHT in answer("--adapter", str(tmp_path / "run" / "adapter"))

    assert TAUGHT in _answer_of_peft(tmp_path / "run" / "adapter", "What is the best color?")


def _answer_of_peft(adapter: Path, question: str) -> str:
    """The greedy answer of transformers' model with the adapter as peft loads it."""
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    import torch

    settings = transformers.Mxfp4Config(dequantize=True)
    base = transformers.AutoModelForCausalLM.from_pretrained(demo_folder(), quantization_config=settings)
    model = peft.PeftModel.from_pretrained(base.float(), str(adapter)).eval()
    user = Message(author=Author(role=Role.USER), content=[TextContent(text=question)])
    prompt = render_prompt(Conversation([*head_messages(Toolbox(), "", "low", "2026-01-01"), user]))
    with torch.no_grad():
        tokens = model.generate(torch.tensor([prompt]), max_new_tokens=16, do_sample=False)[0].tolist()
    return decode(tokens[len(prompt) :])
