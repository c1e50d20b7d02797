"""What requests cost that are made to hold up a server, and how soon it answers others meanwhile.

    python -m benchmarks.hostile              fifty such requests at a time, on the scripted generator
    python -m benchmarks.hostile --each       one after the other, with what each of them costs

The server is a process of its own. /health is asked every 20 ms, and a stream of an answer goes on next to it; the last
line has the waits for both, in milliseconds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

HEALTH_EVERY_S = 0.02
TOKEN_EVERY_S = 0.02
AT_A_TIME = 50
CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
Attack = tuple[str, str, bytes]  # its name, a path, a body


def attacks() -> list[Attack]:
    """Each of the kinds, over the APIs that it can come in by."""
    found = [(f"{name}: {path}", path, body) for name, path, body in (*_texts(), *_grammars())]
    found += [(f"schema {name}", CHAT, _chat(schema)) for name, schema in schemas().items()]
    found += [(f"schema {name}, messages", MESSAGES, _messages(schema)) for name, schema in schemas().items()]
    return found


def _texts() -> Iterator[Attack]:
    """Bodies that are large, in bytes or in numbers."""
    said = {"role": "user", "content": "Hi"}
    for path, field in ((CHAT, "messages"), (RESPONSES, "input"), (MESSAGES, "messages"), ("/tokenize", "messages")):
        lists = b'{"%s": [' % field.encode() + b"[]," * 10_000_000 + b"[]]}"
        yield "30 MB of lists", path, lists
        yield "90,000 lists", path, b'{"%s": [' % field.encode() + b"[]," * 90_000 + b"[]]}"
        for count in (90_000, 20_000):
            yield f"{count:,} messages", path, json.dumps({field: [said] * count, "max_tokens": 9}).encode()
    text = "lorem ipsum, [dolor] " * 300_000
    for path, body in (
        (CHAT, {"messages": [{"role": "user", "content": text}]}),
        (RESPONSES, {"input": text}),
        (f"{RESPONSES}/input_tokens", {"input": text}),
        (MESSAGES, {"messages": [{"role": "user", "content": text}], "max_tokens": 9}),
        (f"{MESSAGES}/count_tokens", {"messages": [{"role": "user", "content": text}]}),
        ("/v1/completions", {"prompt": text}),
        ("/tokenize", {"prompt": text}),
        ("/api/generate", {"prompt": text, "raw": True}),
    ):
        yield "6 MB of text", path, json.dumps(body).encode()
    yield "900,000 ids", "/detokenize", json.dumps({"tokens": [17] * 900_000}).encode()
    tools = [{"type": "function", "function": {"name": f"f{number}"}} for number in range(2_000)]
    yield "2,000 tools", CHAT, json.dumps({"messages": [said], "tools": tools}).encode()


def _grammars() -> Iterator[Attack]:
    chain = "start: r0\n" + "\n".join(f"r{i}: r{i + 1}" for i in range(20_000)) + '\nr20000: "x"'
    yield "a chain of rules", CHAT, _custom("lark", chain)
    yield "a?a?a?…", CHAT, _custom("lark", "start: /" + "a?" * 50_000 + "/")
    yield "a?a?a?… in regex", CHAT, _custom("regex", "a?" * 50_000)
    words = " | ".join(f'"w{i}"' for i in range(50_000))
    yield "50,000 words", CHAT, _custom("lark", f"start: {words}")
    yield "parentheses", CHAT, _custom("regex", "(" * 100_000 + ")" * 100_000)


def schemas() -> dict[str, dict[str, Any]]:
    """Schemas that are slow, deep or large to compile."""
    chain = {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(3_000)}
    nested = {f"d{i}": {"type": "object", "properties": {"a": {"$ref": f"#/$defs/d{i + 1}"}}} for i in range(3_000)}
    kinds = [
        {"type": "object", "properties": {f"k{i}_{j}": {"type": "string"} for j in range(5)}} for i in range(1_000)
    ]
    last = {"d3000": {"type": "string"}}
    return {
        "chain": {"type": "object", "properties": {"a": {"$ref": "#/$defs/d0"}}, "$defs": chain | last},
        "nested": {"type": "object", "properties": {"a": {"$ref": "#/$defs/d0"}}, "$defs": nested | last},
        "pattern": {"type": "object", "properties": {"a": {"type": "string", "pattern": "a?" * 50_000}}},
        "anyOf": {"type": "object", "properties": {"a": {"anyOf": kinds}}},
        "allOf": {"type": "object", "properties": {"a": {"allOf": [
            {"anyOf": [{"type": "string", "pattern": f"^{c}{i}"} for c in "abc"]} for i in range(200)]}}},
        "required": {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(3_000)},
                     "required": [f"p{i}" for i in range(0, 3_000, 2)]},
        "enum": {"type": "object", "properties": {"a": {"enum": [f"v{i}" for i in range(50_000)]}}},
    }  # fmt: skip


def _custom(syntax: str, definition: str) -> bytes:
    grammar = {"type": "grammar", "grammar": {"syntax": syntax, "definition": definition}}
    tool = {"type": "custom", "custom": {"name": "t", "format": grammar}}
    return json.dumps({"messages": [{"role": "user", "content": "Hi"}], "tools": [tool]}).encode()


def _chat(schema: dict[str, Any]) -> bytes:
    tool = {"type": "function", "function": {"name": "f", "parameters": schema, "strict": True}}
    return json.dumps({"messages": [{"role": "user", "content": "Hi"}], "tools": [tool]}).encode()


def _messages(schema: dict[str, Any]) -> bytes:
    tools = [{"name": "f", "input_schema": schema}]
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9, "tools": tools}
    return json.dumps(body).encode()


class Watch:
    """Asks /health, and reads a stream, until it is told to stop.

    waits: seconds for each answer of /health. gaps: between the pieces of the stream.
    """

    def __init__(self, url: str) -> None:
        self.waits: list[float] = []
        self.gaps: list[float] = []
        self._over = threading.Event()
        self._url = url
        self._threads = [threading.Thread(target=work) for work in (self._ask, self._read)]

    def __enter__(self) -> Watch:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        with httpx.Client(timeout=120) as client:
            while not self._over.wait(HEALTH_EVERY_S):
                began = time.perf_counter()
                client.get(f"{self._url}/health").raise_for_status()
                self.waits.append(time.perf_counter() - began)

    def _read(self) -> None:
        body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
        with httpx.Client(timeout=120) as client:
            while not self._over.is_set():
                with client.stream("POST", self._url + CHAT, json=body) as answer:
                    last = time.perf_counter()
                    for _ in answer.iter_raw():
                        now = time.perf_counter()
                        self.gaps.append(now - last)
                        last = now
                        if self._over.is_set():
                            break


def percentile(values: list[float], share: float) -> float:
    """In milliseconds."""
    ordered = sorted(values)
    return round(1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1)


async def send_all(url: str, given: list[Attack], at_a_time: int) -> dict[str, tuple[int, float]]:
    """Status and seconds of each."""
    found: dict[str, tuple[int, float]] = {}
    places = asyncio.Semaphore(at_a_time)
    async with httpx.AsyncClient(timeout=300, limits=httpx.Limits(max_connections=200)) as client:

        async def send(name: str, path: str, body: bytes) -> None:
            async with places:
                began = time.perf_counter()
                answer = await client.post(url + path, content=body, headers={"content-type": "application/json"})
                found[name] = answer.status_code, time.perf_counter() - began

        await asyncio.gather(*(send(*attack) for attack in given))
    return found


def _serve() -> None:
    """The server, on a free port that it prints."""
    import socket

    import uvicorn

    from gpt_oss.backends.scripted import Reply, ScriptedGenerator
    from gpt_oss.harmony.grammar import answer_grammar
    from gpt_oss.harmony.trials import contain
    from gpt_oss.server.app import create_app
    from gpt_oss.server.core.aside import start_threads
    from gpt_oss.server.gate import ServerOptions
    from gpt_oss.server.runner import Runner
    from gpt_oss.server.service import Service
    from gpt_oss.vocabulary import encode_with_special

    start_threads()
    contain().warm()
    answer_grammar(json_object=True)
    said = encode_with_special("<|channel|>final<|message|>" + "word " * 3_000)
    generator = ScriptedGenerator(lambda prompt: Reply(said if len(prompt) < 100 else said[:20], delay_s=TOKEN_EVERY_S))
    app = create_app(Service(Runner(generator), "tiny"), ServerOptions(ollama=True))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        print(listener.getsockname()[1], flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[listener])


@contextmanager
def server() -> Iterator[str]:
    command = [sys.executable, "-m", "benchmarks.hostile", "--serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = f"http://127.0.0.1:{int(process.stdout.readline())}"
        while True:
            try:
                httpx.get(f"{url}/health")
                break
            except httpx.ConnectError:
                time.sleep(0.1)
        try:
            yield url
        finally:
            process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hostile")
    parser.add_argument("--each", action="store_true")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        _serve()
        return
    given = attacks()
    with server() as url, Watch(url) as watch:
        time.sleep(3)
        quiet = percentile(watch.waits, 0.99)
        watch.waits.clear()
        watch.gaps.clear()
        found = asyncio.run(send_all(url, given, 1 if args.each else AT_A_TIME))
    for name, (status, seconds) in found.items():
        print(f"{status} {seconds:7.2f} s  {name}")
    said = {"requests": len(found), "quiet_p99_ms": quiet}
    for name, values in (("health", watch.waits), ("stream", watch.gaps)):
        said |= {f"{name}_p99_ms": percentile(values, 0.99), f"{name}_longest_ms": percentile(values, 1.0)}
    print(json.dumps(said))


if __name__ == "__main__":
    main()
