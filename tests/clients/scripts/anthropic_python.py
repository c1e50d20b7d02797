"""Anthropic's own client."""

import os
import sys

sys.path.insert(0, __file__.rsplit("/", 1)[0])
from anthropic import Anthropic
from features import PARAMETERS, feature, finish

client = Anthropic(base_url=os.environ["OPENAI_BASE_URL"].removesuffix("/v1"), api_key="none")
HELLO = [{"role": "user", "content": "Say hello"}]
ASK = [{"role": "user", "content": "What is the weather in Oslo?"}]
TOOL = {"name": "get_weather", "description": "Weather in a city.", "input_schema": PARAMETERS}

with feature("answer"):
    assert client.messages.create(model="m", max_tokens=99, messages=HELLO).content[-1].text == "Hello!"
with feature("stream"), client.messages.stream(model="m", max_tokens=99, messages=HELLO) as stream:
    assert "".join(stream.text_stream) == "Hello!"
with feature("reasoning"):
    assert client.messages.create(model="m", max_tokens=99, messages=HELLO).content[0].thinking == "Be friendly."
with feature("tools"):
    said = client.messages.create(model="m", max_tokens=99, messages=ASK, tools=[TOOL])
    result = {"type": "tool_result", "tool_use_id": said.content[-1].id, "content": "rain"}
    more = [*ASK, {"role": "assistant", "content": said.content}, {"role": "user", "content": [result]}]
    last = client.messages.create(model="m", max_tokens=99, messages=more, tools=[TOOL])
    assert last.content[-1].text == "It rains in Oslo."
finish()
