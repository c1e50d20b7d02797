"""Function calling over HTTP with OpenAI's SDK: the model asks for a call, this program makes it and sends the answer.

    pip install openai
    gpt-oss serve                           # in another terminal; with openai/gpt-oss-20b behind it, the real one
    python examples/function_calling.py "What is the weather in Oslo?"

OPENAI_BASE_URL names another server. The same in one process, without HTTP: examples/weather.py.
"""

import json
import os
import sys

from openai import OpenAI


def get_weather(city: str) -> dict[str, object]:
    return {"city": city, "celsius": -3, "sky": "snow"}


FUNCTIONS = {"get_weather": get_weather}
TOOLS = [
    {
        "type": "function",
        "name": "get_weather",
        "description": "Gets the current weather in a city.",
        "strict": True,  # the server's grammar holds the arguments to this schema
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    }
]


def main(question: str) -> None:
    client = OpenAI(base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"), api_key="none")
    served = client.models.list().data[0].id
    conversation: list = [{"role": "user", "content": question}]
    for _ in range(5):  # rounds; a model that only ever calls must end as well
        response = client.responses.create(model=served, input=conversation, tools=TOOLS)
        conversation += response.output  # reasoning included: it belongs between a call and its answer
        calls = [item for item in response.output if item.type == "function_call"]
        if not calls:
            print(response.output_text)
            return
        for call in calls:
            result = FUNCTIONS[call.name](**json.loads(call.arguments))
            print(f"[{call.name}({call.arguments}) -> {result}]")
            conversation.append({"type": "function_call_output", "call_id": call.call_id, "output": json.dumps(result)})
    print("The model made five rounds of calls and no answer.", file=sys.stderr)


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or "What is the weather in Oslo?")
