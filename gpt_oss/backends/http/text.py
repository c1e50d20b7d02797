"""Token ids to text and back, for servers that know text only.

There: names of special tokens that stand in ordinary text, what a user typed, are broken with a zero-width space, so
that only real ones become special. Back: a piece of text that is one token's bytes is that token; anything else is
encoded anew, which gives the same text, if not always the tokens that were sampled. Where a server hides special tokens
the shape of Harmony is found again in the words that are left: see HiddenText for what that loses.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from gpt_oss.vocabulary import (
    CALL,
    CHANNEL,
    CONSTRAIN,
    END,
    MESSAGE,
    NUM_TEXT_TOKENS,
    RETURN,
    START,
    decode,
    decode_bytes,
    encode_ordinary,
    special_name,
    special_tokens,
    text_tokens,
)

BREAK = "\u200b"  # a zero-width space, behind the first character of a name that is none
_NAME = re.compile(r"<\|[a-z]+(?:_[0-9]+)?\|>")
_BEGUN = re.compile(r"<(?:\|(?:[a-z]+(?:_[0-9]*)?\|?)?)?\Z")  # a name that may go on in the next piece


def prompt_text(tokens: Sequence[int]) -> str:
    """Text that such a server reads as these tokens. Bytes that are no UTF-8 become U+FFFD."""
    parts: list[str] = []
    ordinary: list[int] = []
    for token in [*tokens, NUM_TEXT_TOKENS]:
        if token < NUM_TEXT_TOKENS:
            ordinary.append(token)
            continue
        parts.append(_NAME.sub(_broken, decode(ordinary)))
        parts.append(special_name(token))
        ordinary = []
    return "".join(parts[:-1])


def _broken(name: re.Match[str]) -> str:
    text = name.group()
    return text[0] + BREAK + text[1:] if text in special_tokens() else text


def tokens_of(piece: str) -> list[int]:
    """Of text in which names of special tokens stand for them."""
    tokens: list[int] = []
    at = 0
    for name in _NAME.finditer(piece):
        special = special_tokens().get(name.group())
        if special is not None:
            tokens += _ordinary(piece[at : name.start()])
            tokens.append(special)
            at = name.end()
    return tokens + _ordinary(piece[at:])


def _ordinary(piece: str) -> list[int]:
    if not piece:
        return []
    one = _ids().get(piece.encode(errors="replace"))
    return encode_ordinary(piece) if one is None else [one]


@lru_cache(maxsize=1)
def _ids() -> dict[bytes, int]:
    return {token: number for number, token in enumerate(text_tokens())}


def token_named(text: str) -> int | None:
    """The id of the token that a server writes like this; None for part of a character and for what is no token."""
    if "\ufffd" in text:
        return None
    return special_tokens().get(text, _ids().get(text.encode(errors="replace")))


def closing_token(prompt: Sequence[int], answer: Sequence[int]) -> int:
    """What an answer that ended by itself ended in, where the server does not say: `<|call|>` behind a header with a
    recipient, else `<|return|>`."""
    tokens = [*prompt[-8:], *answer]
    message = len(tokens) - 1 - tokens[::-1].index(MESSAGE) if MESSAGE in tokens else len(tokens)
    starts = [place for place, token in enumerate(tokens[:message]) if token == START]
    header = decode_bytes(tokens[starts[-1] if starts else 0 : message])
    return CALL if b" to=" in header else RETURN


class ShownText:
    """Tokens of an answer whose special tokens the server writes out, piece by piece."""

    def __init__(self) -> None:
        self._pieces: list[str] = []

    def push(self, piece: str) -> list[int]:
        self._pieces.append(piece)
        text = "".join(self._pieces)
        begun = _BEGUN.search(text)
        if begun is None:
            return self.finish()
        ready = _taken(self._pieces, begun.start())
        length = sum(map(len, ready))
        if any(name.end() > length for name in _NAME.finditer(text)):  # the piece ends one name and begins another
            ready.append(self._pieces[0][: begun.start() - length])
            self._pieces[0] = self._pieces[0][begun.start() - length :]
        return _of_pieces(ready)

    def finish(self) -> list[int]:
        pieces, self._pieces = self._pieces, []
        return _of_pieces(pieces)


def _taken(pieces: list[str], length: int) -> list[str]:
    """Take the first pieces that have together at most so many characters: what is cut within is no longer a token."""
    taken: list[str] = []
    while pieces and len(pieces[0]) <= length:
        length -= len(pieces[0])
        taken.append(pieces.pop(0))
    return taken


def _of_pieces(pieces: Sequence[str]) -> list[int]:
    apart = [token for piece in pieces for token in tokens_of(piece)]
    together = tokens_of("".join(pieces)) if len(pieces) > 1 else apart
    names = [sum(token >= NUM_TEXT_TOKENS for token in tokens) for tokens in (apart, together)]
    return apart if names[0] == names[1] else together  # a name that stands in several pieces


_CHANNELS = ("analysis", "commentary", "final")
_CHANNEL = "|".join(_CHANNELS)
_HEADER = re.compile(
    rf"(?P<role_to> to=[\w.-]+?)?(?P<channel>{_CHANNEL})"
    r"(?: to=(?P<to>python|browser\.(?:search|open|find)|[\w.-]+)(?P<kind> ?json(?!\w)| code)?"
    r"|(?P<json> ?json(?=\s*[\[{])))?"
)
_NEXT = re.compile(rf"assistant(?=(?: to=[\w.-]+?)?(?:{_CHANNEL}))")
_LOOKAHEAD = 10  # characters behind a header that tell that it is over: " to=" or " json {" would have begun
_LONGEST_MARK = 160  # characters of "assistant", a recipient and a channel


class HiddenText:
    """Tokens of an answer behind `<|start|>assistant` whose special tokens the server leaves out.

    `analysisThink.assistantfinalHello` is read as two messages. Lost is: a message that says `assistantfinal` itself,
    which is cut there; where a recipient's name ends when its content begins with a letter and no type stands between;
    and whether `json` was written with `<|constrain|>`.
    """

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._in_header = True

    def push(self, piece: str) -> list[int]:
        self._pieces.append(piece)
        return self._read(last=False)

    def finish(self) -> list[int]:
        return self._read(last=True)

    def _read(self, *, last: bool) -> list[int]:
        tokens: list[int] = []
        while text := "".join(self._pieces):
            if self._in_header:
                header = _HEADER.match(text)
                if not last and len(text) - (header.end() if header else 0) < _LOOKAHEAD:
                    break
                self._in_header = False
                self._cut(header.end() if header else 0)
                tokens += _header_tokens(header) if header else [MESSAGE]
            elif following := _NEXT.search(text):
                tokens += [*self._cut(following.start()), END, START, *encode_ordinary("assistant")]
                self._cut(len("assistant"))
                self._in_header = True
            else:
                ready = len(text) if last else len(text) - _mark_begun(text)
                for piece in _taken(self._pieces, ready):
                    tokens += _ordinary(piece)
                break
        return tokens

    def _cut(self, length: int) -> list[int]:
        """Tokens of the first characters, which are taken away."""
        pieces = _taken(self._pieces, length)
        rest = length - sum(map(len, pieces))
        if rest:
            pieces.append(self._pieces[0][:rest])
            self._pieces[0] = self._pieces[0][rest:]
        return [token for piece in pieces for token in _ordinary(piece)]


def _mark_begun(text: str) -> int:
    """How many characters at the end may be the beginning of a next message's mark."""
    for start in range(max(0, len(text) - _LONGEST_MARK), len(text)):
        if text[start] == "a" and _may_become_mark(text[start:]):
            return len(text) - start
    return 0


def _may_become_mark(text: str) -> bool:
    if "assistant".startswith(text):
        return True
    rest = text.removeprefix("assistant")
    if rest == text:
        return False
    known = any(word.startswith(rest) for word in (*_CHANNELS, " to="))
    return known or re.fullmatch(r" to=[\w.-]+", rest) is not None


def _header_tokens(header: re.Match[str]) -> list[int]:
    role_to, channel, to, kind, json = header.group("role_to", "channel", "to", "kind", "json")
    tokens = [*encode_ordinary(role_to or ""), CHANNEL, *encode_ordinary(channel + (f" to={to}" if to else ""))]
    if json or (kind and kind.endswith("json")):
        tokens += [*encode_ordinary(" "), CONSTRAIN, *encode_ordinary("json")]
    elif kind:
        tokens += encode_ordinary(kind)
    return [*tokens, MESSAGE]


class RecoveredText:
    """Tokens of an answer from its text, special tokens shown or hidden, whichever it turns out to be.

    all: every token so far.
    """

    def __init__(self, prompt: Sequence[int]) -> None:
        self.all: list[int] = []
        self._prompt = prompt
        opens = [START, *encode_ordinary("assistant")]
        self._begun: str | None = "" if list(prompt[-len(opens) :]) == opens else None  # until it is known which
        self._text: ShownText | HiddenText = ShownText()

    def push(self, piece: str) -> list[int]:
        if self._begun is not None:
            self._begun += piece
            hidden = _is_hidden(self._begun)
            if hidden is None:
                return []
            piece = self._decide(hidden)
        return self._noted(self._text.push(piece))

    def finish(self) -> list[int]:
        begun = "" if self._begun is None else self._decide(False)
        return self._noted([*self._text.push(begun), *self._text.finish()])

    def closing_token(self) -> int:
        return closing_token(self._prompt, self.all)

    def _decide(self, hidden: bool) -> str:
        begun, self._begun = self._begun or "", None
        if hidden:
            self._text = HiddenText()
        return begun

    def _noted(self, tokens: list[int]) -> list[int]:
        self.all += tokens
        return tokens


def _is_hidden(begun: str) -> bool | None:
    """Whether an answer that begins like this lacks its special tokens; None while that is open."""
    if begun.startswith(_CHANNELS):
        return True
    if "<|" in begun:
        return False
    if begun.startswith(" to="):
        return None if len(begun) < _LONGEST_MARK else True
    return None if any(mark.startswith(begun) for mark in (*_CHANNELS, "<|", " to=")) else False
