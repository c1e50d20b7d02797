"""What goes wrong between here and a server: what is tried again, what is said, and that nobody computes for nobody."""

from __future__ import annotations

import asyncio
import datetime
import email.utils
import json
import time
from collections.abc import Iterator
from contextlib import aclosing, contextmanager

import pytest

from gpt_oss.backends.base import SampledToken
from gpt_oss.backends.http import HttpGenerator, Patience
from gpt_oss.backends.http.faults import retry_after
from gpt_oss.backends.openai_http.ids import IdsWire
from gpt_oss.errors import BackendError, CapacityError, ContextOverflowError, GptOssError, ParameterError
from gpt_oss.params import SamplingParams
from gpt_oss.vocabulary import RETURN, encode_ordinary
from tests.backends.remote.live import free_port, wait_for
from tests.backends.remote.raw import HEAD, Line, Play, Raw, raw_server

ONE, TWO, THREE = encode_ordinary("one two three")
QUICK = Patience(connect_s=2, first_token_s=20, stall_s=20, rounds=3, first_wait_s=0.01, longest_wait_s=1)
PARAMS = SamplingParams(stop_token_ids=(RETURN,), max_tokens=100)


@contextmanager
def generating(*urls: str, patience: Patience = QUICK) -> Iterator[HttpGenerator]:
    generator = HttpGenerator(IdsWire("m"), urls, context_tokens=1000, patience=patience)
    try:
        yield generator
    finally:
        generator.close()


@contextmanager
def against(*plays: Play, patience: Patience = QUICK) -> Iterator[tuple[HttpGenerator, Raw]]:
    with raw_server(*plays) as raw, generating(raw.url, patience=patience) as generator:
        yield generator, raw


def ask(generator: HttpGenerator, params: SamplingParams = PARAMS) -> list[int]:
    return [token.id for token in generator.generate_sync([1, 2, 3], params)]


def failing(generator: HttpGenerator) -> tuple[list[int], GptOssError]:
    """The tokens that came, and the error after them."""
    tokens: list[SampledToken] = []
    try:
        for token in generator.generate_sync([1, 2, 3], PARAMS):
            tokens.append(token)
    except GptOssError as error:
        return [token.id for token in tokens], error
    raise AssertionError(f"no error came, but {tokens}")


async def whole(line: Line) -> None:
    await line.send(HEAD)
    await line.token(ONE)
    await line.token(TWO)
    await line.token(RETURN, "stop")
    await line.end()


def refusing(status: int, body: bytes = b"", headers: str = "") -> Play:
    return lambda line: line.refuse(status, body, headers)


async def cut_within_an_event(line: Line) -> None:
    await line.send(HEAD)
    await line.token(ONE)
    await line.token(TWO)
    await line.send(b'40\r\ndata: {"choices": [{"token_i')
    line.writer.close()


async def cut_before_the_first(line: Line) -> None:
    await line.send(HEAD)
    line.writer.close()


async def ends_without_an_end(line: Line) -> None:
    """The body is whole, and its last event was no last one."""
    await line.send(HEAD)
    await line.token(ONE)
    await line.send(b"0\r\n\r\n")


async def stalls(line: Line) -> None:
    await line.send(HEAD)
    await line.token(ONE)
    await line.until_gone()


async def says_nothing(line: Line) -> None:
    await line.until_gone()


async def no_json(line: Line) -> None:
    await line.send(HEAD)
    await line.token(ONE)
    await line.chunk(b'data: {"choices": [\n\n')
    await line.until_gone()


async def another_shape(line: Line) -> None:
    await line.send(HEAD)
    await line.chunk(b'data: {"candidates": []}\n\n')
    await line.until_gone()


async def never_stops(line: Line) -> None:
    """Goes on behind the stop token and behind max_tokens."""
    await line.send(HEAD)
    await line.token(ONE)
    await line.token(RETURN)
    leaving = asyncio.ensure_future(line.until_gone())
    while not leaving.done():
        await line.token(TWO)
        await asyncio.sleep(0.01)


async def endless(line: Line) -> None:
    await line.send(HEAD)
    leaving = asyncio.ensure_future(line.until_gone())
    while not leaving.done():
        await line.token(TWO)
        await asyncio.sleep(0.01)


async def alive_but_slow(line: Line) -> None:
    """Comments keep the connection from looking dead, as servers send them while they read a long prompt."""
    await line.send(HEAD)
    await line.token(ONE)
    for _ in range(8):
        await asyncio.sleep(0.25)
        await line.chunk(b": still here\n\n")
    await line.token(RETURN, "stop")
    await line.end()


async def error_within(line: Line) -> None:
    await line.send(HEAD)
    await line.token(ONE)
    await line.chunk(b'data: {"error": {"message": "CUDA out of memory", "code": 500}}\n\n')
    await line.end()


def test_a_connection_refused_is_said_with_what_to_do() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with generating(url) as generator:
        tokens, error = failing(generator)
    assert tokens == []
    assert f"nothing answers at {url}" in str(error)
    assert "--url" in str(error.hint)


def test_a_server_that_comes_up_in_time_is_waited_for() -> None:
    with against(refusing(503), refusing(503), whole) as (generator, raw):
        assert ask(generator) == [ONE, TWO, RETURN]
        assert len(raw.requests) == 3


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_tries_are_bounded(status: int) -> None:
    body = json.dumps({"error": {"message": "the queue is full"}}).encode()
    with against(refusing(status, body)) as (generator, raw):
        tokens, error = failing(generator)
        assert len(raw.requests) == QUICK.rounds
    assert tokens == []
    assert "the queue is full" in str(error)
    assert isinstance(error, CapacityError if status in (429, 503) else BackendError)


def test_retry_after_is_waited_for() -> None:
    with against(refusing(429, headers="Retry-After: 0.4\r\n"), whole) as (generator, _):
        start = time.monotonic()
        assert ask(generator) == [ONE, TWO, RETURN]
        assert time.monotonic() - start >= 0.4  # what was asked for; nothing is said of how much longer


def test_retry_after_beyond_patience_is_said_at_once() -> None:
    with against(refusing(503, headers="Retry-After: 3600\r\n")) as (generator, raw):
        _, error = failing(generator)
        assert len(raw.requests) == 1
    assert isinstance(error, CapacityError)
    assert "3600 s" in str(error)


def test_retry_after_as_a_date_and_as_nonsense() -> None:
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=100)
    assert retry_after(email.utils.format_datetime(soon)) == pytest.approx(100, abs=10)
    assert retry_after("soon") is None
    assert retry_after("-5") == 0


@pytest.mark.parametrize(
    ("status", "body", "kind", "said"),
    [
        (
            400,
            b'{"error": {"message": "temperature must be positive"}}',
            ParameterError,
            "temperature must be positive",
        ),
        (400, b'{"error": "prompt exceeds the maximum context length of 4096"}', ContextOverflowError, "4096"),
        (401, b'{"detail": "no key"}', BackendError, "API key: no key"),
        (404, b'{"error": {"message": "The model `x` does not exist."}}', BackendError, "`x` does not exist"),
        (500, b"<html>proxy</html>", BackendError, "has failed with status 500"),
    ],
)
def test_what_is_final_is_not_tried_again(status: int, body: bytes, kind: type[GptOssError], said: str) -> None:
    with against(refusing(status, body)) as (generator, raw):
        _, error = failing(generator)
        assert len(raw.requests) == 1
    assert type(error) is kind
    assert said in str(error)
    assert "<html>" not in str(error)


def test_a_stream_cut_within_a_token_is_an_error_after_what_came() -> None:
    with against(cut_within_an_event, whole) as (generator, raw):
        tokens, error = failing(generator)
        assert tokens == [ONE, TWO]
        assert "after 2 tokens" in str(error)
        assert len(raw.requests) == 1  # an answer under way is never begun again


def test_a_stream_that_ends_without_its_end_is_an_error() -> None:
    with against(ends_without_an_end) as (generator, _):
        tokens, error = failing(generator)
    assert tokens == [ONE]
    assert "broke off in the middle of an answer, after 1 tokens" in str(error)


def test_a_stream_cut_before_its_first_token_is_tried_again() -> None:
    with against(cut_before_the_first, whole) as (generator, raw):
        assert ask(generator) == [ONE, TWO, RETURN]
        assert len(raw.requests) == 2


def test_a_stalled_stream_is_an_error_and_the_connection_is_closed() -> None:
    patience = Patience(stall_s=0.3, first_token_s=20, rounds=1)
    with against(stalls, patience=patience) as (generator, raw):
        tokens, error = failing(generator)
        assert tokens == [ONE]
        assert "nothing for 0.3 s, after 1 tokens" in str(error)
        wait_for(raw.gone)


def test_a_server_that_never_begins_is_an_error() -> None:
    with against(says_nothing, patience=Patience(first_token_s=0.3, rounds=1)) as (generator, raw):
        tokens, error = failing(generator)
        assert tokens == []
        assert "has begun no answer in 0.3 s" in str(error)
        wait_for(raw.gone)


def test_comments_are_signs_of_life() -> None:
    with against(alive_but_slow, patience=Patience(stall_s=1.6, rounds=1)) as (generator, _):
        assert ask(generator) == [ONE, RETURN]


def test_what_is_no_json_is_shown() -> None:
    with against(no_json) as (generator, raw):
        tokens, error = failing(generator)
        assert tokens == [ONE]
        assert '{"choices": [' in str(error)
        wait_for(raw.gone)


def test_an_event_of_another_shape_is_shown() -> None:
    with against(another_shape) as (generator, _):
        tokens, error = failing(generator)
    assert tokens == []
    assert "candidates" in str(error)


def test_an_error_within_the_stream_is_passed_on() -> None:
    with against(error_within) as (generator, _):
        tokens, error = failing(generator)
    assert tokens == [ONE]
    assert "CUDA out of memory" in str(error)


def test_an_error_in_place_of_a_stream_is_passed_on() -> None:
    """With a 200, and without the newline that ends a line."""
    with against(refusing(200, b'{"error": {"message": "the model is being unloaded"}}')) as (generator, _):
        tokens, error = failing(generator)
    assert tokens == []
    assert "the model is being unloaded" in str(error)


def test_a_server_that_ignores_stop_tokens_is_left() -> None:
    with against(never_stops) as (generator, raw):
        assert ask(generator) == [ONE, RETURN]
        wait_for(raw.gone)


def test_a_server_that_ignores_max_tokens_is_left() -> None:
    with against(endless) as (generator, raw):
        tokens = list(generator.generate_sync([1], SamplingParams(max_tokens=4)))
        assert [token.id for token in tokens] == [TWO] * 4
        assert tokens[-1].finish_reason == "length"
        wait_for(raw.gone)


def test_cancelling_closes_the_connection() -> None:
    async def leave(generator: HttpGenerator) -> None:
        async with aclosing(generator.generate([1], PARAMS)) as tokens:  # type: ignore[type-var]
            async for _ in tokens:
                return

    with against(endless) as (generator, raw):
        asyncio.run(leave(generator))
        wait_for(raw.gone)


def test_cancelling_before_the_first_token_closes_the_connection() -> None:
    async def read(generator: HttpGenerator) -> None:
        async with aclosing(generator.generate([1], PARAMS)) as tokens:  # type: ignore[type-var]
            async for _ in tokens:
                pass

    async def give_up(generator: HttpGenerator) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(read(generator), 0.3)

    with against(says_nothing) as (generator, raw):
        asyncio.run(give_up(generator))
        wait_for(raw.gone)


def test_closing_the_generator_ends_what_is_under_way() -> None:
    with against(endless) as (generator, raw):
        stream = generator.generate_sync([1], PARAMS)
        next(stream)
        generator.close()
        with pytest.raises(BackendError, match="closed"):
            list(stream)
        wait_for(raw.gone)
        with pytest.raises(BackendError, match="closed"):
            ask(generator)


def test_another_server_takes_over_before_the_first_token() -> None:
    with raw_server(whole) as good, generating(f"http://127.0.0.1:{free_port()}", good.url) as generator:
        for _ in range(3):
            assert ask(generator) == [ONE, TWO, RETURN]
        assert len(good.requests) == 3


def test_no_other_server_takes_over_after_it() -> None:
    with raw_server(cut_within_an_event) as one, raw_server(cut_within_an_event) as two:
        with generating(one.url, two.url) as generator:
            tokens, _ = failing(generator)
        assert tokens == [ONE, TWO]
        assert len(one.requests) + len(two.requests) == 1


def test_a_prompt_beyond_the_context_is_never_sent() -> None:
    with against(whole) as (generator, raw):
        with pytest.raises(ContextOverflowError, match="1000"):
            list(generator.generate_sync([1] * 1000, PARAMS))
        assert raw.requests == []


def test_what_is_no_address_is_said() -> None:
    with generating("nonsense://x") as generator:
        _, error = failing(generator)
    assert "is no address of a server" in str(error)
