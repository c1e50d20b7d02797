"""The lines of README and docs/server.md that ask a server, as they are pasted."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gpt_oss.vocabulary import decode, encode_with_special
from tests.server.conftest import Scripted
from tests.server.test_chat_completions import ANSWER

ROOT = Path(__file__).parents[2]


def curls(name: str) -> list[str]:
    """Those of every code block, whatever language it is said to be in."""
    blocks = re.split(r"^```.*\n", (ROOT / name).read_text(encoding="utf-8"), flags=re.MULTILINE)[1::2]
    return [line for block in blocks for line in block.split("\n\n") if line.startswith("curl ")]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("document", ["README.md", "docs/server.md"])
def test_what_is_pasted_works(document: str, scripted: Scripted) -> None:
    commands = curls(document)
    assert commands
    live = scripted(*[ANSWER] * len(commands))
    for command in commands:
        here = command.replace("http://127.0.0.1:8000", live.url).replace("curl ", "curl --silent --fail ", 1)
        done = subprocess.run(["bash", "-c", here], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        last: Any = done.stdout.strip().splitlines()[-1]
        assert last == "data: [DONE]" or json.loads(last)["object"] in (
            "response",
            "chat.completion",
            "text_completion",
        )


def test_the_ids_in_the_readme_are_a_question() -> None:
    ids = re.search(r'"prompt": (\[[\d, ]+\])', (ROOT / "README.md").read_text(encoding="utf-8"))
    assert ids is not None
    tokens = json.loads(ids[1])
    assert tokens == encode_with_special(decode(tokens))
    assert decode(tokens) == "<|start|>user<|message|>Hello<|end|><|start|>assistant"
