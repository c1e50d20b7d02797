"""The token table of gpt-oss, o200k_harmony: o200k_base's ranks, which lie in this package, and the special tokens.

Nothing is ever downloaded. Loading takes about a tenth of a second, once a process, when it is first needed.

Any text whatsoever is encoded, in time proportional to its length. tiktoken alone fails at a million blanks in a row,
and its time grows with the square of what the pattern makes one word. A word, a row of signs or a gap of more than
LONGEST_RUN characters is therefore encoded in pieces of that length, and only there the tokens may be others
than tiktoken's: those next to a cut. They decode to the same text.
"""

from __future__ import annotations

import binascii
import codecs
import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
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

BLOCK: Final = 50_000  # characters; some milliseconds of encoding
_BETWEEN_WORDS: Final = re.compile("(?<=[a-z]) (?=[a-z])")
LONGEST_RUN: Final = 8192  # characters that are encoded as one word at most; ordinary words are far shorter

_SPACES = "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
_SURROGATE = re.compile("[\ud800-\udfff]")
_SPECIAL = re.compile(r"<\|[a-z]+(?:_[0-9]+)?\|>")


def _long_run(characters: str) -> str:
    """A regular expression of whole runs that are too long: it looks once at every character."""
    return f"(?<![{characters}])[{characters}]{{{LONGEST_RUN + 1},}}"


_MAY_BE_LONG = re.compile("|".join(map(_long_run, (f"^{_SPACES}", f"{_SPACES}/"))))
_TOO_LONG = [re.compile(_long_run(kinds)) for kinds in ("LM", "SM/", "G\n", "\n/")]  # of _Kinds: what may be one word


class _Kinds(dict[int, str]):
    """For str.translate: the kind of each character as the pattern sees it: L, M and N as Unicode has them, G in gaps
    between words, S for other signs, and itself for what may end a row of signs. What is not assigned counts as M,
    which goes with letters and with signs: it may have been assigned since."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        category = unicodedata.category(character)
        kind = "S"
        if character in "\r\n/":
            kind = character.replace("\r", "\n")
        elif character in _SPACES:
            kind = "G"
        elif category == "Cn":
            kind = "M"
        elif category[0] in "LMN":
            kind = category[0]
        self[code] = kind
        return kind


_KINDS = _Kinds()

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
    text = _without_surrogates(text)
    if len(text) <= BLOCK:
        return _encoded(text)
    return [token for block in _blocks(text) for token in _encoded(block)]


def _encoded(text: str) -> list[int]:
    encode = _encoding().encode_ordinary
    cuts = _cuts(text)
    if not cuts:
        return encode(text)
    pieces = zip([0, *cuts], [*cuts, len(text)], strict=True)
    return [token for start, end in pieces for token in encode(text[start:end])]


def _blocks(text: str) -> Iterator[str]:
    """The text in pieces, between which the pattern cuts in any case: before a space between two small letters.

    Other threads have to wait for each, for regular expressions hold Python's lock.
    """
    start = 0
    while len(text) - start > BLOCK and (found := _BETWEEN_WORDS.search(text, start + BLOCK)):
        yield text[start : found.start()]
        start = found.start()
    yield text[start:]


def encode_with_special(text: str) -> list[int]:
    """Token ids of a text in which names of special tokens stand for them. Never for what a user wrote."""
    special = special_tokens()
    tokens: list[int] = []
    start = 0
    for found in _SPECIAL.finditer(text):
        token = special.get(found.group())
        if token is not None:
            tokens += [*encode_ordinary(text[start : found.start()]), token]
            start = found.end()
    return tokens + encode_ordinary(text[start:])


def _without_surrogates(text: str) -> str:
    """The text with U+FFFD for lone surrogates, and the characters that pairs of them mean."""
    if text.isascii() or _SURROGATE.search(text) is None:
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _cuts(text: str) -> list[int]:
    """Where the text is cut before it is encoded, ascending: within runs of more than LONGEST_RUN characters that the
    pattern would not cut itself, every LONGEST_RUN characters."""
    if len(text) <= LONGEST_RUN or _MAY_BE_LONG.search(text) is None:
        return []
    kinds = text.translate(_KINDS)
    runs = [found.span() for pattern in _TOO_LONG for found in pattern.finditer(kinds)]
    return sorted({cut for start, end in runs for cut in range(start + LONGEST_RUN, end, LONGEST_RUN)})


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
        """What was held back, as U+FFFD; the decoder starts again."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return text
