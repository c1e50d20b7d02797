"""Ollama as a user has it: names of models, OLLAMA_HOST, a context; its own Python package judges what is sent.

The answers are in tests/conformance.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import ollama
import pytest

from gpt_oss.backends.http import HttpGenerator
from gpt_oss.backends.ollama import OllamaWire, ollama_name, open_generator, usual_url, why_not
from gpt_oss.backends.scripted import ScriptedGenerator
from gpt_oss.errors import BackendError, ParameterError
from gpt_oss.load import available_backends
from gpt_oss.params import SamplingParams
from gpt_oss.vocabulary import CALL, ENDOFTEXT, RETURN, encode_with_special
from tests.backends.remote.live import free_port, serving
from tests.backends.remote.servers import Engine, ollama_server

PROMPT = encode_with_special("<|start|>user<|message|>Hi<|end|><|start|>assistant")
STOPS = (RETURN, CALL, ENDOFTEXT)


@contextmanager
def opened(answer: str, **options: int) -> Iterator[tuple[HttpGenerator, Engine]]:
    engine = Engine(ScriptedGenerator(lambda prompt: encode_with_special(answer)), "gpt-oss:20b")
    with serving(ollama_server(engine)) as url:
        generator = open_generator("gpt-oss:20b", [url], **options)
        try:
            yield generator, engine
        finally:
            generator.close()


@pytest.mark.parametrize(
    "answer",
    [
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>𓂀!<|return|>",
        '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a": 1}<|call|>',
    ],
)
def test_the_token_that_ends_is_found_again(answer: str) -> None:
    """Ollama keeps it back; a header with a recipient says that it was a call."""
    with opened(answer) as (generator, _):
        tokens = list(generator.generate_sync(PROMPT, SamplingParams(stop_token_ids=STOPS)))
    assert [token.id for token in tokens] == encode_with_special(answer)
    assert tokens[-1].finish_reason == "stop"


def test_the_context_is_what_ollama_is_told() -> None:
    with opened("<|channel|>final<|message|>Hi<|return|>", context_tokens=3000) as (generator, engine):
        assert generator.context_tokens == 3000
        list(generator.generate_sync(PROMPT, SamplingParams(stop_token_ids=STOPS)))
        options = engine.seen.requests[-1]["options"]
    assert options["num_ctx"] == 3000
    assert options["num_predict"] == 3000 - len(PROMPT)


def test_a_context_beyond_the_model_is_not_asked_for() -> None:
    with opened("a<|return|>", context_tokens=10**6) as (generator, _):
        assert generator.context_tokens == 131_072


def test_what_is_sent_is_what_its_own_package_sends() -> None:
    params = SamplingParams(temperature=0.5, top_k=3, top_p=0.9, min_p=0.1, seed=4, logprobs=2)
    body = OllamaWire("gpt-oss:20b", 4096).body(PROMPT, params, 77)
    theirs = ollama._types.GenerateRequest
    known = set(theirs.model_fields) | {"truncate", "shift"}  # of its API, newer than the package
    assert set(body) <= known
    parsed = theirs.model_validate(json.loads(json.dumps(body)))
    assert parsed.raw is True
    assert parsed.prompt == "<|start|>user<|message|>Hi<|end|><|start|>assistant"
    assert set(body["options"]) <= set(ollama.Options.model_fields) | {"min_p"}


def test_the_server_of_these_tests_answers_what_the_package_reads() -> None:
    engine = Engine(ScriptedGenerator(lambda prompt: encode_with_special("Hi there<|return|>")), "gpt-oss:20b")
    with serving(ollama_server(engine)) as url:
        body = OllamaWire("gpt-oss:20b", 4096).body(PROMPT, SamplingParams(logprobs=1), 77)
        lines = httpx.post(f"{url}/api/generate", json=body, trust_env=False).text.splitlines()
    parts = [ollama.GenerateResponse.model_validate_json(line) for line in lines]
    assert "".join(part.response for part in parts) == "Hi there"
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert parts[-1].done_reason == "stop"
    assert parts[0].logprobs is not None


def test_a_model_that_is_not_pulled() -> None:
    engine = Engine(ScriptedGenerator(lambda prompt: [1]), "gpt-oss:20b")
    with (
        serving(ollama_server(engine)) as url,
        pytest.raises(BackendError, match="does not have gpt-oss:120b") as caught,
    ):
        open_generator("gpt-oss:120b", [url])
    assert caught.value.hint == "ollama pull gpt-oss:120b"


def test_no_ollama_there() -> None:
    with pytest.raises(BackendError, match="nothing answers") as caught:
        open_generator("gpt-oss:20b", [f"http://127.0.0.1:{free_port()}"])
    assert "ollama serve" in str(caught.value.hint)


def test_what_ollama_has_no_word_for_is_refused() -> None:
    with opened("a<|return|>") as (generator, _), pytest.raises(ParameterError, match="Ollama takes no logit_bias"):
        list(generator.generate_sync(PROMPT, SamplingParams(logit_bias={1: 2.0})))


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("gpt-oss:20b", "gpt-oss:20b"),
        ("openai/gpt-oss-120b", "gpt-oss:120b"),
        ("gpt-oss-20b", "gpt-oss:20b"),
        ("demo", "gpt-oss:20b"),
        ("hf.co/me/mine:Q8", "hf.co/me/mine:Q8"),
    ],
)
def test_names_of_models(given: str, name: str) -> None:
    assert ollama_name(given) == name


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("10.0.0.2:8080", "http://10.0.0.2:8080"),
        ("https://ollama.example", "https://ollama.example"),
    ],
)
def test_ollama_host(host: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", host)
    assert usual_url() == url


def test_doctor_tells_whether_one_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt_oss.load.backend_names", lambda: ["ollama"])  # the others are slow to import
    monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{free_port()}")
    assert "no Ollama answers" in str(available_backends()["ollama"])
    engine = Engine(ScriptedGenerator(lambda prompt: [1]))
    with serving(ollama_server(engine)) as url:
        monkeypatch.setenv("OLLAMA_HOST", url)
        assert why_not() is None
