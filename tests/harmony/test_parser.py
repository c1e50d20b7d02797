"""The parser: openai-harmony's answers on valid streams, sensible ones on every other."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt_oss import vocabulary
from gpt_oss.harmony.events import Event, Header, MessageDone, MessageStarted, Repaired, TextDelta
from gpt_oss.harmony.parser import END_TOKENS, STRUCTURE, Parser, parse
from gpt_oss.vocabulary import CALL, CHANNEL, CONSTRAIN, END, MESSAGE, RETURN, START, encode_with_special

A = Header("assistant")


@pytest.fixture(scope="module")
def official() -> Any:
    import openai_harmony

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_ENCODINGS_BASE", str(Path(vocabulary.__file__).parent / "harmony" / "data"))
        return openai_harmony.load_harmony_encoding(openai_harmony.HarmonyEncodingName.HARMONY_GPT_OSS)


def read(text: str, role: str | None = "assistant") -> list[tuple[Header, str]]:
    return [(m.header, m.content) for m in parse(encode_with_special(text), role).messages]


# What valid streams are made of

WORDS = st.text(st.characters(codec="utf-8"), max_size=20)
NAMES = st.sampled_from(["functions.get_weather", "browser.search", "python", "functions.f-1"])
CHANNEL_NAMES = st.sampled_from(["analysis", "commentary", "final"])


@st.composite
def valid_messages(draw: st.DrawFn) -> list[int]:
    """One whole message as a model, a user or a tool writes it."""
    kind = draw(st.sampled_from(["user", "assistant", "call", "tool", "system"]))
    body = vocabulary.encode_ordinary(draw(WORDS))
    if kind in ("user", "system"):
        return [START, *vocabulary.encode_ordinary(kind), MESSAGE, *body, END]
    name = draw(NAMES)
    if kind == "tool":
        head = [START, *vocabulary.encode_ordinary(f"{name} to=assistant"), CHANNEL]
        return [*head, *vocabulary.encode_ordinary("commentary"), MESSAGE, *body, END]
    head = [START, *vocabulary.encode_ordinary("assistant")]
    channel = draw(CHANNEL_NAMES)
    if kind == "assistant":
        end = draw(st.sampled_from([END, RETURN]))
        return [*head, CHANNEL, *vocabulary.encode_ordinary(channel), MESSAGE, *body, end]
    if draw(st.booleans()):
        head += [*vocabulary.encode_ordinary(f" to={name}"), CHANNEL, *vocabulary.encode_ordinary("commentary")]
    else:
        head += [CHANNEL, *vocabulary.encode_ordinary(f"commentary to={name}")]
    if draw(st.booleans()):
        head += [*vocabulary.encode_ordinary(" "), CONSTRAIN, *vocabulary.encode_ordinary("json")]
    return [*head, MESSAGE, *body, CALL]


@st.composite
def valid_streams(draw: st.DrawFn) -> list[int]:
    return [token for message in draw(st.lists(valid_messages(), min_size=1, max_size=5)) for token in message]


ANY_TOKEN = st.one_of(
    st.sampled_from(sorted(STRUCTURE)),
    st.integers(0, 300),
    st.integers(0, 201_087),
    st.sampled_from([-1, 201_088, 10**9, 200_018, 200_100]),
    st.sampled_from(vocabulary.encode_ordinary("assistant user to=functions.f analysis commentary final json system")),
)


@st.composite
def broken_streams(draw: st.DrawFn) -> list[int]:
    """A valid stream with tokens dropped, doubled, swapped and made up; or nothing but made-up ones."""
    tokens = draw(st.one_of(valid_streams(), st.just([])))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(tokens)))
        match draw(st.sampled_from(["drop", "double", "insert", "cut", "swap"])):
            case "drop":
                tokens = tokens[:at] + tokens[at + 1 :]
            case "double":
                tokens = tokens[:at] + tokens[max(0, at - 3) : at] + tokens[at:]
            case "insert":
                tokens = tokens[:at] + draw(st.lists(ANY_TOKEN, max_size=6)) + tokens[at:]
            case "cut":
                tokens = tokens[:at]
            case "swap":
                tokens = tokens[at:] + tokens[:at]
    return tokens


# On valid streams


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(valid_streams())
def test_valid_streams_read_as_openai_harmony_reads_them(official: Any, tokens: list[int]) -> None:
    from openai_harmony import TextContent

    parser = parse(tokens, None)
    expected = official.parse_messages_from_completion_tokens(tokens, None)
    assert parser.repairs == []
    assert len(parser.messages) == len(expected)
    for message, other in zip(parser.messages, expected, strict=True):
        assert isinstance(other.content[0], TextContent)
        assert message.content == other.content[0].text
        assert message.header == Header(
            other.author.role.value, other.author.name, other.channel, other.recipient, other.content_type
        )


def test_a_completion_starts_behind_the_role(official: Any) -> None:
    text = "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>Hi!<|return|>"
    assert read(text) == [
        (Header("assistant", channel="analysis"), "hm"),
        (Header("assistant", channel="final"), "Hi!"),
    ]
    assert parse(encode_with_special(text)).messages[-1].ended_by == RETURN


def test_a_prefilled_header_goes_on() -> None:
    parser = Parser()
    parser.push_all(encode_with_special("<|channel|>final<|message|>"))
    parser.push_all(vocabulary.encode_ordinary('{"a": 1}'))
    parser.finish()
    assert [(m.header.channel, m.content) for m in parser.messages] == [("final", '{"a": 1}')]


# On broken ones

BROKEN = [
    ("plain text only", "Hello there", [(A, "Hello there")]),
    (
        "stray text between messages",
        "<|channel|>analysis<|message|>a<|end|>oops<|start|>assistant<|channel|>final<|message|>b<|return|>",
        [(Header("assistant", channel="analysis"), "a"), (A, "oops"), (Header("assistant", channel="final"), "b")],
    ),
    (
        "no <|start|>assistant",
        "<|channel|>analysis<|message|>a<|end|><|channel|>final<|message|>b<|return|>",
        [(Header("assistant", channel="analysis"), "a"), (Header("assistant", channel="final"), "b")],
    ),
    (
        "no <|end|>",
        "<|channel|>analysis<|message|>a<|start|>assistant<|channel|>final<|message|>b",
        [(Header("assistant", channel="analysis"), "a"), (Header("assistant", channel="final"), "b")],
    ),
    (
        "neither",
        "<|channel|>analysis<|message|>a<|channel|>final<|message|>b<|return|>",
        [(Header("assistant", channel="analysis"), "a"), (Header("assistant", channel="final"), "b")],
    ),
    (
        "constrain without a recipient",
        "<|channel|>final <|constrain|>json<|message|>{}<|return|>",
        [(Header("assistant", channel="final", content_type="<|constrain|>json"), "{}")],
    ),
    (
        "constrain first",
        "<|constrain|>json<|message|>{}",
        [(Header("assistant", content_type="<|constrain|>json"), "{}")],
    ),
    (
        "a doubled channel",
        "<|channel|>analysis<|channel|>final<|message|>x<|end|>",
        [(Header("assistant", channel="final"), "x")],
    ),
    (
        "a doubled start",
        "<|start|>assistant<|channel|>final<|message|>x<|end|>",
        [(Header("assistant", channel="final"), "x")],
    ),
    (
        "assistantassistant",
        "<|channel|>analysis<|message|>a<|end|><|start|>assistantassistant<|channel|>final<|message|>x",
        [(Header("assistant", channel="analysis"), "a"), (Header("assistant", channel="final"), "x")],
    ),
    (
        "assistantcommentary to=",
        "<|channel|>analysis<|message|>a<|end|><|start|>assistantcommentary to=functions.f json<|message|>{}<|call|>",
        [
            (Header("assistant", channel="analysis"), "a"),
            (Header("assistant", channel="commentary", recipient="functions.f", content_type="json"), "{}"),
        ],
    ),
    (
        "a glued recipient",
        "<|channel|>commentaryto=functions.f<|message|>{}<|call|>",
        [(Header("assistant", channel="commentary", recipient="functions.f"), "{}")],
    ),
    (
        "a space behind to=",
        "<|channel|>commentary to= functions.f <|constrain|>json<|message|>{}<|call|>",
        [(Header("assistant", None, "commentary", "functions.f", "<|constrain|>json"), "{}")],
    ),
    (
        "a space behind to= and no <|message|>",
        "<|channel|>commentary to= functions.f {}<|call|>",
        [(Header("assistant", channel="commentary", recipient="functions.f"), " {}")],
    ),
    (
        "no content type behind constrain",
        "<|channel|>commentary to=functions.f <|constrain|><|message|>{}<|call|>",
        [(Header("assistant", channel="commentary", recipient="functions.f"), "{}")],
    ),
    (
        "no recipient behind to=",
        "<|channel|>commentary to=<|message|>x",
        [(Header("assistant", None, "commentary"), "x")],
    ),
    (
        "to= twice",
        "<|channel|>commentary to= to=functions.f<|message|>{}<|call|>",
        [(Header("assistant", channel="commentary", recipient="functions.f"), "{}")],
    ),
    ("an unknown channel", "<|channel|>thoughts<|message|>x", [(Header("assistant", channel="thoughts"), "x")]),
    ("no channel value", "<|channel|><|message|>x", [(A, "x")]),
    ("no channel at all", "<|message|>x<|return|>", [(A, "x")]),
    (
        "a refusal without structure",
        "<|channel|>analysis<|message|>a<|end|><|start|>assistant I'm sorry, but no.<|return|>",
        [(Header("assistant", channel="analysis"), "a"), (A, " I'm sorry, but no.")],
    ),
    (
        "no <|message|>",
        "<|channel|>final The answer is 4.<|return|>",
        [(Header("assistant", channel="final"), " The answer is 4.")],
    ),
    ("cut off in a header", "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>comm", None),
    ("a content type and no constrain", "<|channel|>analysis to=python code<|message|>1+1<|call|>", None),
    ("structure inside content", "<|channel|>final<|message|>a<|message|>b<|constrain|>c<|return|>", None),
    ("ends alone", "<|end|><|end|><|return|>", None),
]


@pytest.mark.parametrize(("text", "expected"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_broken_streams_are_read_sensibly(text: str, expected: list[tuple[Header, str]] | None) -> None:
    if expected is not None:
        assert read(text) == expected


def test_repairs_say_what_was_wrong() -> None:
    for name, text, expected in BROKEN:
        if expected is not None and name not in (
            "constrain without a recipient",
            "constrain first",
            "no channel at all",
        ):
            assert parse(encode_with_special(text)).repairs, name


def test_structure_never_shows_in_content() -> None:
    [message] = parse(encode_with_special("<|channel|>final<|message|>a<|message|>b<|constrain|>c<|return|>")).messages
    assert message.content == "abc"
    assert len(message.repairs) == 2


def test_a_long_header_becomes_content_while_it_streams() -> None:
    text = "word " * 200
    events = Parser().push_all(encode_with_special(f"<|channel|>analysis {text}"))
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == f" {text}"[: -len(" ")] + " "


@pytest.mark.parametrize(
    ("header", "is_call"),
    [
        (Header("assistant", channel="commentary", recipient="functions.f"), True),
        (Header("assistant", channel="analysis", recipient="python"), True),
        (Header("assistant", recipient="functions.f"), True),
        (Header("assistant", channel="final", recipient="functions.f"), False),
        (Header("assistant", channel="commentary"), False),
        (Header("tool", name="functions.f", recipient="assistant"), False),
    ],
)
def test_what_counts_as_a_call(header: Header, is_call: bool) -> None:
    assert header.is_call is is_call


@pytest.mark.timeout(60)  # copying the message for each of them would take far longer
def test_hundreds_of_thousands_of_stray_end_tokens_are_read_like_a_few() -> None:
    strays = [END, RETURN, CALL] * 100_000
    for before in ([], encode_with_special("<|channel|>final<|message|>x<|end|>")):
        parser = parse([*before, *strays])
        [message] = parser.messages
        assert message.tokens == (*before, *strays)
        assert len(parser.repairs) >= len(strays) - 1
        assert message.content == ("x" if before else "")


def test_an_events_message_is_as_it_ended_and_later_strays_are_its_own() -> None:
    parser = Parser()
    events = parser.push_all(encode_with_special("<|channel|>final<|message|>x<|return|><|end|><|call|>"))
    [done] = [event.message for event in events if isinstance(event, MessageDone)]
    [message] = parser.messages
    assert done.tokens[-1] == done.ended_by == message.ended_by == RETURN
    assert message.tokens == (*done.tokens, END, CALL)
    assert message.repairs == ("<|end|> outside of a message", "<|call|> outside of a message")
    assert [event.note for event in events if isinstance(event, Repaired)] == parser.repairs == list(message.repairs)


def check(tokens: list[int], role: str | None) -> None:
    parser = Parser(role)
    events: list[Event] = []
    for token in tokens:
        events += parser.push(token)
    events += parser.finish()
    assert [token for message in parser.messages for token in message.tokens] == tokens
    text, done = "", []
    for event in events:
        match event:
            case MessageStarted():
                text = ""
            case TextDelta():
                assert event.text
                text += event.text
            case MessageDone():
                assert event.message.content == text
                done.append(event.message)
    # An event's message is what `messages` has, but for the end tokens that stray behind it.
    assert len(done) == len(parser.messages)
    for ended, message in zip(done, parser.messages, strict=True):
        tokens_behind = message.tokens[len(ended.tokens) :]
        assert END_TOKENS.issuperset(tokens_behind)
        repairs = (*ended.repairs, *message.repairs[len(ended.repairs) :])
        assert replace(ended, tokens=(*ended.tokens, *tokens_behind), repairs=repairs) == message
        assert len(repairs) == len(ended.repairs) + len(tokens_behind)
    assert Counter(e.note for e in events if isinstance(e, Repaired)) == Counter(parser.repairs)
    # No text is lost: every word is content, a field of a header, or named in a repair.
    kept = "".join(f"{m.content}|{m.header}|{m.repairs}" for m in parser.messages)
    for message in parser.messages:
        for token in message.tokens:
            if 0 <= token < 199_998:
                word = vocabulary.decode([token]).strip()
                if word.isascii() and word.isalnum() and len(word) > 3 and word not in ("assistant", "commentary"):
                    assert word in kept, (word, kept)


@settings(max_examples=2500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(broken_streams(), st.sampled_from(["assistant", None]))
def test_nothing_raises_and_nothing_is_lost(tokens: list[int], role: str | None) -> None:
    check(tokens, role)


@pytest.mark.slow
@settings(max_examples=100_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(broken_streams(), st.sampled_from(["assistant", None]))
def test_nothing_raises_and_nothing_is_lost_in_100_000_streams(tokens: list[int], role: str | None) -> None:
    check(tokens, role)
