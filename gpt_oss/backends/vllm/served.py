"""A running `vllm serve`, or several with the same model: completions with token ids in and out.

`vllm serve openai/gpt-oss-20b` is all that it needs. A prompt goes to the server that has its beginning in its prefix
cache; one that does not answer is left out until it does (http/fleet.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from gpt_oss.backends.http import HttpGenerator, Patience
from gpt_oss.backends.openai_http.detect import detect_all, normal_url
from gpt_oss.backends.openai_http.ids import IdsWire


def open_served(
    model: str,
    urls: Sequence[str],
    *,
    key: str | None = None,
    context_tokens: int | None = None,
    patience: Patience | None = None,
) -> HttpGenerator:
    """model: as the servers call it (--served-model-name); "demo" or "" is the only one that they have.

    Raises ParameterError where they serve another, BackendError where none answers.
    """
    patience = patience or Patience()
    urls = [normal_url(url) for url in urls]
    found = detect_all(urls, model, key, "ids", patience)
    return HttpGenerator(
        IdsWire(found.model, name="vLLM"),
        urls,
        context_tokens=min(context_tokens or found.context_tokens, found.context_tokens),
        key=key,
        patience=patience,
        name=f"vllm {found.model} at {', '.join(urls)}",
    )
