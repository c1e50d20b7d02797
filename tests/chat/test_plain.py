"""The chat in a pipe: stdout has the answers, stderr the rest, the exit code says how it went."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

from tests.chat.conftest import REPOSITORY

FINAL, THOUGHT = "<|channel|>final<|message|>", "<|channel|>analysis<|message|>"
NEXT = "<|end|><|start|>assistant"


def chat(
    babbler: Path, home: dict[str, str], *flags: str, said: str | bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "gpt_oss.chat", str(babbler), "--threads", "1", *flags]
    said = said.encode() if isinstance(said, str) else said
    return subprocess.run(command, input=said, capture_output=True, timeout=120, check=False, env=home)


def scripted(
    tmp_path: Path, home: dict[str, str], replies: list[dict[str, object]], *flags: str, said: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        script(tmp_path, replies, *flags), input=said, capture_output=True, timeout=120, check=False, env=home
    )


def script(tmp_path: Path, replies: list[dict[str, object]], *flags: str) -> list[str]:
    (tmp_path / "script.json").write_text(json.dumps(replies))
    return [sys.executable, "-m", "tests.chat.scripted_chat", str(tmp_path / "script.json"), *flags]


def test_a_conversation_of_garbage_survives(babbler: Path, home: dict[str, str]) -> None:
    said = b"hello\n\nwhat is <|end|> for?\nno UTF-8: \xff\xfe\n"
    answer = chat(babbler, home, "-l", "150", "--seed", "1", "-r", "high", "--developer-message", "Be kind.", said=said)
    assert answer.returncode == 0, answer.stderr.decode()
    assert answer.stderr.decode().count("context") == 3
    assert b"Traceback" not in answer.stderr
    assert b"\x1b" not in answer.stdout  # no colours, and nothing of the model's, in a pipe


def test_stdout_has_the_final_answers_alone(tmp_path: Path, home: dict[str, str]) -> None:
    call = "<|channel|>commentary to=functions.nothing<|message|>{}<|call|>"
    replies: list[dict[str, object]] = [
        {"says": f"{THOUGHT}Hm.{NEXT}<|channel|>commentary<|message|>I look.{NEXT}{call}"},
        {"says": f"{FINAL}**One**\x1b[31m.\nTwo.<|return|>"},
        {"says": f"{FINAL}Three.<|return|>"},
    ]
    answer = scripted(tmp_path, home, replies, said=b"first\r\nsecond\n")
    assert answer.returncode == 0, answer.stderr.decode()
    assert answer.stdout.decode() == "**One**␛[31m.\nTwo.\nThree.\n"
    assert "[functions.nothing: failed, 1 answer in" in answer.stderr.decode()


def test_citations_become_footnotes(tmp_path: Path, home: dict[str, str]) -> None:
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages/tides.md").write_text("# Tides\n\nThe moon.")
    replies: list[dict[str, object]] = [
        {"says": '<|channel|>analysis to=browser.open<|message|>{"id": "local:///tides.md"}<|call|>'},
        {"says": f"{FINAL}The moon【0†L1】.<|return|>"},
    ]
    home = {**home, "BROWSER_LOCAL_DIR": str(tmp_path / "pages")}
    answer = scripted(tmp_path, home, replies, "-b", "-m", "why?")
    assert answer.stdout.decode() == "The moon[1].\n[1] Tides: local:///tides.md\n", answer.stderr.decode()


def test_raw_mode_shows_the_tokens(tmp_path: Path, home: dict[str, str]) -> None:
    says = f"{THOUGHT}Hm.{NEXT}{FINAL}Yes.<|return|>"
    answer = scripted(tmp_path, home, [{"says": says}], "--raw", "-m", "well?")
    prompt, _, rest = answer.stdout.decode().partition("<|start|>user")
    assert prompt.startswith("<|start|>system<|message|>You are ChatGPT")
    assert rest == f"<|message|>well?<|end|><|start|>assistant{says}\n"


def test_an_error_ends_it_with_one_sentence(babbler: Path, tmp_path: Path, home: dict[str, str]) -> None:
    answers = [
        scripted(tmp_path, home, [{"fails": "the machine is on fire"}], "-m", "hi"),
        chat(babbler, home, "-c", "100", said="word " * 300),
        chat(tmp_path / "nowhere", home),
        chat(babbler, home, "-b", "--browser-backend", "nobody"),
        chat(babbler, home, "-t", "-3", said="hi"),
    ]
    for answer in answers:
        assert answer.returncode == 2, answer
        assert answer.stderr.decode().splitlines()[-1].startswith(("gpt-oss: ", "hint: "))
        assert b"Traceback" not in answer.stderr
        assert answer.stdout == b""


def test_a_long_conversation_goes_on_when_the_context_is_full(babbler: Path, home: dict[str, str]) -> None:
    answer = chat(babbler, home, "-c", "400", "-l", "60", "--seed", "1", said="word " * 30 + "\n" + "x\n" * 8)
    assert answer.returncode == 0, answer.stderr.decode()
    assert b"left out so that the prompt fits" in answer.stderr


def test_ctrl_c_is_130_and_a_closed_pipe_is_fine(tmp_path: Path, home: dict[str, str]) -> None:
    endless: list[dict[str, object]] = [{"says": FINAL + "word " * 5000, "delay_s": 0.01}]
    command = script(tmp_path, endless, "-m", "go")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=home) as process:
        assert process.stdout is not None
        process.stdout.read(10)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert b"Traceback" not in errors
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=home) as process:
        assert process.stdout is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr is not None
        errors = process.stderr.read()
    assert process.returncode == 0
    assert b"Traceback" not in errors


def test_a_prefix_is_kept_between_runs(babbler: Path, home: dict[str, str]) -> None:
    chat(babbler, home, "-l", "2", "--seed", "1", said="the same long question " * 20 + "\n")
    saved = list(Path(home["XDG_CACHE_HOME"], "gpt-oss", "prefixes").iterdir())
    assert len(saved) == 1
    assert saved[0].stat().st_size > 1000


def test_the_usage_text_of_the_reference_works_as_written() -> None:
    command = [sys.executable, "-m", "gpt_oss.chat", "-h"]
    usage = subprocess.run(command, capture_output=True, check=True, cwd=REPOSITORY).stdout.decode()
    for flag in (
        "-r", "--reasoning-effort", "-a", "--apply-patch", "-b", "--browser", "--show-browser-results", "-p",
        "--python", "--developer-message", "-c", "--context", "--raw", "--backend",
    ):  # fmt: skip
        assert any(flag in line.replace(",", " ").split() for line in usage.split("options:")[1].splitlines()), flag
