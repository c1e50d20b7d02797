"""Ollama's own client."""

import os
import sys

sys.path.insert(0, __file__.rsplit("/", 1)[0])
import json

from features import PARAMETERS, WEATHER, feature, finish
from ollama import Client

client = Client(os.environ["OPENAI_BASE_URL"].removesuffix("/v1"))
HELLO = [{"role": "user", "content": "Say hello"}]
ASK = [{"role": "user", "content": "What is the weather in Oslo?"}]

with feature("answer"):
    assert client.chat("gpt-oss:20b", HELLO).message.content == "Hello!"
    assert client.generate("gpt-oss:20b", "Say hello").response == "Hello!"
with feature("stream"):
    assert "".join(part.message.content for part in client.chat("gpt-oss:20b", HELLO, stream=True)) == "Hello!"
with feature("reasoning"):
    assert client.chat("gpt-oss:20b", HELLO).message.thinking == "Be friendly."
with feature("tools"):
    said = client.chat("gpt-oss:20b", ASK, tools=[WEATHER]).message
    assert said.tool_calls[0].function.arguments == {"city": "Oslo"}
    answer = {"role": "tool", "tool_name": "get_weather", "content": "rain"}
    assert client.chat("gpt-oss:20b", [*ASK, said, answer], tools=[WEATHER]).message.content == "It rains in Oslo."
with feature("structured output"):
    report = [{"role": "user", "content": "A report, please"}]
    assert json.loads(client.chat("gpt-oss:20b", report, format=PARAMETERS).message.content)["city"] == "Oslo"
finish()
