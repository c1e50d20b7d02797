"""pydantic-ai, on Responses, Chat Completions and Anthropic's Messages."""

import asyncio
import os
import sys

sys.path.insert(0, __file__.rsplit("/", 1)[0])
from features import feature, finish
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, ThinkingPart
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

URL = os.environ["OPENAI_BASE_URL"]
OPENAI = OpenAIProvider(base_url=URL, api_key="none")
ANTHROPIC = AnthropicProvider(base_url=URL.removesuffix("/v1"), api_key="none")
MODELS = [
    OpenAIResponsesModel("gpt-oss-20b", provider=OPENAI),
    OpenAIChatModel("gpt-oss-20b", provider=OPENAI),
    AnthropicModel("gpt-oss-20b", provider=ANTHROPIC),
]


class Report(BaseModel):
    city: str
    rain: bool


def get_weather(city: str) -> str:
    """Weather in a city."""
    return "rain" if city == "Oslo" else "?"


async def streamed(model):
    async with Agent(model).run_stream("Say hello") as result:
        return "".join([part async for part in result.stream_text(delta=True)])


with feature("answer"):
    for model in MODELS:
        assert Agent(model).run_sync("Say hello").output == "Hello!", model
with feature("stream"):
    for model in MODELS:
        assert asyncio.run(streamed(model)) == "Hello!", model
with feature("reasoning"):
    for model in MODELS:
        parts = Agent(model).run_sync("Say hello").all_messages()[-1].parts
        thoughts = [part for part in parts if isinstance(part, ThinkingPart)]
        raw = [(part.provider_details or {}).get("raw_content") for part in thoughts]  # Responses' raw reasoning
        assert thoughts and (thoughts[0].content == "Be friendly." or raw == [["Be friendly."]]), (model, parts)
with feature("tools"):
    for model in MODELS:
        result = Agent(model, tools=[get_weather]).run_sync("What is the weather in Oslo?")
        assert result.output == "It rains in Oslo.", model
with feature("structured output"):
    for model in MODELS[:2]:
        result = Agent(model, output_type=NativeOutput(Report)).run_sync("A report, please")
        assert result.output == Report(city="Oslo", rain=True), model
finish()
