"""The chat as a user sees it: every test types into a pseudo-terminal and reads an emulated screen."""

from __future__ import annotations

import json
import random
import shutil
import sys
from pathlib import Path

import pytest

from gpt_oss.vocabulary import CALL, CHANNEL, CONSTRAIN, END, MESSAGE, START
from tests.chat.conftest import REPOSITORY, Start
from tests.chat.terminal import ALT_ENTER, CTRL_C, CTRL_D, CTRL_J, ENTER, Terminal

FINAL = "<|channel|>final<|message|>"
THOUGHT = "<|channel|>analysis<|message|>"
NEXT = "<|end|><|start|>assistant"


def final(text: str) -> str:
    return f"{FINAL}{text}<|return|>"


def test_an_answer_is_shown_as_markdown_below_its_thoughts(chat: Start) -> None:
    answer = "# Title\n\nSome **bold** text:\n\n1. one\n2. two\n\n```python\nprint(1)\n```\n\nThe <b>end</b>."
    terminal = chat([f"{THOUGHT}First thought.\nSecond thought.{NEXT}{final(answer)}"])
    terminal.ask("hello")
    terminal.wait_for("The <b>end</b>.")  # HTML is text
    terminal.wait_for_prompt()
    lines = [line for line in terminal.text.split("\n") if line]
    shown = lines[lines.index("> hello") + 1 :]
    assert shown[:8] == [
        "First thought.", "Second thought.", "# Title", "Some bold text:", " 1 one", " 2 two", "  print(1)",
        "The <b>end</b>.",
    ]  # fmt: skip
    assert b"\x1b[2;3mFirst thought." in terminal.received  # dim and italic
    assert "scripted · " in lines[-1]
    assert "/8,192 (" in lines[-1]
    assert "effort low" in lines[-1]
    terminal.type(CTRL_D)
    assert terminal.exit_code() == 0


def test_the_answer_grows_while_the_model_speaks(chat: Start) -> None:
    terminal = chat([{"says": final("One two three.\n\nThen " + "word " * 300), "delay_s": 0.02}])
    terminal.ask("go")
    terminal.wait_for("word word")
    assert not terminal.at_prompt
    assert "tokens/s" in terminal.shown[terminal.screen.cursor.y]  # the status line is the tail's last
    terminal.type(CTRL_C)
    terminal.wait_for("Stopped.")


def test_scrollback_has_each_line_once_however_long_the_answer(chat: Start) -> None:
    rows = [f"row {i} of the answer" for i in range(120)]
    terminal = chat([final("\n\n".join(rows) + "\n\n- " + "\n- ".join(rows))])
    terminal.ask("go")
    terminal.wait_for_prompt()
    shown = [line for line in terminal.text.split("\n") if line.startswith("row")]
    assert shown == rows
    assert [line.strip(" •") for line in terminal.text.split("\n") if line.startswith(" •")] == rows
    assert "⠋" not in terminal.text


def test_ctrl_c_stops_the_answer_and_the_chat_goes_on(chat: Start) -> None:
    terminal = chat([{"says": final("endless " * 1000), "delay_s": 0.02}, final("As short as that.")])
    terminal.ask("speak")
    terminal.wait_for("endless endless")
    terminal.type(CTRL_C)
    terminal.wait_for("Stopped. /retry asks again")
    terminal.ask("shorter")
    terminal.wait_for("As short as that.")
    terminal.wait_for_prompt()
    terminal.type("half a line" + CTRL_C)  # at the prompt it clears the line
    terminal.wait_for("half a line")
    terminal.wait_for_prompt()
    terminal.type(CTRL_D)
    assert terminal.exit_code() == 0


def test_several_lines_are_one_question(chat: Start, tmp_path: Path) -> None:
    terminal = chat([final("Read."), final("Pasted.")])
    terminal.wait_for_prompt()
    terminal.type(f"first{ALT_ENTER}second{CTRL_J}third")
    terminal.wait_for("third")
    terminal.type(ENTER)
    terminal.wait_for("Read.")
    terminal.wait_for_prompt()
    terminal.type("\x1b[200~pasted one\r\npasted two\x1b[201~")
    terminal.wait_for("pasted two")
    terminal.type(ENTER)
    terminal.wait_for("Pasted.")
    terminal.ask("/save lines.json")
    terminal.wait_for("4 messages saved")
    messages = json.loads((tmp_path / "lines.json").read_text())["messages"]
    asked = [entry["message"]["content"] for entry in messages if "message" in entry]
    assert "first\\nsecond\\nthird" in json.dumps(asked)
    assert "pasted one\\npasted two" in json.dumps(asked)
    assert (tmp_path / "state/gpt-oss/chat-history").stat().st_mode & 0o077 == 0


def test_what_is_typed_during_an_answer_waits_for_the_prompt(chat: Start) -> None:
    terminal = chat([{"says": final("slow " * 40), "delay_s": 0.02}, final("You were quick.")])
    terminal.ask("go")
    terminal.wait_for("slow slow")
    terminal.type("typed ahead" + ENTER)
    terminal.wait_for("You were quick.")
    assert terminal.text.index("> typed ahead") > terminal.text.rindex("slow")


def test_thoughts_can_be_folded(chat: Start) -> None:
    reply = f"{THOUGHT}A long deliberation.{NEXT}{final('The answer.')}"
    terminal = chat([reply])
    terminal.ask("/think")
    terminal.wait_for("Thoughts are folded to a line.")
    terminal.ask("hm")
    terminal.wait_for("The answer.")
    assert "thought for" in terminal.text
    assert "deliberation" not in terminal.text


def test_retry_edit_and_clear(chat: Start) -> None:
    terminal = chat([final("Heads."), final("Tails."), final("Changed.")])
    terminal.ask("toss a coin")
    terminal.wait_for("Heads.")
    terminal.ask("/retry")
    terminal.wait_for("Tails.")
    terminal.ask("/edit")
    terminal.wait_for("are taken back")
    terminal.wait(lambda: terminal.shown[terminal.screen.cursor.y] == "> toss a coin")
    terminal.type(" twice" + ENTER)
    terminal.wait_for("Changed.")
    assert "> toss a coin twice" in terminal.text
    terminal.ask("/clear")
    terminal.wait_for("starts over")
    terminal.ask("/retry")
    terminal.wait_for("there is nothing to ask again yet")


def test_save_and_load_keep_the_very_tokens(chat: Start, tmp_path: Path) -> None:
    terminal = chat([f"{THOUGHT}Hm.{NEXT}{final('Kept.')}"])
    terminal.ask("remember")
    terminal.wait_for("Kept.")
    terminal.ask("/save saved.json")
    terminal.wait_for("3 messages saved")
    terminal.ask("/clear")
    terminal.ask("/load saved.json")
    terminal.wait_for("3 messages loaded")
    assert terminal.text.count("> remember") == 2
    assert terminal.text.count("Kept.") == 2
    terminal.ask("/save saved.json")  # over itself
    terminal.wait(lambda: terminal.text.count("3 messages saved") == 2)
    other = tmp_path / "other.txt"
    other.write_text("a letter")
    terminal.ask("/load other.txt")
    terminal.wait_for("is not a saved chat: it is not JSON")
    terminal.ask("/save other.txt")
    terminal.wait_for("exists and is not a saved chat")
    assert other.read_text() == "a letter"


def test_small_commands_and_unknown_ones(chat: Start) -> None:
    terminal = chat([], "-a")
    for line, answer in {
        "/help": "take the last question back",
        "/effort high": "Reasoning effort: high.",
        "/effort lots": "/effort takes one of low, medium, high, not lots",
        "/tools": "on   apply_patch",
        "/tools off apply_patch": "off  apply_patch",
        "/tools off nothing": "the tools are apply_patch",
        "/nonsense": "there is no command /nonsense",
        "/clear everything": "/clear takes no argument",
        "/save": "/save needs the name of a file",
    }.items():
        terminal.ask(line)
        terminal.wait_for(answer)
    terminal.wait_for_prompt()
    assert "effort high" in terminal.shown[-1]
    terminal.ask("/quit")
    assert terminal.exit_code() == 0


def test_a_patch_is_shown_as_a_diff_and_applied(chat: Start, tmp_path: Path) -> None:
    (tmp_path / "hello.txt").write_text("old line\n")
    patch = "*** Begin Patch\n*** Update File: hello.txt\n@@\n-old line\n+new line\n*** End Patch"
    call = f"<|channel|>commentary to=functions.apply_patch <|constrain|>json<|message|>{json.dumps(patch)}<|call|>"
    preamble = f"<|channel|>commentary<|message|>I change it now.{NEXT}"
    wrong = patch.replace("old line", "no such line")
    failing = f"<|channel|>commentary to=functions.apply_patch<|message|>{wrong}<|call|>"
    terminal = chat([preamble + call, failing, final("Done.")], "-a", "--root", str(tmp_path))
    terminal.ask("change it")
    terminal.wait_for("Done.")
    assert "I change it now." in terminal.text
    assert "● apply_patch" in terminal.text
    assert b"\x1b[31m  -old line" in terminal.received
    assert b"\x1b[32m  +new line" in terminal.received
    assert (tmp_path / "hello.txt").read_text() == "new line\n"
    assert b"\x1b[31m  Error" in terminal.received


def test_errors_and_limits_are_one_line_and_the_chat_goes_on(chat: Start) -> None:
    replies = [{"fails": "the machine is on fire"}, final("word " * 50), final("Fine.")]
    terminal = chat(replies, "-l", "20")
    terminal.ask("first")
    terminal.wait_for("the machine is on fire")
    terminal.ask("/retry")
    terminal.wait_for("The answer was cut: its limit of tokens (-l) was reached after 20 tokens.")
    terminal.ask("last")
    terminal.wait_for("Fine.")


def test_the_user_is_told_what_was_trimmed(chat: Start) -> None:
    terminal = chat([final("word " * 150), final("word " * 150), final("Short.")], "-c", "400")
    for question in ("first", "second", "third"):
        terminal.ask(question)
        terminal.wait_for_prompt()
    assert "left out so that the prompt fits" in terminal.text


def test_raw_mode_shows_special_tokens(chat: Start) -> None:
    terminal = chat([f"{THOUGHT}Hm.{NEXT}{final('Yes.')}", final("No.")], "--raw")
    terminal.ask("well?")
    terminal.wait_for_prompt()
    tokens = f"<|start|>user<|message|>well?<|end|><|start|>assistant{THOUGHT}Hm.{NEXT}{final('Yes.')}"
    assert tokens in terminal.text.replace("\n", "")  # the terminal has broken the lines
    terminal.ask("/raw")
    terminal.ask("really?")
    terminal.wait_for("\nNo.")


def test_a_hostile_model_does_not_drive_the_terminal(chat: Start) -> None:
    hostile = "\x1b]0;owned\x07 \x1b[2J\x1b[31m \x9b5n \x08\x08 [bold]x[/bold] [link=http://a]y[/link] \u202eabc \x1bc"
    call = f"<|channel|>commentary to=functions.{hostile}<|message|>{hostile}<|call|>"
    terminal = chat([f"{THOUGHT}{hostile}{NEXT}{call}", final(f"{hostile}\n\n```\n{hostile}\n```\n\nsafe")])
    terminal.ask("go")
    terminal.wait_for("safe")
    terminal.wait_for_prompt()
    answer = terminal.received[terminal.received.index("␛]0;owned".encode()) :]
    for forbidden in (b"\x1b]0;", b"\x1b[2J", b"\x9b5n", b"\x1bc", b"\x07", "\u202e".encode()):
        assert forbidden not in answer
    assert "[bold]x[/bold]" in terminal.text
    assert "␛]0;owned␇" in terminal.text


def test_no_color_is_honoured(chat: Start) -> None:
    terminal = chat([final("```python\nreturn 1\n```\n\nSaid.")], NO_COLOR="1")
    terminal.ask("go")
    terminal.wait_for("Said.")
    terminal.wait_for_prompt()
    colours = [line for row in terminal.screen.buffer.values() for line in row.values() if line.fg != "default"]
    assert not colours


def test_one_question_and_exit(chat: Start) -> None:
    terminal = chat([final("The **answer**.")], "-m", "question")
    assert terminal.exit_code() == 0
    assert "The answer." in terminal.text


def test_a_random_network_babbles_for_two_thousand_tokens(babbler: Path, home: dict[str, str], tmp_path: Path) -> None:
    flags = ["-l", "600", "--seed", "1", "--threads", "1"]
    command = [sys.executable, "-m", "gpt_oss.chat", str(babbler), *flags]
    with Terminal(command, {**home, "PYTHONPATH": str(REPOSITORY)}, tmp_path) as terminal:
        for number in range(5):
            terminal.ask(f"question {number}")
            terminal.wait_for_prompt(seconds=60)
        terminal.ask("/save babble.json")
        terminal.wait_for("messages saved")
        terminal.ask("/quit")
        assert terminal.exit_code() == 0
        assert "Traceback" not in terminal.text
    messages = json.loads((tmp_path / "babble.json").read_text())["messages"]
    assert sum(len(entry["sampled"]["tokens"]) for entry in messages if "sampled" in entry) >= 2000


@pytest.mark.parametrize("seed", range(2))
def test_whatever_tokens_come_the_screen_survives(chat: Start, seed: int) -> None:
    """Random tokens, a third of them special: messages begin, break off and call nobody all the time."""
    draw = random.Random(seed)
    special = [START, CHANNEL, MESSAGE, END, CONSTRAIN, CALL]
    tokens = [draw.choice(special) if draw.random() < 0.3 else draw.randrange(200_000) for _ in range(2000)]
    terminal = chat([{"tokens": tokens}] * 8, "-l", "2000")
    terminal.ask("Go on.")
    terminal.wait_for_prompt()
    terminal.ask("/help")
    terminal.wait_for("end the chat")
    assert "Traceback" not in terminal.text


def test_pages_are_short_or_in_full_and_citations_become_footnotes(chat: Start, tmp_path: Path) -> None:
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages/tides.md").write_text("# Tides\n\n" + "\n\n".join(f"The moon, fact {i}." for i in range(30)))
    search = f'{THOUGHT}I look.{NEXT}<|channel|>analysis to=browser.search<|message|>{{"query": "moon"}}<|call|>'
    opened = '<|channel|>analysis to=browser.open<|message|>{"id": 0}<|call|>'
    cited = final("The **moon** does it【1†L1-L2】, again【1†L4】, not the wind【77†L1】.")
    flags = ("-b", "--browser-backend", "local")
    for show in ((), ("--show-browser-results",)):
        terminal = chat([search, opened, cited], *flags, *show, BROWSER_LOCAL_DIR=str(tmp_path / "pages"))
        terminal.ask("why tides?")
        terminal.wait_for("The moon does it[1], again[1], not the wind【77†L1】.")
        terminal.wait_for_prompt()
        assert '● browser.search {"query": "moon"}' in terminal.text
        assert "\n[1] Tides: local:///tides.md\n" in terminal.text
        assert ("The moon, fact 29." in terminal.text) == bool(show)
        assert ("more lines ·" in terminal.text) != bool(show)
        assert "tools browser" in terminal.shown[-1]


@pytest.mark.skipif(sys.platform == "linux" and not shutil.which("bwrap"), reason="bubblewrap is not installed")
def test_python_keeps_its_variables(chat: Start) -> None:
    first = "<|channel|>analysis to=python code<|message|>x = 6\nfor i in range(9): print('line', i)<|call|>"
    second = "<|channel|>analysis to=python code<|message|>x * 7<|call|>"
    terminal = chat([first, second, final("Forty-two.")], "-p")
    terminal.ask("compute")
    terminal.wait_for("Forty-two.", seconds=60)
    assert "● python x = 6 for i in range(9): print('line', i)" in terminal.text
    assert "  line 2\n  … 6 more lines · " in terminal.text
    assert "  42\n" in terminal.text


def test_bytes_that_are_no_text_can_be_typed(chat: Start) -> None:
    terminal = chat([final("Understood.")])
    terminal.wait_for_prompt()
    terminal.child.write(b"caf\xe9 \xff\xfe \xed\xa0\x80")
    terminal.wait_for("caf")
    terminal.type(ENTER)
    terminal.wait_for("Understood.")
    terminal.ask("/retry")
    terminal.wait_for("the script has 1 replies")
    terminal.ask("/quit")
    assert terminal.exit_code() == 0
