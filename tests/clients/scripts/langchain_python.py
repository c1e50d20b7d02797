"""langchain-openai, on both APIs."""

import os
import sys

sys.path.insert(0, __file__.rsplit("/", 1)[0])
from features import feature, finish
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel


class Report(BaseModel):
    """A report."""

    city: str
    rain: bool


@tool
def get_weather(city: str) -> str:
    """Weather in a city."""
    return "rain"


def text(message):
    return message.text if isinstance(message.text, str) else message.text()


MODELS = [
    ChatOpenAI(model="m", base_url=os.environ["OPENAI_BASE_URL"], use_responses_api=responses)
    for responses in (False, True)
]
with feature("answer"):
    assert [text(model.invoke("Say hello")) for model in MODELS] == ["Hello!"] * 2
with feature("stream"):
    for model in MODELS:
        assert "".join(text(part) for part in model.stream("Say hello")) == "Hello!"
with feature("tools"):
    for model in MODELS:
        bound = model.bind_tools([get_weather])
        asked = HumanMessage("What is the weather in Oslo?")
        said = bound.invoke([asked])
        assert said.tool_calls[0]["args"] == {"city": "Oslo"}, said
        answer = ToolMessage("rain", tool_call_id=said.tool_calls[0]["id"])
        assert text(bound.invoke([asked, said, answer])) == "It rains in Oslo."
with feature("structured output"):
    for model in MODELS:
        assert model.with_structured_output(Report).invoke("A report, please") == Report(city="Oslo", rain=True)
finish()
