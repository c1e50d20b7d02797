"""What answers at a URL, and how each kind of server is asked; the answers themselves are in tests/conformance."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gpt_oss.backends.http.faults import FaultError
from gpt_oss.backends.http.wire import Heard
from gpt_oss.backends.openai_http import WIRES, open_generator
from gpt_oss.backends.openai_http.detect import UNKNOWN_CONTEXT, normal_url
from gpt_oss.backends.openai_http.ids import IdsWire
from gpt_oss.backends.openai_http.llama_cpp import LlamaCppWire
from gpt_oss.backends.openai_http.sglang import SglangWire
from gpt_oss.backends.scripted import ScriptedGenerator
from gpt_oss.backends.vllm.served import open_served
from gpt_oss.errors import BackendError, ParameterError
from gpt_oss.params import SamplingParams
from gpt_oss.vocabulary import RETURN, encode_ordinary, encode_with_special, token_bytes
from tests.backends.remote.live import free_port, serving
from tests.backends.remote.servers import Engine, llama_cpp_server, sglang_server, text_server, vllm_server
from tests.server.conftest import serving as serving_ours

ANSWER = encode_with_special("<|channel|>final<|message|>Grüße 𓂀 日本!<|return|>")
PROMPT = encode_with_special("<|start|>user<|message|>Hi<|end|><|start|>assistant")
PARAMS = SamplingParams(stop_token_ids=(RETURN,), max_tokens=50)


def engine(context: int = 4096) -> Engine:
    return Engine(ScriptedGenerator(lambda prompt: ANSWER, context_tokens=context))


@contextmanager
def opened(app: Starlette, model: str = "", **options: Any) -> Iterator[Any]:
    with serving(app) as url:
        generator = open_generator(model, [url], **options)
        try:
            yield generator
        finally:
            generator.close()


SERVERS: dict[str, tuple[Callable[[Engine], Starlette], str]] = {
    "vLLM": (vllm_server, "ids"),
    "SGLang": (sglang_server, "sglang"),
    "llama.cpp": (llama_cpp_server, "llama.cpp"),
    "LM Studio": (lambda e: text_server(e, hides=True), "text"),
    "llama-cpp-python": (lambda e: text_server(e, hides=True, owner="me"), "text"),
}


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_is_recognised_and_answers(name: str) -> None:
    app, wire = SERVERS[name]
    with opened(app(engine())) as generator:
        assert f"({name}, {wire})" in generator.name
        assert generator.served_model == "gpt-oss-20b"
        expected = UNKNOWN_CONTEXT if name == "llama-cpp-python" else 4096
        assert generator.context_tokens == expected
        assert [token.id for token in generator.generate_sync(PROMPT, PARAMS)] == ANSWER


def test_a_user_may_ask_for_less_context_and_never_for_more() -> None:
    for wanted, got in ((1000, 1000), (9999, 4096)):
        with opened(vllm_server(engine()), context_tokens=wanted) as generator:
            assert generator.context_tokens == got


def test_sglang_may_send_only_what_is_new() -> None:
    with opened(sglang_server(engine(), incremental=True)) as generator:
        assert [token.id for token in generator.generate_sync(PROMPT, PARAMS)] == ANSWER


def test_our_own_server_gives_ids() -> None:
    with serving_ours(ScriptedGenerator(lambda prompt: ANSWER, context_tokens=4096)) as live:
        generator = open_generator("", [live.url + "/v1"])
        try:
            assert "(gpt-oss, ids) tiny" in generator.name
            assert generator.context_tokens == 4096
            assert [token.id for token in generator.generate_sync(PROMPT, PARAMS)] == ANSWER
        finally:
            generator.close()


@pytest.mark.parametrize(("gives_ids", "wire"), [(True, "ids"), (False, "text")])
def test_a_stranger_is_asked_for_one_token(gives_ids: bool, wire: str) -> None:
    async def completions(request: Request) -> Response:
        body = await request.json()
        assert body["max_tokens"] == 1
        choice = {"text": "!", "finish_reason": "length"} | ({"token_ids": [0]} if gives_ids else {})
        return JSONResponse({"choices": [choice]})

    async def models(request: Request) -> Response:
        return JSONResponse({"data": [{"id": "m"}]})

    routes = [Route("/v1/completions", completions, methods=["POST"]), Route("/v1/models", models)]
    with opened(Starlette(routes=routes)) as generator:
        assert f"(unknown server, {wire}) m" in generator.name
    with opened(Starlette(routes=routes[1:]), wire="text") as generator:
        assert "(unknown server, text)" in generator.name


def test_the_wire_can_be_chosen() -> None:
    with opened(vllm_server(engine()), wire="text") as generator:
        assert "(vLLM, text)" in generator.name
    with pytest.raises(ParameterError, match=r"choose one of auto, ids, text, llama\.cpp, sglang"):
        open_generator("m", ["http://localhost"], wire="soap")


def test_a_model_that_is_not_there_is_said_with_those_that_are() -> None:
    with (
        serving(vllm_server(engine())) as url,
        pytest.raises(ParameterError, match="serves gpt-oss-20b, not gpt-oss-120b"),
    ):
        open_generator("gpt-oss-120b", [url])
    with opened(vllm_server(engine()), model="openai/gpt-oss-20b") as generator:  # vLLM's root
        assert generator.served_model == "gpt-oss-20b"


def test_nobody_there() -> None:
    url = f"127.0.0.1:{free_port()}"
    with pytest.raises(BackendError, match=f"nothing answers at http://{url}") as caught:
        open_generator("m", [url])
    assert "--url" in str(caught.value.hint)


def test_one_of_two_may_be_down() -> None:
    with serving(vllm_server(engine())) as url:
        generator = open_served("", [f"http://127.0.0.1:{free_port()}", url])
        try:
            assert [token.id for token in generator.generate_sync(PROMPT, PARAMS)] == ANSWER
        finally:
            generator.close()


def test_servers_of_two_kinds_are_refused() -> None:
    with (
        serving(vllm_server(engine())) as one,
        serving(sglang_server(engine())) as two,
        pytest.raises(ParameterError, match="several URLs are for servers with the same model"),
    ):
        open_generator("", [one, two])


def test_an_ollama_is_pointed_out() -> None:
    async def models(request: Request) -> Response:
        return JSONResponse({"data": [{"id": "gpt-oss:20b", "owned_by": "library"}]})

    async def version(request: Request) -> Response:
        return JSONResponse({"version": "0.13.5"})

    app = Starlette(routes=[Route("/v1/models", models), Route("/api/version", version)])
    with serving(app) as url, pytest.raises(ParameterError, match="use --backend ollama"):
        open_generator("", [url])


def test_a_key_is_sent_and_its_lack_is_said() -> None:
    async def models(request: Request) -> Response:
        if request.headers.get("authorization") != "Bearer secret":
            return JSONResponse({"error": "Unauthorized"}, 401)
        return JSONResponse({"data": [{"id": "m", "owned_by": "vllm", "max_model_len": 512}]})

    app = Starlette(routes=[Route("/v1/models", models)])
    with opened(app, key="secret") as generator:
        assert generator.context_tokens == 512
    with serving(app) as url, pytest.raises(BackendError, match="wants another API key") as caught:
        open_generator("", [url])
    assert "--url-key" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ("http://h:1/v1/", "http://h:1"),
        ("h:1", "http://h:1"),
        ("https://h/gpt/v1", "https://h/gpt"),
    ],
)
def test_urls_as_people_write_them(given: str, normal: str) -> None:
    assert normal_url(given) == normal


@pytest.mark.parametrize("given", ["ftp://h", "http://", "http://[::"])
def test_what_is_no_url(given: str) -> None:
    with pytest.raises(ParameterError, match="no address of a server"):
        normal_url(given)


# ---- what is asked --------------------------------------------------------------------------------------------------

ASKED = SamplingParams(
    temperature=0.7,
    top_p=0.9,
    top_k=40,
    min_p=0.05,
    seed=2**63 + 5,
    stop_token_ids=(RETURN, 7),
    logprobs=2,
    logit_bias={5: -1.5},
    presence_penalty=0.1,
    frequency_penalty=0.2,
)


@pytest.mark.parametrize("wire", WIRES)
def test_a_body_is_json_and_asks_for_a_stream_within_the_limit(wire: str) -> None:
    body = json.loads(json.dumps(WIRES[wire]("m").body([1, 2], ASKED, 33)))
    assert body["stream"] is True
    assert 33 in (body.get("max_tokens"), body.get("n_predict"), body.get("sampling_params", {}).get("max_new_tokens"))


def test_vllm_is_asked_for_everything() -> None:
    body = IdsWire("m").body([1, 2], ASKED, 33)
    assert body["prompt"] == [1, 2]
    assert body["seed"] == 2**63 + 5 - 2**64  # its seeds have a sign
    assert body["stop_token_ids"] == [RETURN, 7]
    assert (body["ignore_eos"], body["skip_special_tokens"], body["return_token_ids"]) == (True, False, True)
    assert body["logit_bias"] == {"5": -1.5}
    assert IdsWire("m").body([1], SamplingParams(), 1)["top_k"] == -1  # off, for every version


def test_llama_cpp_has_no_filter_but_those_asked_for() -> None:
    body = LlamaCppWire("m").body([1, 2], SamplingParams(), 5)
    assert body["samplers"] == ["temperature", "top_k", "top_p", "min_p"]
    assert (body["top_k"], body["top_p"], body["min_p"], body["repeat_penalty"]) == (0, 1.0, 0.0, 1.0)
    assert body["seed"] == -1
    assert 0 <= LlamaCppWire("m").body([1], ASKED, 5)["seed"] < 2**32 - 1


def test_sglang_ends_where_we_say() -> None:
    sampling = SglangWire("m").body([1], ASKED, 5)["sampling_params"]
    assert sampling["ignore_eos"] is True
    assert sampling["no_stop_trim"] is True
    assert sampling["stop_token_ids"] == [RETURN, 7]


# ---- what is read ---------------------------------------------------------------------------------------------------


def test_llama_cpp_sends_one_id_for_a_character_of_several() -> None:
    """The others are in the text."""
    ids = encode_ordinary("𓂀")
    assert len(ids) > 1
    reader = LlamaCppWire("m").reader([1], SamplingParams())
    event = {"content": "𓂀", "tokens": [ids[-1]], "stop": False, "tokens_predicted": len(ids)}
    assert [token.id for token in reader.push(event).tokens] == ids
    following = {"content": "!", "tokens": [0], "stop": False, "tokens_predicted": len(ids) + 1}
    assert [token.id for token in reader.push(following).tokens] == [0]


def test_vllm_may_keep_the_stop_token_back() -> None:
    reader = IdsWire("m").reader([1], SamplingParams())
    choice = {"text": "", "token_ids": [5], "finish_reason": "stop", "stop_reason": RETURN}
    heard = reader.push({"choices": [choice]})
    assert heard == Heard(heard.tokens, "stop", RETURN)


def test_text_without_ids_is_pointed_out() -> None:
    with pytest.raises(FaultError) as caught:
        IdsWire("m").reader([1], SamplingParams()).push({"choices": [{"text": "Hi", "finish_reason": None}]})
    assert "--wire text" in str(caught.value.error.hint)


@pytest.mark.parametrize("reason", ["abort", "error", "content_filter"])
def test_an_end_of_another_kind_is_an_error(reason: str) -> None:
    with pytest.raises(FaultError, match=reason):
        IdsWire("m").reader([1], SamplingParams()).push({"choices": [{"token_ids": [], "finish_reason": reason}]})


def test_logprobs_by_name_are_understood() -> None:
    """Our own server and old vLLMs write tokens, not ids."""
    end, the = encode_with_special("<|end|> the")
    logprobs = {
        "tokens": [" the"],
        "token_logprobs": [-0.5],
        "top_logprobs": [{"<|end|>": -0.4, " the": -0.5, "\ufffd": -0.1}],
    }
    choice = {"text": " the", "token_ids": [the], "finish_reason": None, "logprobs": logprobs}
    (token,) = IdsWire("m").reader([1], SamplingParams(logprobs=2)).push({"choices": [choice]}).tokens
    assert token.top_logprobs == ((end, -0.4), (the, -0.5))
    assert token_bytes(the) == b" the"
