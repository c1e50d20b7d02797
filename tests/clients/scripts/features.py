"""What the scripts of Python clients share: the tools, and a line of JSON that says what worked."""

import json
import traceback
from contextlib import contextmanager

PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER_FLAT = {
    "type": "function",
    "name": "get_weather",
    "description": "Weather in a city.",
    "parameters": PARAMETERS,
}
WEATHER = {"type": "function", "function": {k: v for k, v in WEATHER_FLAT.items() if k != "type"}}
_results = {}


@contextmanager
def feature(name):
    try:
        yield
    except Exception as error:
        traceback.print_exc()
        _results[name] = f"{type(error).__name__}: {error}"[:200]
    else:
        _results[name] = True


def finish():
    print("RESULT " + json.dumps(_results))
