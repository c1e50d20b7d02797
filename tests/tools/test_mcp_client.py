"""The client against servers made with the official SDK, and against some that break the rules."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from openai_harmony import Message, Role

from gpt_oss.errors import MissingDependencyError, ParameterError
from gpt_oss.tools.mcp_client import LONGEST_ANSWER, McpError, McpServer, connect
from gpt_oss.tools.tool import text_of
from gpt_oss.tools.toolbox import Toolbox

pytestmark = pytest.mark.asyncio(loop_scope="module")  # that of the server which tests share

SERVER = [sys.executable, str(Path(__file__).with_name("mcp_server.py"))]

# Writes a line that is no JSON, then speaks the protocol of 2026-07-28 only, which has no handshake.
MODERN_ONLY = """
import json, sys
print("Starting up!", flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    reply = {"jsonrpc": "2.0", "id": asked.get("id")}
    done = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"}
    match asked["method"]:
        case "server/discover":
            reply["result"] = {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}, **done}
        case "tools/list":
            reply["result"] = {"tools": [{"name": "hello", "inputSchema": {"type": "object"}}], **done}
        case "tools/call":
            reply["result"] = {"content": [{"type": "text", "text": "hello"}], **done}
        case _:
            data = {"supported": ["2026-07-28"], "requested": "2025-06-18"}
            reply["error"] = {"code": -32022, "message": "too old", "data": data}
    print(json.dumps(reply), flush=True)
"""


async def call(server: McpServer, tool: str, **arguments: object) -> str:
    """What the model reads after a call."""
    function = next(known for known in server.tools if known.name == tool)
    message = Message.from_role_and_content(Role.ASSISTANT, json.dumps(arguments))
    (answer,) = await function.process(message.with_recipient(f"functions.{tool}").with_channel("commentary"))
    return text_of(answer)


def pids(file: Path) -> list[int]:
    return [int(line) for line in file.read_text().split()]


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def starts(tmp_path: Path) -> Path:
    """A file with the process id of every server of the test; none of them may be left over."""
    return tmp_path / "starts"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared() -> AsyncIterator[McpServer]:
    """A server for calls that leave it as it was."""
    server = await connect(SERVER)
    yield server
    await server.close()


@pytest_asyncio.fixture(loop_scope="module")
async def server(starts: Path, tmp_path: Path) -> AsyncIterator[McpServer]:
    server = await connect(SERVER, env={"STARTS": str(starts), "CANCELLED": str(tmp_path / "cancelled")})
    yield server
    await server.close()
    assert not any(runs(pid) for pid in pids(starts))


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Where the server is served over HTTP."""
    port = free_port()
    with serve(port):
        yield port


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@contextlib.contextmanager
def serve(port: int) -> Iterator[None]:
    """The server over HTTP, which answers until the context ends."""
    with subprocess.Popen([*SERVER, str(port)]) as process:
        while process.poll() is None:
            with contextlib.suppress(httpx.ConnectError):
                httpx.get(f"http://127.0.0.1:{port}/")
                break
            time.sleep(0.02)
        yield
        process.kill()


async def test_tools_become_functions(shared: McpServer) -> None:
    names = [tool.name for tool in shared.tools]
    assert names[:3] == ["add", "echo", "big"]
    assert shared.name == "test_server"
    echo = Toolbox.of(shared.tools).find("functions.echo")
    assert echo is not None
    declaration = echo[0].tool_config.tools[0]
    assert declaration.description == "The tool echo."
    assert declaration.parameters is not None
    assert declaration.parameters["properties"]["text"]["description"] == "what to say"


async def test_calls(shared: McpServer) -> None:
    assert await call(shared, "add", a=1, b=2) == "3"
    assert await call(shared, "echo", text="zażółć 🦆\n<|end|>") == "zażółć 🦆\n<|end|>"
    assert await call(shared, "nothing") == ""


async def test_what_is_not_text_is_described(shared: McpServer) -> None:
    assert (await call(shared, "several")).splitlines() == [
        "first",
        "[image: image/png, 70 bytes]",
        "[resource: file:///notes.txt (notes, text/plain)]",
        "[resource: memo://1]",
        "remember",
        "[resource: blob://2, 3 bytes]",
        "last",
    ]
    assert json.loads(await call(shared, "data")) == {"city": "Łódź", "celsius": -3}


async def test_a_big_result_is_cut(shared: McpServer) -> None:
    text = await call(shared, "big", characters=2_000_000)
    assert text[:LONGEST_ANSWER] == "é" * LONGEST_ANSWER
    assert text[LONGEST_ANSWER:] == "\n[1,900,000 more characters were left out]"


async def test_errors_are_answers(shared: McpServer) -> None:
    assert await call(shared, "fail") == "Error: no such file: a.txt"
    assert await call(shared, "refuse") == "Error: b must be a number"
    assert (await call(shared, "add")).startswith("Error: ")  # an exception in the server
    assert await call(shared, "add", a=1, b=2) == "3"


async def test_names_are_legal_and_unique(shared: McpServer) -> None:
    """`crash later` and `crash/later` are the same name once they are legal."""
    names = [tool.name for tool in shared.tools]
    assert "crash_later" in names
    assert "test_server_crash_later" in names
    assert len(set(names)) == len(names)


async def test_names_that_others_have(starts: Path) -> None:
    env = {"STARTS": str(starts)}
    first = await connect(SERVER, env=env, name="first")
    second = await connect(SERVER, env=env, name="the second!", taken=[tool.name for tool in first.tools])
    try:
        assert "the_second__add" in [tool.name for tool in second.tools]
        assert await call(second, "the_second__add", a=1, b=2) == "3"
        Toolbox.of([*first.tools, *second.tools])  # raises where two have the same name
    finally:
        await second.close()
        await first.close()


async def test_calls_run_side_by_side(shared: McpServer) -> None:
    slow = asyncio.create_task(call(shared, "sleep"))
    sums = await asyncio.gather(*(call(shared, "add", a=n, b=n) for n in range(50)))
    assert sums == [str(2 * n) for n in range(50)]
    slow.cancel()
    with pytest.raises(asyncio.CancelledError):
        await slow


async def test_a_cancelled_call_is_cancelled_in_the_server(server: McpServer, tmp_path: Path) -> None:
    task = asyncio.create_task(call(server, "sleep"))
    assert await call(server, "echo", text="it has begun") == "it has begun"
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    while not (tmp_path / "cancelled").exists():
        await asyncio.sleep(0.01)
    assert await call(server, "add", a=1, b=2) == "3"


async def test_a_slow_server(starts: Path) -> None:
    server = await connect(SERVER, env={"STARTS": str(starts)}, timeout_s=5)
    try:
        text = await call(server, "sleep")
        assert text == "Error: the MCP server 'test_server' did not answer within 5 s; the call was stopped"
        assert await call(server, "add", a=1, b=2) == "3"
    finally:
        await server.close()
    assert not any(runs(pid) for pid in pids(starts))


async def test_a_server_that_dies_in_a_call_is_started_once_more(server: McpServer, starts: Path) -> None:
    lost = "Error: the MCP server 'test_server' was lost during the call (Connection closed)"
    assert (await call(server, "crash")).startswith(lost)
    assert await call(server, "add", a=1, b=2) == "3"
    assert (await call(server, "crash")).startswith(lost)
    assert (await call(server, "crash")).startswith(lost)
    gone = "Error: the MCP server 'test_server' has ended again and is not started once more"
    assert await call(server, "add", a=1, b=2) == gone
    assert len(pids(starts)) == 3


async def test_a_server_that_dies_between_calls(server: McpServer, starts: Path) -> None:
    """Nobody notices."""
    assert await call(server, "crash_later") == "soon"
    while server._link is not None and server._link.alive:  # the process may be gone before its end is read
        await asyncio.sleep(0.01)
    assert await call(server, "add", a=1, b=2) == "3"
    assert len(pids(starts)) == 2


async def test_a_server_that_changes_its_tools(server: McpServer) -> None:
    assert await call(server, "change") == "changed"
    (big,) = [tool for tool in server.tools if tool.name == "big"]
    names = [tool.name for tool in await server.refresh()]
    assert "big" not in names
    assert "fresh" in names
    assert await call(server, "fresh", text="new") == "new"
    message = Message.from_role_and_content(Role.ASSISTANT, '{"characters": 1}').with_recipient("functions.big")
    (answer,) = await big.process(message)
    assert text_of(answer).startswith(
        "Error: the MCP server 'test_server' no longer has this tool; its tools are now: add,"
    )


async def test_changes_are_seen_by_the_next_call(server: McpServer) -> None:
    await call(server, "change")
    assert await call(server, "echo", text="x") == "x"
    assert "fresh" in [tool.name for tool in server.tools]


async def test_close_ends_calls_from_any_task(server: McpServer, starts: Path) -> None:
    task = asyncio.create_task(call(server, "sleep"))
    await call(server, "echo", text="it has begun")
    await asyncio.create_task(server.close())
    assert not runs(pids(starts)[0])
    assert (await task).startswith("Error: ")
    assert await call(server, "add", a=1, b=2) == "Error: the MCP server 'test_server' is closed"
    await server.close()


async def test_a_cancelled_connect_leaves_no_process(starts: Path) -> None:
    program = (
        "import os, time, pathlib; pathlib.Path(os.environ['STARTS']).write_text(str(os.getpid())); time.sleep(600)"
    )
    task = asyncio.create_task(connect([sys.executable, "-c", program], env={"STARTS": str(starts)}))
    while not (starts.exists() and starts.read_text()):
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not runs(pids(starts)[0])


async def test_an_event_loop_that_ends_leaves_no_process(starts: Path) -> None:
    async def forgets_to_close() -> None:
        await connect(SERVER, env={"STARTS": str(starts)})

    await asyncio.to_thread(lambda: asyncio.run(forgets_to_close()))
    assert not runs(pids(starts)[0])


async def test_a_server_of_the_newest_protocol_only() -> None:
    server = await connect([sys.executable, "-c", MODERN_ONLY], name="modern")
    try:
        assert await call(server, "hello") == "hello"
    finally:
        await server.close()


async def test_nothing_is_written_to_the_screen() -> None:
    """Neither the noise of a server nor what the SDK has to say about it."""
    noisy = [sys.executable, "-c", f"import sys; print('warning!', file=sys.stderr, flush=True)\n{MODERN_ONLY}"]
    program = f"""
import asyncio
from gpt_oss.tools.mcp_client import connect
async def main():
    await (await connect({noisy!r})).close()
asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert await process.communicate() == (b"", b"")
    assert process.returncode == 0


async def test_servers_that_do_not_start() -> None:
    with pytest.raises(
        McpError, match=r"^the MCP server 'no-such-program --really' cannot be reached: FileNotFoundError"
    ):
        await connect("no-such-program --really")
    with pytest.raises(McpError, match="cannot be reached: Connection closed") as caught:
        await connect([sys.executable, "-c", "raise SystemExit('the key is not set')"])
    assert caught.value.hint == "it said: the key is not set"
    with pytest.raises(McpError, match="did not answer within 1 s"):
        await connect("sleep 600", timeout_s=1)
    with pytest.raises(McpError, match="cannot be reached: ConnectError"):
        await connect(f"http://127.0.0.1:{free_port()}/mcp")


async def test_specs_that_mean_nothing() -> None:
    with pytest.raises(ParameterError, match="not by nothing"):
        await connect("  ")
    with pytest.raises(ParameterError, match="neither a URL nor a command line"):
        await connect("server 'open quote")
    with pytest.raises(ParameterError, match="`env` is for a server that is started"):
        await connect("http://127.0.0.1/mcp", env={"KEY": "x"})
    with pytest.raises(ParameterError, match="`headers` are for a server that has a URL"):
        await connect("server", headers={"Authorization": "x"})


async def test_without_the_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mcp", None)
    with pytest.raises(MissingDependencyError, match="need the package mcp") as caught:
        await connect("server")
    assert caught.value.hint == "pip install 'gpt-oss[mcp]'"


async def test_over_http(port: int) -> None:
    server = await connect(f"http://127.0.0.1:{port}/mcp", headers={"X-Key": "1"})
    try:
        assert await call(server, "add", a=1, b=2) == "3"
        assert await call(server, "fail") == "Error: no such file: a.txt"
        assert (await call(server, "big", characters=2_000_000)).startswith("éé")
        assert await asyncio.gather(*(call(server, "echo", text=str(n)) for n in range(20))) == [
            str(n) for n in range(20)
        ]
    finally:
        await server.close()


async def test_an_http_server_that_goes_away_and_comes_back() -> None:
    port = free_port()
    with serve(port):
        server = await connect(f"http://127.0.0.1:{port}/mcp")
        assert await call(server, "add", a=1, b=2) == "3"
        assert "lost during the call" in await call(server, "crash")
    assert "cannot be reached: ConnectError" in await call(server, "add", a=1, b=2)
    with serve(port):
        assert await call(server, "add", a=1, b=2) == "3"
    with serve(port):  # which does not know the session
        assert "lost during the call (Session not found)" in await call(server, "add", a=1, b=2)
        assert await call(server, "add", a=1, b=2) == "3"
        await server.close()
