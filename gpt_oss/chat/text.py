"""Text that a model, a tool or a web page wrote, made fit to be shown. Knows nothing of terminals but their dangers."""

from __future__ import annotations

# What could move the cursor, change colours or the title, answer for the user, or turn the order of letters around
# (Unicode's bidirectional controls). Line breaks and tabs stay.
_PICTURES = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"}
_C1 = {code: f"<{code:02X}>" for code in range(0x80, 0xA0)}
_BIDI = {code: f"<U+{code:04X}>" for code in (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))}
_LINES = {0x2028: "\n", 0x2029: "\n", 0x85: "\n"}
_SURROGATES = dict.fromkeys(range(0xD800, 0xE000), "\ufffd")
_VISIBLE = {**_PICTURES, 0x7F: "\u2421", **_C1, **_BIDI, **_LINES, **_SURROGATES}


def visible(text: str) -> str:
    """The text with every control character as something to be seen (`ESC` is ␛), and lone surrogates as U+FFFD."""
    return text.replace("\r\n", "\n").translate(_VISIBLE)


def well_formed(text: str) -> str:
    """The text with lone surrogates (bytes that were no UTF-8) as U+FFFD: what a prompt can hold."""
    return text.translate(_SURROGATES)


def one_line(text: str, width: int | None = None) -> str:
    """All of it on one line, single blanks between words, cut with an ellipsis behind `width` characters."""
    line = " ".join(visible(text).split())
    return line if width is None or len(line) <= width else line[: max(0, width - 1)] + "…"


def plural(count: int, noun: str) -> str:
    """`1 line`, `2 lines`, `1,200 lines`."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
