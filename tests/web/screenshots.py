"""The pictures of docs/img, taken anew: `python -m tests.web.screenshots`. The answers in them are played back, so that
a picture changes only when the page does; programs, pages and citations are run and read for real.
"""

from __future__ import annotations

import io
import itertools
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from playwright.sync_api import sync_playwright

from gpt_oss.backends.scripted import Reply, ScriptedGenerator
from gpt_oss.server.state.store import Store
from gpt_oss.vocabulary import encode_with_special
from tests.server.conftest import Live, serving
from tests.web.conftest import CHROMIUM, WITH_TOOLS, ask, final, opened

FOLDER = Path(__file__).parents[2] / "docs" / "img"
DESK = {"viewport": {"width": 1280, "height": 860}, "bypass_csp": True}
HAND = {"viewport": {"width": 390, "height": 780}, "is_mobile": True, "device_scale_factor": 1.5, "bypass_csp": True}
START = "<|start|>assistant"


def thought(text: str) -> str:
    return f"<|channel|>analysis<|message|>{text}<|end|>{START}"


def call(recipient: str, content: str, channel: str = "analysis") -> str:
    return f"<|channel|>{channel} to={recipient} code<|message|>{content}<|call|>"


PROGRAM = """\
def primes(limit):
    sieve = bytearray([1]) * (limit + 1)
    for n in range(2, int(limit**0.5) + 1):
        if sieve[n]:
            sieve[n * n :: n] = bytes(len(sieve[n * n :: n]))
    return [n for n in range(2, limit + 1) if sieve[n]]

print(len(primes(1_000_000)))"""
PRIMES = [
    thought("The prime number theorem gives an estimate, but the exact count is easy: sieve and count.")
    + call("python", PROGRAM),
    final(
        "There are **78,498** primes below one million.\n\nThe prime number theorem says that about "
        "$\\pi(x) \\approx \\frac{x}{\\ln x}$ numbers up to $x$ are prime:\n\n"
        "$$\\frac{10^6}{\\ln 10^6} \\approx 72382$$\n\n"
        "which is 8 % too low. The logarithmic integral is much closer:\n\n"
        "| estimate | value | error |\n|---|---:|---:|\n| $x / \\ln x$ | 72,382 | −7.8 % |\n"
        "| $\\mathrm{Li}(x)$ | 78,627 | +0.16 % |\n"
    ),
]
MOUNTAIN = [
    thought("I should look this up rather than rely on memory.")
    + call("browser.search", '{"query": "height of Mount Everest"}'),
    call("browser.open", '{"cursor": 0, "id": 0}'),
    final(
        "Mount Everest is 8849 metres high【1†L4】 and lies on the border of Nepal and China【1†L5】. "
        "It was first climbed in 1953【1†L6】."
    ),
]
PATCH = """\
*** Begin Patch
*** Update File: server/limits.py
@@ class Limits:
-    timeout_s: float = 30.0
+    timeout_s: float = 60.0
+    retries: int = 2
     largest_body: int = 32 << 20
*** End Patch"""
FUNCTIONS = [
    thought("One change in one file; apply_patch does it.") + call("functions.apply_patch", PATCH, "commentary"),
]
PATCHES = """[{"type": "apply_patch"}]"""


def likely(answers: Sequence[str]) -> list[Reply]:
    """With probabilities that look like a model's: mostly sure, now and then not."""
    pattern = itertools.cycle((-0.01, -0.05, -0.2, -0.0, -0.9, -0.02, -1.7, -0.1))
    scripts = [encode_with_special(answer) for answer in answers]
    return [Reply(tokens, logprobs=[next(pattern) for _ in tokens], delay_s=0.012) for tokens in scripts]


def with_font(page: Any) -> Any:
    """In Inter, where it is installed: a machine without a desktop has no font of its own that is good to look at."""
    page.add_style_tag(content=":root { --sans: Inter, system-ui, sans-serif }")
    return page


def take(page: Any, name: str) -> None:
    page.wait_for_timeout(400)
    page.mouse.move(0, 0)
    page.evaluate("document.activeElement.blur()")
    keep(page, name)


def keep(page: Any, name: str) -> None:
    """In 256 colours: a third of the size, and nobody sees it."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(
        FOLDER / f"page-{name}.png", optimize=True
    )


def tour(browser: Any, live: Live) -> None:
    light = browser.new_context(color_scheme="light", **DESK)
    page = with_font(opened(light, live.url))
    page.evaluate("localStorage.setItem('gpt-oss.page', JSON.stringify({ probabilities: true }))")
    take(page, "start")
    ask(page, "How many primes are there below one million?")
    page.locator("math").nth(3).wait_for()
    page.locator(".scroller").evaluate("each => (each.scrollTop = 0)")
    take(page, "python")
    page.get_by_role("link", name="New conversation").click()
    page.locator(".welcome").wait_for()
    ask(page, "How high is Mount Everest, and who may climb it?")
    page.locator(".citation").first.click()
    take(page, "citation")
    page.get_by_role("button", name="Show the tokens").click()
    page.locator(".raw-message.sampled").last.scroll_into_view_if_needed()
    token = page.locator(".raw-message.sampled .token").nth(8)
    token.scroll_into_view_if_needed()
    page.wait_for_timeout(300)
    token.hover()
    keep(page, "tokens")
    first = page.url

    dark = browser.new_context(color_scheme="dark", **DESK)
    page = with_font(opened(dark, live.url))
    page.get_by_role("button", name="Settings").first.click()
    page.get_by_label("Functions").fill(PATCHES)
    page.get_by_label("Functions").blur()
    page.get_by_role("button", name="Close").click()
    ask(page, "Double the timeout and allow two retries.")
    take(page, "patch-dark")
    page.get_by_role("button", name="Settings").first.click()
    page.get_by_role("tab", name="Server").click()
    for number in range(12):  # something to draw
        if number % 3 == 1:
            others = httpx.post(f"{live.url}/v1/responses", json={"model": "tiny", "input": "Hi", "background": True})
            others.raise_for_status()
        page.wait_for_timeout(1000)
    take(page, "server-dark")

    phone = browser.new_context(color_scheme="light", **HAND)
    page = with_font(opened(phone, first))
    page.locator(".citation").first.wait_for()
    take(page, "phone")


def main() -> None:
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        store = Store(f"{folder}/server.db")
        replies = iter(likely([*PRIMES, *MOUNTAIN, *FUNCTIONS, *[final("one " * 60)] * 4]))
        generator = ScriptedGenerator(lambda _: next(replies), name="scripted (answers that are played back)")
        live = stack.enter_context(serving(generator, store=store, hosted=WITH_TOOLS))
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tour(browser, live)
        browser.close()
        store.close()


if __name__ == "__main__":
    main()
