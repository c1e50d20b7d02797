"""An agent of OpenAI's Agents SDK whose model runs on your own machine.

    pip install openai-agents
    gpt-oss serve                           # in another terminal; with openai/gpt-oss-20b behind it, the real one
    python examples/agents_sdk.py "What is the weather in Oslo?"

OPENAI_BASE_URL names another server.
"""

import asyncio
import os
import sys

from agents import Agent, ModelSettings, OpenAIResponsesModel, Runner, function_tool, set_tracing_disabled
from openai import AsyncOpenAI
from openai.types.shared import Reasoning

set_tracing_disabled(True)  # traces would go to OpenAI


@function_tool
def get_weather(city: str) -> str:
    """Gets the current weather in a city."""
    print(f"[get_weather is called with {city!r}]")
    return f"{city}, 3 degrees"


async def main(question: str) -> None:
    client = AsyncOpenAI(base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"), api_key="none")
    served = (await client.models.list()).data[0].id
    agent = Agent(
        name="Weather agent",
        model=OpenAIResponsesModel(model=served, openai_client=client),
        model_settings=ModelSettings(temperature=0, max_tokens=1000, reasoning=Reasoning(effort="low")),
        tools=[get_weather],
    )
    result = await Runner.run(agent, question)
    print(result.final_output)


if __name__ == "__main__":
    asyncio.run(main(" ".join(sys.argv[1:]) or "What is the weather in Oslo?"))
