"""llama-index: OpenAILike on Chat Completions, and OpenAIResponses; an agent with a tool."""

import asyncio
import os
import sys

sys.path.insert(0, __file__.rsplit("/", 1)[0])
from features import feature, finish
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai import OpenAIResponses
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

URL = os.environ["OPENAI_BASE_URL"]
CHAT = OpenAILike(
    model="gpt-oss-20b", api_base=URL, api_key="none", context_window=131_072, is_chat_model=True,
    is_function_calling_model=True, should_use_structured_outputs=True,
)  # fmt: skip
RESPONSES = OpenAIResponses(model="gpt-oss-20b", api_base=URL, api_key="none", context_window=131_072)
MODELS = [CHAT, RESPONSES]
HELLO = [ChatMessage("Say hello")]


class Report(BaseModel):
    """A report."""

    city: str
    rain: bool


def get_weather(city: str) -> str:
    """Weather in a city."""
    return "rain" if city == "Oslo" else "?"


async def ask(model):
    agent = FunctionAgent(tools=[FunctionTool.from_defaults(get_weather)], llm=model, system_prompt="Help.")
    return str(await agent.run("What is the weather in Oslo?"))


with feature("answer"):
    for model in MODELS:
        assert model.chat(HELLO).message.content == "Hello!", model
with feature("stream"):
    for model in MODELS:
        assert "".join(part.delta or "" for part in model.stream_chat(HELLO)) == "Hello!", model
with feature("tools"):
    for model in MODELS:
        assert asyncio.run(ask(model)) == "It rains in Oslo.", model
with feature("structured output"):
    report = CHAT.as_structured_llm(Report).chat([ChatMessage("A report, please")]).raw
    assert report == Report(city="Oslo", rain=True), report
finish()
