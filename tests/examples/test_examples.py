"""Every script of examples/, run as it says, against the demo model or a server that has it.

That each goes through and prints what its kind of thing prints is asserted; what the toy answers is not, but for
arithmetic, which python does.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpt_oss.errors import GptOssError
from gpt_oss.tools.sandbox import open_sandbox
from tests.docs.demo_server import Served, serve_demo

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = REPOSITORY / "examples"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve_demo(tmp_path_factory.mktemp("served")) as server:
        yield server


def run(folder: Path, script: str, *arguments: str, served: Served | None = None, timeout: float = 300) -> str:
    """What it prints; it must end well and complain of nothing."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "XDG_STATE_HOME": str(folder)}
    if served is not None:
        environment |= {"OPENAI_BASE_URL": f"{served.url}/v1"}
    command = [sys.executable, str(EXAMPLES / script), *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def test_every_script_is_run_here() -> None:
    here = Path(__file__).read_text(encoding="utf-8")
    helpers = {"notes_server.py"}  # mcp_tools.py starts it
    assert {path.name for path in EXAMPLES.glob("*.py") if f'"{path.name}"' not in here} <= helpers


def test_a_typed_function_is_a_tool(tmp_path: Path) -> None:
    assert run(tmp_path, "weather.py", "demo").strip()


def test_events_of_a_turn(tmp_path: Path) -> None:
    said = run(tmp_path, "events.py", "demo", "Hello!")
    assert "[final]" in said
    assert re.search(r"\[stop: \d+ tokens, \d+ from the cache\]", said)


async def test_the_research_agent_calculates(tmp_path: Path) -> None:
    try:
        await (await open_sandbox("auto")).close()
    except GptOssError as error:
        pytest.skip(f"no sandbox here: {error}")
    said = run(tmp_path, "research_agent.py", "demo", "What is 4821 * 377?", "-t", "0")
    assert re.search(r"\[python\] .*4821", said)
    assert "1817517" in said


def test_the_research_agent_reads_pages(tmp_path: Path) -> None:
    said = run(tmp_path, "research_agent.py", "demo", "How tall is Mont Blanc?", "-t", "0")
    assert "Mont Blanc is 4806 metres high.【1†L4】\n[stop: " in said
    assert "source: Mont Blanc, " in said


def test_tools_of_an_mcp_server(tmp_path: Path) -> None:
    said = run(tmp_path, "mcp_tools.py", "demo")
    assert said.startswith("tools: add_note, list_notes\n")
    assert len(said.splitlines()) >= 3  # an answer to each question


def test_function_calling_over_http(tmp_path: Path, served: Served) -> None:
    run(tmp_path, "function_calling.py", served=served)


def test_structured_output_over_http(tmp_path: Path, served: Served) -> None:
    said = run(tmp_path, "structured_output.py", served=served)
    assert re.fullmatch(r"Person\(name=.*, city=.*, age=-?\d+\)", said.strip())


def test_an_agent_of_the_sdk(tmp_path: Path, served: Served) -> None:
    assert run(tmp_path, "agents_sdk.py", served=served).endswith("get_weather says: Oslo, 3 degrees\n")


@pytest.mark.slow
def test_fine_tune_and_serve(tmp_path: Path) -> None:
    said = run(tmp_path, "fine_tune_and_serve.py", "demo", "tuned", "2", timeout=600)
    assert len(re.findall(r"^What is the color of the .*\? ", said, re.MULTILINE)) == 4
    assert (tmp_path / "tuned" / "run" / "loss.csv").read_text().count("\n") >= 2
    assert (tmp_path / "tuned" / "run" / "adapter" / "adapter_model.safetensors").is_file()
