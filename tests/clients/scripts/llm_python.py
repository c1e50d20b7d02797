"""The command `llm`, with its file of extra models."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, __file__.rsplit("/", 1)[0])
from features import feature, finish

home = Path(tempfile.mkdtemp())
(home / "extra-openai-models.yaml").write_text(
    f"""
- model_id: ours
  model_name: m
  api_base: {os.environ["OPENAI_BASE_URL"]}
  supports_tools: true
  supports_schema: true
"""
)
TOOL = 'def get_weather(city: str) -> str:\n    "Weather in a city."\n    return "rain"\n'


def llm(*arguments):
    command = [str(Path(sys.executable).parent / "llm"), *arguments]
    environment = {**os.environ, "LLM_USER_PATH": str(home)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


with feature("answer"):
    assert llm("-m", "ours", "--no-stream", "Say hello") == "Hello!"
with feature("stream"):
    assert llm("-m", "ours", "Say hello") == "Hello!"
with feature("tools"):
    assert llm("-m", "ours", "--functions", TOOL, "What is the weather in Oslo?").endswith("It rains in Oslo.")
with feature("structured output"):
    assert llm("-m", "ours", "--schema", "city, rain bool", "A report, please") == '{"city": "Oslo", "rain": true}'
finish()
