"""A typed Python function as a tool: `python examples/weather.py CHECKPOINT`."""

import sys

from gpt_oss import Session, load_model


def get_weather(city: str) -> dict[str, object]:
    """The weather in a city right now.

    Args:
        city: its name in English
    """
    return {"city": city, "celsius": 3, "sky": "snow"}


with Session(load_model(sys.argv[1]), tools=[get_weather], reasoning_effort="low") as session:
    print(session.ask("What is the weather in Oslo?").text)
