"""The packaged vocabulary against openai-harmony's own tokenizer."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_oss import vocabulary
from gpt_oss.vocabulary import (
    LONGEST_RUN,
    StreamDecoder,
    decode,
    decode_bytes,
    encode_ordinary,
    encode_with_special,
    special_name,
    token_bytes,
)


@pytest.fixture(scope="module")
def official(monkeypatch_module: pytest.MonkeyPatch) -> object:
    import openai_harmony

    data = Path(vocabulary.__file__).parent / "harmony" / "data"
    monkeypatch_module.setenv("TIKTOKEN_ENCODINGS_BASE", str(data))
    return openai_harmony.load_harmony_encoding(openai_harmony.HarmonyEncodingName.HARMONY_GPT_OSS)


@pytest.fixture(scope="module")
def monkeypatch_module() -> object:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


TEXTS = [
    "why did the chicken cross the road?",
    "def f(x):\n\treturn x**2  # naïve — “quotes” \r\n\r\n",
    "你好，世界 🤖👩‍👩‍👧‍👦 שלום 123456789 I'll WE'VE don't",
    "   leading and   trailing   \n\n\n",
    "<|start|>assistant<|end|>",
    "a" * 2000,
]


@pytest.mark.parametrize("text", TEXTS)
def test_text_is_encoded_as_the_official_tokenizer_does(official: object, text: str) -> None:
    assert encode_ordinary(text) == official.encode(text, allowed_special=set(), disallowed_special=())  # type: ignore[attr-defined]


@given(st.text(max_size=60))
def test_text_survives_the_round_trip(text: str) -> None:
    assert decode(encode_ordinary(text)) == text
    assert all(token < vocabulary.NUM_TEXT_TOKENS for token in encode_ordinary(text))


def test_special_tokens_have_the_official_ids(official: object) -> None:
    for name, token in vocabulary.special_tokens().items():
        assert vocabulary.encode_with_special(name) == [token]
        if not name.startswith("<|reserved_") and token != vocabulary.ENDOFPROMPT:  # which openai-harmony does not have
            assert official.encode(name, allowed_special="all") == [token]  # type: ignore[attr-defined]


@pytest.mark.parametrize("encode", [encode_ordinary, encode_with_special])
def test_lone_surrogates_become_the_sign_for_them(encode: Callable[[str], list[int]]) -> None:
    assert decode(encode("a\ud800b\udc00")) == "a\ufffdb\ufffd"
    assert decode(encode("\ud83d\ude00")) == "😀"  # a pair means a character
    assert decode(encode("<|end|>\ud800<|end|>")) == "<|end|>\ufffd<|end|>"


WORDS = st.text(max_size=12) | st.sampled_from(
    [
        "naïve",
        "don't",
        "WE'VE",
        "नमस्ते",
        "你好，世界",
        "👩‍👩‍👧‍👦",
        "12345",
        "\r\n\r\n",
        "\t\t",
        "   ",
        "//\n/",
        "<|",
        "|>",
        "e\u0301",
    ]
)


@given(
    st.lists(WORDS, min_size=1, max_size=12), st.integers(1, 3), st.sampled_from(["a", " ", "=", "\n", "好", "\u0301"])
)
def test_where_no_run_is_too_long_tokens_are_tiktokens(words: list[str], times: int, filler: str) -> None:
    """Also in a text that is long itself, and next to a run that is as long as may be."""
    text = "".join(words) * (times * LONGEST_RUN // 1000) + "1" + filler * LONGEST_RUN + "1" + "".join(words)
    assert encode_ordinary(text) == vocabulary._encoding().encode_ordinary(text)
    expected = vocabulary._encoding().encode(text, allowed_special="all", disallowed_special=())
    assert encode_with_special(text) == expected


RUNS = [
    "a", "A", "aB", "好", "\u0301", "e\u0301", "=", "/", "=\n", "\n/", " ", "\n", " \n", "\t \u3000", "\x1c", "=\x1c",
    "\U0001e4d0", "a\U0001e4d0", "a.", "aB3+/", "<|", "'s",
]  # fmt: skip


@pytest.mark.parametrize("run", RUNS)
def test_a_long_run_is_encoded_in_short_words(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the pattern makes one word, of what is given to tiktoken at a time, has a bound: so has the time for it."""
    regex = pytest.importorskip("regex")
    given: list[str] = []

    class Encoding:
        def encode_ordinary(self, text: str) -> list[int]:
            given.append(text)
            return [0]

    text = f"one {run * (40 * LONGEST_RUN // len(run))} two"
    monkeypatch.setattr(vocabulary, "_encoding", Encoding)
    encode_ordinary(text)
    assert "".join(given) == text
    longest = max(len(word.group()) for piece in given for word in regex.finditer(vocabulary.PATTERN, piece))
    assert longest <= 2 * LONGEST_RUN + 4


@pytest.mark.parametrize("text", [" " * 1_000_000, " " * 1_000_000 + "x", "\n" * 1_000_000, "x" * 1_000_000])
def test_what_tiktoken_alone_fails_at(text: str) -> None:
    assert decode(encode_ordinary(text)) == text


def test_a_special_token_within_a_long_run_stays_whole() -> None:
    for fill in range(LONGEST_RUN - 10, LONGEST_RUN + 1):
        tokens = encode_with_special("=" * fill + "<|end|>" + "=" * 100)
        assert tokens.count(vocabulary.END) == 1


@pytest.mark.parametrize(
    "text", ["<|<|end|>", "<|foo|><|end|>", "<|reserved_200000|>", "<|END|>", "<|end|><|start|>|>", ""]
)
def test_names_of_special_tokens_are_found_where_tiktoken_finds_them(text: str) -> None:
    assert encode_with_special(text) == vocabulary._encoding().encode(text, allowed_special="all")


@given(st.lists(st.integers(0, vocabulary.NUM_TEXT_TOKENS - 1), max_size=30))
def test_a_stream_of_any_tokens_decodes_as_the_whole(tokens: list[int]) -> None:
    decoder = StreamDecoder()
    assert "".join(map(decoder.push, tokens)) + decoder.flush() == decode(tokens)


def test_a_character_is_held_back_until_it_is_whole() -> None:
    decoder = StreamDecoder()
    pieces = [decoder.push(token) for token in encode_ordinary("🜁")]
    assert len(pieces) > 1
    assert pieces[:-1] == [""] * (len(pieces) - 1)
    assert pieces[-1] == "🜁"


@pytest.mark.parametrize("token", [-1, 200_000, 201_087, 201_088, 10**12])
def test_any_integer_has_bytes(token: int) -> None:
    assert token_bytes(token) == special_name(token).encode() == decode_bytes([token])


def test_importing_the_vocabulary_loads_nothing() -> None:
    script = (
        "import sys, gpt_oss.vocabulary as v; print('tiktoken' in sys.modules, v.text_tokens.cache_info().currsize)"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["False", "0"]


def test_a_long_text_has_the_tokens_that_it_has_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is encoded in blocks, which begin where the pattern cuts in any case."""
    monkeypatch.setattr(vocabulary, "BLOCK", 200)
    chance = random.Random(3)
    parts = [
        "a",
        "b",
        "Z",
        " ",
        "  ",
        "\n",
        "é",
        "1",
        "don't",
        "'s",
        ", ",
        "x y",
        " \n a",
        "日本",
        " word",
        " THE",
        ".",
    ]
    for _ in range(1_000):
        text = "".join(chance.choice(parts) for _ in range(chance.randint(50, 900)))
        with monkeypatch.context() as whole:
            whole.setattr(vocabulary, "BLOCK", 10_000)
            wanted = encode_ordinary(text)
        assert encode_ordinary(text) == wanted
