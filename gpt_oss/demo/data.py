"""From cases to what the demo model learns: conversations with the prompts that the tools really have, as token ids.

The browser's displays come from the browser itself, on the pages of each case. Everything follows from one seed.
"""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from random import Random

from openai_harmony import Author, Message, Role, TextContent
from tqdm import tqdm

from gpt_oss.demo.cases import NARROW, SHARES, Breadth, Call, Case, Function, draw
from gpt_oss.errors import GptOssError
from gpt_oss.harmony.aliases import prompt_names
from gpt_oss.harmony.render import AnyMessage, Conversation
from gpt_oss.session import head_messages
from gpt_oss.tools.functions import Arguments, FunctionTool
from gpt_oss.tools.patch_tool import ApplyPatchTool
from gpt_oss.tools.python_docker.docker_tool import PythonTool
from gpt_oss.tools.simple_browser import SimpleBrowserTool
from gpt_oss.tools.simple_browser.local import LocalBackend
from gpt_oss.tools.tool import Tool, text_of
from gpt_oss.tools.toolbox import Toolbox
from gpt_oss.training.data import Example, examples_of

CHUNK = 500  # cases that a process draws at a time


def toolbox(case: Case, folder: Path) -> Toolbox:
    """The real tools of a case; pages and files lie in the (empty) folder."""
    tools: list[Tool] = []
    for name in case.built_in:
        match name:
            case "browser":
                tools.append(SimpleBrowserTool(LocalBackend(_written(folder / "pages", case.pages))))
            case "python":
                tools.append(PythonTool(stateful=True))
            case "apply_patch":
                tools.append(ApplyPatchTool(_written(folder / "files", case.files)))
    return Toolbox.of([*tools, *map(_tool_of, case.functions)], prompt_names)


def _tool_of(function: Function) -> FunctionTool:
    async def run(arguments: Arguments) -> object:
        return function.result

    return FunctionTool(function.name, function.description, function.parameters, run)


def _written(folder: Path, files: Mapping[str, str]) -> Path:
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def history_of(case: Case, tools: Toolbox) -> list[AnyMessage]:
    """The prompt's messages: system, developer, what was said before, and the question."""
    messages: list[AnyMessage] = [*head_messages(tools, case.instructions, case.effort, case.date)]
    for before in case.earlier:
        messages += [_user(before.question), *_answer(before, before.calls, before.final)]
    return [*messages, _user(case.question)]


async def conversation_of(case: Case) -> Conversation:
    """The case as it should go."""
    with tempfile.TemporaryDirectory() as folder:
        tools = toolbox(case, Path(folder))
        calls, final = case.calls, case.final
        if case.skill == "browser":
            calls, final = await _browse(case, tools.built_in[0])
        conversation = Conversation([*history_of(case, tools), *_answer(case, calls, final)], case.formats)
        await tools.close()
        return conversation


async def _browse(case: Case, browser: Tool) -> tuple[tuple[Call, ...], str]:
    """The calls and the answer with their numbers: of the link with the subject's title, of the line that says it."""
    search, page = case.calls
    results = await _display(browser, search.recipient, search.content)
    links = re.findall(r"【(\d+)†([^】]*)】", results)
    link = next(number for number, title in links if title == page.content)
    opening = json.dumps({"cursor": _cursor(results), "id": int(link)})
    shown = await _display(browser, page.recipient, opening)
    line = re.search(rf"^L(\d+): {re.escape(case.final)}$", shown, re.MULTILINE)
    assert line, f"{case.final!r} is not on the page"
    calls = Call(search.recipient, search.content, results), Call(page.recipient, opening, shown)
    return calls, f"{case.final}【{_cursor(shown)}†L{line[1]}】"


def _cursor(display: str) -> int:
    return int(display[1 : display.index("]")])


async def _display(tool: Tool, recipient: str, content: str) -> str:
    call = Message(author=Author(role=Role.ASSISTANT), content=[TextContent(text=content)], recipient=recipient)
    return "".join([text_of(answer) async for answer in tool.process(call)])


def _user(text: str) -> Message:
    return Message(author=Author(role=Role.USER), content=[TextContent(text=text)])


def _answer(case: Case, calls: Sequence[Call], final: str) -> list[Message]:
    """What assistant and tools say behind the question."""
    messages = [_said(case.thought, "analysis")] if case.thought else []
    for call in calls:
        channel = "commentary" if call.recipient.startswith("functions.") else "analysis"
        message = _said(call.content, channel).with_recipient(call.recipient)
        if call.recipient.startswith("functions.") and not call.raw:
            message = message.with_content_type("<|constrain|>json")
        elif channel == "analysis":
            message = message.with_content_type("code")
        answer = Message(
            author=Author(role=Role.TOOL, name=call.recipient), content=[TextContent(text=call.answer or "")]
        )
        messages += [message, answer.with_recipient("assistant").with_channel(channel)]
    return [*messages, _said(final, "final")]


def _said(text: str, channel: str) -> Message:
    return Message(author=Author(role=Role.ASSISTANT), content=[TextContent(text=text)]).with_channel(channel)


# ---- many of them ---------------------------------------------------------------------------------------------------


def examples(
    seed: int,
    count: int,
    *,
    held_out: bool = False,
    shares: Mapping[str, float] = SHARES,
    breadth: Breadth = NARROW,
    progress: bool = False,
) -> list[Example]:
    """What `count` cases teach, of each skill its share; made in every core. The same seed gives the same examples on
    any machine."""
    sizes = [min(CHUNK, count - first) for first in range(0, count, CHUNK)]
    chunks = [(f"{seed} {i}", size, held_out, dict(shares), breadth) for i, size in enumerate(sizes)]
    with ProcessPoolExecutor() as pool:
        done = tqdm(pool.map(_chunk, chunks), total=len(chunks), unit="chunk", desc="examples", disable=not progress)
        return [example for chunk in done for example in chunk]


def _chunk(task: tuple[str, int, bool, Mapping[str, float], Breadth]) -> list[Example]:
    seed, count, held_out, shares, breadth = task
    rng = Random(seed)

    async def write() -> list[Example]:
        written: list[Example] = []
        for _ in range(count):
            case = draw(rng, rng.choices(list(shares), list(shares.values()))[0], held_out=held_out, breadth=breadth)
            try:
                written += examples_of(await conversation_of(case), case.skill)
            except GptOssError as error:
                raise AssertionError(f"{case}: {error}") from error
        return written

    return asyncio.run(write())
