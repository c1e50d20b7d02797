"""Requests of every API, as rich as clients send them: what the fuzzer begins with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
PICTURE = f"data:image/png;base64,{PNG}"


@dataclass(frozen=True)
class Seed:
    """A request.

    method: of HTTP, or "WS" for a frame on a WebSocket.
    body: None where there is none.
    """

    method: str
    path: str
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "description": "Where", "minLength": 1, "maxLength": 40, "pattern": "^[A-Z]"},
        "days": {"type": "integer", "minimum": 0, "maximum": 14, "default": 3},
        "unit": {"enum": ["c", "f", None]},
        "near": {"type": "array", "items": {"$ref": "#/$defs/place"}, "minItems": 1, "maxItems": 4},
        "when": {"anyOf": [{"type": "string", "format": "date"}, {"type": "null"}]},
        "more": {"type": "object", "additionalProperties": {"type": ["number", "null"], "multipleOf": 0.5}},
    },
    "required": ["city"],
    "additionalProperties": False,
    "$defs": {"place": {"type": "object", "properties": {"x": {"const": 1}, "in": {"$ref": "#/$defs/place"}}}},
}
LARK = 'start: "a" rest*\nrest: /[b-d]+/ | ","\n'
FUNCTION = {"name": "get_weather", "description": "The weather.", "parameters": SCHEMA, "strict": True}
CALL = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'}}
NUMBERS = {
    "temperature": 0.7, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "presence_penalty": 0.5, "frequency_penalty": -0.5,
    "logit_bias": {"17": 5, "199999": -100}, "seed": 7,
}  # fmt: skip
FORMAT = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA, "strict": True}}

CHAT: dict[str, Any] = {
    "model": "tiny",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": [{"type": "text", "text": "And kind."}]},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}], "name": "ann"},
        {"role": "assistant", "content": None, "reasoning_content": "Hm.", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
        {"role": "assistant", "content": "Sunny.", "reasoning_details": [{"type": "reasoning.text", "text": "So."}]},
        {"role": "user", "content": "And tomorrow?"},
    ],
    "tools": [
        {"type": "function", "function": FUNCTION},
        {"type": "custom", "custom": {"name": "write", "format": {"type": "grammar", "grammar": {
            "syntax": "lark", "definition": LARK}}}},
        {"type": "custom", "custom": {"name": "digits", "format": {"type": "grammar", "grammar": {
            "syntax": "regex", "definition": "[0-9]{1,9}(a|b)?"}}}},
    ],
    "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
    "parallel_tool_calls": True,
    "stream": True,
    "stream_options": {"include_usage": True},
    "max_completion_tokens": 50,
    "stop": ["zzz"],
    "logprobs": True,
    "top_logprobs": 2,
    "n": 2,
    "reasoning_effort": "low",
    "reasoning": {"effort": "high", "exclude": True},
    "metadata": {"a": "b"},
    "user": "u",
    **NUMBERS,
}  # fmt: skip
PLAIN_CHAT: dict[str, Any] = {
    "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "image_url", "image_url": {
        "url": PICTURE}}]}, {"role": "user", "content": "So?"}],
    "functions": [FUNCTION],
    "function_call": {"name": "get_weather"},
    "response_format": FORMAT,
    "store": True,
    "modalities": ["text"],
}  # fmt: skip
TEXT_ITEM = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]}
RESPONSES: dict[str, Any] = {
    "model": "tiny",
    "instructions": "Be brief.",
    "input": [
        TEXT_ITEM,
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "S"}], "content": [
            {"type": "reasoning_text", "text": "Hm."}], "encrypted_content": "gAAAA"},
        {"type": "function_call", "call_id": "call_1", "name": "get_weather", "arguments": "{}", "namespace": "ns"},
        {"type": "function_call_output", "call_id": "call_1", "output": [{"type": "input_text", "text": "sunny"}]},
        {"type": "custom_tool_call", "call_id": "call_2", "name": "write", "input": "ab"},
        {"type": "custom_tool_call_output", "call_id": "call_2", "output": "done"},
        {"type": "local_shell_call", "call_id": "call_3", "action": {"type": "exec", "command": ["ls"]}},
        {"type": "local_shell_call_output", "call_id": "call_3", "output": "x"},
        {"type": "web_search_call", "id": "ws_1", "action": {"type": "search", "query": "q"}},
        {"type": "code_interpreter_call", "id": "ci", "code": "1", "outputs": [{"type": "logs", "logs": "1"}]},
        {"type": "mcp_call", "id": "m", "name": "f", "arguments": "{}", "output": "o", "error": None},
        {"type": "compaction", "encrypted_content": "x"},
        {"role": "assistant", "content": [{"type": "output_text", "text": "Sunny.", "annotations": []}], "phase": "x"},
        {"role": "user", "content": [{"type": "input_text", "text": "And now?"}, {"type": "input_text", "text": "x"}]},
    ],
    "tools": [
        {"type": "function", **FUNCTION},
        {"type": "custom", "name": "write", "format": {"type": "grammar", "syntax": "lark", "definition": LARK}},
        {"type": "custom", "name": "digits", "format": {"type": "grammar", "syntax": "regex", "definition": "[0-9]+"}},
        {"type": "namespace", "name": "ns", "tools": [{"type": "function", **FUNCTION}]},
        {"type": "mcp", "server_label": "s", "server_url": "http://127.0.0.1:9/mcp", "require_approval": "never",
         "headers": {"a": "b"}, "allowed_tools": ["f"]},
        {"type": "local_shell"}, {"type": "web_search"}, {"type": "apply_patch"}, {"type": "shell"},
        {"type": "code_interpreter", "container": {"type": "auto"}},
    ],
    "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "get_weather"}]},
    "text": {"format": {"type": "json_schema", "name": "place", "schema": SCHEMA, "strict": True}, "verbosity": "low"},
    "reasoning": {"effort": "low", "summary": "auto"},
    "include": ["reasoning.encrypted_content", "message.output_text.logprobs"],
    "truncation": "auto",
    "max_output_tokens": 40,
    "max_tool_calls": 3,
    "temperature": 1,
    "top_p": 0.5,
    "top_logprobs": 3,
    "metadata": {"k": "v"},
    "stream": True,
    "store": True,
    "parallel_tool_calls": False,
}  # fmt: skip
SMALL_RESPONSES: dict[str, Any] = {
    "input": "Hi", "previous_response_id": "resp_x", "conversation": {"id": "conv_x"}, "background": True,
    "store": True, "prompt": {"id": "p"},
}  # fmt: skip
MESSAGES: dict[str, Any] = {
    "model": "claude",
    "max_tokens": 50,
    "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": "x"},
            {"type": "redacted_thinking", "data": "x"},
            {"type": "text", "text": "I look."},
            {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Rome"}},
            {"type": "server_tool_use", "id": "s_1", "name": "web_search", "input": {"query": "q"}},
            {"type": "web_search_tool_result", "tool_use_id": "s_1", "content": [{"type": "web_search_result",
             "title": "t", "url": "http://x", "encrypted_content": "x"}]}]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "toolu_1", "is_error": False, "content": [
                {"type": "text", "text": "sunny"}]},
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "d"}, "title": "t"},
            {"type": "text", "text": "Now?"}]},
    ],
    "tools": [
        {"name": "get_weather", "description": "W", "input_schema": SCHEMA},
        {"type": "bash_20250124", "name": "bash"},
        {"type": "text_editor_20250728", "name": "str_replace_based_edit_tool"},
        {"type": "web_search_20250305", "name": "web_search", "max_uses": 2},
        {"type": "custom", "name": "other", "input_schema": {"type": "object"}},
    ],
    "tool_choice": {"type": "tool", "name": "get_weather", "disable_parallel_tool_use": True},
    "stop_sequences": ["zzz"],
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}},
    "metadata": {"user_id": "u"},
    "temperature": 1,
    "top_p": 0.5,
    "top_k": 5,
    "stream": True,
}  # fmt: skip
OLLAMA: dict[str, Any] = {
    "model": "tiny",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi", "images": []},
        {"role": "assistant", "content": "", "thinking": "Hm", "tool_calls": [
            {"id": "c", "function": {"name": "get_weather", "arguments": {"city": "Rome"}}}]},
        {"role": "tool", "content": "sunny", "tool_name": "get_weather", "tool_call_id": "c"},
        {"role": "user", "content": "So?"},
    ],
    "tools": [{"type": "function", "function": FUNCTION}],
    "format": SCHEMA,
    "options": {**NUMBERS, "num_predict": 20, "stop": ["x"], "num_ctx": 2048, "repeat_penalty": 1.1},
    "think": "low",
    "stream": True,
    "logprobs": True,
    "top_logprobs": 1,
    "keep_alive": "5m",
}  # fmt: skip
GENERATE = {"model": "tiny", "prompt": "Hi", "system": "s", "raw": True, "suffix": "", "images": [], "stream": True,
            "options": {"num_predict": 9, "stop": ["z"], "temperature": 1}, "format": "", "think": False}  # fmt: skip
COMPLETIONS: dict[str, Any] = {
    "model": "tiny", "prompt": ["Hi", "there"], "max_tokens": 10, "n": 2, "stream": True, "echo": True, "logprobs": 2,
    "prompt_logprobs": 1, "stop": ["q"], "stop_token_ids": [5], "return_token_ids": True, "best_of": 2, "suffix": "",
    "stream_options": {"include_usage": True}, **NUMBERS,
}  # fmt: skip
CONVERSATION = {"items": [TEXT_ITEM], "metadata": {"a": "b"}}
VERSION = {"anthropic-version": "2023-06-01"}

WHOLE_CHAT = {**CHAT, "stream": False, "n": 1, "tool_choice": "auto", "response_format": FORMAT}

SEEDS = (
    Seed("POST", "/v1/chat/completions", CHAT),
    Seed("POST", "/v1/chat/completions", WHOLE_CHAT),
    Seed("POST", "/v1/chat/completions", PLAIN_CHAT),
    Seed("POST", "/v1/responses", RESPONSES),
    Seed("POST", "/v1/responses", {**RESPONSES, "stream": False, "tool_choice": "auto", "input": [TEXT_ITEM]}),
    Seed("POST", "/v1/responses", SMALL_RESPONSES),
    Seed("WS", "/v1/responses", {"type": "response.create", **RESPONSES}),
    Seed("WS", "/v1/responses", {"type": "response.create", "input": "Hi", "generate": False, "store": False}),
    Seed("POST", "/v1/responses/input_tokens", RESPONSES),
    Seed("POST", "/v1/responses/compact", {"model": "tiny", "input": RESPONSES["input"]}),
    Seed("POST", "/v1/messages", MESSAGES, VERSION),
    Seed("POST", "/v1/messages", {**MESSAGES, "stream": False, "output_config": None}),
    Seed("POST", "/v1/messages/count_tokens", MESSAGES, VERSION),
    Seed("POST", "/v1/completions", COMPLETIONS),
    Seed("POST", "/v1/completions", {**COMPLETIONS, "prompt": [[1, 2], [3]], "stream": False, "best_of": None}),
    Seed("POST", "/v1/completions", {"prompt": [1, 2, 3], "max_tokens": 0, "echo": True, "logprobs": 1}),
    Seed("POST", "/api/chat", OLLAMA),
    Seed("POST", "/api/chat", {**OLLAMA, "stream": False, "format": "json"}),
    Seed("POST", "/api/generate", GENERATE),
    Seed("POST", "/api/generate", {**GENERATE, "raw": False, "stream": False, "format": SCHEMA}),
    Seed("POST", "/api/show", {"model": "tiny", "verbose": True}),
    Seed("POST", "/api/pull", {"model": "tiny", "stream": True, "insecure": False}),
    Seed("POST", "/v1/conversations", CONVERSATION),
    Seed("POST", "/v1/conversations/CONVERSATION", CONVERSATION),
    Seed("POST", "/v1/conversations/CONVERSATION/items", {"items": RESPONSES["input"]}),
    Seed("POST", "/v1/conversations/CONVERSATION/turns", {"response": "RESPONSE"}),
    Seed("POST", "/v1/chat/completions/COMPLETION", {"metadata": {"a": "b"}}),
    Seed("POST", "/v1/responses/RESPONSE/cancel"),
    Seed("POST", "/tokenize", {"prompt": "Hi <|end|>", "return_token_strs": True}),
    Seed("POST", "/tokenize", {"messages": CHAT["messages"], "tools": CHAT["tools"][:1], "reasoning_effort": "low"}),
    Seed("POST", "/detokenize", {"tokens": [1, 2, 199998, 200012]}),
    *(Seed("GET", path) for path in (
        "/", "/health", "/docs", "/metrics", "/tokenizer_info", "/v1/models", "/v1/models/x", "/v1/server",
        "/page/x.js", "/openapi.json", "/v1/conversations?limit=5", "/v1/conversations/CONVERSATION",
        "/v1/conversations/CONVERSATION/items?after=x&limit=3&order=asc", "/v1/conversations/CONVERSATION/items/x",
        "/v1/conversations/CONVERSATION/turns", "/v1/responses/RESPONSE", "/v1/responses/RESPONSE?stream=true",
        "/v1/responses/RESPONSE?stream=true&starting_after=1", "/v1/responses/RESPONSE/input_items?limit=3&after=y",
        "/v1/responses/RESPONSE/trace", "/v1/chat/completions?limit=2&model=tiny", "/v1/chat/completions/COMPLETION",
        "/v1/chat/completions/COMPLETION/messages?after=a", "/api/version", "/api/tags", "/api/ps",
    )),
    Seed("GET", "/v1/models", None, VERSION),
    Seed("DELETE", "/v1/responses/x"),
    Seed("DELETE", "/v1/conversations/x"),
    Seed("DELETE", "/v1/conversations/CONVERSATION/items/x"),
)  # fmt: skip
