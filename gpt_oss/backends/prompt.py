"""What every engine that is not our own checks of a prompt before it asks for an answer."""

from __future__ import annotations

from collections.abc import Sequence

from gpt_oss.errors import ContextOverflowError, ParameterError


def room(prompt: Sequence[int], context_tokens: int, vocab_size: int, *, least: int = 1) -> int:
    """How many tokens an answer may have, at least `least`. Raises ParameterError for what is no prompt, and
    ContextOverflowError for one that leaves less."""
    if not prompt:
        raise ParameterError("the prompt has no tokens")
    bad = next((token for token in prompt if not 0 <= token < vocab_size), None)
    if bad is not None:
        raise ParameterError(f"the prompt has token {bad}, and the model's vocabulary is 0 to {vocab_size - 1}")
    if context_tokens - len(prompt) < least:
        raise ContextOverflowError.of(len(prompt), context_tokens)
    return context_tokens - len(prompt)
