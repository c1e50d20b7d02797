"""A TokenGenerator whose engine is one server or several behind URLs, in whatever wire they speak.

Before the first token everything that may pass is tried again, on the next server and then, after a pause, on all of
them; from the first token on, an answer that breaks off is an error, for nobody can continue it as it would have been.
Leaving the iterator closes the connection, which is how these servers are told to stop.
"""

from __future__ import annotations

import asyncio
import ipaddress
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Literal
from urllib.parse import urlsplit

import httpx

from gpt_oss.backends.base import SampledToken
from gpt_oss.backends.bridge import Bridge
from gpt_oss.backends.http import faults
from gpt_oss.backends.http.faults import FaultError, Patience
from gpt_oss.backends.http.fleet import Fleet, Server
from gpt_oss.backends.http.lines import DONE, MalformedError, events
from gpt_oss.backends.http.wire import Heard, Json, Reader, Wire, check
from gpt_oss.backends.prompt import room
from gpt_oss.errors import BackendError, ParameterError
from gpt_oss.params import SamplingParams
from gpt_oss.vocabulary import VOCABULARY_SIZE

USUAL_PATIENCE = Patience()
LARGEST_ERROR = 65_536  # bytes of an error's body that are read


class HttpGenerator:
    """See backends.base.TokenGenerator. urls: without a path of the wire's; key: a bearer token for all of them."""

    def __init__(
        self,
        wire: Wire,
        urls: Sequence[str],
        *,
        context_tokens: int,
        key: str | None = None,
        patience: Patience = USUAL_PATIENCE,
        name: str | None = None,
    ) -> None:
        if not urls:
            raise ParameterError(f"{wire.name} needs the URL of a server: --url http://127.0.0.1:8000")
        self.wire = wire
        self.served_model = wire.model  # what the servers call it
        self.context_tokens = context_tokens
        self.name = name or f"{wire.name} at {', '.join(urls)}"
        self._patience = patience
        self._fleet = Fleet(urls)
        self._bridge = Bridge(self.name)
        self._clients = {server.url: client(server.url, key, patience) for server in self._fleet.servers}

    def generate(self, prompt: Sequence[int], params: SamplingParams) -> AsyncIterator[SampledToken]:
        tokens = [int(token) for token in prompt]
        return self._bridge.stream(lambda: self._answer(tokens, params))

    def generate_sync(self, prompt: Sequence[int], params: SamplingParams) -> Iterator[SampledToken]:
        tokens = [int(token) for token in prompt]
        return self._bridge.stream_sync(lambda: self._answer(tokens, params))

    def close(self) -> None:
        self._bridge.close(self._close_clients())

    async def _close_clients(self) -> None:
        for each in self._clients.values():
            await each.aclose()

    async def _answer(self, prompt: list[int], params: SamplingParams) -> AsyncGenerator[SampledToken, None]:
        """Tries servers until one begins to answer. Raises what TokenGenerator says."""
        check(self.wire.name, self.wire.features, params)
        most = room(prompt, self.context_tokens, VOCABULARY_SIZE)
        limit = min(most, params.max_tokens or most)
        body = self.wire.body(prompt, params, limit)
        for number in range(self._patience.rounds):
            tried: list[str] = []
            asked_s = 0.0
            while (server := self._fleet.choose(prompt, tried)) is not None:
                tried.append(server.url)
                begun = False
                try:
                    with self._fleet.sent(server, prompt):
                        async with aclosing(self._attempt(server, body, prompt, params, limit)) as tokens:
                            async for token in tokens:
                                begun = True
                                yield token
                    return
                except FaultError as fault:
                    if fault.down:
                        self._fleet.failed(server)
                    if begun or not fault.again:
                        raise fault.error from fault.__cause__
                    asked_s = max(asked_s, fault.wait_s or 0.0)
                    last = fault
            wait_s = max(asked_s, self._patience.first_wait_s * 2**number * random.uniform(1.0, 1.5))
            if number + 1 == self._patience.rounds or asked_s > self._patience.longest_wait_s:
                raise last.error from last.__cause__
            await asyncio.sleep(min(wait_s, self._patience.longest_wait_s))

    async def _attempt(
        self, server: Server, body: Json, prompt: list[int], params: SamplingParams, limit: int
    ) -> AsyncGenerator[SampledToken, None]:
        """One request's answer. Raises FaultError."""
        reader = self.wire.reader(prompt, params)
        end = _End(params.stop_token_ids, limit, holds=not self.wire.marks_last)
        async with aclosing(self._heard(server, body, reader, end)) as everything:
            async for heard in everything:
                if end.count == 0 and heard.tokens:
                    self._fleet.answered(server)
                for token in end.tokens(heard):
                    yield token
                if end.reached:
                    return  # which closes the connection: some servers would go on

    async def _heard(self, server: Server, body: Json, reader: Reader, end: _End) -> AsyncGenerator[Heard, None]:
        url, patience = server.url, self._patience
        try:
            async with asyncio.timeout(patience.first_token_s) as clock:
                loop = asyncio.get_running_loop()
                async with self._clients[url].stream("POST", self.wire.path, json=body) as response:
                    if response.status_code != 200:
                        raise faults.of_status(response.status_code, await _beginning(response), response.headers, url)

                    def alive() -> None:
                        if end.count:
                            clock.reschedule(loop.time() + patience.stall_s)

                    chunks = _alive(response, alive)
                    async with aclosing(chunks), aclosing(events(chunks, self.wire.framing)) as parts:
                        async for event in parts:
                            heard = reader.finish() if event is DONE else _read(reader, event, url, end.count)
                            yield heard
                            if event is DONE or heard.ended is not None:
                                return
                            alive()
        except TimeoutError:
            seconds = patience.stall_s if end.count else patience.first_token_s
            raise faults.stalled(url, end.count, seconds) from None
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise faults.of_transport(error, url, end.count) from error
        except httpx.DecodingError as error:
            raise faults.malformed(url, str(error)) from error
        except MalformedError as error:
            raise faults.malformed(url, str(error)) from None
        raise faults.cut_off(url, end.count)


class _End:
    """Finds an answer's end and marks its last token, whether or not the server stops there.

    holds: a token waits for the next event, which may say that it was the last. count: tokens so far, the held one too.
    """

    def __init__(self, stops: Sequence[int], limit: int, *, holds: bool) -> None:
        self.count = 0
        self.reached = False
        self._stops = frozenset(stops)
        self._limit = limit
        self._holds = holds
        self._held: SampledToken | None = None

    def tokens(self, heard: Heard) -> Iterator[SampledToken]:
        """Those that can be given out now. Raises FaultError where a server ends before it began."""
        new = list(heard.tokens)
        if heard.ended == "stop" and heard.stop_token is not None:
            new.append(SampledToken(heard.stop_token))
        for place, token in enumerate(new):
            self.count += 1
            last = heard.ended is not None and place + 1 == len(new)
            reason = self._reason(token.id, heard.ended if last else None)
            if self._held is not None:
                held, self._held = self._held, None
                yield held
            if reason is not None:
                self.reached = True
                yield replace(token, finish_reason=reason)
                return
            if self._holds or heard.ended is not None:
                self._held = token
            else:
                yield token
        if heard.ended is not None:
            if self._held is None:
                raise FaultError(BackendError("the server ended an answer without a last token"), again=self.count == 0)
            self.reached = True
            yield replace(self._held, finish_reason=heard.ended)

    def _reason(self, token: int, ended: Literal["stop", "length"] | None) -> Literal["stop", "length"] | None:
        if token in self._stops:
            return "stop"
        return "length" if self.count >= self._limit else ended


def _read(reader: Reader, event: Json, url: str, count: int) -> Heard:
    if event.get("error"):
        raise faults.of_event(event, url, count)
    try:
        return reader.push(event)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        shown = str(event)
        raise faults.malformed(url, shown if len(shown) <= 200 else shown[:200] + "…") from error


async def _alive(response: httpx.Response, sign: Callable[[], None]) -> AsyncGenerator[bytes, None]:
    """The body's chunks; `sign` is called for each, also for comments that only say that somebody is there."""
    async for chunk in response.aiter_bytes():
        sign()
        yield chunk


async def _beginning(response: httpx.Response) -> bytes:
    body = b""
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > LARGEST_ERROR:
            break
    return body[:LARGEST_ERROR]


def client(url: str, key: str | None, patience: Patience) -> httpx.AsyncClient:
    """For one server. Proxies of the environment are for what is elsewhere."""
    return httpx.AsyncClient(
        base_url=url,
        headers={"Authorization": f"Bearer {key}"} if key else {},
        timeout=httpx.Timeout(None, connect=patience.connect_s, pool=None),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
        trust_env=not is_local(url),
    )


def is_local(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
