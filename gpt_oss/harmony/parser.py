"""From token ids to messages, whatever the ids: a small state machine that no output of a model can break.

It never raises, loses no byte of text, takes time in proportion to the tokens, and does not depend on how the stream is
cut. Every token that is pushed belongs to exactly one message's `tokens`. Structure (`<|start|>`, `<|channel|>`, …)
never appears in content; ids that are no token of the vocabulary appear by name. Where a stream is well-formed the
result is openai-harmony's; where it is not, `repairs` says what was read how.

    between messages ──<|start|>──► header ──<|message|>──► content ──<|end|> <|return|> <|call|>──► between messages
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable
from dataclasses import replace
from enum import Enum, auto

from gpt_oss.harmony.events import Event, Header, MessageDone, MessageStarted, ParsedMessage, Repaired, TextDelta
from gpt_oss.vocabulary import (
    CALL,
    CHANNEL,
    CONSTRAIN,
    END,
    ENDOFTEXT,
    MESSAGE,
    NUM_TEXT_TOKENS,
    RETURN,
    START,
    decode,
    special_name,
    text_tokens,
    token_bytes,
)

ROLES = ("system", "developer", "user", "assistant", "tool")
CHANNELS = ("analysis", "commentary", "final")
END_TOKENS = frozenset({END, RETURN, CALL, ENDOFTEXT})
STRUCTURE = frozenset({START, MESSAGE, CHANNEL, CONSTRAIN}) | END_TOKENS

# A header of more text than this is no header: the model forgot <|message|>, and what follows is content.
LONGEST_HEADER_TOKENS = 48

_RECIPIENT = re.compile(r"(?:^|\s)to=(?:(\s+)(?!to=)(?=\S))?(\S*)")
_GLUED = re.compile(rf"^({'|'.join(CHANNELS)})to=", re.ASCII)


# What must stand at the beginning of a section, by its marker; None: behind a role that the prompt gave.
_LEADS: dict[int | None, re.Pattern[str]] = {
    None: re.compile(r"(\s+to=\s*\S+)?"),
    START: re.compile(r"\s*\S+(\s+to=\s*\S+)?"),
    CHANNEL: re.compile(r"\s*\S+(\s+to=\s*\S+)?"),
    CONSTRAIN: re.compile(r"\s*\S+"),
}


class _State(Enum):
    BETWEEN = auto()
    HEADER = auto()
    CONTENT = auto()


class Parser:
    """Push tokens, take events; `finish` when there are no more.

    role: whose message has already been opened by the prompt (`<|start|>assistant`, as for every completion), or None
    where the stream holds whole messages from the beginning. Tokens that the prompt put behind it are pushed first.

    An event's message is the message as it ended. End tokens that stray behind it belong to it as well: `messages`
    has them, and their repairs, at the end of its `tokens`; header, content and ended_by never change.
    """

    def __init__(self, role: str | None = "assistant") -> None:
        self._messages: list[ParsedMessage] = []
        self._strays: list[int] = []  # end tokens behind the last of them
        self._text = text_tokens()
        self._tokens: list[int] = []  # of the current message
        self._repairs: list[str] = []
        self._content: list[str] = []
        self._header = Header("assistant")
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._opened_by_prompt = role
        self._sections: list[tuple[int, list[int]]] = []  # (marker or START, tokens of its text) of a header
        self._state = _State.BETWEEN
        if role is not None:
            self._open_header(role)

    @property
    def messages(self) -> list[ParsedMessage]:
        """The messages that have ended so far; their spans put together are the stream up to the one under way."""
        self._take_strays()
        return list(self._messages)

    @property
    def repairs(self) -> list[str]:
        """All that was repaired so far, in order."""
        return [note for message in self.messages for note in message.repairs] + self._repairs

    def push(self, token: int) -> list[Event]:
        if self._state is _State.CONTENT:
            return self._push_content(token)
        if self._state is _State.HEADER:
            return self._push_header(token)
        return self._push_between(token)

    def push_all(self, tokens: Iterable[int]) -> list[Event]:
        return [event for token in tokens for event in self.push(token)]

    def finish(self) -> list[Event]:
        """The end of the stream: the message under way is complete as it is."""
        if self._state is _State.CONTENT:
            return self._close(None)
        if self._state is _State.HEADER and self._tokens:
            return [*self._repair("the stream ended inside a header"), *self._header_without_message(None)]
        if self._tokens:  # end tokens with no message before them
            return [*self._start(Header("assistant")), *self._close(None)]
        return []

    # Between messages

    def _push_between(self, token: int) -> list[Event]:
        if token == START:
            self._open_header(None)
            self._tokens.append(token)
            return []
        if token in END_TOKENS:
            note = _stray_note(token)
            if self._messages:
                self._strays.append(token)
                return [Repaired(note)]
            self._tokens.append(token)
            return self._repair(note)
        if token in (CHANNEL, MESSAGE, CONSTRAIN):
            self._open_header("assistant")
            return [*self._repair("a message without <|start|>"), *self._push_header(token)]
        return [
            *self._repair("text outside of a message"),
            *self._start(Header("assistant")),
            *self._push_content(token),
        ]

    def _take_strays(self) -> None:
        """Gives the last message the end tokens behind it: all at once, for there may be very many."""
        if self._strays:
            last = self._messages[-1]
            repairs = (*last.repairs, *map(_stray_note, self._strays))
            self._messages[-1] = replace(last, tokens=(*last.tokens, *self._strays), repairs=repairs)
            self._strays = []

    # Header

    def _open_header(self, role: str | None) -> None:
        self._sections = [(START, [])]
        self._opened_by_prompt = role
        self._state = _State.HEADER

    def _push_header(self, token: int) -> list[Event]:
        if token == MESSAGE:
            self._tokens.append(token)
            header, stray, notes = _read_header(self._texts(), self._opened_by_prompt)
            if stray:
                notes.append(f"stray text in a header: {stray!r}")
            return [event for note in notes for event in self._repair(note)] + self._start(header)
        if token in END_TOKENS:
            self._tokens.append(token)
            events = self._repair(f"{special_name(token)} inside a header")
            return [*events, *self._header_without_message(token)]
        self._tokens.append(token)
        if token == START:
            written = decode(self._sections[0][1]).strip()
            events = self._repair("a header inside a header" + (f", behind {written!r}" if written else ""))
            if any(text for _, text in self._sections) and not self._is_bare_role():
                # What was written so far says something; it is a message of its own.
                self._tokens.pop()
                events += self._header_without_message(None)
                self._tokens.append(token)
            self._open_header(None)
            return events
        if token in (CHANNEL, CONSTRAIN):
            self._sections.append((token, []))
            return []
        self._sections[-1][1].append(token)
        if sum(len(text) for _, text in self._sections) > LONGEST_HEADER_TOKENS:
            return [*self._repair("no <|message|> after a header"), *self._header_becomes_content()]
        return []

    def _is_bare_role(self) -> bool:
        return len(self._sections) == 1 and decode(self._sections[0][1]).strip() in ROLES

    def _header_without_message(self, ended_by: int | None) -> list[Event]:
        return [*self._header_becomes_content(), *self._close(ended_by)]

    def _header_becomes_content(self) -> list[Event]:
        """A header that never came to <|message|>: what follows the words that must stand in it is the content."""
        sections = self._texts()
        marker, text = sections.pop()
        lead = _LEADS[marker if marker != START or self._opened_by_prompt is None else None].match(text)
        end = lead.end() if lead else 0
        if marker == START and self._opened_by_prompt is None:
            word = text[:end].split(maxsplit=1)[:1]
            if word and _read_role(word[0], addressed="to=" in text[:end])[3] is not None:
                end = 0  # it began with no role at all
        role = self._opened_by_prompt or (None if end else "assistant")
        header, stray, notes = _read_header([*sections, (marker, text[:end])], role)
        content = " ".join(part for part in (stray, text[end:]) if part.strip())
        events = [event for note in notes for event in self._repair(note)] + self._start(header)
        if content:
            self._content.append(content)
            events.append(TextDelta(content))
        return events

    def _texts(self) -> list[tuple[int, str]]:
        return [(marker, decode(tokens)) for marker, tokens in self._sections]

    # Content

    def _start(self, header: Header) -> list[Event]:
        self._header = header
        self._content = []
        self._decoder.reset()
        self._state = _State.CONTENT
        return [MessageStarted(header)]

    def _push_content(self, token: int) -> list[Event]:
        if 0 <= token < NUM_TEXT_TOKENS:
            self._tokens.append(token)
            text = self._decoder.decode(self._text[token])
            if not text:
                return []
            self._content.append(text)
            return [TextDelta(text)]
        if token in END_TOKENS:
            self._tokens.append(token)
            return self._close(token)
        if token == START:
            events = [*self._repair("a message that was not ended"), *self._close(None)]
            self._open_header(None)
            self._tokens.append(token)
            return events
        if token == CHANNEL:
            role = self._header.role
            events = [*self._repair("a message that was not ended, and one without <|start|>"), *self._close(None)]
            self._open_header(role)
            return [*events, *self._push_header(token)]
        self._tokens.append(token)
        if token in STRUCTURE:
            return self._repair(f"{special_name(token)} inside content")
        text = self._decoder.decode(token_bytes(token))
        self._content.append(text)
        return [*self._repair(f"{special_name(token)} inside content"), TextDelta(text)]

    def _close(self, ended_by: int | None) -> list[Event]:
        events: list[Event] = []
        rest = self._decoder.decode(b"", final=True)
        if rest:
            self._content.append(rest)
            events.append(TextDelta(rest))
        message = ParsedMessage(
            self._header, "".join(self._content), tuple(self._tokens), ended_by, tuple(self._repairs)
        )
        self._take_strays()
        self._messages.append(message)
        self._tokens, self._repairs, self._content = [], [], []
        self._decoder.reset()
        self._state = _State.BETWEEN
        return [*events, MessageDone(message)]

    def _repair(self, note: str) -> list[Event]:
        self._repairs.append(note)
        return [Repaired(note)]


def _stray_note(token: int) -> str:
    return f"{special_name(token)} outside of a message"


def _read_header(sections: list[tuple[int, str]], role: str | None) -> tuple[Header, str, list[str]]:
    """A header's fields, the words in it that have no place, and what had to be repaired.

    sections: each marker (START for what stands before the first) with its text. role: if the prompt gave it already.
    """
    notes: list[str] = []
    stray: list[str] = []
    name: str | None = None
    channel: str | None = None
    recipient: str | None = None
    content_type: str | None = None
    for marker, text in sections:
        if "\ufffd" in text:
            notes.append("invalid UTF-8 in a header")
        text, glued = _GLUED.subn(r"\1 to=", text.strip())
        if glued:
            notes.append("a recipient glued to a channel")
        for space, found in _RECIPIENT.findall(text):
            if not found:
                notes.append("a recipient without a name")
            elif space:
                notes.append(f"a space before the recipient {found!r}")
            if found and recipient not in (None, found):
                notes.append(f"two recipients in a header: {recipient!r}, then {found!r}")
            recipient = found or recipient
        words = _RECIPIENT.sub(" ", text).split()
        if marker == START and role is None:
            role, name, channel, note = _read_role(words.pop(0) if words else "", addressed=recipient is not None)
            notes += [note] if note else []
        elif marker == CHANNEL and not words:
            notes.append("<|channel|> without a channel")
        elif marker == CHANNEL:
            if channel is not None:
                notes.append(f"two channels in a header: {channel!r}, then {words[0]!r}")
            channel = words.pop(0)
            if channel not in CHANNELS:
                notes.append(f"unknown channel {channel!r}")
        elif marker == CONSTRAIN and words:
            if content_type is not None:
                stray.append(content_type)
            content_type = "<|constrain|>" + words.pop(0)
        elif marker == CONSTRAIN:
            notes.append("<|constrain|> without a content type")
        if marker == START and words and words[0] in CHANNELS and channel is None:
            channel = words.pop(0)
            notes.append("a channel without <|channel|>")
        if words and marker != CONSTRAIN and content_type is None:
            content_type = words.pop()  # as in `<|channel|>analysis code<|message|>`
        stray += words
    return Header(role or "assistant", name, channel, recipient, content_type), " ".join(stray), notes


def _read_role(word: str, *, addressed: bool) -> tuple[str, str | None, str | None, str | None]:
    """(role, name, channel, repair) of a header's first word, which may have a channel or itself glued to it."""
    role, _, name = word.partition(":")
    if role in ROLES:
        return role, name or None, None, None
    if word.startswith("assistant"):
        rest = word.removeprefix("assistant")
        while rest.startswith("assistant"):
            rest = rest.removeprefix("assistant")
        if rest in ("", *CHANNELS):
            return "assistant", None, rest or None, f"{word!r} where a role should be"
    if not word:
        return "assistant", None, None, "a header without a role"
    return "tool", word, None, None if addressed or "." in word else f"unknown role {word!r}"


def parse(tokens: Iterable[int], role: str | None = "assistant") -> Parser:
    """A parser that has seen all of `tokens`."""
    parser = Parser(role)
    parser.push_all(tokens)
    parser.finish()
    return parser
