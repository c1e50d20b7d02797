"""Tools that the server runs: forced once, counted, within the answer's limits, and remembered until the answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from gpt_oss.backends.scripted import ScriptedGenerator
from gpt_oss.params import SamplingParams
from gpt_oss.server.core.hosted import Hosted
from gpt_oss.server.state.store import Store
from gpt_oss.tools.python_docker.docker_tool import PythonTool
from gpt_oss.vocabulary import decode, encode_with_special
from tests.server.conftest import Live, Scripted, serving
from tests.server.test_chat_completions import ANSWER, CALL
from tests.server.test_responses import TOOL
from tests.server.test_responses_state import PYTHON, THOUGHT_AND_CALL
from tests.server.test_state import body

CODE: Any = {"type": "code_interpreter", "container": {"type": "auto"}}
HOSTED = Hosted(code_interpreter=lambda: PythonTool(stateful=True))
FINAL = "<|channel|>final<|message|>Hi<|return|>"


def allows(params: SamplingParams, text: str) -> bool:
    """Whether a round may say this."""
    assert params.grammar is not None
    grammar = params.grammar()
    for token in encode_with_special(text):
        if not grammar.mask()[token // 32] >> (token % 32) & 1:
            return False
        grammar.accept(token)
    return True


def rounds(live: Live, **request: Any) -> list[SamplingParams]:
    live.any_client().responses.create(model="tiny", input="6 * 7?", **request)
    return [call.params for call in live.generator.calls]


@pytest.mark.parametrize("choice", ["required", {"type": "code_interpreter"}])
def test_what_is_forced_is_forced_once(scripted: Scripted, choice: Any) -> None:
    first, second = rounds(scripted(PYTHON, ANSWER, hosted=HOSTED), tools=[CODE], tool_choice=choice)
    assert [allows(params, PYTHON) for params in (first, second)] == [True, True]
    assert [allows(params, FINAL) for params in (first, second)] == [False, True]


def test_tools_that_are_allowed_are_all_that_may_be_called(scripted: Scripted) -> None:
    choice = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "get_weather"}]}
    (only,) = rounds(scripted(ANSWER, hosted=HOSTED), tools=[CODE, TOOL], tool_choice=choice)
    assert [allows(only, text) for text in (PYTHON, FINAL, CALL.replace('"}', '", "days": 1}'))] == [False, True, True]


def test_so_many_calls_and_no_more(scripted: Scripted) -> None:
    live = scripted(PYTHON, PYTHON, ANSWER, hosted=HOSTED)
    params = rounds(live, tools=[CODE, TOOL], max_tool_calls=2)
    assert [allows(each, PYTHON) for each in params] == [True, True, False]
    assert allows(params[-1], CALL.replace('"}', '", "days": 1}'))  # which the client runs, and so does not count


def test_a_limit_is_of_the_whole_response(scripted: Scripted) -> None:
    live = scripted(PYTHON, ANSWER, hosted=HOSTED)
    most = len(encode_with_special(PYTHON)) + 5
    answer = live.any_client().responses.create(model="tiny", input="6 * 7?", tools=[CODE], max_output_tokens=most)
    assert (answer.status, answer.usage.output_tokens) == ("incomplete", most)
    assert answer.incomplete_details.reason == "max_output_tokens"


@pytest.mark.parametrize("include", [[], ["code_interpreter_call.outputs"]])
def test_what_was_run_is_still_known_when_a_function_answers(scripted: Scripted, include: list[str]) -> None:
    live = scripted(PYTHON, THOUGHT_AND_CALL, ANSWER, hosted=HOSTED)
    client = live.any_client()
    tools = [CODE, TOOL]
    first = client.responses.create(model="tiny", input="6 * 7?", tools=tools, store=False, include=include)
    call = first.output[-1]
    answer = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
    more = [{"role": "user", "content": "6 * 7?"}, *(item.model_dump() for item in first.output), answer]
    client.responses.create(model="tiny", input=more, tools=tools, store=False)
    prompt = decode(live.generator.prompts[-1])
    ran = "<|start|>assistant<|channel|>analysis to=python code<|message|>print(6 * 7)<|call|>"
    assert ran in prompt
    answered = prompt.split(ran)[1].split("<|end|>")[0]
    assert answered.strip() == "<|start|>python to=assistant<|channel|>analysis<|message|>42"
    assert prompt.index("print(6 * 7)") < prompt.index("Oslo it is.") < prompt.index("rain<|end|>")


async def test_a_stream_that_a_stopped_server_left_ends_all_the_same(tmp_path: Path) -> None:
    """It was under way when the server was killed: whoever waited for its events is told how it ended."""
    store = Store(str(tmp_path / "server.db"))
    await store.begin(body("resp_1", background=True, output=[]), [])
    with serving(ScriptedGenerator([]), store=store) as live:
        url = f"{live.url}/v1/responses/resp_1"
        async with httpx.AsyncClient() as client:
            text = (await client.get(url, params={"stream": True, "starting_after": 4})).text
    event = json.loads(text.split("data: ")[1])
    assert (event["type"], event["sequence_number"]) == ("response.incomplete", 5)
    assert event["response"]["status"] == "incomplete"
    store.close()


def test_strictness_that_is_not_said_is_as_far_as_it_goes(scripted: Scripted) -> None:
    """As OpenAI has it: a schema is followed where it can be; `false` is any object."""
    free = {key: value for key, value in TOOL.items() if key != "strict"}
    strange = {"type": "object", "properties": {"a": {"not": {}}}, "required": ["a"]}  # which nothing can meet
    wrong = CALL.replace('{"city": "Oslo"}', '{"town": 1}')
    for tool, allowed in ((free, False), ({**free, "strict": False}, True), ({**free, "parameters": strange}, True)):
        (params,) = rounds(scripted(ANSWER), tools=[tool])
        assert allows(params, wrong) == allowed
    beyond = {"type": "object", "properties": {"a": {"not": {"type": "string", "minLength": 2}}}}
    with pytest.raises(openai.BadRequestError) as error:
        rounds(scripted(ANSWER), tools=[{**free, "parameters": beyond, "strict": True}])
    assert error.value.param == "tools[0].parameters.properties.a"
    assert "not" in str(error.value)
