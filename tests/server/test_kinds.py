"""Each kind of fault over every API that can have it: rows are kinds, columns are APIs."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from gpt_oss.backends.scripted import ScriptedGenerator
from gpt_oss.server.gate import ServerOptions
from gpt_oss.vocabulary import decode, encode_with_special
from tests.server.apis import (
    ALL,
    ANTHROPIC,
    CHAT,
    CONVERSATIONS,
    OLLAMA,
    RESPONSES,
    WITH_STOPS,
    Api,
    Call,
    Result,
    Said,
    Turn,
    User,
)
from tests.server.conftest import Live, Scripted, serving

ANSWER = "<|channel|>analysis<|message|>Think.<|end|><|start|>assistant<|channel|>final<|message|>It rains.<|return|>"
PREAMBLE = "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant"
FINAL = "<|channel|>final<|message|>It rains.<|return|>"
CALL = '<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"city": "Oslo"}<|call|>'
ASK = User("What is the weather?")
CALLED = (
    "<|start|>assistant<|channel|>commentary to=functions.{} <|constrain|>json<|message|>{}<|call|>"
    "<|start|>functions.{} to=assistant<|channel|>commentary<|message|>{}<|end|>"
)
each_conversation = pytest.mark.parametrize("api", CONVERSATIONS, ids=lambda api: api.name)
each_api = pytest.mark.parametrize("api", ALL, ids=lambda api: api.name)


def start(scripted: Scripted, *answers: str, **options: Any) -> Live:
    return scripted(*answers, options=ServerOptions(ollama=True), **options)


def prompt_of(live: Live) -> str:
    return decode(live.generator.prompts[-1])


def called(arguments: str, result: str, name: str = "get_weather") -> str:
    return CALLED.format(name, arguments, name, result)


# ---- results belong to their calls ----------------------------------------------------------------------------------

OSLO, ROME = {"city": "Oslo"}, {"city": "Rome"}
ROUNDS: dict[str, list[Turn]] = {
    "ids that repeat from turn to turn": [
        ASK,
        Call("call_0", arguments=OSLO),
        Result("call_0", "cold"),
        Said("Cold."),
        User("And Rome?"),
        Call("call_0", arguments=ROME),
        Result("call_0", "warm"),
    ],
    "ids that repeat within a turn": [
        ASK,
        Call("get_weather", arguments=OSLO),
        Result("get_weather", "cold", name="get_weather"),
        Call("get_weather", arguments=ROME),
        Result("get_weather", "warm", name="get_weather"),
    ],
    "one id for two calls": [
        ASK,
        Call("x", arguments=OSLO),
        Call("x", arguments=ROME),
        Result("x", "cold"),
        Result("x", "warm"),
    ],
    "out of order": [
        ASK,
        Call("a", arguments=OSLO),
        Call("b", arguments=ROME),
        Result("b", "warm"),
        Result("a", "cold"),
    ],
    "before their calls": [
        ASK,
        Result("a", "cold"),
        Result("b", "warm"),
        Call("a", arguments=OSLO),
        Call("b", arguments=ROME),
    ],
    "twice for one call": [
        ASK,
        Call("a", arguments=OSLO),
        Result("a", "cold"),
        Result("a", "cold"),
        Call("b", arguments=ROME),
        Result("b", "warm"),
    ],
    "no ids": [ASK, Call("", arguments=OSLO), Result("", "cold"), Call("", arguments=ROME), Result("", "warm")],
    "no ids, two at a time": [
        ASK,
        Call("", arguments=OSLO),
        Call("", arguments=ROME),
        Result("", "cold"),
        Result("", "warm"),
    ],
    "ids of results that are no calls'": [
        ASK,
        Call("a", arguments=OSLO),
        Call("b", arguments=ROME),
        Result("1", "cold"),
        Result("2", "warm"),
    ],
}


@each_conversation
@pytest.mark.parametrize("kind", ROUNDS)
def test_results_belong_to_their_calls(scripted: Scripted, api: Api, kind: str) -> None:
    live = start(scripted, ANSWER)
    assert api.ask(live.url, ROUNDS[kind]).status == 200
    prompt = prompt_of(live)
    assert prompt.count(called('{"city": "Oslo"}', "cold")) == 1, prompt
    assert prompt.count(called('{"city": "Rome"}', "warm")) == 1, prompt
    assert prompt.count("<|start|>functions.") == 2


@each_conversation
def test_a_second_result_that_says_something_else_is_kept(scripted: Scripted, api: Api) -> None:
    live = start(scripted, ANSWER)
    api.ask(live.url, [ASK, Call("a", arguments=OSLO), Result("a", "started"), Result("a", "cold")])
    prompt = prompt_of(live)
    assert prompt.index('{"city": "Oslo"}') < prompt.index("started") < prompt.index("cold")


@pytest.mark.parametrize("api", [CHAT, OLLAMA], ids=lambda api: api.name)
def test_results_of_several_tools_are_told_apart_by_name(scripted: Scripted, api: Api) -> None:
    live = start(scripted, ANSWER)
    turns = [ASK, Call("", "a", OSLO), Call("", "b", ROME), Result("", "of b", "b"), Result("", "of a", "a")]
    assert api.ask(live.url, turns).status == 200
    prompt = prompt_of(live)
    assert called('{"city": "Oslo"}', "of a", "a") in prompt
    assert called('{"city": "Rome"}', "of b", "b") in prompt


def test_the_older_form_of_calls_is_read_and_written(scripted: Scripted) -> None:
    live = start(scripted, PREAMBLE + CALL, CALL)
    function = {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
    messages = [
        {"role": "user", "content": "?"},
        {
            "role": "assistant",
            "content": None,
            "function_call": {"name": "get_weather", "arguments": '{"city": "Rome"}'},
        },
        {"role": "function", "name": "get_weather", "content": "warm"},
    ]
    body = {"messages": messages, "functions": [function]}
    answer = httpx.post(f"{live.url}/v1/chat/completions", json=body).json()["choices"][0]
    assert answer["finish_reason"] == "function_call"
    assert answer["message"]["function_call"] == {"name": "get_weather", "arguments": '{"city": "Oslo"}'}
    assert called('{"city": "Rome"}', "warm") in prompt_of(live)
    events = CHAT.stream(live.url, [ASK], schema=None, functions=[function])
    deltas = [event["choices"][0]["delta"].get("function_call") for event in events]
    assert "".join(delta.get("arguments", "") for delta in deltas if delta) == '{"city": "Oslo"}'


# ---- usage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("api", [*WITH_STOPS, ALL[-1]], ids=lambda api: api.name)
def test_usage_is_counted_where_a_stop_text_ends_it(scripted: Scripted, api: Api) -> None:
    said = "It rains in Oslo." if api.name == "completions" else ANSWER
    live = start(scripted, said, said)
    answer = api.ask(live.url, [ASK], schema=None, **{api.stop_field: ["rai"]})
    assert answer.text == "It "
    assert answer.prompt_tokens == len(live.generator.prompts[0])
    assert answer.output_tokens > 0
    events = api.stream(live.url, [ASK], schema=None, **{api.stop_field: ["rai"]})
    assert api.streamed_text(events) == "It "


@each_api
def test_usage_is_counted_where_it_is_cut(scripted: Scripted, api: Api) -> None:
    live = start(scripted, ANSWER)
    answer = api.ask(live.url, [ASK], schema=None, **{api.max_field: 3})
    assert (answer.end, answer.output_tokens) == (api.length_end, 3)
    assert answer.prompt_tokens == len(live.generator.prompts[0])


def test_usage_of_several_choices_is_their_sum(scripted: Scripted) -> None:
    live = start(scripted, ANSWER, ANSWER)
    answer = CHAT.ask(live.url, [ASK], schema=None, n=2, stop="rai")
    assert answer.prompt_tokens == len(live.generator.prompts[0])
    assert answer.output_tokens == sum(len(call.delivered) for call in live.generator.calls)


def test_the_first_event_of_a_message_has_the_prompts_real_count(scripted: Scripted) -> None:
    live = start(scripted, ANSWER)
    first = ANTHROPIC.stream(live.url, [ASK])[0]
    assert first["type"] == "message_start"
    assert first["message"]["usage"]["input_tokens"] == len(live.generator.prompts[0])


# ---- text that is no text, JSON that is no JSON ---------------------------------------------------------------------


@each_api
def test_half_a_surrogate_is_replaced(scripted: Scripted, api: Api) -> None:
    live = start(scripted, ANSWER, ANSWER)
    body = json.dumps(api.body([User("cut SURROGATE")], schema=None)).replace("SURROGATE", "\\ud83d")
    assert api.post(live.url, body.encode()).status == 200
    assert "cut \N{REPLACEMENT CHARACTER}" in prompt_of(live)
    whole = json.dumps(api.body([User("snow \N{SNOWMAN} \N{GRINNING FACE}")], schema=None))
    api.post(live.url, whole.encode())
    assert "snow \N{SNOWMAN} \N{GRINNING FACE}" in prompt_of(live)


@each_api
@pytest.mark.parametrize(
    "value",
    ["[" * 90_000 + "]" * 90_000, "[" * 900 + "]" * 900, "9" * 5000, "NaN", "-Infinity", "1e999", '"\\x"', ""],
    ids=["deep", "less deep", "digits", "NaN", "Infinity", "out of range", "escape", "nothing"],
)
def test_what_is_no_json_is_refused_in_the_apis_shape(scripted: Scripted, api: Api, value: str) -> None:
    live = start(scripted, ANSWER)
    body = json.dumps({**api.body([ASK], schema=None), "extra": "VALUE"}).replace('"VALUE"', value)
    answer = api.post(live.url, body.encode())
    assert answer.status == 400
    assert api.error_of(answer.body)
    assert api.post(live.url, b"\xff\xfe{}").status == 400


@each_api
def test_every_error_has_the_apis_shape(scripted: Scripted, api: Api) -> None:
    live = start(scripted, ANSWER, keys=frozenset({"right"}))
    assert api.error_of(httpx.post(live.url + api.path, json={}).json())
    key = {"authorization": "Bearer right"}
    for method, path, content in (
        ("POST", api.path, b"{"),
        ("POST", api.path, b"[]"),
        ("PUT", api.path, b"{}"),
        ("POST", f"{api.path}/nowhere/at/all", b"{}"),
        ("POST", api.path, b'{"messages": 5, "input": 5, "prompt": {}}'),
    ):
        answer = httpx.request(method, live.url + path, content=content, headers=key)
        assert 400 <= answer.status_code < 500
        assert api.error_of(answer.json())


@each_api
def test_a_failure_inside_has_the_apis_shape(api: Api) -> None:
    class Panic(BaseException):
        """What a library written in Rust raises."""

    def fail(_: list[int]) -> list[int]:
        raise Panic

    generator = ScriptedGenerator(fail)
    with serving(generator, ServerOptions(ollama=True)) as live:
        answer = api.ask(live.url, [ASK], schema=None)
        assert answer.status == 500
        assert "has failed" in api.error_of(answer.body)
        generator._script = lambda _: encode_with_special(ANSWER)
        assert api.ask(live.url, [ASK], schema=None).status == 200


# ---- what is not text -----------------------------------------------------------------------------------------------


@each_conversation
def test_a_picture_in_a_tools_result_becomes_a_note(scripted: Scripted, api: Api) -> None:
    live = start(scripted, ANSWER)
    turns = [ASK, Call("a", arguments=OSLO), Result("a", "A map.", picture=True)]
    assert api.ask(live.url, turns).status == 200
    assert "A map.\n[a picture; this model reads text only]<|end|>" in prompt_of(live)


@each_conversation
def test_a_picture_that_a_tool_has_read_becomes_a_note_where_a_client_sends_it_as_the_users(
    scripted: Scripted, api: Api
) -> None:
    """Claude Code sends the pages of a PDF so, and agents on Chat Completions every picture."""
    live = start(scripted, ANSWER)
    turns = [ASK, Call("a", arguments=OSLO), Result("a", "A map."), User("What it read:", picture=True)]
    assert api.ask(live.url, turns).status == 200
    assert "A map.<|end|><|start|>user<|message|>What it read:" in prompt_of(live)
    assert "[a picture; this model reads text only]<|end|>" in prompt_of(live)
    assert api.ask(live.url, [*turns, Said("I see."), User("Look!", picture=True)]).status == 400


@each_conversation
def test_a_picture_is_refused_only_where_it_is_new(scripted: Scripted, api: Api) -> None:
    live = start(scripted, ANSWER, ANSWER)
    refused = api.ask(live.url, [User("Look!", picture=True)])
    assert refused.status == 400
    assert "reads text" in api.error_of(refused.body)
    for rest in ([User("Then without.")], [Said("It is a cat."), User("Really?")]):
        assert api.ask(live.url, [User("Look!", picture=True), *rest]).status == 200
        assert "Look!" in prompt_of(live)
        assert "[a picture; this model reads text only]" in prompt_of(live)


ODD_RESULTS: list[Any] = [
    [{"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}}],
    [{"type": "search_result", "source": "http://a", "title": "T", "content": [{"type": "text", "text": "Found it"}]}],
    [{"type": "tool_reference", "tool_name": "grep"}],
    [{"type": "resource", "resource": {"uri": "file:///a", "text": "Found it"}}],
    [{"type": "something_new", "x": [1, 2]}],
    {"type": "text", "text": "Found it"},
    None,
    [],
]


@pytest.mark.parametrize("content", ODD_RESULTS, ids=lambda content: str(content)[:40])
def test_whatever_a_tool_gave_the_session_goes_on(scripted: Scripted, content: Any) -> None:
    live = start(scripted, ANSWER)
    tool_use = {"type": "tool_use", "id": "a", "name": "get_weather", "input": OSLO}
    result = {"type": "tool_result", "tool_use_id": "a", "content": content}
    messages = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": [tool_use]},
        {"role": "user", "content": [result]},
    ]
    answer = ANTHROPIC.post(live.url, {**ANTHROPIC.body([ASK]), "messages": messages})
    assert answer.status == 200, answer.body
    assert "<|start|>functions.get_weather to=assistant" in prompt_of(live)
    if "Found it" in json.dumps(content):
        assert "Found it" in prompt_of(live)


def test_text_inside_files_is_read(scripted: Scripted) -> None:
    live = start(scripted, ANSWER, ANSWER, ANSWER)
    document = {"type": "document", "title": "notes", "source": {"type": "text", "data": "The code is 42."}}
    messages = [{"role": "user", "content": [document, {"type": "text", "text": "What is it?"}]}]
    assert ANTHROPIC.post(live.url, {"model": "x", "max_tokens": 9, "messages": messages}).status == 200
    assert "notes\nThe code is 42.\nWhat is it?<|end|>" in prompt_of(live)
    data = "data:text/plain;base64,VGhlIGNvZGUgaXMgNDIu"
    file = {"type": "file", "file": {"filename": "a.txt", "file_data": data}}
    parts = [
        {"type": "text", "text": "What "},
        {"type": "text", "text": "is this?"},
        file,
        {"type": "text", "text": "?"},
    ]
    assert CHAT.post(live.url, {"messages": [{"role": "user", "content": parts}]}).status == 200
    assert "What is this?\na.txt\nThe code is 42.\n?<|end|>" in prompt_of(live)
    item = {"role": "user", "content": [{"type": "input_file", "filename": "a.txt", "file_data": data}]}
    assert RESPONSES.post(live.url, {"input": [item]}).status == 200
    assert "The code is 42." in prompt_of(live)


def test_a_tools_failure_reaches_the_model(scripted: Scripted) -> None:
    live = start(scripted, ANSWER)
    ANTHROPIC.ask(live.url, [ASK, Call("a", arguments=OSLO), Result("a", "no such city", failed=True)])
    assert called('{"city": "Oslo"}', "Error: no such city") in prompt_of(live)


# ---- a prompt that is too long --------------------------------------------------------------------------------------


@each_api
@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_is_too_long_says_so_in_the_words_that_agents_know(api: Api, stream: bool) -> None:
    generator = ScriptedGenerator(lambda _: encode_with_special(ANSWER), context_tokens=300)
    with serving(generator, ServerOptions(ollama=True)) as live:
        answer = api.ask(live.url, [User("word " * 400)], schema=None, stream=stream)
        assert answer.status == 400
        sentence = api.error_of(answer.body)
        assert "prompt is too long: " in sentence
        assert " tokens > 300 maximum" in sentence
        assert "maximum context length is 300 tokens" in sentence
        if api.name in ("chat", "responses", "completions"):
            field = {"chat": "messages", "responses": "input", "completions": "prompt"}[api.name]
            assert (answer.body["error"]["code"], answer.body["error"]["param"]) == ("context_length_exceeded", field)


# ---- stop texts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("api", WITH_STOPS, ids=lambda api: api.name)
def test_a_stop_text_lives_within_one_message(scripted: Scripted, api: Api) -> None:
    live = start(scripted, PREAMBLE + FINAL, PREAMBLE + FINAL, PREAMBLE + CALL)
    across = {api.stop_field: ["look.It", "look.\n\nIt"]}
    assert api.ask(live.url, [ASK], **across).text == "I look.\n\nIt rains."
    streamed = api.streamed_text(api.stream(live.url, [ASK], **across))
    assert streamed.replace("\n\n", "") == "I look.It rains."
    held = api.ask(live.url, [ASK], **{api.stop_field: ["look. or not"]})
    assert (held.text, [name for name, _ in held.calls]) == ("I look.", ["get_weather"])


@pytest.mark.parametrize("api", [*WITH_STOPS, ALL[-1]], ids=lambda api: api.name)
def test_stop_texts_are_bounded_and_empty_ones_mean_nothing(scripted: Scripted, api: Api) -> None:
    live = start(scripted, ANSWER, ANSWER)
    for stops in (["x"] * 17, ["x" * 1001]):
        answer = api.ask(live.url, [ASK], schema=None, **{api.stop_field: stops})
        assert answer.status == 400
        assert "stop" in api.error_of(answer.body)
    assert "It rains." in api.ask(live.url, [ASK], schema=None, **{api.stop_field: [""]}).text


# ---- lines ----------------------------------------------------------------------------------------------------------


@each_api
def test_line_breaks_that_only_python_knows_are_escaped(scripted: Scripted, api: Api) -> None:
    odd = "one\u2028two\u2029three\u0085four"
    said = odd if api.name == "completions" else f"<|channel|>final<|message|>{odd}<|return|>"
    live = start(scripted, said, said)
    assert api.streamed_text(api.stream(live.url, [ASK], schema=None)) == odd
    assert api.ask(live.url, [ASK], schema=None).text == odd


# ---- loose ends -----------------------------------------------------------------------------------------------------


@each_api
def test_minus_one_is_no_limit(scripted: Scripted, api: Api) -> None:
    live = start(scripted, ANSWER)
    assert api.ask(live.url, [ASK], schema=None, **{api.max_field: -1}).status == 200


@each_api
def test_a_temperature_of_nearly_nothing_is_greedy(scripted: Scripted, api: Api) -> None:
    live = start(scripted, ANSWER)
    assert api.ask(live.url, [ASK], schema=None, temperature=1e-300).status == 200
    assert live.generator.calls[-1].params.temperature == 0


def test_any_model_that_requests_may_name_can_be_looked_up(scripted: Scripted) -> None:
    live = start(scripted, ANSWER)
    assert httpx.get(f"{live.url}/v1/models/some/other").json()["id"] == "some/other"
    listed = httpx.get(f"{live.url}/v1/models", headers={"anthropic-version": "2023-06-01"}).json()
    assert listed["data"][0]["type"] == "model"
    assert listed["first_id"] == listed["data"][0]["id"]


def test_a_browser_search_is_a_web_search(scripted: Scripted) -> None:
    live = start(scripted, ANSWER)
    body = {"input": "x", "tools": [{"type": "browser_search"}]}
    assert httpx.post(f"{live.url}/v1/responses", json=body).status_code == 200


def test_thoughts_are_read_in_every_form(scripted: Scripted) -> None:
    forms: list[Any] = [
        {"reasoning_details": [{"type": "reasoning.text", "text": "A thought of mine."}]},
        {"content": [{"type": "thinking", "thinking": "A thought of mine."}]},
        {"content": [{"type": "reasoning", "text": "A thought of mine."}]},
        {"reasoning": "A thought of mine."},
    ]
    live = start(scripted, *[ANSWER] * len(forms))
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    for form in forms:
        messages = [
            {"role": "user", "content": "?"},
            {"role": "assistant", "content": None, "tool_calls": [call], **form},
        ]
        assert CHAT.post(live.url, {"messages": messages}).status == 200
        assert "<|channel|>analysis<|message|>A thought of mine.<|end|>" in prompt_of(live)


def test_custom_tools_of_chat_completions(scripted: Scripted) -> None:
    said = "<|channel|>commentary to=functions.patch<|message|>some text<|call|>"
    live = start(scripted, said, ANSWER)
    tool = {"type": "custom", "custom": {"name": "patch", "description": "Patches."}}
    client = live.any_client()
    answer = client.chat.completions.create(model="x", messages=[{"role": "user", "content": "?"}], tools=[tool])
    call = answer.choices[0].message.tool_calls[0]
    assert (call.type, call.custom.name, call.custom.input) == ("custom", "patch", "some text")
    history = [
        {"role": "user", "content": "?"},
        answer.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "done"},
    ]
    client.chat.completions.create(model="x", messages=history, tools=[tool])
    assert "to=functions.patch<|message|>some text<|call|><|start|>functions.patch" in prompt_of(live)


# ---- schemas --------------------------------------------------------------------------------------------------------

ODD_SCHEMA: dict[str, Any] = {
    "$schema": "http://example.org/some/other",
    "type": "object",
    "properties": {
        "city": {"type": "string", "format": "city-name", "required": True, "examples": "Oslo"},
        "days": {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
        "more": {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
        "rest": {"type": "object", "propertyNames": {"pattern": "^x"}, "if": {}, "then": {}},
    },
    "required": ["city"],
    "not": {"required": ["never"]},
}


@each_conversation
def test_schemas_as_generators_write_them_are_accepted(scripted: Scripted, api: Api) -> None:
    live = start(scripted, CALL)
    answer = api.ask(live.url, [ASK], schema=ODD_SCHEMA)
    assert (answer.status, answer.calls) == (200, (("get_weather", '{"city": "Oslo"}'),))
    assert "uniqueItems" in answer.headers["warning"]
    assert answer.headers["warning"].startswith('299 gpt-oss "not enforced: ')


@each_conversation
def test_what_strict_promises_and_cannot_keep_is_refused_by_name(scripted: Scripted, api: Api) -> None:
    live = start(scripted, CALL)
    body = api.body([ASK], schema=ODD_SCHEMA)
    (tool,) = body["tools"]
    (tool.get("function") or tool)["strict"] = True
    answer = api.post(live.url, body)
    assert answer.status == 400
    assert "strict" in api.error_of(answer.body)


FORMATS: dict[str, Any] = {
    "chat": lambda schema: {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}},
    "responses": lambda schema: {"text": {"format": {"type": "json_schema", "name": "a", "schema": schema}}},
    "anthropic": lambda schema: {"output_config": {"format": {"type": "json_schema", "schema": schema}}},
    "ollama": lambda schema: {"format": schema},
}


@each_conversation
def test_a_schema_that_nothing_can_meet_is_refused(scripted: Scripted, api: Api) -> None:
    live = start(scripted, ANSWER)
    unmet = {
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "patternProperties": {"^a$": {"type": "string"}},
        "required": ["a"],
    }
    answer = api.ask(live.url, [ASK], schema=None, **FORMATS[api.name](unmet))
    assert answer.status == 400
    assert api.error_of(answer.body)


@each_conversation
def test_an_answer_that_ends_well_parses(babbling: Live, api: Api) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 5}, "n": {"type": "integer"}, "ok": {"type": "boolean"}},
        "required": ["name", "n", "ok"],
        "additionalProperties": False,
    }
    with serving(babbling.generator, ServerOptions(ollama=True)) as live:
        for seed in range(4):
            more = {"options": {"seed": seed, "num_predict": 400}} if api is OLLAMA else {api.max_field: 400}
            more |= {"seed": seed} if api is CHAT else {}
            answer = api.ask(live.url, [ASK], schema=None, **FORMATS[api.name](schema), **more)
            assert answer.status == 200
            if answer.end == api.stop_end:
                assert set(json.loads(answer.text)) == {"name", "n", "ok"}
            else:
                assert answer.end == api.length_end


def test_json_object_with_a_schema_is_held_to_it(scripted: Scripted) -> None:
    live = start(scripted, FINAL)
    schema = {"type": "object", "properties": {"a": {"enum": [1]}}, "required": ["a"], "additionalProperties": False}
    CHAT.ask(live.url, [ASK], schema=None, response_format={"type": "json_object", "schema": schema})
    make = live.generator.calls[-1].params.grammar
    assert allows(make, '<|channel|>final<|message|>{"a": 1}<|return|>')
    assert not allows(make, '<|channel|>final<|message|>{"b": 1}<|return|>')


def allows(make: Any, text: str) -> bool:
    grammar = make()
    for token in encode_with_special(text):
        mask = grammar.mask()
        if not mask[token // 32] >> token % 32 & 1:
            return False
        grammar.accept(token)
    return True
