"""What answers at a URL: which server, which models, how long a context, and so how it is spoken to.

Servers say who they are in /v1/models. One that does not is asked to continue one token with token ids: if ids come
back it takes them, else it gets text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from gpt_oss.backends.http import Json, Patience, Wire, faults
from gpt_oss.backends.http.generator import is_local
from gpt_oss.backends.openai_http.ids import IdsWire, serves_ids
from gpt_oss.backends.openai_http.llama_cpp import LlamaCppWire
from gpt_oss.backends.openai_http.sglang import SglangWire
from gpt_oss.backends.openai_http.text import TextWire
from gpt_oss.errors import BackendError, GptOssError, ParameterError

WIRES: dict[str, Callable[[str], Wire]] = {
    "ids": IdsWire,
    "text": TextWire,
    "llama.cpp": LlamaCppWire,
    "sglang": SglangWire,
}
OWNERS = {  # /v1/models' owned_by: the server, its wire
    "vllm": ("vLLM", "ids"),
    "gpt-oss": ("gpt-oss", "ids"),
    "sglang": ("SGLang", "sglang"),
    "llamacpp": ("llama.cpp", "llama.cpp"),
    "organization_owner": ("LM Studio", "text"),
    "me": ("llama-cpp-python", "text"),
}
OLLAMA_OWNER = "library"
UNKNOWN_CONTEXT = 131_072  # the models' own: a server that has less says so when it is asked for more
PROBE = (40, 3575)  # "I am": what comes next does not matter


@dataclass(frozen=True)
class Found:
    """server: its name, for people."""

    server: str
    wire: str
    model: str
    context_tokens: int


def normal_url(url: str) -> str:
    """Without the path of the API, which the wires know. Raises ParameterError."""
    url = url if "://" in url else f"http://{url}"
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL()
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ParameterError(f"{url} is no address of a server: it looks like http://127.0.0.1:8000")
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def detect_all(urls: Sequence[str], model: str, key: str | None, wire: str, patience: Patience) -> Found:
    """What all servers have in common; the shortest context counts. One that does not answer now may do so later, but
    one must. Raises BackendError, and ParameterError where they are of different kinds."""
    found: list[tuple[str, Found]] = []
    silent: GptOssError | None = None
    for url in urls:
        try:
            found.append((url, detect(url, model, key, wire, patience)))
        except faults.FaultError as fault:
            if not fault.again:
                raise fault.error from fault.__cause__
            silent = fault.error
    if not found:
        assert silent is not None
        raise silent
    (first_url, first), *others = found
    for url, other in others:
        if (other.wire, other.model) != (first.wire, first.model):
            raise ParameterError(
                f"{url} serves {other.model} by {other.wire}, and {first_url} {first.model} by {first.wire}; "
                "several URLs are for servers with the same model"
            )
    shortest = min(each.context_tokens for _, each in found)
    return Found(first.server, first.wire, first.model, shortest)


def detect(url: str, model: str, key: str | None, wire: str, patience: Patience) -> Found:
    """Raises FaultError where nobody answers, else GptOssError."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    timeout = httpx.Timeout(60.0, connect=patience.connect_s)
    with httpx.Client(base_url=url, headers=headers, timeout=timeout, trust_env=not is_local(url)) as client:
        try:
            return _detect(client, url, model, wire)
        except httpx.TransportError as error:
            raise faults.of_transport(error, url, 0) from error


def _detect(client: httpx.Client, url: str, wanted: str, wire: str) -> Found:
    entries = _models(client, url)
    model, entry = _choose(entries, wanted, url)
    owner = entry.get("owned_by") or ""
    if owner == OLLAMA_OWNER and _get(client, "/api/version"):
        raise ParameterError(
            f"{url} is an Ollama: its completions put a template around every prompt; use --backend ollama"
        )
    server, usual = OWNERS.get(owner, ("", ""))
    if not usual:
        server, usual = _ask(client, model, given=wire)
    return Found(server, usual if wire == "auto" else wire, model, _context(client, server, entry))


def _models(client: httpx.Client, url: str) -> list[Json]:
    response = client.get("/v1/models")
    if response.status_code in (404, 405):
        return []  # some have completions only
    if response.status_code != 200:
        raise faults.of_status(response.status_code, response.content, response.headers, url)
    try:
        return [dict(entry) for entry in response.json()["data"]]
    except (ValueError, KeyError, TypeError):
        raise BackendError(f"{url}/v1/models is no list of models as OpenAI's API has it") from None


def _choose(entries: Sequence[Json], wanted: str, url: str) -> tuple[str, Json]:
    names = [str(entry.get("id")) for entry in entries]
    if not names or wanted in names:
        return wanted, next((entry for entry in entries if entry.get("id") == wanted), {})
    alias = next((e for e in entries if wanted in (e.get("aliases") or ()) or e.get("root") == wanted), None)
    if alias is not None:
        return str(alias["id"]), alias
    if wanted in ("", "demo"):
        likely = [entry for entry in entries if "gpt-oss" in str(entry.get("id"))]
        if len(entries) == 1 or likely:
            only = likely[0] if likely else entries[0]
            return str(only["id"]), only
    shown = ", ".join(names[:8]) + (" …" if len(names) > 8 else "")
    asked = f"not {wanted}" if wanted not in ("", "demo") else "and none was chosen"
    raise ParameterError(f"{url} serves {shown}, {asked}", hint="Name one of them as the checkpoint.")


def _ask(client: httpx.Client, model: str, *, given: str) -> tuple[str, str]:
    """(server, wire) of one that does not say who it is."""
    if "default_generation_settings" in _get(client, "/props"):
        return "llama.cpp", "llama.cpp"
    if "is_generation" in _get(client, "/model_info"):
        return "SGLang", "sglang"
    if given != "auto":
        return "unknown server", given
    body = {"model": model, "prompt": list(PROBE), "max_tokens": 1, "temperature": 0, "return_token_ids": True}
    response = client.post("/v1/completions", json=body)
    try:
        if response.status_code == 200 and serves_ids(response.json()):
            return "unknown server", "ids"
    except (ValueError, KeyError, TypeError, IndexError):
        pass
    return "unknown server", "text"


def _context(client: httpx.Client, server: str, entry: Json) -> int:
    places: list[Any] = [entry.get("max_model_len"), entry.get("context_length")]
    if server == "llama.cpp":
        meta = entry.get("meta")
        settings = _get(client, "/props").get("default_generation_settings")
        places = [content.get("n_ctx") for content in (settings, meta) if isinstance(content, dict)]
    elif server == "LM Studio":
        listed: list[Json] = _get(client, "/api/v0/models").get("data", [])
        own: Json = next((each for each in listed if each.get("id") == entry.get("id")), {})
        places = [own.get("loaded_context_length"), own.get("max_context_length")]
    return next((place for place in places if isinstance(place, int) and place > 0), UNKNOWN_CONTEXT)


def _get(client: httpx.Client, path: str) -> Json:
    """A JSON object, or an empty one where there is none."""
    response = client.get(path)
    try:
        content = response.json() if response.status_code == 200 else {}
    except ValueError:
        content = {}
    return content if isinstance(content, dict) else {}
