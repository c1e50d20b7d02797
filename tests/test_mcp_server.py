"""Tools as MCP servers, used through the SDK's own client: over stdio and over HTTP."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import pytest
from mcp import Client, MCPError, StdioServerParameters
from mcp.types import CallToolResult

from gpt_oss.cli import main
from gpt_oss.errors import ParameterError
from gpt_oss.mcp_server import Offer, serve_http
from gpt_oss.tools.python_docker.docker_tool import PythonTool
from gpt_oss.tools.sandbox import SandboxError
from tests.mcp_notes import Notes

HERE = Path(__file__).parent
NOTES = [str(HERE / "mcp_notes.py")]


def stdio(arguments: list[str], **env: str) -> StdioServerParameters:
    environment = {"PYTHONPATH": str(HERE.parent), **env}
    return StdioServerParameters(command=sys.executable, args=arguments, env=environment)


@contextmanager
def http(arguments: list[str], **env: str) -> Iterator[str]:
    """Start a server and give the URL that it says."""
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent), **env}
    with subprocess.Popen([sys.executable, *arguments], env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r"http://\S+", line)
        assert found, line + process.stderr.read()
        yield found[0]
        process.terminate()


def text_of(result: CallToolResult) -> str:
    return "".join(block.text for block in result.content if block.type == "text")


async def call(client: Client, name: str, **arguments: object) -> str:
    result = await client.call_tool(name, arguments)
    assert not result.is_error, result
    return text_of(result)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


@pytest.fixture
def events(tmp_path: Path) -> Path:
    file = tmp_path / "events"
    file.touch()
    return file


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with http([*NOTES, "127.0.0.1:0"]) as url:
        yield url


def test_an_offer_is_what_the_prompt_says() -> None:
    config = Notes().tool_config
    offer = Offer.of(config)
    assert offer.instructions == config.description
    assert offer.methods["write"] == ("Keep a text.", config.tools[0].parameters)
    assert offer.methods["fail"] == ("It will fail.", {"type": "object"})


def test_an_offer_of_a_tool_that_takes_text() -> None:
    config = PythonTool().tool_config
    offer = Offer.of(config)
    ((name, (description, schema)),) = offer.methods.items()
    assert (name, description) == ("python", config.description)
    assert schema["required"] == ["code"]
    assert offer.call("python", {"code": "print(1)"}).recipient == "python"
    with pytest.raises(ParameterError, match="python needs `code`: a string"):
        offer.call("python", {"code": 1})


async def test_over_stdio(events: Path) -> None:
    async with Client(stdio(NOTES, EVENTS=str(events))) as client:
        assert client.server_info is not None
        assert client.server_info.name == "gpt-oss notes"
        assert client.instructions == "Keeps texts."
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert list(tools) == ["write", "fail", "break", "wait", "print"]
        assert tools["write"].description == "Keep a text."
        assert tools["write"].input_schema == Notes().tool_config.tools[0].parameters
        assert await call(client, "write", text="zażółć") == "zażółć"
        assert await call(client, "write", text="🦆") == "zażółć 🦆"
        assert await call(client, "print") == "first\nsecond"
        assert len(await call(client, "write", text="x" * 3_000_000)) > 3_000_000
    assert events.read_text().split() == ["closed"]


async def test_with_the_handshake_of_older_clients() -> None:
    async with Client(stdio(NOTES), mode="legacy") as client:
        assert await call(client, "write", text="a") == "a"
        assert await call(client, "write", text="b") == "a b"


async def test_errors(url: str) -> None:
    async with Client(url) as client:
        failed = await client.call_tool("fail", {})
        assert (failed.is_error, text_of(failed)) == (True, "Error: nothing can be done")
        broken = await client.call_tool("break", {})
        assert (broken.is_error, text_of(broken)) == (True, "Error: ValueError: a defect")
        with pytest.raises(MCPError, match="there is no tool 'no'; the tools are: write, fail"):
            await client.call_tool("no", {})
        assert await call(client, "write", text="a") == "a"


async def test_over_http_each_session_has_a_tool_of_its_own(url: str) -> None:
    async with Client(url) as one, Client(url) as other:
        assert await call(one, "write", text="a") == "a"
        assert await call(other, "write", text="b") == "b"
        assert await call(one, "write", text="c") == "a c"


async def test_a_client_that_knows_no_sessions(url: str) -> None:
    """The protocol of 2026-07-28: each call stands for itself."""
    async with Client(url, mode="2026-07-28") as client:
        assert await call(client, "write", text="a") == "a"
        assert await call(client, "write", text="b") == "b"


async def test_a_session_that_ends_closes_its_tool(events: Path) -> None:
    with http([*NOTES, "127.0.0.1:0"], EVENTS=str(events)) as url:
        assert events.read_text().split() == ["closed"]  # the one that was asked what it offers
        async with Client(url) as client:
            await call(client, "write", text="a")
        await until(lambda: events.read_text().split() == ["closed", "closed"])


@pytest.mark.parametrize("over", ["stdio", "http"])
async def test_a_cancelled_call(over: str, events: Path) -> None:
    @asynccontextmanager
    async def connected() -> AsyncIterator[Client]:
        if over == "stdio":
            async with Client(stdio(NOTES, EVENTS=str(events))) as client:
                yield client
        else:
            with http([*NOTES, "127.0.0.1:0"], EVENTS=str(events)) as url:
                async with Client(url) as client:
                    yield client

    async with connected() as client:
        task = asyncio.create_task(client.call_tool("wait", {}))
        await until(lambda: "waits" in events.read_text())
        task.cancel()
        await until(lambda: "cancelled" in events.read_text())
        assert await call(client, "write", text="a") == "a"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_a_server_on_stdio(number: signal.Signals, events: Path) -> None:
    parameters = stdio(NOTES, EVENTS=str(events))
    handshake = (
        '{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},'
        '"clientInfo":{"name":"test","version":"1"}}}\n'
        '{"jsonrpc":"2.0","method":"notifications/initialized"}\n'
        '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"wait","arguments":{}}}\n'
    )
    with subprocess.Popen(
        [parameters.command, *parameters.args],
        env={**os.environ, **(parameters.env or {})},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        process.stdin.write(handshake)
        process.stdin.flush()
        await until(lambda: "waits" in events.read_text())
        process.send_signal(number)
        assert process.wait() == 128 + number
    assert events.read_text().split() == ["waits", "cancelled", "closed"]


def test_requests_from_web_pages_are_refused(url: str) -> None:
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    accept = {"Accept": "application/json, text/event-stream"}
    rebound = httpx.post(url, json=ping, headers={**accept, "Host": "evil.example"})
    assert (rebound.status_code, rebound.text) == (421, "Invalid Host header")
    foreign = httpx.post(url, json=ping, headers={**accept, "Origin": "https://evil.example"})
    assert (foreign.status_code, foreign.text) == (403, "Invalid Origin header")


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "192.0.2.1:8765"])
async def test_addresses_that_others_can_reach_are_refused(address: str) -> None:
    with pytest.raises(ParameterError, match="can be reached by others") as caught:
        await serve_http(Notes, address)
    assert "--allow-public" in str(caught.value.hint)


@pytest.mark.parametrize("address", ["localhost", "127.0.0.1:http", "127.0.0.1:99999", ":8765"])
async def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ParameterError, match="is no address: write HOST:PORT"):
        await serve_http(Notes, address)


async def test_a_port_that_is_taken(url: str) -> None:
    with pytest.raises(ParameterError, match=r"cannot listen at 127\.0\.0\.1:\d+: .*in use"):
        await serve_http(Notes, url.removeprefix("http://").removesuffix("/mcp"))


async def test_the_public_may_be_let_in() -> None:
    program = "import asyncio; from gpt_oss.mcp_server import *; from tests.mcp_notes import Notes;"
    serve = "asyncio.run(serve_http(Notes, '0.0.0.0:0', allow_public=True, hosts=['tools.example']))"
    with http(["-c", program + serve]) as url:
        url = url.replace("0.0.0.0", "127.0.0.1")
        async with Client(url) as client:
            assert await call(client, "write", text="a") == "a"
        ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        assert httpx.post(url, json=ping, headers={"Host": "evil.example"}).status_code == 421
        assert httpx.post(url, json=ping, headers={"Host": "tools.example"}).status_code != 421


# The tools themselves


async def test_python() -> None:
    try:
        await PythonTool().open()
    except SandboxError as error:
        pytest.skip(f"no sandbox here: {error}")
    async with Client(stdio(["-m", "gpt_oss.cli", "mcp", "python"])) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == ["python"]
        assert await call(client, "python", code="print(6 * 7)") == "42"
        assert "ZeroDivisionError" in await call(client, "python", code="1 / 0")
        missing = await client.call_tool("python", {})
        assert (missing.is_error, text_of(missing)) == (True, "Error: python needs `code`: a string")
    async with Client(stdio(["-m", "gpt_oss.mcp_server", "python", "--stateful"])) as client:
        await call(client, "python", code="x = 6 * 7")
        assert await call(client, "python", code="x") == "42"


async def test_browser(tmp_path: Path) -> None:
    (tmp_path / "ducks.html").write_text("<title>Ducks</title><p>The mallard is a dabbling duck.</p>")
    server = ["-m", "gpt_oss.cli", "mcp", "browser", "--backend", "local", "--http", "127.0.0.1:0"]
    with http(server, BROWSER_LOCAL_DIR=str(tmp_path)) as url:
        async with Client(url) as client:
            tools = (await client.list_tools()).tools
            assert [tool.name for tool in tools] == ["search", "open", "find"]
            assert "Ducks" in await call(client, "search", query="mallard")
            assert "The mallard is a dabbling duck." in await call(client, "open", id=0)
            assert "dabbling" in await call(client, "find", pattern="dabbling")
            lost = await client.call_tool("open", {"id": 99})
            assert lost.is_error


def test_what_this_machine_cannot_serve(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("EXA_API_KEY", raising=False)
    assert main(["mcp", "browser", "--backend", "exa"]) == 2
    assert "EXA_API_KEY" in capsys.readouterr().err
    assert main(["mcp", "python", "--sandbox", "trust"]) == 2
    assert "there is no sandbox 'trust'" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "mcp", None)
    assert main(["mcp", "python"]) == 2
    assert "pip install 'gpt-oss[mcp]'" in capsys.readouterr().err
