"""The source document's two tool samples, run as written; what they leave open (`...`) is given from outside.

Their imports, names and calls are the document's own: only the indentation, which it lost, is put back.
"""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys
from typing import Any

import pytest
from openai_harmony import HarmonyEncodingName, Message, Role, load_harmony_encoding

from gpt_oss.tools.sandbox import SandboxError, open_sandbox
from gpt_oss.tools.simple_browser.backend import ExaBackend
from gpt_oss.tools.tool import text_of
from gpt_oss.vocabulary import decode, encode_with_special
from tests.scripts import calls
from tests.tools.simple_browser.web import Answer, Request, serve

BROWSER = """
import datetime
from gpt_oss.tools.simple_browser import SimpleBrowserTool
from gpt_oss.tools.simple_browser.backend import ExaBackend
from openai_harmony import SystemContent, Message, Conversation, Role, load_harmony_encoding, HarmonyEncodingName

encoding = load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS)

# Exa backend requires you to have set the EXA_API_KEY environment variable
backend = ExaBackend(
    source="web",
)
browser_tool = SimpleBrowserTool(backend=backend)

# create a basic system prompt
system_message_content = SystemContent.new().with_conversation_start_date(
    datetime.datetime.now().strftime("%Y-%m-%d")
)

# if you want to use the browser tool
if use_browser_tool:
    # enables the tool
    system_message_content = system_message_content.with_tools(browser_tool.tool_config)
    # alternatively you could use the following if your tool is not stateless
    system_message_content = system_message_content.with_browser_tool()

# construct the system message
system_message = Message.from_role_and_content(Role.SYSTEM, system_message_content)

# create the overall prompt
messages = [system_message, Message.from_role_and_content(Role.USER, "What's the weather in SF?")]
conversation = Conversation.from_messages(messages)

# convert to tokens
token_ids = encoding.render_conversation_for_completion(conversation, Role.ASSISTANT)

# perform inference
# ...
output_tokens = perform_inference(token_ids)

# parse the output
messages = encoding.parse_messages_from_completion_tokens(output_tokens, Role.ASSISTANT)
last_message = messages[-1]
if last_message.recipient.startswith("browser"):
    # perform browser call
    response_messages = await browser_tool.process(last_message)

    # extend the current messages and run inference again
    messages.extend(response_messages)
"""

PYTHON = """
import datetime
from gpt_oss.tools.python_docker.docker_tool import PythonTool
from openai_harmony import SystemContent, Message, Conversation, Role, load_harmony_encoding, HarmonyEncodingName

encoding = load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS)

python_tool = PythonTool()

# create a basic system prompt
system_message_content = SystemContent.new().with_conversation_start_date(
    datetime.datetime.now().strftime("%Y-%m-%d")
)

# if you want to use the python tool
if use_python_tool:
    # enables the tool making sure that the prompt gets set with the stateless tool description
    system_message_content = system_message_content.with_tools(python_tool.tool_config)
    # alternatively you could use the following if your tool is not stateless
    system_message_content = system_message_content.with_python()

# construct the system message
system_message = Message.from_role_and_content(Role.SYSTEM, system_message_content)

# create the overall prompt
messages = [system_message, Message.from_role_and_content(Role.USER, "What's the square root of 9001?")]
conversation = Conversation.from_messages(messages)

# convert to tokens
token_ids = encoding.render_conversation_for_completion(conversation, Role.ASSISTANT)

# perform inference
# ...
output_tokens = perform_inference(token_ids)

# parse the output
messages = encoding.parse_messages_from_completion_tokens(output_tokens, Role.ASSISTANT)
last_message = messages[-1]
if last_message.recipient == "python":
    # perform python call
    response_messages = await python_tool.process(last_message)

    # extend the current messages and run inference again
    messages.extend(response_messages)
"""


async def run(sample: str, output: str, **given: Any) -> dict[str, Any]:
    """Run a sample, whose model says `output`; the names that it leaves behind."""
    prompts: list[str] = []

    def perform_inference(tokens: list[int]) -> list[int]:
        prompts.append(decode(tokens))
        return encode_with_special(output)

    names: dict[str, Any] = {"perform_inference": perform_inference, "prompts": prompts, **given}
    waiting = eval(compile(sample, "sample", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
    if inspect.isawaitable(waiting):
        await waiting
    return names


@pytest.mark.parametrize("use_browser_tool", [True, False])
async def test_the_browser_sample(use_browser_tool: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(request: Request) -> Answer:
        hits = [{"title": "Weather", "url": "https://weather.org/sf", "summary": "Fog."}]
        return Answer(200, json.dumps({"results": hits}).encode())

    with serve(answer) as web:
        monkeypatch.setenv("EXA_API_KEY", "key")
        monkeypatch.setitem(ExaBackend.__init__.__kwdefaults__, "base_url", web.url)
        said = calls("browser.search", '{"query":"weather SF"}', channel="analysis")
        names = await run(BROWSER, said, use_browser_tool=use_browser_tool)
    assert ("namespace browser {" in names["prompts"][0]) == use_browser_tool
    call, result = names["messages"]
    assert call.recipient == "browser.search"
    assert (result.author.role, result.author.name) == (Role.TOOL, "browser.search")
    assert "【0†Weather†weather.org】 Fog." in text_of(result)
    encoding = load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS)
    assert encoding.render(result)


@pytest.mark.parametrize("use_python_tool", [True, False])
async def test_the_python_sample(use_python_tool: bool) -> None:
    try:
        await open_sandbox("bwrap")
    except SandboxError as error:
        pytest.skip(f"no bubblewrap here: {error}")
    said = "<|channel|>analysis to=python code<|message|>import math\nprint(math.sqrt(9001))<|call|>"
    names = await run(PYTHON, said, use_python_tool=use_python_tool)
    assert ("## python" in names["prompts"][0]) == use_python_tool
    result = names["messages"][-1]
    assert isinstance(result, Message)
    assert text_of(result).startswith("94.8736")
    await names["python_tool"].close()


def test_the_vocabulary_is_found_without_a_network_or_settings() -> None:
    code = (
        "import gpt_oss.tools.simple_browser\n"
        "from openai_harmony import load_harmony_encoding, HarmonyEncodingName\n"
        "print(len(load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS).encode('hello')))"
    )
    env = {"PATH": "/usr/bin", "https_proxy": "http://127.0.0.1:9", "HOME": "/nonexistent"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stdout == "1\n", done.stderr
