"""The page as its users have it: built from web/, served by the real server, in a real Chromium. Skipped where npm has
built no page, or where there is no Chromium."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, aclosing
from pathlib import Path
from typing import Any

import pytest

from gpt_oss.backends.base import SampledToken
from gpt_oss.backends.scripted import Reply, ScriptedGenerator
from gpt_oss.load import LoadOptions, load
from gpt_oss.params import SamplingParams
from gpt_oss.server.core.hosted import NOTHING_HOSTED, Hosted
from gpt_oss.server.page import FOLDER
from gpt_oss.server.state.store import Store
from gpt_oss.tools.python_docker.docker_tool import PythonTool
from gpt_oss.tools.simple_browser import SimpleBrowserTool
from gpt_oss.tools.simple_browser.backend import choose_backend
from gpt_oss.vocabulary import encode_with_special
from tests.server.conftest import Live, serving

WEB = Path(__file__).parents[2] / "web"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE_MS = 180_000  # a machine may compute much else; what is wrong fails late, and nothing fails for being slow
WITH_TOOLS = Hosted(
    lambda: SimpleBrowserTool(choose_backend("demo")), lambda: PythonTool("dangerously-unsandboxed", stateful=True)
)


@pytest.fixture(scope="session")
def built() -> Path:
    """The folder of the page, built now if it is older than its source."""
    sources = [path for path in WEB.rglob("*") if path.is_file() and "node_modules" not in path.parts]
    page = FOLDER / "index.html"
    fresh = page.exists() and page.stat().st_mtime >= max(path.stat().st_mtime for path in sources)
    if not fresh:
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("the page is not built, and npm is not here to build it")
        if not (WEB / "node_modules" / "vite").exists():
            subprocess.run([npm, "ci", "--no-audit", "--no-fund"], cwd=WEB, check=True, timeout=240)
        subprocess.run([npm, "run", "build"], cwd=WEB, check=True, timeout=240)
    return FOLDER


@pytest.fixture(scope="session")
def browser(built: Path) -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def context(browser: Any) -> Iterator[Any]:
    """A browser without memories. What the policy forbids, and any error of the page's own, fails the test."""
    opened = browser.new_context(viewport={"width": 1280, "height": 860}, reduced_motion="reduce")
    opened.set_default_timeout(PATIENCE_MS)
    problems: list[str] = []
    opened.on("weberror", lambda error: problems.append(str(error.error)))
    opened.on("console", lambda message: problems.append(message.text) if _is_bad(message) else None)
    yield opened
    opened.close()
    assert problems == []


def _is_bad(message: Any) -> bool:
    """Requests that fail, as some do on purpose, are told in the console as well."""
    return message.type == "error" and "Failed to load resource" not in message.text


@pytest.fixture(scope="session")
def demo(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """The demo model with its tools, and a store."""
    generator = load("demo", LoadOptions(context_tokens=8192))
    store = Store(str(tmp_path_factory.mktemp("page") / "server.db"))
    with serving(generator, store=store, hosted=WITH_TOOLS) as live:
        yield live
    generator.close()
    store.close()


class Held(ScriptedGenerator):
    """Stops in the middle of every answer, behind so many tokens, until `go` is set: what is under way stays so."""

    def __init__(self, script: Sequence[Sequence[int]], behind: int) -> None:
        super().__init__(script)
        self.behind = behind
        self.go = threading.Event()

    async def generate(self, prompt: Sequence[int], params: SamplingParams) -> AsyncIterator[SampledToken]:
        number = 0
        async with aclosing(super().generate(prompt, params)) as tokens:
            async for token in tokens:
                while number >= self.behind and not self.go.is_set():
                    await asyncio.sleep(0.01)
                number += 1
                yield token


Scripted = Callable[..., Live]


@pytest.fixture
def scripted(built: Path, tmp_path: Path) -> Iterator[Scripted]:
    """A server with a store that says these answers, in Harmony's notation, one a round. hold: see Held."""
    with ExitStack() as stack:

        def start(
            *answers: str | Reply,
            keep: bool = True,
            hold: int | None = None,
            hosted: Hosted = NOTHING_HOSTED,
            **options: Any,
        ) -> Live:
            script = [a if isinstance(a, Reply) else encode_with_special(a) for a in answers]
            generator = ScriptedGenerator(script) if hold is None else Held(script, hold)
            store = Store(str(tmp_path / "server.db")) if keep else None
            if store is not None:
                stack.callback(store.close)
            return stack.enter_context(serving(generator, store=store, hosted=hosted, **options))

        yield start


def final(text: str) -> str:
    return f"<|channel|>final<|message|>{text}<|return|>"


def ask(page: Any, text: str, *, answered: bool = True) -> None:
    """Type a question and send it. answered: wait for the end of the answer."""
    before = page.locator(".figures").count()
    page.get_by_label("Question", exact=True).last.fill(text)
    page.keyboard.press("Enter")
    if answered:
        page.locator(".figures").nth(before).wait_for()


def opened(context: Any, url: str) -> Any:
    page = context.new_page()
    page.goto(url)
    page.locator(".composer").wait_for()
    return page
