"""The token table of gpt-oss, o200k_harmony: o200k_base's ranks, which lie in this package, and the special tokens.

Nothing is ever downloaded. Loading takes about a tenth of a second, once a process, when it is first needed.
"""

from __future__ import annotations

import binascii
import codecs
import hashlib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib import resources
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import tiktoken

STARTOFTEXT: Final = 199_998
ENDOFTEXT: Final = 199_999
RETURN: Final = 200_002
CONSTRAIN: Final = 200_003
CHANNEL: Final = 200_005
START: Final = 200_006
END: Final = 200_007
MESSAGE: Final = 200_008
CALL: Final = 200_012
ENDOFPROMPT: Final = 200_018

NUM_TEXT_TOKENS: Final = 199_998  # ids below are text; from here to VOCABULARY_SIZE they are special
VOCABULARY_SIZE: Final = 201_088

_NAMED = {
    STARTOFTEXT: "<|startoftext|>",
    ENDOFTEXT: "<|endoftext|>",
    RETURN: "<|return|>",
    CONSTRAIN: "<|constrain|>",
    CHANNEL: "<|channel|>",
    START: "<|start|>",
    END: "<|end|>",
    MESSAGE: "<|message|>",
    CALL: "<|call|>",
    ENDOFPROMPT: "<|endofprompt|>",
}

# How text is cut into words before it is merged: o200k_base's published pattern.
PATTERN: Final = "|".join(
    [
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)

_SHA256 = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"


def special_name(token: int) -> str:
    """`<|start|>` and the like; `<|reserved_N|>` for ids without a name; works for any integer whatsoever."""
    return _NAMED.get(token) or f"<|reserved_{token}|>"


@lru_cache(maxsize=1)
def special_tokens() -> Mapping[str, int]:
    """Every special token's name and id."""
    return MappingProxyType({special_name(token): token for token in range(NUM_TEXT_TOKENS, VOCABULARY_SIZE)})


@lru_cache(maxsize=1)
def text_tokens() -> tuple[bytes, ...]:
    """The bytes of the text tokens, by id."""
    data = resources.files("gpt_oss.harmony").joinpath("data/o200k_base.tiktoken").read_bytes()
    assert hashlib.sha256(data).hexdigest() == _SHA256, "the packaged vocabulary is damaged: reinstall gpt-oss"
    decode = binascii.a2b_base64
    tokens = tuple(decode(line[: line.index(b" ")]) for line in data.splitlines())
    assert len(tokens) == NUM_TEXT_TOKENS
    return tokens


@lru_cache(maxsize=1)
def _encoding() -> tiktoken.Encoding:
    import tiktoken

    ranks = {token: rank for rank, token in enumerate(text_tokens())}
    return tiktoken.Encoding(
        "o200k_harmony", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=dict(special_tokens())
    )


def encode_ordinary(text: str) -> list[int]:
    """Token ids of a text in which nothing is special: a literal `<|end|>` becomes the tokens of its characters.

    Lone surrogates, which UTF-8 cannot hold, become U+FFFD.
    """
    return _encoding().encode_ordinary(text)


def encode_with_special(text: str) -> list[int]:
    """Token ids of a text in which names of special tokens stand for them. Never for what a user wrote."""
    return _encoding().encode(text, allowed_special="all", disallowed_special=())


def token_bytes(token: int) -> bytes:
    """The bytes of a token; those of its name for a special one, and for an integer that is no token at all."""
    if 0 <= token < NUM_TEXT_TOKENS:
        return text_tokens()[token]
    return special_name(token).encode()


def decode_bytes(tokens: Iterable[int]) -> bytes:
    return b"".join(map(token_bytes, tokens))


def decode(tokens: Iterable[int]) -> str:
    """Text of any integers whatsoever; invalid UTF-8 becomes U+FFFD."""
    return decode_bytes(tokens).decode("utf-8", errors="replace")


class StreamDecoder:
    """Text as tokens come: a character that is split over tokens is held back until it is whole."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        return self._decoder.decode(token_bytes(token))

    def flush(self) -> str:
        """What was held back, as U+FFFD; the decoder starts anew."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return text
