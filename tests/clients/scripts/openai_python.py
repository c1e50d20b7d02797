"""openai-python: both APIs, typed."""

import sys

sys.path.insert(0, __file__.rsplit("/", 1)[0])
from features import WEATHER, WEATHER_FLAT, feature, finish
from openai import OpenAI
from pydantic import BaseModel


class Report(BaseModel):
    city: str
    rain: bool


client = OpenAI()
HELLO = [{"role": "user", "content": "Say hello"}]
ASK = [{"role": "user", "content": "What is the weather in Oslo?"}]

with feature("answer"):
    assert client.responses.create(model="m", input="Say hello").output_text == "Hello!"
    assert client.chat.completions.create(model="m", messages=HELLO).choices[0].message.content == "Hello!"
with feature("stream"):
    with client.responses.stream(model="m", input="Say hello") as stream:
        kinds = [event.type for event in stream]
        assert stream.get_final_response().output_text == "Hello!"
    assert kinds[0] == "response.created" and kinds[-1] == "response.completed"
    chunks = client.chat.completions.create(model="m", messages=HELLO, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Hello!"
with feature("reasoning"):
    item = client.responses.create(model="m", input="Say hello").output[0]
    assert item.type == "reasoning" and item.content[0].text == "Be friendly."
    message = client.chat.completions.create(model="m", messages=HELLO).choices[0].message
    assert message.reasoning == "Be friendly."
with feature("tools"):
    first = client.responses.create(model="m", input=ASK, tools=[WEATHER_FLAT])
    call = first.output[-1]
    assert call.name == "get_weather" and call.arguments == '{"city": "Oslo"}'
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
    second = client.responses.create(model="m", input=[*ASK, *first.output, result], tools=[WEATHER_FLAT])
    assert second.output_text == "It rains in Oslo."
    said = client.chat.completions.create(model="m", messages=ASK, tools=[WEATHER]).choices[0].message
    result = {"role": "tool", "tool_call_id": said.tool_calls[0].id, "content": "rain"}
    last = client.chat.completions.create(model="m", messages=[*ASK, said, result], tools=[WEATHER])
    assert last.choices[0].message.content == "It rains in Oslo."
with feature("free-form tools"):
    patch = {"type": "custom", "name": "apply_patch"}
    first = client.responses.create(model="m", input="Please patch main.py", tools=[patch])
    call = first.output[-1]
    assert call.type == "custom_tool_call" and call.input.startswith("*** Begin Patch\n*** Update File: main.py")
    result = {"type": "custom_tool_call_output", "call_id": call.call_id, "output": "Done"}
    asked = {"role": "user", "content": "Please patch main.py"}
    assert (
        client.responses.create(model="m", input=[asked, *first.output, result], tools=[patch]).output_text == "Done."
    )
with feature("WebSocket"):
    with client.responses.connect() as connection:
        connection.response.create(model="m", input="Say hello")
        last = next(event for event in connection if event.type == "response.completed")
    assert last.response.output_text == "Hello!"
with feature("structured output"):
    parsed = client.responses.parse(model="m", input="A report, please", text_format=Report)
    assert parsed.output_parsed == Report(city="Oslo", rain=True)
    parsed = client.chat.completions.parse(
        model="m", messages=[{"role": "user", "content": "A report, please"}], response_format=Report
    )
    assert parsed.choices[0].message.parsed == Report(city="Oslo", rain=True)
with feature("state"):
    first = client.responses.create(model="m", input="Say hello")
    assert client.responses.create(model="m", input="Say hello", previous_response_id=first.id).output_text == "Hello!"
    assert client.responses.retrieve(first.id).output_text == "Hello!"
finish()
