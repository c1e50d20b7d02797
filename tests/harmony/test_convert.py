"""What clients speak, to Harmony and back."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_oss.cli import main
from gpt_oss.errors import HarmonyError
from gpt_oss.harmony import Aliases, from_chat, from_responses, parse, render, to_chat, to_responses
from gpt_oss.harmony.commands import parse_command, render_command
from gpt_oss.vocabulary import decode

TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


@st.composite
def turns(draw: st.DrawFn) -> list[dict[str, Any]]:
    """A user's message, tool rounds, and an answer, as Chat Completions has them."""
    chat: list[dict[str, Any]] = [{"role": "user", "content": draw(TEXT)}]
    for _ in range(draw(st.integers(0, 2))):
        message: dict[str, Any] = {"role": "assistant", "content": draw(st.none() | TEXT)}
        if draw(st.booleans()):
            message["reasoning"] = draw(TEXT)
        message["tool_calls"] = [
            {"id": "", "type": "function", "function": {"name": "get_weather", "arguments": draw(TEXT)}}
        ]
        chat += [message, {"role": "tool", "tool_call_id": "", "content": draw(TEXT)}]
    answer = {"role": "assistant", "content": draw(TEXT)}
    if draw(st.booleans()):
        answer["reasoning"] = draw(TEXT)
    return [*chat, answer]


@st.composite
def chats(draw: st.DrawFn) -> list[dict[str, Any]]:
    chat = [{"role": "developer", "content": draw(TEXT)}]
    for turn in draw(st.lists(turns(), min_size=1, max_size=3)):
        chat += turn
    number = 0
    for message in chat:  # ids as to_chat gives them
        for call in message.get("tool_calls", []):
            call["id"] = f"call_{number}"
            number += 1
        if message["role"] == "tool":
            message["tool_call_id"] = f"call_{number - 1}"
    return chat


@settings(deadline=None)
@given(chats())
def test_chat_survives_harmony_messages_and_tokens(chat: list[dict[str, Any]]) -> None:
    prompt = from_chat(chat, tools=[TOOL])
    assert to_chat(prompt.conversation.messages) == chat
    read = parse(render(prompt.conversation, keep_analysis=True), None)
    assert read.repairs == []
    assert to_chat(read.messages)[1:] == chat[1:]  # the developer message comes back with its headings


@settings(deadline=None)
@given(chats())
def test_responses_items_survive_and_say_what_chat_says(chat: list[dict[str, Any]]) -> None:
    conversation = from_chat(chat, tools=[TOOL]).conversation
    items = to_responses(conversation.messages)
    again = from_responses(items, tools=[TOOL["function"]])
    assert to_responses(again.conversation.messages) == items
    assert render(again.conversation, keep_analysis=True) == render(conversation, keep_analysis=True)


def test_what_is_said_before_a_call_is_a_preamble_whether_or_not_the_client_says_so() -> None:
    call = {"type": "function_call", "call_id": "c", "name": "get_weather", "arguments": "{}"}
    thought = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]}
    for said, after, channel in (
        ({}, [call], "commentary"),
        ({}, [thought, call], "commentary"),
        ({}, [], "final"),
        ({"phase": "commentary"}, [], "commentary"),
        ({"phase": "final_answer"}, [call], "final"),
    ):
        item = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}], **said}
        prompt = from_responses([{"role": "user", "content": "Hi"}, item, *after], tools=[TOOL["function"]])
        text = decode(render(prompt.conversation, keep_analysis=True))
        assert f"<|start|>assistant<|channel|>{channel}<|message|>I look.<|end|>" in text


def test_parallel_calls_become_pairs_of_call_and_answer() -> None:
    def call(i: str, city: str) -> dict[str, Any]:
        return {"id": i, "type": "function", "function": {"name": "get_weather", "arguments": city}}

    text = decode(
        render(
            from_chat(
                [
                    {"role": "user", "content": "both"},
                    {"role": "assistant", "content": None, "tool_calls": [call("a", "Bern"), call("b", "Rom")]},
                    {"role": "tool", "tool_call_id": "b", "content": "warm"},
                    {"role": "tool", "tool_call_id": "a", "content": "cold"},
                ],
                tools=[TOOL],
            ).conversation
        )
    )
    assert text.index("Bern") < text.index("cold") < text.index("Rom") < text.index("warm")
    assert text.count("<|start|>functions.get_weather to=assistant") == 2


def test_a_function_called_python_is_renamed_and_named_back() -> None:
    tool = {"type": "function", "function": {"name": "python", "description": "Theirs."}}
    prompt = from_chat([{"role": "user", "content": "x"}], tools=[tool])
    text = decode(render(prompt.conversation))
    assert "type user_python = () => any;" in text
    assert prompt.aliases.of_recipient("functions.user_python") == "python"
    assert Aliases.of(["f", "user_python", "python"]).in_prompt("python") == "user_python_"
    assert Aliases.of(["f"]).of_recipient("functions.f") == Aliases.of(["f"]).of_recipient("f") == "f"


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content", "thinking"])
def test_thoughts_are_taken_under_every_name(field: str) -> None:
    chat = [
        {"role": "user", "content": "q"},
        {"role": "assistant", field: "hm", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]},
    ]
    assert "<|channel|>analysis<|message|>hm<|end|>" in decode(render(from_chat(chat).conversation))


def test_instructions_go_to_the_developer_message() -> None:
    chat = [{"role": "system", "content": "One."}, {"role": "developer", "content": [{"type": "text", "text": "Two."}]}]
    text = decode(render(from_chat(chat, current_date="2026-01-02", reasoning_effort="high").conversation))
    assert "# Instructions\n\nOne.\n\nTwo.<|end|>" in text
    assert "Current date: 2026-01-02\n\nReasoning: high" in text


@pytest.mark.parametrize(
    ("chat", "message"),
    [
        ([{"role": "robot", "content": "x"}], r"messages\[0\].role must be"),
        (
            [{"role": "user", "content": [{"type": "image_url"}]}],
            r"messages\[0\].content\[0\]: gpt-oss reads text, not 'image_url'",
        ),
        ([{"role": "user", "content": 5}], r"messages\[0\].content must be"),
        ([{"role": "assistant", "tool_calls": [{}]}], r"messages\[0\].tool_calls\[0\]"),
    ],
)
def test_what_cannot_be_said_is_named(chat: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(HarmonyError, match=message):
        from_chat(chat)


SCHEMA = {
    "type": "object",
    "description": "A place.",
    "properties": {
        "city": {"type": ["string", "null"], "title": "City", "examples": ["Bern"], "default": "Rom"},
        "unit": {"oneOf": [{"const": "C", "description": "Celsius"}, {"enum": ["F", "K"]}]},
        "path": {"type": "array", "items": {"$ref": "#/$defs/Point"}},
        "pair": {"type": "array", "prefixItems": [{"type": "number"}, True]},
        "more": {"anyOf": [{"$ref": "#/$defs/Point"}, {"type": "null"}], "nullable": True},
    },
    "required": ["city"],
    "additionalProperties": {"type": "integer"},
    "$defs": {"Point": {"allOf": [{"type": "object", "properties": {"next": {"$ref": "#/$defs/Point"}}}]}},
}
FUNCTION = {"name": "weather", "description": "Weather.", "parameters": SCHEMA}
CHAT_REQUEST = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "name": "ann", "content": [{"type": "text", "text": "And?"}]},
        {
            "role": "assistant",
            "reasoning": "hm",
            "content": None,
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "1", "content": "cold"},
        {"role": "function", "name": "weather", "content": "warm"},
    ],
    "tools": [{"type": "function", "function": FUNCTION}],
    "reasoning_effort": "low",
    "response_format": {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA}},
    "current_date": "2026-01-02",
}
RESPONSES_REQUEST = {
    "items": [
        {"role": "user", "content": "And?"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Now?"}]},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "function_call", "call_id": "1", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "1", "output": [{"type": "input_text", "text": "cold"}]},
    ],
    "instructions": "Be brief.",
    "tools": [{"type": "function", **FUNCTION}],
    "reasoning_effort": "low",
    "text_format": {"type": "json_schema", "name": "place", "schema": SCHEMA},
    "current_date": "2026-01-02",
}
REPLACEMENTS = [None, True, 5, -1.5, "x", "#", [], {}, ["x"], [5], [None], [[]], [{}], {"x": 5}, {"$ref": "#/required"}]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every node of a JSON value, itself included."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, part in parts for place in places(part, (*path, key)))]


def replaced(value: Any, path: tuple[Any, ...], by: Any) -> Any:
    if not path:
        return by
    parts: Any = dict(value) if isinstance(value, dict) else list(value)
    parts[path[0]] = replaced(parts[path[0]] if path[1:] else None, path[1:], by)
    return parts


def outcome(function: Any, *args: Any, **kwargs: Any) -> str:
    """ "fine", or the one sentence of a HarmonyError: whatever else is raised fails the test."""
    try:
        function(*args, **kwargs)
    except HarmonyError as error:
        sentence = str(error)
    else:
        return "fine"
    assert "\n" not in sentence
    assert len(sentence) < 300
    return sentence


def answer_chat(**request: Any) -> None:
    render(from_chat(**request).conversation)


def answer_responses(**request: Any) -> None:
    render(from_responses(**request).conversation)


def test_the_requests_that_are_mutated_below_are_valid() -> None:
    assert outcome(render_command, json.dumps(CHAT_REQUEST)) == outcome(answer_chat, **CHAT_REQUEST) == "fine"
    assert outcome(answer_responses, **RESPONSES_REQUEST) == "fine"


@settings(max_examples=1500, deadline=None)
@given(st.data())
def test_json_of_wrong_types_is_named_in_one_sentence_or_accepted(data: st.DataObject) -> None:
    request: Any = data.draw(st.sampled_from([CHAT_REQUEST, RESPONSES_REQUEST]))
    original = request
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from([place for place in places(request) if place]))
        request = replaced(request, path, data.draw(st.sampled_from(REPLACEMENTS)))
    if original is CHAT_REQUEST:
        assert outcome(answer_chat, **request) == outcome(render_command, json.dumps(request))
    else:
        outcome(answer_responses, **request)


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        (("messages", 1, "name"), 5, "messages[1].name must be a string, not a number"),
        (("messages", 1), "x", "messages[1] must be an object, not a string"),
        (("messages", 2, "tool_calls"), 5, "messages[2].tool_calls must be a list, not a number"),
        (("messages", 2, "tool_calls", 0), {}, "messages[2].tool_calls[0] needs function, an object"),
        (("messages", 3, "tool_call_id"), [], "messages[3].tool_call_id must be a string, not a list"),
        (("reasoning_effort",), [], "reasoning_effort must be one of low, medium, high, not a list"),
        (("current_date",), 5, "current_date must be a string, not a number"),
        (("response_format",), "json", "response_format must be an object, not a string"),
        (
            ("response_format", "type"),
            "xml",
            "response_format.type must be text, json_object or json_schema, not 'xml'",
        ),
        (("tools",), "f", "tools must be a list, not a string"),
        (("tools", 0, "function", "description"), [], "tools[0].function.description must be a string, not a list"),
        (
            ("tools", 0, "function", "parameters", "properties", "city", "enum"),
            True,
            "tools[0].function.parameters.properties.city.enum must be a list, not true or false",
        ),
        (
            ("tools", 0, "function", "parameters", "properties", "unit", "oneOf", 1),
            "F",
            "tools[0].function.parameters.properties.unit.oneOf[1] must be an object, not a string",
        ),
    ],
)
def test_the_sentence_names_the_field(path: tuple[Any, ...], value: Any, sentence: str) -> None:
    assert outcome(answer_chat, **replaced(CHAT_REQUEST, path, value)) == sentence


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        (("items", 2, "content", 0), "hm", "input[2].content[0] must be an object, not a string"),
        (("items", 0), 5, "input[0] must be an object, not a number"),
        (("items", 1, "role"), None, "input[1].role must be system, developer, user, assistant or tool, not null"),
        (("items", 4, "name"), 5, "input[4].name must be a string, not a number"),
        (("tools", 0, "parameters"), [], "tools[0].parameters must be an object, not a list"),
        (("text_format", "schema"), None, "text.format.schema must be an object, not null"),
    ],
)
def test_the_sentence_names_the_responses_field(path: tuple[Any, ...], value: Any, sentence: str) -> None:
    assert outcome(answer_responses, **replaced(RESPONSES_REQUEST, path, value)) == sentence


def test_json_nested_too_deep_gets_one_sentence() -> None:
    for text in ("[" * 100_000, "[" * 100_000 + "]" * 100_000, '{"messages":' * 100_000):
        assert outcome(render_command, text) == (
            'standard input is nested too deep; expected a list of messages, or {"messages": […], "tools": […]}'
        )
        assert outcome(parse_command, text) == "standard input is nested too deep; expected a list of token ids"
    deep: Any = {}
    for _ in range(100_000):
        deep = {"items": deep}
    for path in (("tools", 0, "function", "parameters"), ("messages", 0, "content")):
        assert "nested more than" in outcome(answer_chat, **replaced(CHAT_REQUEST, path, deep))
    assert "nested more than" in outcome(answer_responses, **replaced(RESPONSES_REQUEST, ("items", 5, "output"), deep))
    for _ in range(100_000):  # CPython frees it by recursion
        deep = deep["items"]


def test_reasoning_that_says_nothing_leaves_nothing() -> None:
    items = [{"role": "user", "content": "q"}, {"type": "reasoning", "summary": [], "encrypted_content": "x"}]
    assert [m.author.role for m in from_responses(items).conversation.messages] == ["system", "user"]


def test_render_command_and_parse_command() -> None:
    rendered = render_command(json.dumps([{"role": "user", "content": "Hi <|end|>"}]))
    assert rendered["text"].endswith("<|start|>user<|message|>Hi <|end|><|end|><|start|>assistant")
    parsed = parse_command(json.dumps(rendered["tokens"][:-2]))
    assert [(m["role"], m["content"]) for m in parsed["messages"]][1:] == [("user", "Hi <|end|>")]
    assert parsed["repairs"] == []
    with_tools = render_command(json.dumps({"messages": [], "tools": [TOOL], "reasoning_effort": "low"}))
    assert "Reasoning: low" in with_tools["text"]
    assert "namespace functions" in with_tools["text"]


@given(st.lists(st.one_of(st.integers(), st.integers(199_990, 201_100)), max_size=20))
def test_parse_command_takes_any_list_of_integers(tokens: list[int]) -> None:
    parsed = parse_command(json.dumps(tokens))
    assert [t for m in parsed["messages"] for t in m["tokens"]] == tokens


@pytest.mark.parametrize("text", ["", "{", '"text"', "[1.5]", "[true]", '{"a": 1}', "null"])
def test_other_input_gets_one_sentence(text: str) -> None:
    with pytest.raises(HarmonyError):
        parse_command(text)
    with pytest.raises(HarmonyError):
        render_command(text if text != "[1.5]" else "[1.5, 2]")


def test_the_commands_read_stdin(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO('[{"role": "user", "content": "x"}]'))
    assert main(["harmony", "render"]) == 0
    tokens = json.loads(capsys.readouterr().out)["tokens"]
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(tokens)))
    assert main(["harmony", "parse"]) == 0
    assert json.loads(capsys.readouterr().out)["messages"][1]["content"] == "x"
    monkeypatch.setattr("sys.stdin", io.StringIO("nonsense"))
    assert main(["harmony", "parse"]) == 2
    assert capsys.readouterr().err.startswith("gpt-oss: standard input is not JSON")
