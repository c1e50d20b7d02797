"""Any server that continues a prompt over HTTP: vLLM, SGLang, llama.cpp, LM Studio, gpt-oss itself, and what else has
OpenAI's completions endpoint. detect.py finds out which it is; each wire is one file.

Where a server takes token ids it gets ours and gives its own back, so that Harmony is ours to the last token. Where it
knows text only, http/text.py stands between.
"""

from __future__ import annotations

from collections.abc import Sequence

from gpt_oss.backends.http import HttpGenerator, Patience
from gpt_oss.backends.openai_http.detect import WIRES, Found, detect_all, normal_url
from gpt_oss.errors import ParameterError

__all__ = ["WIRES", "Found", "open_generator"]


def open_generator(
    model: str,
    urls: Sequence[str],
    *,
    key: str | None = None,
    wire: str = "auto",
    context_tokens: int | None = None,
    patience: Patience | None = None,
) -> HttpGenerator:
    """A generator over servers that all have the same model.

    model: as the servers call it; "demo" or "" is the only one that they have. wire: one of WIRES, or "auto" to ask.
    context_tokens: at most what the servers say that they have.
    Raises ParameterError for a URL, a model or a wire that cannot be, BackendError where no server answers.
    """
    if not urls:
        raise ParameterError("openai_http needs the URL of a server: --url http://127.0.0.1:8000")
    if wire != "auto" and wire not in WIRES:
        raise ParameterError(f"there is no wire {wire!r}; choose one of auto, {', '.join(WIRES)}")
    patience = patience or Patience()
    urls = [normal_url(url) for url in urls]
    found = detect_all(urls, model, key, wire, patience)
    return HttpGenerator(
        WIRES[found.wire](found.model),
        urls,
        context_tokens=min(context_tokens or found.context_tokens, found.context_tokens),
        key=key,
        patience=patience,
        name=f"openai_http ({found.server}, {found.wire}) {found.model} at {', '.join(urls)}",
    )
