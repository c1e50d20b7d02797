"""Random weights at temperature 1: whatever is asked for, what arrives is right by construction or says it is cut off.

Every tool choice, with strict schemas, free-form tools, response formats and all of it together, on both APIs.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import httpx
import jsonschema
import pytest
from openai.types.chat import ChatCompletion
from openai.types.responses import Response, ResponseOutputItem
from pydantic import TypeAdapter

from gpt_oss.backends.base import SampledToken, TokenGenerator
from gpt_oss.params import SamplingParams
from gpt_oss.vocabulary import encode_with_special, special_tokens
from tests.server.conftest import Live, serving

# Of 200 thousand tokens that are all about as likely: how much likelier those are that end something. A thought goes on
# for some five tokens then, a string or a number likewise.
ENDS = {token: 10.5 for text in ('"', '",', '"}', '"]', "}", "]", "<|return|>") for token in encode_with_special(text)}
ENDS |= dict.fromkeys(encode_with_special("<|end|><|call|>"), 11.0)
SAID = [text for text, number in special_tokens().items() if number < 200_014]

STRICT: dict[str, Any] = {
    "place": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1, "maximum": 30}},
        "required": ["city", "days"],
        "additionalProperties": False,
    },
    "tree": {
        "type": "object",
        "properties": {
            "kind": {"enum": ["leaf", "branch"]},
            "value": {"anyOf": [{"type": "null"}, {"type": "boolean"}, {"type": "string", "maxLength": 5}]},
            "children": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 2},
        },
        "required": ["kind", "value", "children"],
        "additionalProperties": False,
        "$defs": {
            "node": {
                "type": "object",
                "properties": {"id": {"const": 7}, "day": {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}$"}},
                "required": ["id", "day"],
                "additionalProperties": False,
            }
        },
    },
}
FUNCTIONS = [
    {"type": "function", "name": name, "parameters": schema, "strict": True} for name, schema in STRICT.items()
]
LOOSE = {"type": "function", "name": "loose", "parameters": {"type": "object", "properties": {}}, "strict": False}
CUSTOM = {
    "vote": ({"syntax": "lark", "definition": 'start: "yes" | "no" " " /[0-9]{2}/'}, r"yes|no [0-9]{2}"),
    "mail": (
        {"syntax": "regex", "definition": r"[a-z]{1,8}@[a-z]{2,5}\.(com|org)"},
        r"[a-z]{1,8}@[a-z]{2,5}\.(com|org)",
    ),
}
CUSTOM_TOOLS = [
    {"type": "custom", "name": name, "format": {"type": "grammar", **form}} for name, (form, _) in CUSTOM.items()
]
TOOLS = [*FUNCTIONS, LOOSE, *CUSTOM_TOOLS]
ALL = [tool["name"] for tool in TOOLS]
OF_OPENAI = ("shell", "local_shell", "apply_patch", "tool_search")
ITEM: TypeAdapter[Any] = TypeAdapter(ResponseOutputItem)


class Hurried:
    """Random weights would think for ever: what ends a thought or a string is made likelier."""

    def __init__(self, generator: Any) -> None:
        self._generator = generator
        self.name: str = generator.name
        self.context_tokens: int = generator.context_tokens

    def generate(self, prompt: Sequence[int], params: SamplingParams) -> AsyncIterator[SampledToken]:
        stream: AsyncIterator[SampledToken] = self._generator.generate(prompt, replace(params, logit_bias=ENDS))
        return stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._generator, name)


@pytest.fixture(scope="module")
def hurried(babbling: Live) -> Iterator[Live]:
    generator: TokenGenerator = Hurried(babbling.generator)  # type: ignore[assignment]
    with serving(generator) as live:
        yield live


@dataclass(frozen=True)
class Case:
    """may: names that may be called. must: whether the answer ends in a call. schema: of the final message."""

    body: dict[str, Any]
    may: tuple[str, ...] = ()
    must: bool = False
    schema: dict[str, Any] | None = None

    def with_format(self, name: str) -> Case:
        form = {"type": "json_schema", "name": name, "schema": STRICT[name], "strict": True}
        return replace(self, body={**self.body, "text": {"format": form}}, schema=STRICT[name])


def cases() -> list[Case]:
    allowed = {
        "type": "allowed_tools",
        "tools": [{"type": "function", "name": "tree"}, {"type": "custom", "name": "vote"}],
    }
    some = ("tree", "vote")
    with_tools = [
        Case({"tools": TOOLS}, tuple(ALL)),
        Case({"tools": TOOLS, "tool_choice": "none"}),
        Case({"tools": TOOLS, "tool_choice": "required"}, tuple(ALL), must=True),
        *(
            Case({"tools": TOOLS, "tool_choice": {"type": t["type"], "name": t["name"]}}, (t["name"],), True)
            for t in TOOLS
        ),
        Case({"tools": TOOLS, "tool_choice": {**allowed, "mode": "auto"}}, some),
        Case({"tools": TOOLS, "tool_choice": {**allowed, "mode": "required"}}, some, must=True),
    ]
    typed = [
        Case({"tools": [{"type": kind, "execution": "client"}], "tool_choice": "required"}, (kind,), True)
        for kind in OF_OPENAI
    ]
    formats = [Case({}).with_format(name) for name in STRICT]
    objects = Case({"text": {"format": {"type": "json_object"}}}, schema={"type": "object"})
    both = [case.with_format("tree") for case in with_tools[:3]]
    return [*with_tools, *typed, *formats, objects, *both]


def chat_body(case: Case) -> dict[str, Any] | None:
    """The same as Chat Completions asks it; None for what it has no form for."""
    body = dict(case.body)
    functions = [tool for tool in body.pop("tools", []) if tool["type"] == "function"]
    choice: Any = body.pop("tool_choice", None)
    if "tools" in case.body and not functions:
        return None
    if isinstance(choice, dict):
        if choice["type"] != "function":
            return None
        choice = {"type": "function", "function": {"name": choice["name"]}}
    form = body.pop("text", {}).get("format")
    if form and form["type"] == "json_schema":
        form = {"type": "json_schema", "json_schema": {name: form[name] for name in ("name", "schema", "strict")}}
    asked = {
        "messages": [{"role": "user", "content": "Go on."}],
        "tools": [{"type": "function", "function": f} for f in functions],
    }
    return {**asked, "tool_choice": choice, "response_format": form}


def check_item(case: Case, item: dict[str, Any]) -> None:
    ITEM.validate_python(item)
    kind = item["type"].removesuffix("_call")
    if kind not in OF_OPENAI:
        check_call(case, item["name"], item.get("arguments", item.get("input")))
        return
    assert kind in case.may
    if kind == "apply_patch":
        assert item["operation"]["path"]
        assert all(line[0] in "+- @*" for line in item["operation"].get("diff", "").splitlines())
    elif kind == "tool_search":
        assert isinstance(item["arguments"]["query"], str)
    else:
        assert item["action"]["commands" if kind == "shell" else "command"]


def check_call(case: Case, name: str, content: str) -> None:
    assert name in case.may
    if name in CUSTOM:
        assert re.fullmatch(CUSTOM[name][1], content)
        return
    arguments = json.loads(content)
    assert isinstance(arguments, dict)
    if name in STRICT:
        jsonschema.validate(arguments, STRICT[name])


def check_final(case: Case, text: str) -> None:
    if case.schema is not None:
        jsonschema.validate(json.loads(text), case.schema)


def check_response(case: Case, body: dict[str, Any]) -> bool:
    """Whether it was whole."""
    Response.model_validate(body)
    assert not any(mark in json.dumps(body["output"]) for mark in SAID)
    if body["status"] == "incomplete":
        assert body["incomplete_details"] == {"reason": "max_output_tokens"}
        return False
    assert body["status"] == "completed"
    last = body["output"][-1]
    calls = [item for item in body["output"] if item["type"].endswith("_call")]
    assert calls == ([last] if last["type"].endswith("_call") else [])
    assert calls or not case.must
    for item in calls:
        check_item(case, item)
    if not calls:
        check_final(case, last["content"][0]["text"])
    return True


def check_chat(case: Case, body: dict[str, Any]) -> bool:
    ChatCompletion.model_validate(body)
    choice = body["choices"][0]
    if choice["finish_reason"] == "length":
        return False
    calls = choice["message"].get("tool_calls") or []
    assert choice["finish_reason"] == ("tool_calls" if calls else "stop")
    assert calls or not case.must
    for call in calls:
        check_call(case, call["function"]["name"], call["function"]["arguments"])
    if not calls:
        check_final(case, choice["message"]["content"])
    return True


def test_whatever_is_asked_for_is_what_comes(hurried: Live) -> None:
    jobs: list[tuple[Any, Case, str, dict[str, Any]]] = []
    for case in cases():
        limits = {"temperature": 1}
        jobs.append(
            (
                check_response,
                case,
                "/v1/responses",
                {**case.body, **limits, "input": "Go on.", "max_output_tokens": 150},
            )
        )
        chat = chat_body(case)
        if chat is not None:
            jobs.append((check_chat, case, "/v1/chat/completions", {**chat, **limits, "max_tokens": 150}))

    def run(job: tuple[Any, Case, str, dict[str, Any]]) -> bool:
        check, case, path, body = job
        answer = httpx.post(f"{hurried.url}{path}", json=body, timeout=300)
        assert answer.status_code == 200, answer.text
        return bool(check(case, answer.json()))

    with ThreadPoolExecutor(16) as pool:
        whole = list(pool.map(run, jobs))
    assert sum(whole) > len(whole) / 2
