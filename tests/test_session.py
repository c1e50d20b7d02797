"""Conversations from Python: the public names, both kinds of session, and the examples as they stand."""

from __future__ import annotations

import ast
import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

import gpt_oss
from gpt_oss.backends.scripted import ScriptedGenerator
from gpt_oss.errors import HarmonyError, ParameterError
from gpt_oss.events import TextDelta, ToolDone, TurnDone
from gpt_oss.session import AsyncSession, Session
from gpt_oss.tools.functions import function_tool
from gpt_oss.tools.patch_tool import ApplyPatchTool
from gpt_oss.tools.toolbox import Toolbox
from gpt_oss.vocabulary import decode
from tests.scripts import calls, final, spoken, thinks

EXAMPLES = Path(__file__).parent.parent / "examples"


def weather(city: str) -> str:
    """The weather in a city."""
    return f"3 degrees in {city}"


SCRIPT = [
    thinks("Look.") + calls("functions.weather", '{"city":"Oslo"}'),
    final("Cold."),
    final("You asked about Oslo."),
]


@pytest.fixture
def generator() -> ScriptedGenerator:
    return ScriptedGenerator([spoken(text) for text in SCRIPT])


def test_public_names_are_all_there_and_import_lazily() -> None:
    for name in gpt_oss.__all__:
        assert getattr(gpt_oss, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        gpt_oss.nothing  # noqa: B018
    code = "import gpt_oss, sys; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_script_asks_and_gets_answers(generator: ScriptedGenerator) -> None:
    with Session(generator, tools=[weather], reasoning_effort="low", instructions="Be brief.") as session:
        answer = session.ask("How is the weather in Oslo?")
        assert (str(answer), answer.reasoning, answer.reason) == ("Cold.", "Look.", "stop")
        assert [done.name for done in answer.tools] == ["functions.weather"]
        assert session.ask("What did I ask?").text == "You asked about Oslo."
    second = decode(generator.prompts[2])
    assert "How is the weather in Oslo?" in second
    assert "Look." not in second  # finished thoughts are dropped
    assert "# Instructions\n\nBe brief." in second


def test_a_script_iterates_over_events(generator: ScriptedGenerator) -> None:
    with Session(generator, tools=[weather]) as session:
        happened = list(session.stream("?"))
        assert isinstance(happened[-1], TurnDone)
        assert any(isinstance(event, ToolDone) for event in happened)


def test_leaving_a_stream_early_stops_the_model_and_keeps_what_was_said(generator: ScriptedGenerator) -> None:
    with Session(generator, tools=[weather]) as session:
        stream = session.stream("?")
        for event in stream:
            if isinstance(event, TextDelta):
                break
        stream.close()  # type: ignore[attr-defined]
        assert generator.calls[0].closed
        assert len(session.messages) == 1
        assert session.ask("Go on").text == "Cold."


async def test_a_program_awaits_the_same(generator: ScriptedGenerator) -> None:
    async with AsyncSession(generator, tools=[weather]) as session:
        assert (await session.ask("?")).text == "Cold."
        async with aclosing(session.stream("?")) as events:
            kinds = [type(event).__name__ async for event in events]
        assert kinds[-1] == "TurnDone"
        session.forget()
        assert session.messages == []


async def test_one_turn_at_a_time(generator: ScriptedGenerator) -> None:
    session = AsyncSession(generator)
    async with aclosing(session.stream("?")) as first:
        await anext(first)
        with pytest.raises(ParameterError, match="one turn at a time"):
            await session.ask("!")


def test_a_failed_question_is_taken_back() -> None:
    with Session(ScriptedGenerator([])) as session:
        with pytest.raises(gpt_oss.GptOssError, match="0 replies"):
            session.ask("?")
        assert session.messages == []


def test_what_cannot_be_declared_is_refused_with_its_name() -> None:
    def rest(*values: int) -> None: ...

    def strange(value: Iterator[object]) -> None: ...

    generator = ScriptedGenerator([])
    for bad, words in ((rest, r"rest: \*values"), (strange, "strange: its signature")):
        with pytest.raises(ParameterError, match=words):
            Session(generator, tools=[bad])
    with pytest.raises(ParameterError, match="two tools are called 'weather'"):
        Session(generator, tools=[weather, weather])
    with pytest.raises(ParameterError, match="not 'has space'"):
        function_tool(weather, name="has space")
    with pytest.raises(HarmonyError, match="low, medium, high"):
        Session(generator, reasoning_effort="huge")


def test_a_patch_changes_files_under_its_root_and_nowhere_else(tmp_path: Path) -> None:
    patch = "*** Begin Patch\n*** Add File: new.txt\n+hello\n*** End Patch"
    outside = patch.replace("new.txt", "../new.txt")
    script = [calls("functions.apply_patch", text) for text in (patch, outside)]
    generator = ScriptedGenerator([spoken(text) for text in [*script, final("Done.")]])
    with Session(generator, tools=[ApplyPatchTool(tmp_path / "root")]) as session:
        (tmp_path / "root").mkdir()
        answer = session.ask("Make a file")
    assert (tmp_path / "root" / "new.txt").read_text() == "hello\n"
    assert not (tmp_path / "new.txt").exists()
    assert [done.failed for done in answer.tools] == [False, True]
    prompt = decode(generator.prompts[0])
    assert "type apply_patch = (_: string) => any;" in prompt
    assert "*** Begin Patch" in prompt


async def test_a_toolbox_closes_every_tool_also_when_one_fails() -> None:
    closed: list[str] = []

    def tool(name: str, *, fails: bool) -> gpt_oss.FunctionTool:
        made = function_tool(weather, name=name)

        async def close() -> None:
            closed.append(name)
            if fails:
                raise OSError(name)

        made.close = close  # type: ignore[method-assign]
        return made

    with pytest.raises(OSError, match="a"):
        await Toolbox.of([tool("a", fails=True), tool("b", fails=False)]).close()
    assert sorted(closed) == ["a", "b"]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_examples_import_what_exists(path: Path) -> None:
    """Every `from gpt_oss… import …` of an example is there; the examples that need no checkpoint are run elsewhere."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gpt_oss"):
            module = __import__(node.module or "", fromlist=["_"])
            for alias in node.names:
                assert hasattr(module, alias.name), f"{path.name}: {node.module}.{alias.name}"


def test_the_weather_example_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The ten lines of the README, on a model that plays its part."""
    script = [spoken(calls("functions.get_weather", '{"city":"Oslo"}')), spoken(final("3 degrees and snow."))]
    monkeypatch.setattr("gpt_oss.load.load", lambda path, *rest: ScriptedGenerator(script))
    monkeypatch.setattr(sys, "argv", ["weather.py", "checkpoint"])
    exec(compile((EXAMPLES / "weather.py").read_text(), "weather.py", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out == "3 degrees and snow.\n"


def test_the_events_example_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    script = [spoken(thinks("Hm.") + final("Hello there."))]
    monkeypatch.setattr("gpt_oss.load.load", lambda path, *rest: ScriptedGenerator(script))
    monkeypatch.setattr(sys, "argv", ["events.py", "checkpoint", "Hi"])
    space = {"__name__": "example"}
    exec(compile((EXAMPLES / "events.py").read_text(), "events.py", "exec"), space)
    asyncio.run(space["main"](*sys.argv[1:]))  # type: ignore[operator]
    assert "Hello there." in capsys.readouterr().out
