"""openai-agents: an agent with a tool, on both APIs, with a typed result, and streamed."""

import asyncio
import sys

sys.path.insert(0, __file__.rsplit("/", 1)[0])
from agents import (
    Agent,
    ApplyPatchTool,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    ShellTool,
    apply_diff,
    function_tool,
    set_tracing_disabled,
)
from features import feature, finish
from openai import AsyncOpenAI
from pydantic import BaseModel

set_tracing_disabled(True)
client = AsyncOpenAI()
MODELS = [kind(model="m", openai_client=client) for kind in (OpenAIResponsesModel, OpenAIChatCompletionsModel)]


class Report(BaseModel):
    city: str
    rain: bool


@function_tool
def get_weather(city: str) -> str:
    """Weather in a city."""
    return "rain" if city == "Oslo" else "?"


def agent(model, **options):
    return Agent(name="a", instructions="Help.", model=model, model_settings=ModelSettings(), **options)


async def streamed(model):
    result = Runner.run_streamed(agent(model), "Say hello")
    kinds = [event.type async for event in result.stream_events()]
    assert "raw_response_event" in kinds
    assert result.final_output == "Hello!"


with feature("answer"):
    for model in MODELS:
        assert Runner.run_sync(agent(model), "Say hello").final_output == "Hello!"
with feature("stream"):
    for model in MODELS:
        asyncio.get_event_loop_policy().get_event_loop().run_until_complete(streamed(model))
with feature("tools"):
    for model in MODELS:
        result = Runner.run_sync(agent(model, tools=[get_weather]), "What is the weather in Oslo?")
        assert result.final_output == "It rains in Oslo.", result.final_output
with feature("free-form tools"):
    patched, ran = {}, []

    class Editor:
        def update_file(self, operation):
            patched[operation.path] = apply_diff("print('old')\n", operation.diff)

        create_file = delete_file = update_file

    def run(request):
        ran.extend(request.data.action.commands)
        return "rain"

    result = Runner.run_sync(agent(MODELS[0], tools=[ApplyPatchTool(editor=Editor())]), "Please patch main.py")
    assert result.final_output == "Done." and patched == {"main.py": "print('new')\n"}
    result = Runner.run_sync(agent(MODELS[0], tools=[ShellTool(executor=run)]), "Please run a command")
    assert result.final_output == "Done." and ran == ["echo rain"]
with feature("structured output"):
    for model in MODELS:
        result = Runner.run_sync(agent(model, output_type=Report), "A report, please")
        assert result.final_output == Report(city="Oslo", rain=True)
finish()
