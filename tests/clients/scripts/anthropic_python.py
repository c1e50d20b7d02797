"""Anthropic's own client."""

import os
import sys

sys.path.insert(0, __file__.rsplit("/", 1)[0])
from anthropic import Anthropic, beta_tool
from features import PARAMETERS, feature, finish
from pydantic import BaseModel

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


class Report(BaseModel):
    city: str
    rain: bool


@beta_tool
def get_weather(city: str) -> str:
    """Weather in a city."""
    return "rain"


with feature("tools"):
    runner = client.beta.messages.tool_runner(model="m", max_tokens=99, messages=ASK, tools=[get_weather])
    assert runner.until_done().content[-1].text == "It rains in Oslo."
    said = client.messages.create(model="m", max_tokens=99, messages=ASK, tools=[TOOL])
    result = {"type": "tool_result", "tool_use_id": said.content[-1].id, "content": "rain"}
    more = [*ASK, {"role": "assistant", "content": said.content}, {"role": "user", "content": [result]}]
    last = client.messages.create(model="m", max_tokens=99, messages=more, tools=[TOOL])
    assert last.content[-1].text == "It rains in Oslo."
with feature("structured output"):
    REPORT = [{"role": "user", "content": "A report, please"}]
    parsed = client.messages.parse(model="m", max_tokens=99, messages=REPORT, output_format=Report)
    assert parsed.parsed_output == Report(city="Oslo", rain=True)
finish()
