"""litellm, as a proxy's users do: through its OpenAI provider."""

import os
import sys

sys.path.insert(0, __file__.rsplit("/", 1)[0])
import litellm
from features import WEATHER, feature, finish

WHERE = {"model": "openai/m", "api_base": os.environ["OPENAI_BASE_URL"], "api_key": "none"}
HELLO = [{"role": "user", "content": "Say hello"}]
ASK = [{"role": "user", "content": "What is the weather in Oslo?"}]

with feature("answer"):
    assert litellm.completion(messages=HELLO, **WHERE).choices[0].message.content == "Hello!"
with feature("stream"):
    parts = litellm.completion(messages=HELLO, stream=True, **WHERE)
    assert "".join(part.choices[0].delta.content or "" for part in parts) == "Hello!"
with feature("reasoning"):
    assert litellm.completion(messages=HELLO, **WHERE).choices[0].message.reasoning_content == "Be friendly."
with feature("tools"):
    said = litellm.completion(messages=ASK, tools=[WEATHER], **WHERE).choices[0].message
    answer = {"role": "tool", "tool_call_id": said.tool_calls[0].id, "content": "rain"}
    last = litellm.completion(messages=[*ASK, said, answer], tools=[WEATHER], **WHERE)
    assert last.choices[0].message.content == "It rains in Oslo."
finish()
