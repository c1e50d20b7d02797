"""Completions that are echoed and scored, at once and in pieces, and the tokenizer over HTTP."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion

from gpt_oss.backends.base import SampledToken
from gpt_oss.backends.scripted import Reply, ScriptedGenerator
from gpt_oss.engine.engine import Engine
from gpt_oss.load import LoadOptions, load
from gpt_oss.model.checkpoint import open_checkpoint
from gpt_oss.server.apis.completions.read import read
from gpt_oss.server.apis.completions.write import Choice, shown
from gpt_oss.server.core.aside import aside
from gpt_oss.server.core.continuation import Continuation
from gpt_oss.vocabulary import END, RETURN, decode, decode_bytes, encode_with_special
from tests.engine.test_engine import Gated
from tests.evals.choices import Reference, pairs
from tests.server.conftest import Live, Scripted, serving

Json = dict[str, Any]
SNOW = encode_with_special("🜁")  # a character of several tokens


def post(live: Live, **body: Any) -> Json:
    response = httpx.post(f"{live.url}/v1/completions", json=body, timeout=60)
    assert response.status_code == 200, response.text
    answer: Json = response.json()
    Completion.model_construct(**answer)
    return answer


def streamed(live: Live, **body: Any) -> list[Json]:
    """The choices of a stream put together: texts, lists and ids one after the other."""
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    lines = httpx.post(f"{live.url}/v1/completions", json=body, timeout=60).text.split("\n\n")
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line not in ("", "data: [DONE]")]
    assert lines[-2] == "data: [DONE]"
    wholes: dict[int, Json] = {}
    for piece in (choice for event in events for choice in event["choices"]):
        whole = wholes.setdefault(piece["index"], piece)
        if whole is piece:
            continue
        assert not {"prompt_token_ids", "prompt_logprobs"} & piece.keys()  # said once
        whole["text"] += piece["text"]
        whole["finish_reason"] = piece["finish_reason"]
        for name in piece["logprobs"] or {}:
            whole["logprobs"][name] += piece["logprobs"][name]
        whole.get("token_ids", []).extend(piece.get("token_ids", []))
    assert events[-1]["usage"]["total_tokens"] > 0
    return [wholes[index] for index in sorted(wholes)]


def likelihood(before: list[int], token: int) -> float:
    return -len(before) - token / 1e6


@pytest.fixture
def live() -> Iterator[Live]:
    answer = encode_with_special(" rain there<|return|>")
    with serving(ScriptedGenerator(lambda _: Reply(answer, [-0.5] * len(answer)), likelihood=likelihood)) as live:
        yield live


# ---- echo and log probabilities -------------------------------------------------------------------------------------


def test_an_echoed_prompt_has_its_log_probabilities(live: Live) -> None:
    prompt = encode_with_special("<|start|>Hello")
    answer = post(live, prompt="<|start|>Hello", echo=True, logprobs=1, max_tokens=50)
    (choice,) = answer["choices"]
    lists = choice["logprobs"]
    assert choice["text"] == "<|start|>Hello rain there"
    assert lists["tokens"] == ["<|start|>", "Hello", " rain", " there", "<|return|>"]
    assert lists["text_offset"] == [0, 9, 14, 19, 25]
    assert lists["token_logprobs"] == [None, likelihood(prompt[:1], prompt[1]), -0.5, -0.5, -0.5]
    assert lists["top_logprobs"][0] is None
    assert lists["top_logprobs"][1:3] == [{"Hello": lists["token_logprobs"][1]}, {" rain": -0.5}]
    assert answer["usage"] == {
        "prompt_tokens": 2,
        "completion_tokens": 3,
        "total_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


@pytest.mark.parametrize(
    ("body", "tokens", "scored"),
    [
        ({"echo": True}, None, 0),
        ({"logprobs": 2}, [" rain", " there", "<|return|>"], 0),
        ({"echo": True, "logprobs": 0}, ["a", " b", " rain", " there", "<|return|>"], 1),
        ({"echo": True, "logprobs": 0, "max_tokens": 0}, ["a", " b"], 1),
        ({"logprobs": 0, "max_tokens": 0}, [], 0),
        ({"prompt_logprobs": 0}, None, 1),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_prompts_are_scored_only_where_it_is_asked(
    live: Live, body: Json, tokens: list[str] | None, scored: int, stream: bool
) -> None:
    body = {"prompt": "a b", "max_tokens": 50, **body}
    (choice,) = streamed(live, **body) if stream else post(live, **body)["choices"]
    assert (choice["logprobs"] and choice["logprobs"]["tokens"]) == tokens
    assert len(live.generator.scored) == scored
    assert len(live.generator.calls) == (body["max_tokens"] > 0)
    text = "a b" if body.get("echo") else ""
    assert choice["text"] == text + (" rain there" if body["max_tokens"] else "")
    assert choice["finish_reason"] == ("stop" if body["max_tokens"] else "length")


def test_with_no_likely_tokens_asked_for_each_is_listed_alone(live: Live) -> None:
    lists = post(live, prompt="a b", echo=True, logprobs=0)["choices"][0]["logprobs"]
    assert [list(top) for top in lists["top_logprobs"][1:]] == [[" b"], [" rain"], [" there"], ["<|return|>"]]


def test_the_list_of_vllm(live: Live) -> None:
    (choice,) = post(live, prompt=[1, 2, 3], prompt_logprobs=1)["choices"]
    assert choice["logprobs"] is None
    assert choice["prompt_logprobs"] == [
        None,
        {"2": {"logprob": likelihood([1], 2), "rank": 1, "decoded_token": decode([2])}},
        {"3": {"logprob": likelihood([1, 2], 3), "rank": 1, "decoded_token": decode([3])}},
    ]


def test_several_prompts_and_texts_score_each_prompt_once(live: Live) -> None:
    body = {"prompt": [[1, 2], [3, 4, 5]], "n": 3, "echo": True, "logprobs": 1, "max_tokens": 50}
    choices = post(live, **body)["choices"]
    assert [len(choice["logprobs"]["tokens"]) for choice in choices] == [5, 5, 5, 6, 6, 6]
    assert sorted(live.generator.scored) == [[1, 2], [3, 4, 5]]
    assert streamed(live, **body) == choices


def test_a_stream_is_the_answer_in_pieces(live: Live) -> None:
    body = {"prompt": [1, *SNOW[:-1]], "echo": True, "logprobs": 1, "prompt_logprobs": 1, "return_token_ids": True}
    assert streamed(live, **body, stop=["ther"]) == post(live, **body, stop=["ther"])["choices"]


@pytest.mark.parametrize("max_tokens", [-1, None, 3])
def test_how_many_tokens(max_tokens: int | None) -> None:
    with serving(ScriptedGenerator(lambda _: [5] * 40)) as live:
        answer = post(live, prompt="a", max_tokens=max_tokens)
    assert answer["usage"]["completion_tokens"] == {-1: 40, None: 16, 3: 3}[max_tokens]


def test_a_character_that_the_prompt_leaves_open_is_completed() -> None:
    with serving(ScriptedGenerator([SNOW[1:], SNOW[1:]])) as live:
        (choice,) = post(live, prompt=[7, SNOW[0]], echo=True, logprobs=0)["choices"]
        (open_end,) = post(live, prompt=[7, SNOW[0]], echo=True, logprobs=0, max_tokens=0)["choices"]
    assert choice["text"] == decode([7]) + "🜁"
    lists = choice["logprobs"]
    assert lists["tokens"][1:] == [shown(token) for token in SNOW]
    assert lists["tokens"][1].startswith("bytes:\\x")
    assert lists["text_offset"] == [0] + [len(decode([7]))] * len(SNOW)
    assert open_end["text"] == decode([7]) + "\ufffd"


def test_tokens_can_be_called_by_their_ids(live: Live) -> None:
    lists = post(live, prompt=[1, 2], echo=True, logprobs=1, max_tokens=1, return_tokens_as_token_ids=True)
    assert lists["choices"][0]["logprobs"]["tokens"][:2] == ["token_id:1", "token_id:2"]
    assert "token_id:2" in lists["choices"][0]["logprobs"]["top_logprobs"][1]


def test_the_usual_ends_can_be_ignored(live: Live) -> None:
    post(live, prompt="a", ignore_eos=True, stop_token_ids=[END])
    assert live.generator.calls[-1].params.stop_token_ids == (END,)
    post(live, prompt="a")
    assert RETURN in live.generator.calls[-1].params.stop_token_ids


@given(st.lists(st.integers(0, 255) | st.sampled_from([*SNOW, 200_006]), min_size=1, max_size=30), st.integers(0, 5))
def test_offsets_count_characters_of_the_decoded_text(tokens: list[int], stride: int) -> None:
    """At any cut of the tokens into a prompt and pieces, whatever bytes they are."""
    prompt, rest = tokens[: 1 + stride], tokens[1 + stride :]
    wanted = read({"prompt": prompt, "echo": True, "logprobs": 0, "stream": True})
    choice = Choice(0, Continuation(prompt, ()), [SampledToken(token, -1.0) for token in prompt])
    pieces = [choice.piece(wanted, choice.continuation.echo())]
    for number, token in enumerate(rest):
        last = "length" if number + 1 == len(rest) else None
        text = choice.continuation.push(SampledToken(token, -1.0, finish_reason=last))  # type: ignore[arg-type]
        if number % (stride + 1) == 0 or last:
            pieces.append(choice.piece(wanted, text))
    offsets = [offset for piece in pieces for offset in piece["logprobs"]["text_offset"]]
    assert len(offsets) == len(tokens)
    for number, offset in enumerate(offsets):
        try:
            assert offset == len(decode_bytes(tokens[:number]).decode())
        except UnicodeDecodeError:
            assert len(decode(tokens[:number])) - 3 <= offset <= len(decode(tokens[: number + 1]))


def test_a_token_that_is_never_drawn_has_the_least_there_is(babbling: Live) -> None:
    lists = post(babbling, prompt=[5, 200_018], echo=True, logprobs=1, max_tokens=0)["choices"][0]["logprobs"]
    assert lists["token_logprobs"] == [None, -9999.0]


def test_a_real_engine_streams_what_it_answers(babbling: Live) -> None:
    body = {"prompt": [list(range(300)), [5]], "echo": True, "logprobs": 3, "temperature": 0, "max_tokens": 5}
    whole = post(babbling, **body)["choices"]
    assert [len(choice["logprobs"]["tokens"]) for choice in whole] == [305, 6]
    for choice, again in zip(whole, streamed(babbling, **body), strict=True):
        for name in ("tokens", "text_offset"):
            assert choice["logprobs"][name] == again["logprobs"][name]
        assert choice["text"] == again["text"]
        assert np.allclose(choice["logprobs"]["token_logprobs"][1:], again["logprobs"]["token_logprobs"][1:], atol=0.05)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"max_tokens": -2}, "max_tokens"),
        ({"logprobs": 21}, "logprobs"),
        ({"prompt_logprobs": -1}, "prompt_logprobs"),
        ({"echo": "perhaps"}, "echo"),
        ({"prompt": ["a"] * 9, "n": 16}, "prompt"),
        ({"prompt": [[1], [201_088]]}, "prompt"),
    ],
)
def test_what_is_wrong_is_named(live: Live, body: Json, param: str) -> None:
    response = httpx.post(f"{live.url}/v1/completions", json={"prompt": "a", **body})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


@pytest.mark.parametrize("stream", [False, True])
def test_a_backend_that_cannot_score_says_so(stream: bool) -> None:
    class Deaf(ScriptedGenerator):
        score = None  # type: ignore[assignment]

    with serving(Deaf([[5]] * 2)) as live:
        body = {"prompt": "a b", "echo": True, "logprobs": 1, "stream": stream}
        response = httpx.post(f"{live.url}/v1/completions", json=body)
        assert response.status_code == 400
        assert "scripted cannot score a prompt" in response.json()["error"]["message"]
        assert post(live, prompt="a b", logprobs=1)["choices"][0]["text"]


def test_a_client_that_leaves_while_its_prompt_is_scored_ends_the_work() -> None:
    model = Gated(blocks=200, window_blocks=200, vocab=24)
    engine = Engine(model)
    with serving(engine) as live:
        content = json.dumps({"prompt": [1] * 500, "echo": True, "logprobs": 1}).encode()
        host, port = live.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(content)}\r\n\r\n"
            connection.sendall(head.encode() + content)
            assert model.reached.wait(60)  # and now it leaves
        for _ in range(500):
            if live.runner.running == 0:
                break
            time.sleep(0.01)
        model.gate.set()
        for _ in range(500):
            if engine.stats().cancelled:
                break
            time.sleep(0.01)
        assert (engine.stats().cancelled, live.runner.running) == (1, 0)
        assert engine.stats().steps < 4  # of the four that the prompt has
    engine.close()


# ---- lm-eval --------------------------------------------------------------------------------------------------------


def test_what_lm_eval_asks_is_what_the_reference_says() -> None:
    """The very requests of its `local-completions` with tokenizer_backend=remote, and what it makes of the answers."""
    wanted = pairs()[:4]
    generator = load("demo", LoadOptions(precision="exact", context_tokens=2048, threads=1))
    with open_checkpoint("demo") as checkpoint, serving(generator) as live:
        expected = Reference(checkpoint).scores(wanted)
        info = httpx.get(f"{live.url}/tokenizer_info").json()
        assert info["eos_token"] == "<|return|>"
        inputs, lengths = [], []
        for context, continuation in wanted:
            whole, first = (
                httpx.post(f"{live.url}/tokenize", json={"prompt": text, "add_special_tokens": False}).json()["tokens"]
                for text in (context + continuation, context)
            )
            inputs.append(whole)
            lengths.append(len(first))
        asked = {"model": "demo", "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True}
        answers = [post(live, **asked, prompt=inputs), post(live, **asked, prompt=[c + e for c, e in wanted])]
    generator.close()
    for answer in answers:
        choices = sorted(answer["choices"], key=lambda choice: choice["index"])
        for choice, length, (score, greedy) in zip(choices, lengths, expected, strict=True):
            logprobs = choice["logprobs"]["token_logprobs"][length:-1]
            tops = choice["logprobs"]["top_logprobs"][length:-1]
            assert sum(logprobs) == pytest.approx(score, abs=0.1)
            assert all(own == max(top.values()) for own, top in zip(logprobs, tops, strict=True)) == greedy


# ---- the tokenizer --------------------------------------------------------------------------------------------------


def test_texts_become_tokens_and_tokens_texts(live: Live) -> None:
    text = "<|start|>user<|message|>naïve ☃ 🜁"
    answer = httpx.post(f"{live.url}/tokenize", json={"model": "x", "prompt": text, "return_token_strs": True}).json()
    tokens = encode_with_special(text)
    assert answer == {
        "count": len(tokens),
        "max_model_len": 131_072,
        "tokens": tokens,
        "token_strs": [shown(token) for token in tokens],
    }
    assert httpx.post(f"{live.url}/detokenize", json={"tokens": tokens}).json() == {"prompt": text}
    plain = httpx.post(f"{live.url}/tokenize", json={"prompt": ""}).json()
    assert (plain["count"], plain["tokens"], plain["token_strs"]) == (0, [], None)


def test_messages_become_the_prompt_that_they_are_answered_with(scripted: Scripted) -> None:
    live = scripted("<|channel|>final<|message|>Hi<|return|>")
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
    body: Json = {"messages": messages, "tools": [tool], "reasoning_effort": "low"}
    httpx.post(f"{live.url}/v1/chat/completions", json=body)
    answer = httpx.post(f"{live.url}/tokenize", json=body).json()
    assert answer["tokens"] == live.generator.prompts[0]
    without = httpx.post(f"{live.url}/tokenize", json={**body, "add_generation_prompt": False}).json()["tokens"]
    assert decode(answer["tokens"]) == decode(without) + "<|start|>assistant"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("tokenize", {}, "prompt"),
        ("tokenize", {"prompt": 5}, "prompt"),
        ("tokenize", {"prompt": "a", "messages": []}, "messages"),
        ("tokenize", {"messages": [{"role": "nobody"}]}, "messages[0].role"),
        ("tokenize", {"messages": [], "reasoning_effort": "wild"}, "reasoning_effort"),
        ("tokenize", {"messages": [], "continue_final_message": True}, "continue_final_message"),
        ("detokenize", {}, "tokens"),
        ("detokenize", {"tokens": [1, 201_088]}, "tokens"),
        ("detokenize", {"tokens": [-1]}, "tokens"),
        ("detokenize", {"tokens": "abc"}, "tokens"),
        ("detokenize", {"tokens": ["1"]}, "tokens.0"),
        ("detokenize", {"tokens": [True]}, "tokens.0"),
    ],
)
def test_what_cannot_be_tokenized_is_named(live: Live, path: str, body: Json, param: str) -> None:
    response = httpx.post(f"{live.url}/{path}", json=body)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param


def test_a_million_blanks_do_not_stop_it(live: Live) -> None:
    text = " " * 1_000_000 + "x"
    answer = httpx.post(f"{live.url}/tokenize", json={"prompt": text}, timeout=60).json()
    assert decode(answer["tokens"]) == text
    escaped = httpx.post(f"{live.url}/tokenize", content=b'{"prompt": "a\\ud800b"}').json()
    assert decode(escaped["tokens"]) == "a\ufffdb"
    assert post(live, prompt="\\", echo=True)["choices"][0]["text"].startswith("\\")


def test_requests_are_read_on_a_thread() -> None:
    async def where() -> int:
        return await aside(threading.get_ident)

    assert asyncio.run(where()) != threading.get_ident()


def test_where_many_wait_a_prompt_to_be_scored_waits_too() -> None:
    """Scores take a turn of the server's, like answers."""
    released = threading.Event()

    class Slow(ScriptedGenerator):
        def score_sync(self, prompt: Sequence[int], top: int) -> Iterator[SampledToken]:
            for token in super().score_sync(prompt, top):
                while not released.is_set():
                    yield token
                yield token

    with serving(Slow([[5]] * 3), max_concurrent=1, max_queue=0) as live, httpx.Client(timeout=30) as client:
        body = {"prompt": [1, 2], "echo": True, "logprobs": 0, "max_tokens": 0}
        first = threading.Thread(target=lambda: client.post(f"{live.url}/v1/completions", json=body))
        first.start()
        while live.runner.running == 0:
            time.sleep(0.01)
        assert httpx.post(f"{live.url}/v1/completions", json=body).status_code == 429
        released.set()
        first.join(30)
