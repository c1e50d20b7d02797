"""Draws the conversations of docs/harmony.md and the terminal of docs/chat.md as SVG: `python docs/pictures.py`.

The tokens are those that our own renderer makes; the colours say who speaks, and on which channel. Nothing in a picture
is fetched, and each has its own light ground, so that it can be read on a dark page as well.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path

from generated import DOCS, main
from openai_harmony import Author, Message, Role

from gpt_oss.harmony.events import ParsedMessage
from gpt_oss.harmony.from_chat import from_chat
from gpt_oss.harmony.parser import parse
from gpt_oss.harmony.render import Conversation, render
from gpt_oss.vocabulary import START, decode, encode_with_special, special_name

MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
WIDTH, LEFT, LINE, SIZE = 980, 178, 25, 13
CHARACTER = 7.83  # width in pixels of a character of SIZE in the fonts of MONO: 0.602 of it
COLOURS = {
    "system": "#dfe3e8", "developer": "#e3d7f5", "user": "#cfe3fb", "tool": "#f3dfcf",
    "analysis": "#fdeeba", "commentary": "#cdeeea", "final": "#d3f0cf",
}  # fmt: skip
DATE = "2026-01-01"
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
ASKED = [
    {"role": "system", "content": "Answer briefly."},
    {"role": "user", "content": "Do I need an umbrella in Oslo?"},
]
ANSWERED = [
    {
        "role": "assistant",
        "reasoning": "Rain matters. I look at the weather.",
        "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "1", "content": "rain, 7 degrees"},
    {"role": "assistant", "reasoning": "It rains: yes.", "content": "Yes: it rains."},
]
NEXT = [{"role": "user", "content": "And tomorrow?"}]


@dataclass(frozen=True)
class Said:
    """A message as tokens, who says it, and on which channel."""

    tokens: tuple[int, ...]
    role: str
    channel: str | None

    @property
    def kind(self) -> str:
        if self.role not in ("system", "developer", "user", "assistant"):
            return "tool"
        return self.channel or self.role

    @property
    def label(self) -> str:
        return self.role if self.channel is None or self.kind == "tool" else f"{self.role} · {self.channel}"


def conversation(messages: Sequence[dict], *, keep_analysis: bool) -> list[Said]:
    prompt = from_chat(messages, tools=[WEATHER], reasoning_effort="low", current_date=DATE)
    return rendered(Conversation(prompt.conversation.messages), keep_analysis=keep_analysis)


def rendered(messages: Conversation, *, keep_analysis: bool) -> list[Said]:
    tokens = render(messages, keep_analysis=keep_analysis)
    starts = [*(i for i, token in enumerate(tokens) if token == START), len(tokens)]
    return [said(tokens[a:b]) for a, b in pairwise(starts)]


def python_turn() -> list[Said]:
    """A question that is answered with the python tool: what the model wrote, read by the parser and rendered again."""
    thought = "<|channel|>analysis<|message|>I let python multiply.<|end|><|start|>assistant"
    call = "<|channel|>analysis to=python code<|message|>print(4821 * 377)<|call|>"
    final = "<|channel|>final<|message|>4821 × 377 = 1,817,517<|return|>"
    question = Message.from_role_and_content(Role.USER, "What is 4821 * 377?")
    tool = Author(role=Role.TOOL, name="python")
    result = Message.from_author_and_content(tool, "1817517").with_channel("analysis").with_recipient("assistant")
    history = [question, *written(thought + call), result, *written(final)]
    return rendered(Conversation(history), keep_analysis=True)


def written(text: str) -> list[ParsedMessage]:
    return parse(encode_with_special(text), "assistant").messages


def said(tokens: Sequence[int]) -> Said:
    text = decode(list(tokens))
    role = re.match(r"<\|start\|>([\w.]+)", text)
    channel = re.search(r"<\|channel\|>(\w+)", text.split("<|message|>")[0])
    assert role is not None
    return Said(tuple(tokens), role[1], channel and channel[1])


# ---- tokens as boxes ------------------------------------------------------------------------------------------------


def pieces(tokens: Iterable[int]) -> Iterator[tuple[str, bool]]:
    """Each token's text as it is shown, and whether it is a special one."""
    for token in tokens:
        if token >= 199_998:
            yield special_name(token).strip("<|>"), True
        else:
            yield decode([token]).replace("\n", "↵").replace(" ", "·"), False


def tokens_picture(messages: Sequence[Said], title: str, *, dropped: Sequence[Said] = ()) -> str:
    """Rows of boxes, one box a token, a message after the other; what is `dropped` is pale and struck out."""
    parts: list[str] = []
    y = 16.0
    for message in messages:
        gone = message in dropped
        ink = "#999" if gone else "#333"
        parts.append(f'<text x="16" y="{y + 16}" font-size="12" fill="{ink}">{escape(message.label)}</text>')
        row, y = boxes(message, y, gone)
        parts += row
        y += 12
    return svg(parts, y + 4, title)


def boxes(message: Said, y: float, gone: bool) -> tuple[list[str], float]:
    parts, x = [], float(LEFT)
    for text, special in pieces(message.tokens):
        width = len(text) * CHARACTER + (10 if special else 3)
        if x + width > WIDTH - 16:
            x, y = float(LEFT), y + LINE
        fill = "#37474f" if special else COLOURS[message.kind]
        ink = "#fff" if special else "#1c1c1c"
        faded = ' opacity="0.33"' if gone else ""
        parts.append(
            f'<g{faded}><rect x="{x:.1f}" y="{y:.0f}" width="{width:.1f}" height="21" rx="{8 if special else 3}" '
            f'fill="{fill}"/><text x="{x + (5 if special else 1.5):.1f}" y="{y + 15:.0f}" fill="{ink}" '
            f'font-family="{escape(MONO)}" textLength="{len(text) * CHARACTER:.1f}">{escape(text)}</text></g>'
        )
        if gone:
            parts.append(f'<path d="M{x:.1f} {y + 10.5:.1f}h{width:.1f}" stroke="#b71c1c" stroke-width="1.2"/>')
        x += width + 2
    return parts, y + 21


def svg(parts: Sequence[str], height: float, title: str, ground: str = "#ffffff") -> str:
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" font-size="{SIZE}" '
            f'font-family="system-ui, sans-serif" role="img" aria-label="{escape(title)}">',
            f'<rect width="{WIDTH}" height="{height:.0f}" rx="8" fill="{ground}" stroke="#d0d7de"/>',
            *parts,
            "</svg>\n",
        ]
    )


# ---- a terminal -----------------------------------------------------------------------------------------------------


def terminal_picture(lines: Sequence[str], title: str) -> str:
    """The lines of a chat as a terminal shows them: questions bright, calls and results dim."""
    parts = [
        f'<circle cx="{22 + 18 * n}" cy="18" r="6" fill="{fill}"/>'
        for n, fill in enumerate(("#ff5f57", "#febc2e", "#28c840"))
    ]
    y = 50
    for line in lines:
        ink = "#7ee787" if line.startswith(">") else "#79c0ff" if line.startswith("●") else "#e6edf3"
        ink = "#8b949e" if line.startswith("  ") or ("·" in line and not line.startswith(("●", ">"))) else ink
        if line.strip():
            parts.append(
                f'<text x="20" y="{y}" fill="{ink}" font-family="{escape(MONO)}" '
                f'textLength="{len(line) * CHARACTER:.1f}">{escape(line).replace(" ", chr(160))}</text>'
            )
        y += 19
    return svg(parts, y, title, ground="#0d1117")


def chat_lines() -> list[str]:
    """The beginning and the end of the session that docs/chat.md shows."""
    page = (DOCS / "chat.md").read_text(encoding="utf-8")
    session = page.split("<!-- session -->\n```\n")[1].split("\n```\n<!-- end")[0].split("\n")
    stop = next(index for index, line in enumerate(session) if line.startswith("> /think"))
    return session[1 : stop - 1]


# ---- all of them ----------------------------------------------------------------------------------------------------


def files() -> dict[Path, str]:
    turn = conversation([*ASKED, *ANSWERED], keep_analysis=True)
    everything = conversation([*ASKED, *ANSWERED, *NEXT], keep_analysis=True)
    prompt = conversation([*ASKED, *ANSWERED, *NEXT], keep_analysis=False)
    dropped = [message for message in everything if message not in prompt]
    image = DOCS / "img"
    return {
        image / "harmony-turn.svg": tokens_picture(turn, "A turn with a function call, token by token"),
        image / "harmony-next-prompt.svg": tokens_picture(
            everything, "The next turn's prompt: finished thoughts are left out", dropped=dropped
        ),
        image / "harmony-python.svg": tokens_picture(python_turn(), "A turn with the python tool, token by token"),
        image / "chat.svg": terminal_picture(
            chat_lines(), "A question in the terminal chat, answered with the browser"
        ),
    }


if __name__ == "__main__":
    sys.exit(main(files()))
