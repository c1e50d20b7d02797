"""Model outputs for ScriptedGenerator, written the way the models write them."""

from __future__ import annotations

from gpt_oss.vocabulary import encode_with_special


def spoken(text: str) -> list[int]:
    """The tokens of Harmony text, special tokens by name; the prompt has written `<|start|>assistant` before it."""
    return encode_with_special(text)


def thinks(text: str) -> str:
    return f"<|channel|>analysis<|message|>{text}<|end|><|start|>assistant"


def final(text: str) -> str:
    return f"<|channel|>final<|message|>{text}<|return|>"


def calls(recipient: str, arguments: str, *, channel: str = "commentary", end: str = "<|call|>") -> str:
    return f"<|channel|>{channel} to={recipient} <|constrain|>json<|message|>{arguments}{end}"
