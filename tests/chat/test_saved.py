"""A saved chat comes back token for token; a damaged file is refused in one sentence that names it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from openai_harmony import Author, Message, Role, TextContent

from gpt_oss.chat.saved import SavedChat, read, save
from gpt_oss.errors import ParameterError
from gpt_oss.harmony import Conversation, parse, render_prompt
from gpt_oss.vocabulary import encode_with_special

SAMPLED = encode_with_special(
    "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary to=functions.look "
    "<|constrain|>json<|message|>{}<|call|><|start|>assistant<|channel|>final<|message|>Änd☃<|return|>"
)


def a_chat() -> SavedChat:
    question = Message(author=Author(role=Role.USER), content=[TextContent(text="what?\n\x1b[31m \U0001f600")])
    answer = Message(
        author=Author(role=Role.TOOL, name="functions.look"),
        content=[TextContent(text="seen")],
        recipient="assistant",
        channel="commentary",
    )
    thought, call, final = parse(SAMPLED).messages
    return SavedChat("gpt-oss-20b", "high", (question, thought, call, answer, final))


def test_what_is_read_is_what_was_saved(tmp_path: Path) -> None:
    chat = a_chat()
    save(tmp_path / "chat.json", chat)
    loaded = read(tmp_path / "chat.json")
    assert loaded == chat
    assert render_prompt(Conversation(loaded.messages)) == render_prompt(Conversation(chat.messages))
    assert [path.name for path in tmp_path.iterdir()] == ["chat.json"]


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    save(path, a_chat())
    whole = json.loads(path.read_text())
    sampled = whole["messages"][1]["sampled"]
    damages = [
        [],
        {**whole, "format": "another"},
        {**whole, "version": 2},
        {**whole, "reasoning_effort": "boundless"},
        {**whole, "reasoning_effort": ["low"]},
        {**whole, "messages": None},
        *(
            {**whole, "messages": [entry]}
            for entry in (
                None, "text", {}, {"other": {}}, {"message": None}, {"message": {"role": "user", "content": 5}},
                {"message": {"role": "nobody", "content": "x"}}, {"sampled": {**sampled, "tokens": ["a"]}},
                {"sampled": {**sampled, "header": None}}, {"sampled": {"content": "x"}},
            )
        ),
    ]  # fmt: skip
    for damaged in damages:
        path.write_text(json.dumps(damaged))
        with pytest.raises(ParameterError, match=r"chat\.json"):
            read(path)
    for content in (b"", b"\xff\xfe", b"[" * 100_000):
        path.write_bytes(content)
        with pytest.raises(ParameterError, match="is not JSON"):
            read(path)


def test_files_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("Dear")
    for path in (tmp_path / "letter", tmp_path, tmp_path / "no folder" / "x", tmp_path / "nul\0"):
        with pytest.raises(ParameterError, match=r"exists and is not|cannot be written"):
            save(path, a_chat())
    assert (tmp_path / "letter").read_text() == "Dear"
    with pytest.raises(ParameterError, match="there is no file"):
        read(tmp_path / "nowhere")
