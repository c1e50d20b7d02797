"""What the network is taught: shown as text in which what the assistant writes stands between ⟦ and ⟧."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_oss.errors import HarmonyError, ParameterError
from gpt_oss.harmony import Conversation, from_chat, parse, render_prompt
from gpt_oss.training.data import IGNORED, Example, conversation_of, examples_of, pack, read_examples
from gpt_oss.vocabulary import decode

USER = {"role": "user", "content": "Hi"}
ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}


def shown(example: Example) -> str:
    """The targets as they are written, between brackets; other tokens as they are read."""
    rows = zip(example.tokens[1:].tolist(), example.targets[:-1].tolist(), strict=True)
    pairs = [(target != IGNORED, target if target != IGNORED else token) for token, target in rows]
    pairs.append((example.targets[-1] != IGNORED, int(example.targets[-1])))
    text = decode(example.tokens[:1].tolist())
    for own, run in groupby(pairs, key=lambda pair: pair[0]):
        piece = decode(token for _, token in run)
        text += f"⟦{piece}⟧" if own else piece
    return text


def taught(*messages: dict[str, Any], **fields: Any) -> list[str]:
    """Examples of a conversation, from the first user's message on."""
    texts = [shown(e) for e in examples_of(conversation_of({"messages": messages, **fields}))]
    return [text[text.index("<|start|>user") :] for text in texts]


def call(name: str, arguments: str) -> dict[str, Any]:
    return {"id": "1", "type": "function", "function": {"name": name, "arguments": arguments}}


def test_an_answer_is_written_from_behind_the_opening_to_return() -> None:
    assert taught(USER, {"role": "assistant", "content": "Hello"}) == [
        "<|start|>user<|message|>Hi<|end|><|start|>assistant⟦<|channel|>final<|message|>Hello<|return|>⟧"
    ]


def test_behind_its_thoughts_the_assistant_writes_the_next_opening_itself() -> None:
    assert taught(USER, {"role": "assistant", "thinking": "Greet.", "content": "Hello"}) == [
        "<|start|>user<|message|>Hi<|end|><|start|>assistant⟦<|channel|>analysis<|message|>Greet.<|end|>"
        "<|start|>assistant<|channel|>final<|message|>Hello<|return|>⟧"
    ]


def test_a_call_ends_in_call_and_its_answer_is_read_only() -> None:
    assert taught(
        USER,
        {"role": "assistant", "content": "Adding.", "tool_calls": [call("add", "{}")]},
        {"role": "tool", "tool_call_id": "1", "content": "3"},
        {"role": "assistant", "content": "3"},
        tools=[ADD],
    ) == [
        "<|start|>user<|message|>Hi<|end|><|start|>assistant⟦<|channel|>commentary<|message|>Adding.<|end|>"
        "<|start|>assistant<|channel|>commentary to=functions.add <|constrain|>json<|message|>{}<|call|>⟧"
        "<|start|>functions.add to=assistant<|channel|>commentary<|message|>3<|end|>"
        "<|start|>assistant⟦<|channel|>final<|message|>3<|return|>⟧"
    ]


def test_built_in_tools_are_described_to_the_model_and_called_on_analysis() -> None:
    record = {
        "messages": [
            USER,
            {"role": "assistant", "thinking": "Run.", "tool_calls": [call("python", "print(1)")]},
            {"role": "tool", "tool_call_id": "1", "content": "1"},
            {"role": "assistant", "content": "1"},
        ],
        "builtin_tools": ["python", "browser"],
    }
    (example,) = examples_of(conversation_of(record))
    text = shown(example)
    assert "## python\n" in text
    assert "## browser\n" in text
    assert text.endswith(
        "<|start|>assistant⟦<|channel|>analysis<|message|>Run.<|end|>"
        "<|start|>assistant<|channel|>analysis to=python code<|message|>print(1)<|call|>⟧"
        "<|start|>python to=assistant<|channel|>analysis<|message|>1<|end|>"
        "<|start|>assistant⟦<|channel|>final<|message|>1<|return|>⟧"
    )


def test_a_function_of_the_users_that_is_called_python_stays_a_function() -> None:
    own = {"type": "function", "function": {"name": "python"}}
    (text,) = taught(USER, {"role": "assistant", "tool_calls": [call("python", "{}")]}, tools=[own])
    assert "commentary to=functions.user_python" in text


def test_turns_without_thoughts_are_one_example_in_which_history_ends_in_end() -> None:
    messages = [USER, {"role": "assistant", "content": "A"}, USER, {"role": "assistant", "content": "B"}]
    (example,) = examples_of(conversation_of({"messages": messages}))
    assert shown(example).endswith("<|message|>A<|return|>⟧<|start|>user<|message|>Hi<|end|>"
                                   "<|start|>assistant⟦<|channel|>final<|message|>B<|return|>⟧")  # fmt: skip
    read = decode(example.tokens.tolist())
    assert "<|message|>A<|end|><|start|>user" in read
    assert "<|return|>" not in read


def test_every_prompt_is_the_one_that_inference_has() -> None:
    """Thoughts of answered questions are gone, so each turn is an example of its own."""
    messages = [
        USER,
        {"role": "assistant", "thinking": "First.", "content": "A"},
        USER,
        {"role": "assistant", "thinking": "Second.", "tool_calls": [call("add", "{}")]},
        {"role": "tool", "tool_call_id": "1", "content": "3"},
        {"role": "assistant", "thinking": "Third.", "content": "B"},
    ]
    record = {"messages": messages, "tools": [ADD], "reasoning_effort": "low"}
    examples = examples_of(conversation_of(record))
    prompts = [(1, 0), (3, 1), (5, 1)]  # (messages before the answer, example that teaches it)
    assert len(examples) == 2
    for length, number in prompts:
        prompt = from_chat(messages[:length], tools=[ADD], reasoning_effort="low")
        tokens = render_prompt(prompt.conversation)
        example = examples[number]
        assert example.tokens[: len(tokens)].tolist() == tokens
        assert example.targets[len(tokens) - 2] == IGNORED
        assert example.targets[len(tokens) - 1] != IGNORED


def test_what_is_taught_parses_without_a_repair() -> None:
    record = {
        "messages": [USER, {"role": "assistant", "thinking": "T", "content": "<|end|> is text"}],
        "response_format": {"type": "json_object"},
    }
    (example,) = examples_of(conversation_of(record))
    whole = [*example.tokens.tolist(), int(example.targets[-1])]
    parser = parse(whole, role=None)
    assert not parser.repairs
    assert "# Response Formats" in parser.messages[1].content
    assert parser.messages[-1].content == "<|end|> is text"


def test_a_question_at_the_end_teaches_nothing() -> None:
    answered = [USER, {"role": "assistant", "content": "A"}]
    assert taught(*answered, USER) == taught(*answered)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "data.jsonl, line 3 is not valid JSON"),
        ("[]", "data.jsonl, line 3: the line must be an object, not a list"),
        ("{}", "data.jsonl, line 3: the field messages is missing"),
        ('{"messages": [], "tool": []}', "line 3: unknown field 'tool'; known are messages, tools"),
        ('{"messages": [{"role": "user", "content": "Hi"}]}', "line 3: the assistant says nothing"),
        ('{"messages": [{"role": "robot"}]}', r"line 3: messages\[0\].role must be system"),
        ('{"messages": [], "builtin_tools": ["perl"]}', "line 3: builtin_tools knows python and browser, not 'perl'"),
        ('{"messages": [], "builtin_tools": "perl"}', "line 3: the line.builtin_tools must be a list, not a string"),
        ('{"messages": [], "builtin_tools": [[]]}', "line 3: builtin_tools knows python and browser, not a list"),
    ],
)
def test_a_bad_line_is_named(line: str, complaint: str, tmp_path: Path) -> None:
    good = json.dumps({"messages": [USER, {"role": "assistant", "content": "Hello"}]})
    file = tmp_path / "data.jsonl"
    file.write_text(f"{good}\n\n{line}\n")
    with pytest.raises(HarmonyError, match=complaint):
        read_examples(file)


def test_a_file_that_is_missing_or_empty_is_named(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"nowhere\.jsonl cannot be read: No such file"):
        read_examples(tmp_path / "nowhere.jsonl")
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    with pytest.raises(ParameterError, match=r"empty\.jsonl holds no conversation"):
        read_examples(empty)


@given(st.lists(st.integers(1, 50), max_size=60))
def test_packs_hold_every_example_once_and_are_nearly_full(lengths: list[int]) -> None:
    examples = [Example(np.full(n, i), np.full(n, -i - 1)) for i, n in enumerate(lengths)]
    packs = pack(examples, 100, open_packs=4)
    held = [int(p.tokens[sum(p.lengths[:i])]) for p in packs for i in range(len(p.lengths))]
    assert sorted(held) == list(range(len(lengths)))
    for each in packs:
        assert sum(each.lengths) == len(each.tokens) <= 100
        np.testing.assert_array_equal(each.targets, -each.tokens - 1)
    assert sum(len(each.tokens) > 50 for each in packs) >= len(packs) - 1


def test_an_example_too_long_for_a_pack_is_named() -> None:
    with pytest.raises(ParameterError, match=r"data.jsonl, line 7 is 9 tokens long, and a pass has 8"):
        pack([Example(np.zeros(9, np.int64), np.zeros(9, np.int64), "data.jsonl, line 7")], 8)


def test_a_conversation_may_come_from_python_too() -> None:
    prompt = from_chat([USER, {"role": "assistant", "content": "Hello"}])
    (example,) = examples_of(Conversation(prompt.conversation.messages))
    assert shown(example).endswith("⟦<|channel|>final<|message|>Hello<|return|>⟧")
