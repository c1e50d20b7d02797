"""The python tool as a model calls it."""

from __future__ import annotations

import asyncio

import pytest
from openai_harmony import Message, Role, ToolNamespaceConfig

from gpt_oss.tools.python_docker.docker_tool import PythonTool, code_of, describe
from gpt_oss.tools.sandbox import Limits, Result, SandboxError, open_sandbox
from gpt_oss.tools.tool import text_of


@pytest.fixture(scope="module", autouse=True)
def _bubblewrap() -> None:
    try:
        asyncio.run(open_sandbox("bwrap"))
    except SandboxError as error:
        pytest.skip(f"no bubblewrap here: {error}")


async def call(tool: PythonTool, code: str) -> str:
    message = Message.from_role_and_content(Role.ASSISTANT, code).with_recipient("python").with_channel("analysis")
    answers = await tool.process(message)
    assert len(answers) == 1
    assert (answers[0].author.name, answers[0].recipient, answers[0].channel) == ("python", "assistant", "analysis")
    return text_of(answers[0])


async def test_stateless_programs_give_what_they_print() -> None:
    tool = PythonTool()
    assert (await call(tool, "import math\nprint(math.sqrt(9001))")).startswith("94.8736")
    assert (await call(tool, "x = 1")) == ""
    assert "NameError" in await call(tool, "print(x)")
    assert "fresh" in tool.instruction
    assert tool.tool_config.name == "python"
    await tool.close()
    await tool.close()


async def test_a_stateful_tool_is_a_notebook_and_uses_harmonys_own_description() -> None:
    tool = PythonTool(stateful=True)
    assert tool.tool_config == ToolNamespaceConfig.python()
    await call(tool, "x = 20")
    assert await call(tool, "x + 1") == "21"
    await call(tool, "open('/mnt/data/note', 'w').write('kept')")
    assert await call(tool, "open('/mnt/data/note').read()") == "'kept'"
    await tool.close()


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ("print(1)", "print(1)"),
        ('{"code": "print(1)"}', "print(1)"),
        ('{"input": "print(1)"}', "print(1)"),
        ("```python\nprint(1)\n```", "print(1)\n"),
        ("{'a': 1}", "{'a': 1}"),
        ('{"code": 5}', '{"code": 5}'),
        ('{"code": "x", "more": 1}', '{"code": "x", "more": 1}'),
        ("{" * 5000, "{" * 5000),
    ],
)
def test_code_comes_in_several_wrappings(sent: str, code: str) -> None:
    assert code_of(sent) == code


def test_how_a_program_ended_is_told() -> None:
    limits = Limits(wall_s=3)
    assert describe(Result("a\n"), limits) == "a"
    assert describe(Result("a", None, timed_out=True), limits) == "a\nError: stopped after 3 seconds."
    assert "1024 MiB" in describe(Result("", None, out_of_memory=True), limits)
    assert "ended itself" in describe(Result("", None), limits)
    assert "The state is lost" in describe(Result("", None, timed_out=True, state_lost=True), limits)


async def test_a_missing_sandbox_is_an_answer_and_nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(name: str, *, image: str) -> object:
        raise SandboxError("no sandbox works here", hint="apt install bubblewrap")

    monkeypatch.setattr("gpt_oss.tools.python_docker.docker_tool.open_sandbox", nothing)
    said = await call(PythonTool(), "print(1)")
    assert said == "Error: no sandbox works here (apt install bubblewrap)"


async def test_calls_of_one_conversation_come_one_after_the_other() -> None:
    tool = PythonTool(stateful=True)
    await call(tool, "n = 0")
    await asyncio.gather(*(call(tool, "n += 1") for _ in range(10)))
    assert await call(tool, "n") == "10"
    await tool.close()
