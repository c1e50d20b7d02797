"""Tools that the client runs, by OpenAI's types: their calls, their events, their outputs back, on both transports."""

from __future__ import annotations

from typing import Any

import pytest
from agents import apply_diff
from openai.types.responses import Response, ResponseOutputItem
from pydantic import TypeAdapter

from gpt_oss.vocabulary import decode
from tests.server.conftest import Live, Scripted
from tests.server.test_chat_completions import ANSWER, WEATHER
from tests.server.test_responses import events_of

ITEM: TypeAdapter[Any] = TypeAdapter(ResponseOutputItem)
COMMANDS = '{"commands": ["ls -la", "cat a"], "timeout_ms": 500}'
PATCH = "*** Begin Patch\n*** Update File: a.py\n@@\n x = 1\n-y = 2\n+y = 3\n*** End Patch"
FOUND = {"type": "function", **WEATHER["function"]}


def call(name: str, content: str) -> str:
    return f"<|channel|>commentary to=functions.{name}<|message|>{content}<|call|>"


def replayed(live: Live, tools: list[Any], output: list[Any], answer: dict[str, Any]) -> str:
    """The prompt of the round behind a call and its answer."""
    events_of(live, tools=tools, input=[{"role": "user", "content": "Hi"}, *output, answer])
    return decode(live.generator.calls[-1].prompt)


def test_shell(scripted: Scripted) -> None:
    live = scripted(call("run_commands", COMMANDS), ANSWER)
    tools = [{"type": "shell", "environment": {"type": "local"}}]
    events = events_of(live, tools=tools, tool_choice={"type": "shell"})
    item = events[-1]["response"]["output"][0]
    ITEM.validate_python(item)
    assert (item["type"], item["status"]) == ("shell_call", "completed")
    assert item["action"] == {"commands": ["ls -la", "cat a"], "timeout_ms": 500, "max_output_length": None}
    done = [event["command"] for event in events if event["type"] == "response.shell_call_command.done"]
    assert done == ["ls -la", "cat a"]
    deltas = [event["delta"] for event in events if event["type"] == "response.shell_call_command.delta"]
    assert deltas == done
    outputs = [
        {"stdout": "a\nb\n", "stderr": "", "outcome": {"type": "exit", "exit_code": 0}},
        {"stdout": "", "stderr": "cat: a\n", "outcome": {"type": "exit", "exit_code": 1}},
        {"stdout": "", "stderr": "", "outcome": {"type": "timeout"}},
    ]
    answer = {"type": "shell_call_output", "call_id": item["call_id"], "output": outputs, "max_output_length": None}
    prompt = replayed(live, tools, [item], answer)
    arguments = '{"commands": ["ls -la", "cat a"], "timeout_ms": 500}'
    assert f"to=functions.run_commands <|constrain|>json<|message|>{arguments}<|call|>" in prompt
    assert "functions.run_commands to=assistant<|channel|>commentary<|message|>a\nb\ncat: a\n[exit code 1]" in prompt
    assert "[timed out]<|end|>" in prompt


def test_local_shell(scripted: Scripted) -> None:
    live = scripted(call("run_command", '{"command": ["bash", "-c", "ls"], "working_directory": "/tmp"}'), ANSWER)
    tools = [{"type": "local_shell"}]
    item = events_of(live, tools=tools)[-1]["response"]["output"][0]
    ITEM.validate_python(item)
    assert item["type"] == "local_shell_call"
    assert (item["action"]["command"], item["action"]["working_directory"]) == (["bash", "-c", "ls"], "/tmp")
    answer = {"type": "local_shell_call_output", "id": item["call_id"], "output": '{"output": "a b"}'}
    assert '<|message|>{"output": "a b"}<|end|>' in replayed(live, tools, [item], answer)


@pytest.mark.parametrize(
    ("patch", "before", "after"),
    [
        (PATCH, "x = 1\ny = 2\n", "x = 1\ny = 3\n"),
        ("*** Begin Patch\n*** Add File: b/c.txt\n+one\n+\n+two\n*** End Patch\n", "", "one\n\ntwo"),
        ("*** Begin Patch\n*** Delete File: old name.txt\n*** End Patch", "x", None),
    ],
)
def test_apply_patch(scripted: Scripted, patch: str, before: str, after: str | None) -> None:
    """What the model writes, as the Agents SDK applies it."""
    live = scripted(call("apply_patch", patch), ANSWER)
    tools = [{"type": "apply_patch"}]
    item = events_of(live, tools=tools, tool_choice={"type": "apply_patch"})[-1]["response"]["output"][0]
    ITEM.validate_python(item)
    operation = item["operation"]
    if after is None:
        assert operation == {"type": "delete_file", "path": "old name.txt"}
    else:
        mode: Any = "create" if operation["type"] == "create_file" else "default"
        assert apply_diff(before, operation["diff"], mode).rstrip("\n") == after.rstrip("\n")
    answer = {
        "type": "apply_patch_call_output",
        "call_id": item["call_id"],
        "status": "failed",
        "output": "No such file",
    }
    prompt = replayed(live, tools, [item], answer)
    assert f"to=functions.apply_patch<|message|>{patch.strip()}<|call|>" in prompt
    assert "<|message|>failed\nNo such file<|end|>" in prompt


def test_tools_that_a_client_finds(scripted: Scripted) -> None:
    live = scripted(call("tool_search", '{"query": "weather"}'), call("get_weather", '{"city": "Oslo"}'))
    tools = [{"type": "tool_search", "execution": "client", "description": "Looks for tools."}]
    item = events_of(live, tools=tools)[-1]["response"]["output"][0]
    ITEM.validate_python(item)
    assert (item["type"], item["execution"], item["arguments"]) == ("tool_search_call", "client", {"query": "weather"})
    assert "Looks for tools." in decode(live.generator.calls[0].prompt)
    found = {"type": "namespace", "name": "sky", "description": "", "tools": [FOUND]}
    answer = {"type": "tool_search_output", "call_id": item["call_id"], "execution": "client", "tools": [found]}
    given = [{"role": "user", "content": "Hi"}, item, answer]
    second = events_of(live, tools=tools, input=given)[-1]["response"]["output"][0]
    assert (second["name"], second["namespace"]) == ("get_weather", "sky")
    prompt = decode(live.generator.calls[1].prompt)
    assert "type get_weather = " in prompt
    assert "<|message|>Found: get_weather.<|end|>" in prompt


def test_a_shell_of_the_servers_own_is_left_out(scripted: Scripted) -> None:
    live = scripted(ANSWER)
    container = {"type": "shell", "environment": {"type": "container_auto"}}
    events_of(live, tools=[container, {"type": "tool_search"}])
    assert "run_commands" not in decode(live.generator.calls[0].prompt)


def test_a_call_that_is_cut_off_is_not_whole(scripted: Scripted) -> None:
    live = scripted(call("run_commands", COMMANDS), call("apply_patch", PATCH))
    for tool, status in (("shell", "incomplete"), ("apply_patch", "in_progress")):
        response = events_of(live, tools=[{"type": tool}], max_output_tokens=14)[-1]["response"]
        Response.model_validate(response)
        assert (response["status"], response["output"][0]["status"]) == ("incomplete", status)
