"""The packaged vocabulary against openai-harmony's own tokenizer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_oss import vocabulary
from gpt_oss.vocabulary import StreamDecoder, decode, decode_bytes, encode_ordinary, special_name, token_bytes


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


def test_lone_surrogates_and_long_runs_are_survived() -> None:
    assert decode(encode_ordinary("a\ud800b")) == "a\ufffdb"
    assert decode(encode_ordinary("x" * 100_000)) == "x" * 100_000


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
