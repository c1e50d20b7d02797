"""Captures the session that docs/chat.md shows: `python docs/capture_chat.py` writes it anew between the marks there.

The chat is the real one in tmux, with the real tools; the model is a script (tests/chat/scripted_chat.py), for what
it says must be the same each time. Needs tmux.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PAGE = REPOSITORY / "docs" / "chat.md"
SOCKET = f"gpt-oss-capture-{os.getpid()}"

THOUGHT, FINAL, NEXT = "<|channel|>analysis<|message|>", "<|channel|>final<|message|>", "<|end|><|start|>assistant"
TIDES = """\
# Tides

Tides are the rise and fall of sea levels.
They are caused by the gravity of the Moon, and to a lesser part of the Sun, and by the rotation of the Earth.
Most places see two high tides a day, about 12 hours and 25 minutes apart.
When Sun and Moon pull in line, at new and full moon, the range is largest: a spring tide.
"""
PATCH = """\
*** Begin Patch
*** Update File: notes.md
@@
 # Notes
-Tides: ask somebody.
+Tides: the Moon, mostly; high water every 12 h 25 min.
*** End Patch"""
REPLIES = [
    f'{THOUGHT}I look this up.{NEXT}<|channel|>analysis to=browser.search<|message|>{{"query": "tides"}}<|call|>',
    '<|channel|>analysis to=browser.open<|message|>{"id": 0}<|call|>',
    f"{THOUGHT}The page says it all.{NEXT}{FINAL}Mostly the **Moon**: its gravity pulls at the sea【1†L4】.\n\n"
    "| | |\n|---|---|\n| high tides a day | 2 |\n| apart | 12 h 25 min |\n\n"
    "At new and full moon the range is largest【1†L6】.<|return|>",
    f"{THOUGHT}Simple; but let me be exact.{NEXT}<|channel|>analysis to=python code<|message|>"
    "hours = 12 + 25 / 60\nround(365.25 * 24 / hours)<|call|>",
    f"{FINAL}About **706** a year.<|return|>",
    f"<|channel|>commentary<|message|>I'll put both into your notes.{NEXT}<|channel|>commentary "
    f"to=functions.apply_patch <|constrain|>json<|message|>{json.dumps(PATCH)}<|call|>",
    f"{FINAL}`notes.md` is up to date.<|return|>",
    FINAL + "The sea, the sea, the open sea, the blue, the fresh, the ever free. " * 200,
]
# What is typed, and what the terminal must show before the next line is.
SESSION = [
    ("What causes the tides? Look it up.", "[1] Tides"),
    ("/think", "folded"),
    ("How many high tides is that in a year?", "About 706 a year."),
    ("Write both into notes.md.", "is up to date."),
    ("Now a poem.", "the blue"),
    ("C-c", "Stopped."),
    ("/tools off browser", "off  browser"),
    ("/save tides.json", "saved to"),
]


def tmux(*arguments: str) -> str:
    return subprocess.run(["tmux", "-L", SOCKET, *arguments], check=True, capture_output=True, text=True).stdout


def screen() -> str:
    return tmux("capture-pane", "-p", "-S", "-", "-t", "chat")


def wait_for(text: str, *, after: int = 0) -> str:
    deadline = time.monotonic() + 60
    while text not in (shown := screen())[after:]:
        if time.monotonic() > deadline:
            raise SystemExit(f"waited a minute for {text!r}; the terminal has:\n{shown}")
        time.sleep(0.1)
    return shown


def wait_for_prompt() -> str:
    deadline = time.monotonic() + 60
    while not re.search(r"\n>\s*\n\s*scripted · .*\s*$", shown := screen()):
        if time.monotonic() > deadline:
            raise SystemExit(f"waited a minute for the prompt; the terminal has:\n{shown}")
        time.sleep(0.1)
    return shown


def capture() -> str:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "pages").mkdir()
        (work / "pages" / "tides.md").write_text(TIDES)
        (work / "notes.md").write_text("# Notes\nTides: ask somebody.\n")
        (work / "script.json").write_text(json.dumps([{"says": says, "delay_s": 0.02} for says in REPLIES]))
        environment = {
            "PYTHONPATH": str(REPOSITORY),
            "XDG_STATE_HOME": folder,
            "BROWSER_LOCAL_DIR": str(work / "pages"),
        }
        settings = [word for name, value in environment.items() for word in ("-e", f"{name}={value}")]
        chat = [sys.executable, "-m", "tests.chat.scripted_chat", "script.json", "-b", "-p", "-a"]
        tmux("new-session", "-d", "-s", "chat", "-x", "100", "-y", "30", "-c", folder, *settings, *chat)
        try:
            for line, expected in SESSION:
                if line == "C-c":
                    tmux("send-keys", "-t", "chat", "C-c")
                    wait_for(expected)
                    continue
                before = len(wait_for_prompt().rstrip())
                tmux("send-keys", "-t", "chat", "-l", line)
                wait_for(line)
                tmux("send-keys", "-t", "chat", "Enter")
                wait_for(expected, after=max(0, before - 200))
            return wait_for_prompt()
        finally:
            subprocess.run(["tmux", "-L", SOCKET, "kill-server"], check=False, capture_output=True)


def main() -> None:
    lines = [line.rstrip() for line in capture().rstrip().split("\n")]
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines))  # the empty part of the last screen
    before, rest = PAGE.read_text().split("<!-- session -->\n")
    _, after = rest.split("<!-- end of session -->\n")
    PAGE.write_text(f"{before}<!-- session -->\n```\n{text}\n```\n<!-- end of session -->\n{after}")


if __name__ == "__main__":
    main()
