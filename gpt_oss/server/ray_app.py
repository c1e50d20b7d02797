"""More than one machine: replicas of the server under Ray Serve. `serve run gpt_oss.server.ray_app:app checkpoint=demo`

    client ─► Ray's proxy ─► Front: reads the body, says what it has in common with others
                               └─► PrefixRouter: which replica has that cached, and is not busy ─► Replica: the server

A replica is the whole application of app.py with its own model; they share the store. What is asked and answered goes
through as it is, byte for byte, piece by piece. Knows no route's meaning but affinity.py's.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import re
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import ray
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.config import AutoscalingConfig, RequestRouterConfig
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from gpt_oss.errors import BackendError, CapacityError, ParameterError
from gpt_oss.server.affinity import Affinity, affinity_of
from gpt_oss.server.app import create_app
from gpt_oss.server.command import add_arguments, open_service, store_address, user_seal_key
from gpt_oss.server.core.errors import RequestError, as_response
from gpt_oss.server.core.stream import event
from gpt_oss.server.gate import ServerOptions
from gpt_oss.server.ray_router import PrefixRouter
from gpt_oss.server.state.store import Store

NOT_HERE = ("host", "port", "new_key", "help", "debug")  # of the flags of `gpt-oss serve`
PASSED_ON = ("type", "asgi", "http_version", "method", "scheme", "path", "raw_path", "query_string", "root_path",
             "headers", "client", "server")  # fmt: skip
ATTEMPTS = 3  # of a request whose replica died before it said anything
CANCEL_S = 5.0  # that a cancelled request may take to end by itself
MOST_RESPONSES = 100_000  # whose replicas a front remembers; those of others are looked up in the store
_RESPONSE = re.compile(rb'"id":\s?"(resp_\w+)"')


# ---- what can be said on the command line ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Fleet:
    """replicas: of the model, where their number is fixed; else between min_replicas and max_replicas, so many that
    each has target_ongoing requests under way (0: three quarters of max_concurrent). gpus, cpus: that Ray sets aside
    for each. fronts: processes that read requests and route them. slack: how far beyond its fair share of the requests
    a replica may be loaded for the sake of its cache. gather_ms: how long a replica gathers what a stream says before
    it sends it, for every piece costs processes on the way a millisecond or two. stalled_s: a replica that has work and
    computes nothing for so long is replaced."""

    replicas: int = 0
    min_replicas: int = 1
    max_replicas: int = 1
    target_ongoing: float = 0.0
    gpus: float = 0.0
    cpus: float = 1.0
    fronts: int = 1
    slack: float = 1.25
    gather_ms: float = 20.0
    stalled_s: float = 300.0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise ParameterError(re.sub(r"--([a-z-]+)", lambda flag: flag[1].replace("-", "_"), message))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="gpt_oss.server.ray_app", add_help=False, allow_abbrev=False)
    add_arguments(parser)
    return parser


def fleet_and_flags(arguments: Mapping[str, Any]) -> tuple[Fleet, list[str]]:
    """Ray's `name=value` arguments: those of Fleet, and the rest as the command line of `gpt-oss serve`.

    Raises ParameterError for what is neither, or not of its type.
    """
    known = {each.name: type(each.default) for each in fields(Fleet)}
    flags = {name for action in _parser()._actions for name in (action.dest, *action.option_strings)}
    switches = {action.dest for action in _parser()._actions if action.nargs == 0}
    mine: dict[str, Any] = {}
    words: list[str] = []
    for name, value in arguments.items():
        if name in known:
            mine[name] = _number(name, value, known[name])
        elif name not in flags or name in NOT_HERE:
            possible = ", ".join(sorted([*known, *(each for each in flags if each[0] != "-" and each not in NOT_HERE)]))
            raise ParameterError(f"there is no argument {name!r}; there are {possible}")
        elif name == "checkpoint":
            words.append(str(value))
        elif name in switches:
            words += _switch(name, value)
        else:
            for each in value if isinstance(value, list | tuple) else [value]:
                words += [f"--{name.replace('_', '-')}", str(each)]
    return _checked(Fleet(**mine)), words


def _switch(name: str, value: Any) -> list[str]:
    """The flag, where it is on. Raises ParameterError for what is neither true nor false."""
    said = str(value).lower()
    if said not in ("true", "false", "1", "0"):
        raise ParameterError(f"{name} is true or false, not {value!r}")
    return [f"--{name.replace('_', '-')}"] if said in ("true", "1") else []


def _number(name: str, value: Any, kind: type) -> Any:
    try:
        return kind(value)
    except (TypeError, ValueError):
        raise ParameterError(f"{name} is a{'n integer' if kind is int else ' number'}, not {value!r}") from None


def _checked(fleet: Fleet) -> Fleet:
    if fleet.replicas:
        fleet = Fleet(**{**vars(fleet), "min_replicas": fleet.replicas, "max_replicas": fleet.replicas})
    if not 0 < fleet.min_replicas <= fleet.max_replicas:
        raise ParameterError(
            f"min_replicas {fleet.min_replicas} and max_replicas {fleet.max_replicas} must be 1 or more, in this order"
        )
    if (
        fleet.fronts < 1
        or fleet.slack < 1
        or fleet.gpus < 0
        or fleet.cpus < 0
        or fleet.target_ongoing < 0
        or fleet.gather_ms < 0
    ):
        raise ParameterError("fronts and slack must be 1 or more; gpus, cpus, target_ongoing and gather_ms 0 or more")
    return fleet


def app(arguments: dict[str, Any]) -> serve.Application:
    """What `serve run` builds. Raises ParameterError."""
    fleet, words = fleet_and_flags(arguments)
    args = _parser().parse_args(words)
    _check_shared(args)
    if Path(args.checkpoint).exists():
        args.checkpoint = str(Path(args.checkpoint).absolute())
    if not args.no_store:
        args.store = store_address(args)
        Store(args.store).close()  # made or brought up to date once, and not by all replicas at the same time
    if args.backend == "vllm" and not args.url:  # in the replica's own process, on the GPUs that Ray set aside
        args.gpus = max(1, int(fleet.gpus))
    if args.threads is None and not fleet.gpus:
        args.threads = max(1, int(fleet.cpus))
    options: dict[str, Any] = {
        "max_ongoing_requests": args.max_concurrent + args.max_queue,
        "max_queued_requests": args.max_queue,
        "graceful_shutdown_timeout_s": args.drain + 10,
        "ray_actor_options": {"num_gpus": fleet.gpus, "num_cpus": fleet.cpus},
        "request_router_config": RequestRouterConfig(
            request_router_class=PrefixRouter, request_router_kwargs={"slack": fleet.slack}
        ),
        **_size(fleet, args.max_concurrent),
    }
    replicas = serve.deployment(Replica).options(name="replica", **options).bind(args, user_seal_key(args), fleet)
    front = serve.deployment(Front).options(
        name="front", num_replicas=fleet.fronts, max_ongoing_requests=10_000, ray_actor_options={"num_cpus": 0}
    )
    return front.bind(replicas, args)


def _size(fleet: Fleet, max_concurrent: int) -> dict[str, Any]:
    if fleet.min_replicas == fleet.max_replicas:
        return {"num_replicas": fleet.min_replicas}
    return {
        "autoscaling_config": AutoscalingConfig(
            min_replicas=fleet.min_replicas,
            max_replicas=fleet.max_replicas,
            target_ongoing_requests=fleet.target_ongoing or max(1.0, 0.75 * max_concurrent),
        )
    }


def _check_shared(args: argparse.Namespace) -> None:
    """Raises ParameterError where replicas on several machines would each have a store of their own."""
    machines = sum(node["Alive"] for node in ray.nodes()) if ray.is_initialized() else 1
    if machines > 1 and not args.no_store and "://" not in (args.store or ""):
        raise ParameterError(
            f"replicas on {machines} machines need one store",
            hint="Say store=postgres://user@host/database, or no_store=true.",
        )


# ---- a request on its way -------------------------------------------------------------------------------------------


@dataclass
class Asked:
    """home: the replica that computed `affinity.response`. number: the replica with this place in their order, whatever
    the affinity. of: how many there are; the router fills it in."""

    scope: dict[str, Any]
    body: bytes
    affinity: Affinity
    home: str | None = None
    number: int | None = None
    of: int = 0


@dataclass(frozen=True)
class Answering:
    """The first thing that a replica says. name: its own."""

    name: str
    of: int


class Front:
    """Reads requests, and passes on what the chosen replica answers."""

    def __init__(self, replicas: DeploymentHandle, args: argparse.Namespace) -> None:
        self._replicas: Any = replicas.options(stream=True)
        self._open_to_all = bool(args.api_key or args.key_file or args.no_key)
        self._store = None if args.no_store else Store(args.store)
        self._homes: OrderedDict[str, str] = OrderedDict()

    async def __call__(self, request: Request) -> Response:
        try:
            self._check_client(request)
            asked = await self._asked(request)
            if asked.scope["method"] == "GET" and _path(asked.scope) == "/metrics":
                return await self._metrics(asked)
            return _Forwarded(self, asked)
        except RequestError as error:
            return JSONResponse(as_response(error)[1], error.status)

    def _check_client(self, request: Request) -> None:
        try:
            local = request.client is None or ipaddress.ip_address(request.client.host).is_loopback
        except ValueError:
            local = False
        if not (local or self._open_to_all):
            raise RequestError(
                "this server has no key, so that only its own machine may ask; start it with api_key or no_key=true",
                status=403,
            )

    async def _asked(self, request: Request) -> Asked:
        body = bytearray()
        most = ServerOptions.largest_body
        async for piece in request.stream():
            body += piece
            if len(body) > most:
                raise RequestError(f"the body is larger than {most >> 20} MiB", status=413)
        scope = {name: request.scope[name] for name in PASSED_ON if name in request.scope}
        affinity = affinity_of(request.method, _path(scope), bytes(body))
        return Asked(scope, bytes(body), affinity, await self._home(affinity.response))

    async def _home(self, response: str | None) -> str | None:
        if response is None:
            return None
        known = self._homes.get(response)
        return known if known or self._store is None else await self._store.owner(response)

    def answered(self, body: bytes, name: str) -> None:
        """Note who computes the response whose beginning this is."""
        found = _RESPONSE.search(body[:4096])
        if found:
            self._homes[found[1].decode()] = name
            while len(self._homes) > MOST_RESPONSES:
                self._homes.popitem(last=False)

    async def pieces(self, asked: Asked) -> AsyncIterator[Answering | list[Message]]:
        """What a replica says. Closing the generator ends the request there."""
        stream = self._replicas.answer.remote(asked)
        try:
            async for piece in stream:
                yield piece
        finally:
            stream.cancel()

    async def _metrics(self, asked: Asked) -> Response:
        """The pages of all replicas as one, with a label that says which."""
        pages: dict[str, str] = {}
        asked.number, asked.of = 0, 1
        while asked.number < asked.of:
            name, status, body = "", 0, b""
            async for piece in self.pieces(asked):
                if isinstance(piece, Answering):
                    name, asked.of = piece.name, piece.of
                    continue
                status = next((m["status"] for m in piece if m["type"] == "http.response.start"), status)
                body += b"".join(m.get("body", b"") for m in piece)
            if status != 200:
                return Response(body, status, media_type="application/json")
            pages[name] = body.decode()
            asked.number += 1
        return Response(merged(pages), media_type=CONTENT_TYPE_LATEST)


class _Forwarded(Response):
    """Another replica is asked where one dies before it has said anything; afterwards, the client is told."""

    def __init__(self, front: Front, asked: Asked) -> None:
        super().__init__()
        self._front = front
        self._asked = asked

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started: Message | None = None
        # An answer may be computed twice; a change of a conversation may not be made twice.
        repeatable = scope["method"] == "GET" or "/conversations" not in _path(self._asked.scope)
        for attempt in range(ATTEMPTS):
            try:
                name = ""
                first = True
                async for piece in self._front.pieces(self._asked):
                    if isinstance(piece, Answering):
                        name = piece.name
                        continue
                    for message in piece:
                        if message["type"] == "http.response.start":
                            started = message
                        elif first:
                            self._front.answered(message.get("body", b""), name)
                            first = False
                        await send(message)
                return
            except BackPressureError:
                refused = CapacityError("all replicas have as many requests waiting as they take; try again later")
                return await _error(refused, scope, receive, send)
            except RayActorError:
                lost = BackendError("the replica that computed this was lost; ask again")
                if started is not None:
                    return await _broken_off(lost, started, send)
                if not repeatable or attempt == ATTEMPTS - 1:
                    return await _error(lost, scope, receive, send)


async def _error(error: Exception, scope: Scope, receive: Receive, send: Send) -> None:
    status, body, headers = as_response(error)
    await JSONResponse(body, status, headers)(scope, receive, send)


async def _broken_off(error: Exception, started: Message, send: Send) -> None:
    """An error event, as OpenAI's and Anthropic's clients raise it; what is no stream ends short of its length."""
    headers = {name.lower(): value for name, value in started["headers"]}
    last = b""
    if headers.get(b"content-type", b"").startswith(b"text/event-stream"):
        last = event({"type": "error", **as_response(error)[1]}, "error")
    await send({"type": "http.response.body", "body": last, "more_body": False})


def _path(scope: Mapping[str, Any]) -> str:
    return str(scope["path"]).removeprefix(scope.get("root_path", ""))


def merged(pages: Mapping[str, str]) -> bytes:
    """Prometheus's pages by the name of their replica, as one page with a label `replica`."""
    families: dict[str, Metric] = {}
    for name, page in pages.items():
        for family in text_string_to_metric_families(page):
            whole = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                if not sample.name.endswith("_created"):
                    labels = {**sample.labels, "replica": name}
                    whole.add_sample(sample.name, labels, sample.value, sample.timestamp, sample.exemplar)
    registry = CollectorRegistry()
    registry.register(_Families(list(families.values())))
    return generate_latest(registry)


@dataclass(frozen=True, eq=False)
class _Families:
    families: Sequence[Metric]

    def collect(self) -> Sequence[Metric]:
        return self.families


# ---- a replica ------------------------------------------------------------------------------------------------------


class Watchdog:
    """Tells a model that is stuck from one that has nothing to do."""

    def __init__(self, stalled_s: float) -> None:
        self._stalled_s = stalled_s
        self._steps = -1
        self._since = time.monotonic()

    def look(self, now: Any) -> None:
        """now: an EngineStats. Raises BackendError where there is work and has been no step for so long."""
        if now.steps != self._steps or not (now.running or now.waiting):
            self._steps, self._since = now.steps, time.monotonic()
        elif time.monotonic() - self._since > self._stalled_s:
            waiting = now.running + now.waiting
            raise BackendError(f"{waiting} requests, and no step of the model in {self._stalled_s:.0f} s")


class Replica:
    """The server of app.py, asked through Ray and not through a socket."""

    async def __init__(  # type: ignore[misc]  # Ray awaits it
        self, args: argparse.Namespace, seal_key: bytes | None, fleet: Fleet
    ) -> None:
        self._name: str = serve.get_replica_context().replica_tag
        self._stack = ExitStack()
        self._watchdog = Watchdog(fleet.stalled_s)
        self._gather_s = fleet.gather_ms / 1000
        opening = open_service(args, owner=self._name, seal_key=seal_key)
        service, options = await asyncio.to_thread(self._stack.enter_context, opening)
        if service.store is not None:
            await _mark_those_of_dead_replicas(service.store)
        self._generator: Any = service.runner.generator
        self._app = create_app(service, options)
        self._lifespan = self._app.router.lifespan_context(self._app)
        await self._lifespan.__aenter__()

    async def answer(self, asked: Asked) -> AsyncIterator[Answering | list[Message]]:
        """Answering, then the application's messages, as many at a time as there are. Closing it ends the request."""
        yield Answering(self._name, asked.of)
        said: asyncio.Queue[Message | None] = asyncio.Queue()
        gone = asyncio.Event()
        body: list[Message] = [{"type": "http.request", "body": asked.body, "more_body": False}]

        async def receive() -> Message:
            if body:
                return body.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def run() -> None:
            try:
                await self._app({**asked.scope, "state": {}}, receive, said.put)
            finally:
                said.put_nowait(None)

        task = asyncio.ensure_future(run())
        try:
            over = ended = begun = False
            while not over:
                messages = [await said.get()]
                if begun:  # the first piece goes at once
                    await asyncio.sleep(self._gather_s)
                while not said.empty():
                    messages.append(said.get_nowait())
                over = messages[-1] is None
                ready = [message for message in messages if message is not None]
                if ready:
                    begun = ready[-1]["type"] == "http.response.body"
                    ended = begun and not ready[-1].get("more_body", False)
                    yield ready
            if not ended:
                await task  # whose error Ray makes a 500 of; after a whole answer it is in the log already
        finally:
            gone.set()  # the application ends what it does for a client that has hung up
            await asyncio.wait({task}, timeout=CANCEL_S)
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task

    def check_health(self) -> None:
        """Ray replaces a replica for which this raises."""
        stats = getattr(self._generator, "stats", None)
        if stats is not None:  # None: somebody else's server computes, and watches itself
            self._watchdog.look(stats())

    async def __del__(self) -> None:
        lifespan = getattr(self, "_lifespan", None)
        if lifespan is not None:
            await lifespan.__aexit__(None, None, None)
        await asyncio.to_thread(self._stack.close)


async def _mark_those_of_dead_replicas(store: Store) -> None:
    """What they had under way is incomplete. A store's replicas are all of one Ray cluster."""
    context = serve.get_replica_context()
    for owner in await store.owners_under_way():
        actor = f"SERVE_REPLICA::{context.app_name}#{context.deployment}#{owner}"
        try:
            await asyncio.to_thread(ray.get_actor, actor, namespace="serve")
        except ValueError:
            await store.mark_interrupted(owner)
