"""Log probabilities of tokens as OpenAI's APIs have them."""

from __future__ import annotations

from typing import Any

from gpt_oss.backends.base import SampledToken
from gpt_oss.vocabulary import token_bytes

LEAST = -9999.0  # for what cannot be said in JSON


def logprob_of(token: SampledToken) -> dict[str, Any]:
    top = [_token(identifier, logprob) for identifier, logprob in token.top_logprobs]
    return {**_token(token.id, token.logprob or 0.0), "top_logprobs": top}


def _token(identifier: int, logprob: float) -> dict[str, Any]:
    raw = token_bytes(identifier)
    return {"token": raw.decode(errors="replace"), "logprob": max(logprob, LEAST), "bytes": list(raw)}


def shown(token: int, *, as_ids: bool = False) -> str:
    """The name that a token has in lists."""
    if as_ids:
        return f"token_id:{token}"
    raw = token_bytes(token)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
