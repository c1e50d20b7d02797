"""Open WebUI: its own server, with ours as its connection, asked as its page asks it."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, __file__.rsplit("/", 1)[0])
import requests
from features import PARAMETERS, WEATHER, feature, finish

HELLO = [{"role": "user", "content": "Say hello"}]
ASK = [{"role": "user", "content": "What is the weather in Oslo?"}]
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    PORT = free.getsockname()[1]
URL = f"http://127.0.0.1:{PORT}"
home = tempfile.mkdtemp()
environment = {
    **os.environ,
    "DATA_DIR": home,
    "HOME": home,
    "WEBUI_AUTH": "False",
    "WEBUI_SECRET_KEY": "none",
    "OPENAI_API_BASE_URL": os.environ["OPENAI_BASE_URL"],
    "ENABLE_OLLAMA_API": "False",
    "OFFLINE_MODE": "True",
    "RAG_EMBEDDING_ENGINE": "openai",  # no model of its own to fetch
    "ENABLE_VERSION_UPDATE_CHECK": "False",
    "ANONYMIZED_TELEMETRY": "False",
}
command = [str(Path(sys.executable).parent / "open-webui"), "serve", "--host", "127.0.0.1", "--port", str(PORT)]
process = subprocess.Popen(command, env=environment, stdout=sys.stderr, stderr=sys.stderr, cwd=home)
session = requests.Session()


def signed_in():
    for _ in range(300):
        try:
            answer = session.post(f"{URL}/api/v1/auths/signin", json={"email": "", "password": ""}, timeout=10)
            session.headers["Authorization"] = f"Bearer {answer.json()['token']}"
            return
        except (requests.ConnectionError, ValueError):
            assert process.poll() is None, "Open WebUI has ended"
            time.sleep(1)
    raise TimeoutError("Open WebUI did not start")


def ask(messages, **options):
    body = {"model": MODEL, "messages": messages, "stream": False, **options}
    answer = session.post(f"{URL}/api/chat/completions", json=body, timeout=60, stream=body["stream"])
    assert answer.ok, answer.text
    return answer


def said(messages, **options):
    return ask(messages, **options).json()["choices"][0]["message"]


try:
    signed_in()
    MODEL = session.get(f"{URL}/api/models", timeout=60).json()["data"][0]["id"]
    with feature("answer"):
        assert said(HELLO)["content"] == "Hello!"
    with feature("stream"):
        lines = [line[6:] for line in ask(HELLO, stream=True).iter_lines() if line.startswith(b"data: {")]
        parts = [choice["delta"].get("content") or "" for line in lines for choice in json.loads(line)["choices"]]
        assert "".join(parts) == "Hello!", parts
    with feature("reasoning"):
        assert said(HELLO)["reasoning_content"] == "Be friendly."
    with feature("tools"):
        call = said(ASK, tools=[WEATHER])
        assert json.loads(call["tool_calls"][0]["function"]["arguments"]) == {"city": "Oslo"}
        result = {"role": "tool", "tool_call_id": call["tool_calls"][0]["id"], "content": "rain"}
        assert said([*ASK, call, result], tools=[WEATHER])["content"] == "It rains in Oslo."
    with feature("structured output"):
        form = {"type": "json_schema", "json_schema": {"name": "report", "schema": PARAMETERS}}
        report = said([{"role": "user", "content": "A report, please"}], response_format=form)
        assert json.loads(report["content"])["city"] == "Oslo"
finally:
    process.terminate()
    process.wait(timeout=30)
finish()
