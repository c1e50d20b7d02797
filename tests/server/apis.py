"""One way to ask each of the five APIs, so that a kind of fault is a case for all of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

Json = dict[str, Any]
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


@dataclass(frozen=True)
class Call:
    """A call in a history. id: "" where the client sends none."""

    id: str
    name: str = "get_weather"
    arguments: Json = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """What a call gave. picture: it holds one as well."""

    id: str
    text: str
    name: str = ""
    picture: bool = False
    failed: bool = False


@dataclass(frozen=True)
class User:
    text: str
    picture: bool = False


@dataclass(frozen=True)
class Said:
    text: str


Turn = User | Said | Call | Result
WEATHER: Json = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


@dataclass(frozen=True)
class Answer:
    """An answer of any API, in one form.

    text: what the user sees.
    end: the API's word for how it ended.
    """

    status: int
    body: Json
    text: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    end: str = ""
    output_tokens: int = 0
    prompt_tokens: int = 0
    headers: httpx.Headers = field(default_factory=httpx.Headers)


class Api:
    """name, path: of the API. stop_field, max_field: its names for them."""

    name = ""
    path = ""
    max_field = "max_tokens"
    stop_field = "stop"
    length_end = "length"
    stop_end = "stop"

    def body(self, turns: Sequence[Turn], *, schema: Json | None = WEATHER, **more: Any) -> Json:
        raise NotImplementedError

    def read(self, body: Json) -> Json:
        raise NotImplementedError

    def error_of(self, body: Json) -> str:
        raise NotImplementedError

    def ask(self, url: str, turns: Sequence[Turn], *, schema: Json | None = WEATHER, **more: Any) -> Answer:
        return self.post(url, self.body(turns, schema=schema, **more))

    def post(self, url: str, body: Any, **options: Any) -> Answer:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = httpx.post(
            url + self.path, content=content, headers={"content-type": "application/json"}, timeout=60, **options
        )
        if answer.status_code != 200:
            return Answer(answer.status_code, answer.json(), headers=answer.headers)
        return Answer(200, answer.json(), headers=answer.headers, **self.read(answer.json()))

    def stream(self, url: str, turns: Sequence[Turn], **more: Any) -> list[Json]:
        """The events, or lines, of a streamed answer, as a client reads them that splits as Python does."""
        body = {**self.body(turns, **more), "stream": True}
        answer = httpx.post(url + self.path, json=body, timeout=60)
        lines = answer.text.splitlines()  # at U+2028 and U+0085 as well
        data = [line.removeprefix("data: ") for line in lines if line and not line.startswith(("event:", ":"))]
        return [json.loads(line) for line in data if line != "[DONE]"]

    def streamed_text(self, events: Sequence[Json]) -> str:
        raise NotImplementedError


class Chat(Api):
    name, path = "chat", "/v1/chat/completions"

    def body(self, turns: Sequence[Turn], *, schema: Json | None = WEATHER, **more: Any) -> Json:
        messages: list[Json] = []
        for turn in turns:
            match turn:
                case User(text, picture):
                    parts: Any = [{"type": "text", "text": text}]
                    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
                    messages.append({"role": "user", "content": [*parts, image] if picture else text})
                case Said(text):
                    messages.append({"role": "assistant", "content": text})
                case Call(identity, name, arguments):
                    function = {"name": name, "arguments": json.dumps(arguments)}
                    call = {"type": "function", "function": function} | ({"id": identity} if identity else {})
                    if messages and messages[-1].get("tool_calls"):
                        messages[-1]["tool_calls"].append(call)
                    else:
                        messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
                case Result(identity, text, name, picture):
                    content: Any = text
                    if picture:
                        image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
                        content = [{"type": "text", "text": text}, image]
                    message: Json = {"role": "tool", "content": content}
                    message |= {"tool_call_id": identity} if identity else {}
                    messages.append(message | ({"name": name} if name else {}))
        body: Json = {"model": "tiny", "messages": messages, **more}
        if schema is not None:
            function = {"name": "get_weather", "description": "Weather.", "parameters": schema}
            body["tools"] = [{"type": "function", "function": function}]
        return body

    def read(self, body: Json) -> Json:
        choice = body["choices"][0]
        calls = [(c["function"]["name"], c["function"]["arguments"]) for c in choice["message"].get("tool_calls", [])]
        return {
            "text": choice["message"]["content"] or "",
            "calls": tuple(calls),
            "end": choice["finish_reason"],
            "output_tokens": body["usage"]["completion_tokens"],
            "prompt_tokens": body["usage"]["prompt_tokens"],
        }

    def error_of(self, body: Json) -> str:
        assert set(body) == {"error"}
        assert set(body["error"]) == {"message", "type", "param", "code"}
        return str(body["error"]["message"])

    def streamed_text(self, events: Sequence[Json]) -> str:
        choices = [choice for event in events for choice in event["choices"]]
        return "".join(choice["delta"].get("content") or "" for choice in choices)


class Responses(Api):
    name, path, max_field = "responses", "/v1/responses", "max_output_tokens"
    length_end, stop_end = "incomplete", "completed"

    def body(self, turns: Sequence[Turn], *, schema: Json | None = WEATHER, **more: Any) -> Json:
        items: list[Json] = []
        picture_part = {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"}
        for turn in turns:
            match turn:
                case User(text, picture):
                    parts: list[Json] = [{"type": "input_text", "text": text}]
                    items.append({"role": "user", "content": [*parts, picture_part] if picture else parts})
                case Said(text):
                    items.append({"role": "assistant", "content": [{"type": "output_text", "text": text}]})
                case Call(identity, name, arguments):
                    call = {"type": "function_call", "name": name, "arguments": json.dumps(arguments)}
                    items.append(call | ({"call_id": identity} if identity else {}))
                case Result(identity, text, _, picture):
                    output: Any = [{"type": "input_text", "text": text}, picture_part] if picture else text
                    item: Json = {"type": "function_call_output", "output": output}
                    items.append(item | ({"call_id": identity} if identity else {}))
        body: Json = {"model": "tiny", "input": items, "store": False, **more}
        if schema is not None:
            body["tools"] = [{"type": "function", "name": "get_weather", "description": "W.", "parameters": schema}]
        return body

    def read(self, body: Json) -> Json:
        messages = [item for item in body["output"] if item["type"] == "message"]
        calls = [(i["name"], i["arguments"]) for i in body["output"] if i["type"] == "function_call"]
        return {
            "text": "\n\n".join(part["text"] for item in messages for part in item["content"]),
            "calls": tuple(calls),
            "end": body["status"],
            "output_tokens": body["usage"]["output_tokens"],
            "prompt_tokens": body["usage"]["input_tokens"],
        }

    error_of = Chat.error_of

    def streamed_text(self, events: Sequence[Json]) -> str:
        return "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")


class Anthropic(Api):
    name, path, stop_field = "anthropic", "/v1/messages", "stop_sequences"
    length_end, stop_end = "max_tokens", "end_turn"

    def body(self, turns: Sequence[Turn], *, schema: Json | None = WEATHER, **more: Any) -> Json:
        messages: list[Json] = []
        image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}

        def add(role: str, block: Json) -> None:
            if not messages or messages[-1]["role"] != role:
                messages.append({"role": role, "content": []})
            messages[-1]["content"].append(block)

        for turn in turns:
            match turn:
                case User(text, picture):
                    messages.append({"role": "user", "content": [{"type": "text", "text": text}]})
                    if picture:
                        add("user", image)
                case Said(text):
                    add("assistant", {"type": "text", "text": text})
                case Call(identity, name, arguments):
                    add("assistant", {"type": "tool_use", "id": identity, "name": name, "input": arguments})
                case Result(identity, text, _, picture, failed):
                    content: list[Json] = [{"type": "text", "text": text}, *([image] if picture else [])]
                    block = {"type": "tool_result", "tool_use_id": identity, "content": content}
                    add("user", block | ({"is_error": True} if failed else {}))
        body: Json = {"model": "tiny", "max_tokens": 400, "messages": messages, **more}
        if schema is not None:
            body["tools"] = [{"name": "get_weather", "description": "Weather.", "input_schema": schema}]
        return body

    def read(self, body: Json) -> Json:
        calls = [(b["name"], json.dumps(b["input"])) for b in body["content"] if b["type"] == "tool_use"]
        usage = body["usage"]
        return {
            "text": "\n\n".join(block["text"] for block in body["content"] if block["type"] == "text"),
            "calls": tuple(calls),
            "end": body["stop_reason"],
            "output_tokens": usage["output_tokens"],
            "prompt_tokens": usage["input_tokens"] + usage["cache_read_input_tokens"],
        }

    def error_of(self, body: Json) -> str:
        assert body["type"] == "error"
        assert set(body["error"]) == {"type", "message"}
        return str(body["error"]["message"])

    def streamed_text(self, events: Sequence[Json]) -> str:
        deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
        return "".join(delta["text"] for delta in deltas if delta["type"] == "text_delta")


class Ollama(Api):
    name, path = "ollama", "/api/chat"

    def body(self, turns: Sequence[Turn], *, schema: Json | None = WEATHER, **more: Any) -> Json:
        messages: list[Json] = []
        for turn in turns:
            match turn:
                case User(text, picture):
                    messages.append({"role": "user", "content": text, **({"images": [PNG]} if picture else {})})
                case Said(text):
                    messages.append({"role": "assistant", "content": text})
                case Call(identity, name, arguments):
                    call: Json = {"function": {"name": name, "arguments": arguments}}
                    call |= {"id": identity} if identity else {}
                    if messages and messages[-1].get("tool_calls"):
                        messages[-1]["tool_calls"].append(call)
                    else:
                        messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
                case Result(identity, text, name, picture):
                    message: Json = {"role": "tool", "content": text, **({"images": [PNG]} if picture else {})}
                    message |= {"tool_call_id": identity} if identity else {}
                    messages.append(message | ({"tool_name": name} if name else {}))
        options = {
            self.option(key): value for key, value in more.items() if key in ("max_tokens", "stop", "temperature")
        }
        rest = {key: value for key, value in more.items() if self.option(key) not in options}
        body: Json = {"model": "tiny", "messages": messages, "stream": False, "options": options, **rest}
        if schema is not None:
            function = {"name": "get_weather", "description": "Weather.", "parameters": schema}
            body["tools"] = [{"type": "function", "function": function}]
        return body

    @staticmethod
    def option(key: str) -> str:
        return {"max_tokens": "num_predict"}.get(key, key)

    def read(self, body: Json) -> Json:
        calls = body["message"].get("tool_calls", [])
        return {
            "text": body["message"]["content"],
            "calls": tuple((c["function"]["name"], json.dumps(c["function"]["arguments"])) for c in calls),
            "end": body["done_reason"],
            "output_tokens": body["eval_count"],
            "prompt_tokens": body["prompt_eval_count"],
        }

    def error_of(self, body: Json) -> str:
        assert set(body) == {"error"}
        assert isinstance(body["error"], str)
        return str(body["error"])

    def streamed_text(self, events: Sequence[Json]) -> str:
        return "".join(event["message"]["content"] for event in events)


class Completions(Api):
    name, path = "completions", "/v1/completions"

    def body(self, turns: Sequence[Turn], *, schema: Json | None = None, **more: Any) -> Json:
        prompt = " ".join(turn.text for turn in turns if isinstance(turn, User | Said))
        return {"model": "tiny", "prompt": prompt, "max_tokens": 400, **more}

    def read(self, body: Json) -> Json:
        choice = body["choices"][0]
        return {
            "text": choice["text"],
            "end": choice["finish_reason"],
            "output_tokens": body["usage"]["completion_tokens"],
            "prompt_tokens": body["usage"]["prompt_tokens"],
        }

    error_of = Chat.error_of

    def streamed_text(self, events: Sequence[Json]) -> str:
        return "".join(choice["text"] for event in events for choice in event["choices"])


CHAT, RESPONSES, ANTHROPIC, OLLAMA, COMPLETIONS = Chat(), Responses(), Anthropic(), Ollama(), Completions()
ALL: tuple[Api, ...] = (CHAT, RESPONSES, ANTHROPIC, OLLAMA, COMPLETIONS)
CONVERSATIONS: tuple[Api, ...] = (CHAT, RESPONSES, ANTHROPIC, OLLAMA)
WITH_STOPS: tuple[Api, ...] = (CHAT, ANTHROPIC, OLLAMA)
