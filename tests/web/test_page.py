"""The page in a browser: what is asked, shown, kept, stopped, resumed; what may not run; who can use it."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from gpt_oss.backends.scripted import Reply
from gpt_oss.server import page as page_files
from gpt_oss.vocabulary import decode, encode_with_special
from tests.server.conftest import Live
from tests.web.cable import Cable
from tests.web.conftest import WEB, WITH_TOOLS, Scripted, ask, final, opened

THOUGHT = "<|channel|>analysis<|message|>Let me think.<|end|><|start|>assistant"
SEARCH = '<|channel|>analysis to=browser.search code<|message|>{"query": "Mount Everest"}<|call|>'
OPEN = '<|channel|>analysis to=browser.open code<|message|>{"cursor": 0, "id": 0}<|call|>'
CITED = final("It is 8849 metres high【1†L4】.")
WEATHER = '<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"city": "Oslo"}<|call|>'
PATCH = "*** Begin Patch\n*** Update File: a.py\n@@ def f\n-    return 1\n+    return 2\n*** End Patch"
LONG = "<|channel|>final<|message|>" + " and on" * 400 + "<|return|>"


def shows(page: Any, text: str) -> None:
    """Wait until the conversation has it."""
    page.locator(".turns").get_by_text(text).last.wait_for()


def answer_of(page: Any, number: int = -1) -> Any:
    return page.locator("article.answer").nth(number)


# ---- the demo model -------------------------------------------------------------------------------------------------


def test_a_chat_with_the_demo_model_and_its_python(context: Any, demo: Live) -> None:
    settings = '{"temperature": 0, "effort": "low"}'
    context.add_init_script(f"location.protocol === 'http:' && localStorage.setItem('gpt-oss.settings', '{settings}')")
    page = opened(context, demo.url)
    page.get_by_role("button", name="What is 4821 * 377?").click()
    card = page.locator(".card.python")
    card.locator(".output").wait_for()
    assert "4821 * 377" in card.locator("pre").first.inner_text()
    assert card.locator(".output").inner_text().strip() == "1817517"
    page.locator(".figures").wait_for()
    assert "1817517" in answer_of(page).locator(".markdown").last.inner_text()
    assert "tokens/s" in page.locator(".figures").inner_text()
    assert int(page.locator("[role=meter]").get_attribute("aria-valuenow")) > 100
    assert page.title() == "What is 4821 * 377? · gpt-oss"

    # It is kept, in the address and in the list; also for another tab.
    assert re.search(r"#/c/conv_\w+$", page.url)
    page.reload()
    page.locator(".figures").wait_for()
    assert page.locator(".question").inner_text() == "What is 4821 * 377?"
    assert page.locator(".card.python .output").inner_text().strip() == "1817517"
    assert page.locator(".conversations [aria-current]").inner_text() == "What is 4821 * 377?"
    other = opened(context, page.url)
    other.locator(".figures").wait_for()
    ask(other, "Thank you!")
    page.locator(".figures").nth(1).wait_for()  # the first tab hears of it
    assert page.locator(".question").last.inner_text() == "Thank you!"


# ---- answers --------------------------------------------------------------------------------------------------------


def test_thoughts_are_folded_and_timed(context: Any, scripted: Scripted) -> None:
    page = opened(context, scripted(THOUGHT + final("**Done**, I think.")).url)
    ask(page, "Well?")
    thought = page.locator("details.thought")
    assert re.match(r"Thought for [\d.]+ s", thought.inner_text())
    assert not thought.locator(".markdown").is_visible()
    thought.locator("summary").click()
    assert thought.locator(".markdown").inner_text() == "Let me think."
    assert answer_of(page).locator(".markdown strong").inner_text() == "Done"


def test_markdown_code_and_maths(context: Any, scripted: Scripted) -> None:
    text = (
        "A [link](https://example.org/x) and $a^2 + b^2$, for $5 or $6.\n\n$$\\frac{1}{2}$$\n\n"
        "```python\ndef f(x):\n    return x\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"
    )
    page = opened(context, scripted(final(text)).url)
    ask(page, "Show me")
    answer = answer_of(page)
    assert answer.locator(".hljs-keyword").first.inner_text() == "def"
    answer.locator("math").nth(1).wait_for()
    assert answer.locator("math mfrac").count() == 1
    assert "for $5 or $6." in answer.inner_text()
    assert answer.locator("td").all_inner_texts() == ["1", "2"]
    link = answer.locator("a")
    assert (link.get_attribute("rel"), link.get_attribute("target")) == ("noopener noreferrer nofollow", "_blank")


def test_citations_open_the_quoted_lines(context: Any, scripted: Scripted) -> None:
    page = opened(context, scripted(SEARCH, OPEN, CITED, hosted=WITH_TOOLS).url)
    ask(page, "How high is Mount Everest?")
    cards = page.locator(".card.web")
    assert [text.splitlines()[0] for text in cards.all_inner_texts()] == [
        "Searched for “Mount Everest”",
        "Opened Mount Everest",
    ]
    cards.first.locator("summary").click()
    assert "Mount Everest" in cards.first.locator(".results li").first.inner_text()
    citation = page.get_by_role("button", name="Source: Mount Everest, line 4")
    assert "【" not in answer_of(page).inner_text()
    citation.click()
    panel = page.get_by_role("complementary", name="Mount Everest")
    assert panel.locator("mark").all_inner_texts() == ["Mount Everest is 8849 metres high."]
    page.keyboard.press("Escape")
    assert not panel.is_visible()
    assert citation.evaluate("each => each === document.activeElement")
    page.reload()
    page.get_by_role("button", name="Source: Mount Everest, line 4").wait_for()


def test_a_function_is_answered_by_hand(context: Any, scripted: Scripted) -> None:
    live = scripted(WEATHER, final("It snows in Oslo."))
    page = opened(context, live.url)
    page.get_by_role("button", name="Settings").first.click()
    functions = page.get_by_label("Functions")
    functions.fill('[{"nam": 1}]')
    functions.blur()
    assert page.get_by_role("alert").filter(has_text='no "name"').is_visible()
    page.get_by_role("button", name="a function").click()
    page.get_by_role("button", name="Close").click()
    ask(page, "What is the weather in Oslo?")
    card = page.locator(".card.call")
    assert "get_weather" in card.inner_text()
    assert '"city": "Oslo"' in card.locator("pre").inner_text()
    page.reload()  # it still waits
    page.get_by_label("Answer to get_weather").fill('{"sky": "snow"}')
    page.get_by_role("button", name="Send answer").click()
    shows(page, "It snows in Oslo.")
    assert card.locator(".output").inner_text() == '{"sky": "snow"}'
    assert page.get_by_label("Answer to get_weather").count() == 0
    assert '{"sky": "snow"}' in live_prompt(live)


def live_prompt(live: Live) -> str:
    return decode(live.generator.prompts[-1])


@pytest.mark.parametrize("kind", ["apply_patch", "custom"])
def test_patches_are_coloured(context: Any, scripted: Scripted, kind: str) -> None:
    call = f"<|channel|>commentary to=functions.apply_patch code<|message|>{PATCH}<|call|>"
    page = opened(context, scripted(call, final("Done.")).url)
    page.get_by_role("button", name="Settings").first.click()
    if kind == "apply_patch":
        page.get_by_role("button", name="patches").click()
    else:
        page.get_by_label("Functions").fill('{"type": "custom", "name": "apply_patch"}')
        page.get_by_label("Functions").blur()
    page.get_by_role("button", name="Close").click()
    ask(page, "Return two")
    diff = page.locator(".diff")
    assert "a.py" in diff.locator(".diff-file").inner_text()
    assert diff.locator(".removed").inner_text() == "-    return 1"
    assert diff.locator(".added").inner_text() == "+    return 2"
    assert "a.py +1 −1" in page.locator(".card.call summary").inner_text()
    page.get_by_label("Answer to apply_patch").fill("Changed a.py")
    page.get_by_role("button", name="Send answer").click()
    shows(page, "Done.")


# ---- stopping, versions, branches -----------------------------------------------------------------------------------


def test_stop(context: Any, scripted: Scripted) -> None:
    live = scripted(LONG, final("Shorter."), hold=20)
    page = opened(context, live.url)
    ask(page, "Go on", answered=False)
    shows(page, "and on and on")
    page.get_by_role("button", name="Stop").click()
    shows(page, "You have stopped this answer.")
    assert len(live.generator.calls[0].delivered) < 400
    assert live.generator.calls[0].closed
    assert answer_of(page).inner_text().startswith("and on")
    ask(page, "And now?")  # it goes on from there
    assert "Shorter." in answer_of(page).inner_text()


def test_retry_edit_and_branch_lose_nothing(context: Any, scripted: Scripted) -> None:
    live = scripted(*(final(f"Answer {n}.") for n in range(1, 6)))
    page = opened(context, live.url)
    ask(page, "First question")
    page.get_by_role("button", name="Try again").click()
    shows(page, "Answer 2.")
    versions = page.get_by_role("group", name="Versions of this answer")
    versions.get_by_role("button", name="Previous answer").click()
    shows(page, "Answer 1.")
    assert "1 / 2" in versions.inner_text()
    page.reload()  # the address says which version is shown
    shows(page, "Answer 1.")
    versions.get_by_role("button", name="Next answer").click()
    shows(page, "Answer 2.")

    page.locator(".bubble").hover()
    page.get_by_role("button", name="Edit question").click()
    page.get_by_label("Question", exact=True).first.fill("Another question")
    page.keyboard.press("Enter")
    shows(page, "Answer 3.")
    assert "First question" not in live_prompt(live)
    page.locator(".figures").wait_for()
    questions = page.get_by_role("group", name="Versions of this question")
    assert "2 / 2" in questions.inner_text()
    questions.get_by_role("button", name="Previous question").click()
    shows(page, "Answer 2.")

    first = page.url
    page.get_by_role("button", name="Branch into a new conversation").click()
    page.wait_for_url(lambda url: url != first)
    shows(page, "Answer 2.")
    ask(page, "Further")
    assert "Answer 4." in answer_of(page).inner_text()
    assert [word in live_prompt(live) for word in ("First question", "Answer 2.", "Further")] == [True] * 3
    assert sorted(page.locator(".conversations a").all_inner_texts()) == ["Branch: First question", "First question"]


def test_a_conversation_of_another_client_goes_on(context: Any, scripted: Scripted) -> None:
    live = scripted(final("Ada, as you said."), final("Still Ada."))
    client = live.any_client()
    said = [{"role": "user", "content": "I am Ada."}, {"role": "assistant", "content": "Hello, **Ada**."}]
    made = client.conversations.create(metadata={"project": "x"}, items=said)
    page = opened(context, f"{live.url}/#/c/{made.id}")
    shows(page, "Hello, Ada.")
    ask(page, "Who am I?")
    assert [word in live_prompt(live) for word in ("I am Ada.", "Hello, **Ada**.", "Who am I?")] == [True] * 3
    assert page.locator(".question").all_inner_texts() == ["I am Ada.", "Who am I?"]
    page.reload()
    page.locator(".figures").wait_for()
    assert page.locator(".question").all_inner_texts() == ["I am Ada.", "Who am I?"]
    page.locator(".bubble").last.hover()
    page.get_by_role("button", name="Edit question").click()
    page.get_by_label("Question", exact=True).first.fill("Who was I?")
    page.keyboard.press("Enter")
    shows(page, "Still Ada.")
    assert [word in live_prompt(live) for word in ("I am Ada.", "Who am I?", "Who was I?")] == [True, False, True]
    assert client.conversations.retrieve(made.id).metadata["project"] == "x"


def test_conversations_are_renamed_and_deleted(context: Any, scripted: Scripted) -> None:
    page = opened(context, scripted(final("Yes.")).url)
    ask(page, "Is this kept?")
    page.get_by_label("Title of the conversation").fill("Keeping")
    page.keyboard.press("Enter")
    page.locator(".conversations a", has_text="Keeping").wait_for()
    page.get_by_role("button", name="Delete Keeping").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    page.locator(".welcome").wait_for()
    assert page.locator(".conversations a").count() == 0


# ---- connections ----------------------------------------------------------------------------------------------------


def test_a_lost_connection_resumes(context: Any, scripted: Scripted) -> None:
    words = " ".join(f"w{n}" for n in range(40))
    live = scripted(final(words), hold=20)
    with Cable(live.url) as cable:
        page = opened(context, cable.url)
        resumed: list[str] = []
        page.on("request", lambda request: resumed.append(request.url) if "starting_after" in request.url else None)
        ask(page, "Say them", answered=False)
        shows(page, "w3 w4")
        cable.cut()
        page.get_by_text("The connection is lost").wait_for()
        cable.mend()
        live.generator.go.set()
        page.locator(".figures").wait_for()
        assert answer_of(page).locator(".markdown").inner_text() == words
        assert all(int(url.rsplit("=", 1)[1]) > 4 for url in resumed), "it goes on behind what has been seen"
        assert resumed
        assert not page.get_by_text("The connection is lost").is_visible()


def test_a_reload_and_a_second_tab_follow_what_is_under_way(context: Any, scripted: Scripted) -> None:
    words = " ".join(f"w{n}" for n in range(40))
    live = scripted(final(words), hold=20)
    page = opened(context, live.url)
    ask(page, "Say them", answered=False)
    shows(page, "w3 w4")
    other = opened(context, page.url)
    page.reload()
    for each in (page, other):
        each.get_by_role("button", name="Stop").wait_for()
        shows(each, "w3 w4")
    live.generator.go.set()
    for each in (page, other):
        each.locator(".figures").wait_for()
        assert answer_of(each).locator(".markdown").inner_text() == words


def test_a_server_without_a_store(context: Any, scripted: Scripted) -> None:
    live = scripted(final("One."), final("Two."), LONG, keep=False, hold=20)
    page = opened(context, live.url)
    assert page.get_by_text("This server keeps nothing").is_visible()
    ask(page, "First")
    ask(page, "Second")
    assert [word in live_prompt(live) for word in ("First", "One.", "Second")] == [True] * 3
    ask(page, "Go on", answered=False)
    shows(page, "and on and on")
    page.get_by_role("button", name="Stop").click()
    shows(page, "You have stopped this answer.")
    assert page.locator(".sidebar").count() == 0


def test_errors_are_told_and_the_question_is_not_lost(context: Any, scripted: Scripted) -> None:
    page = opened(context, scripted(final("Never said.")).url)
    page.route("**/v1/responses", lambda route: route.abort())
    ask(page, "Are you there?", answered=False)
    page.get_by_role("alert").filter(has_text="cannot be reached").wait_for()
    assert page.get_by_label("Question", exact=True).input_value() == "Are you there?"
    page.unroute("**/v1/responses")
    page.get_by_role("button", name="Send").click()
    shows(page, "Never said.")


def test_a_key_is_asked_for(context: Any, scripted: Scripted) -> None:
    live = scripted(final("Welcome."), keys=frozenset({"secret"}))
    page = context.new_page()
    page.goto(live.url)
    for key in ("wrong", "secret"):
        page.get_by_label("API key").fill(key)
        page.get_by_role("button", name="Continue").click()
        if key == "wrong":
            page.get_by_text("That key is not known here.").wait_for()
    page.locator(".composer").wait_for()
    ask(page, "May I?")
    assert "Welcome." in answer_of(page).inner_text()
    assert page.evaluate("localStorage.getItem('gpt-oss.key')") is None, "kept for this tab alone unless it is wanted"
    assert httpx.get(f"{live.url}/v1/server").status_code == 401


# ---- what may not run -----------------------------------------------------------------------------------------------

HOSTILE = [
    "<script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    "<svg><script>window.hacked = 1</script></svg>",
    "<iframe srcdoc='<script>parent.hacked = 1</script>'></iframe>",
    "[click](javascript:window.hacked=1)",
    "[click](data:text/html,<script>1</script>)",
    "![x](https://example.org/?secret)",
    "<a href='javascript:window.hacked=1'>a</a>",
    "<style>body { display: none }</style><form action=/x><input name=y></form>",
    "$\\href{javascript:window.hacked=1}{x}$ $\\style{background:url(//example.org)}{x}$",
    "```html\n<script>window.hacked = 1</script>\n```",
    '```"><img/src/onerror=window.hacked=1>\nx\n```',
    "<math><mtext><table><mglyph><style><img src=x onerror=window.hacked=1>",
    "【1†L1】<b onmouseover=window.hacked=1>x</b>",
]


def test_markup_of_the_model_does_not_run(context: Any, scripted: Scripted) -> None:
    text = "\n\n".join(HOSTILE)
    call = "<|channel|>analysis to=python code<|message|>print('<img src=x onerror=window.hacked=1>')<|call|>"
    live = scripted(THOUGHT.replace("Let me think.", text) + call, final(text), hosted=WITH_TOOLS)
    page = opened(context, live.url)
    elsewhere: list[str] = []
    page.on("request", lambda request: None if request.url.startswith(live.url) else elsewhere.append(request.url))
    ask(page, "<img src=x onerror='window.hacked = 1'>")
    page.locator("details.thought summary").click()
    answer = answer_of(page)
    assert page.evaluate("window.hacked") is None
    for selector in ("script", "img", "iframe", "style", "form", "[onerror]", "[onmouseover]", "svg script"):
        assert answer.locator(f".markdown {selector}").count() == 0, selector
    hrefs = [link.get_attribute("href") or "" for link in answer.locator(".markdown a").all()]
    assert all(href.startswith("https://") for href in hrefs if href), hrefs
    assert "<script>window.hacked = 1</script>" in answer.inner_text(), "it is shown as the text that it is"
    assert page.locator(".question").inner_text() == "<img src=x onerror='window.hacked = 1'>"
    assert elsewhere == []


def test_the_policy_forbids_scripts_and_addresses(context: Any, scripted: Scripted) -> None:
    live = scripted()
    page = context.new_page()
    told: list[str] = []
    page.on("console", lambda message: told.append(message.text))
    headers = page.goto(live.url).headers
    assert "script-src 'self'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    policy = headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy


# ---- tokens, settings -----------------------------------------------------------------------------------------------


def test_the_tokens_of_an_answer_with_their_probabilities(context: Any, scripted: Scripted) -> None:
    said = THOUGHT + final("Grüße 🐍")
    tokens = encode_with_special(said)
    reply = Reply(tokens, logprobs=[-0.5] * len(tokens))
    page = opened(context, scripted(reply).url)
    page.get_by_role("button", name="Settings").first.click()
    page.get_by_role("tab", name="Page").click()
    page.get_by_label("Ask for probabilities").check()
    page.get_by_role("button", name="Close").click()
    ask(page, "Hello")
    page.get_by_role("button", name="Show the tokens").click()
    panel = page.get_by_role("complementary", name="Tokens")
    labels = [text.split("\n")[0] for text in panel.locator(".raw-label").all_inner_texts()]
    assert [re.sub(r" \d+$", "", label) for label in labels] == [
        "system", "user", "assistant · analysis", "assistant · final",
    ]  # fmt: skip
    sampled = panel.locator(".raw-message.sampled .token")
    assert "".join(sampled.all_inner_texts()) == "<|start|>assistant" + said
    sampled.nth(4).hover()
    assert "60.7 %" in panel.get_by_role("tooltip").inner_text()


def test_the_server_tells_its_figures(context: Any, demo: Live) -> None:
    page = opened(context, demo.url)
    page.get_by_role("button", name="Settings").first.click()
    page.get_by_role("tab", name="Server").click()
    panel = page.get_by_role("complementary", name="Settings")
    facts = panel.locator("dl.facts").inner_text()
    assert "tiny" in facts
    assert "cpu" in facts
    assert "4 layers, 8 experts" in facts
    memory = panel.locator(".chart", has_text="Memory of the server").locator(".chart-value")
    page.wait_for_function("each => /MiB|GiB/.test(each.textContent)", arg=memory.element_handle())
    page.wait_for_function(
        "() => [...document.querySelectorAll('.chart .line')].every(each => each.getAttribute('d').includes('L'))"
    )


def test_settings_reach_the_model_and_are_kept(context: Any, scripted: Scripted) -> None:
    live = scripted(final("Oui."), hosted=WITH_TOOLS)
    page = opened(context, live.url)
    page.get_by_label("Reasoning effort").select_option("high")
    page.get_by_role("button", name="Web").click()
    page.get_by_role("button", name="Settings").first.click()
    page.get_by_label("Instructions").fill("Answer in French.")
    page.get_by_label("Temperature").fill("0.5")
    page.get_by_label("Temperature").blur()
    page.get_by_role("button", name="Close").click()
    ask(page, "Do you?")
    prompt = live_prompt(live)
    assert [word in prompt for word in ("Reasoning: high", "Answer in French.", "## python", "## browser")] == [
        True, True, True, False,
    ]  # fmt: skip
    assert live.generator.calls[0].params.temperature == 0.5
    page.reload()
    page.locator(".figures").wait_for()
    assert page.get_by_label("Reasoning effort").input_value() == "high"
    assert page.get_by_role("button", name="Web").get_attribute("aria-pressed") == "false"
    page.get_by_role("button", name="Settings").first.click()
    assert page.get_by_label("Instructions").input_value() == "Answer in French."


# ---- who can use it -------------------------------------------------------------------------------------------------

RICH = "# A title\n\n- one\n- two\n\n`code` and $x^2$\n\n```python\nprint(1)\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"
EVERYTHING = "{runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'best-practice']}"
COLOURS = "{runOnly: ['color-contrast']}"  # the rest is the same in the dark


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_that_axe_finds(browser: Any, scripted: Scripted, scheme: str) -> None:
    axe = WEB / "node_modules" / "axe-core" / "axe.min.js"
    if not axe.exists():
        pytest.skip("axe-core is not installed: cd web && npm ci")
    call = "<|channel|>analysis to=python code<|message|>print(6 * 7)<|call|>"
    live = scripted(THOUGHT + call, SEARCH, OPEN, final(RICH + "【1†L4】"), hosted=WITH_TOOLS)
    context = browser.new_context(
        viewport={"width": 1280, "height": 860}, color_scheme=scheme, bypass_csp=True, reduced_motion="reduce"
    )
    page = opened(context, live.url)
    page.add_script_tag(path=str(axe))
    rules = EVERYTHING if scheme == "light" else COLOURS
    found = _violations(page, rules)
    ask(page, "Show me everything")
    found += _violations(page, rules)
    page.evaluate("document.querySelectorAll('details').forEach(each => (each.open = true))")
    page.locator(".citation").click()
    found += _violations(page, rules)
    page.get_by_role("button", name="Show the tokens").click()
    page.locator(".raw-message").first.wait_for()
    found += _violations(page, rules)
    page.get_by_role("button", name="Settings").first.click()
    for tab in ("Conversation", "Server", "Page"):
        page.get_by_role("tab", name=tab).click()
        found += _violations(page, rules)
    context.close()
    assert "\n".join(found) == ""


def _violations(page: Any, rules: str) -> list[str]:
    result = page.evaluate(f"() => axe.run(document, {rules})")
    return [
        f"{violation['id']}: {node['html'][:200]} {node['failureSummary'][:300]}"
        for violation in result["violations"]
        for node in violation["nodes"]
    ]


def test_a_phone_scrolls_in_one_direction(browser: Any, scripted: Scripted) -> None:
    wide = "```python\n" + "x = 1; " * 60 + "\n```\n\n" + "w" * 300 + "\n\n" + "| a " * 20 + "|\n" + "|---" * 20 + "|\n"
    live = scripted(SEARCH, OPEN, final(wide + "【1†L4】"), hosted=WITH_TOOLS)
    context = browser.new_context(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    page = opened(context, live.url)
    narrow = "() => ['html', '.scroller'].every(each => document.querySelector(each).scrollWidth <= innerWidth)"
    assert page.evaluate(narrow)
    ask(page, "u" * 200)
    assert page.evaluate(narrow)
    page.get_by_role("button", name="Conversations").tap()
    page.locator(".conversations a").wait_for()
    page.get_by_role("link", name="New conversation").tap()
    page.locator(".welcome").wait_for()
    page.locator(".conversations").wait_for(state="hidden")
    page.go_back()
    page.locator(".citation").tap()
    assert page.evaluate(narrow)
    panel = page.get_by_role("complementary", name="Mount Everest").bounding_box()
    assert panel["width"] == 360
    context.close()


def test_the_keyboard_alone(context: Any, scripted: Scripted) -> None:
    page = opened(context, scripted(final("Yes."), LONG, hold=20).url)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") != ""
    page.keyboard.press("/")
    page.keyboard.type("Does it work?")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("Really?")
    page.keyboard.press("Enter")
    page.locator(".figures").wait_for()
    assert page.locator(".question").inner_text() == "Does it work?\nReally?"
    assert page.locator(".visually-hidden[role=status]").inner_text() == "Answer: Yes."
    page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.value") == "Does it work?\nReally?"
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    page.keyboard.type("Go on")
    page.keyboard.press("Enter")
    shows(page, "and on and on")
    page.keyboard.press("Escape")
    shows(page, "You have stopped this answer.")
    page.keyboard.press("Control+Shift+O")
    page.locator(".welcome").wait_for()


# ---- the files ------------------------------------------------------------------------------------------------------


def test_the_page_is_small_and_whole(built: Path, scripted: Scripted) -> None:
    files = [path for path in built.iterdir() if path.suffix in (".html", ".js", ".css")]
    size = sum(len(gzip.compress(path.read_bytes(), 9)) for path in files)
    assert size <= 150_000, f"{size} bytes"
    live = scripted(keys=frozenset({"secret"}))
    index = httpx.get(live.url)
    assert index.headers["cache-control"] == "no-cache"
    parts = re.findall(r'(?:src|href)="(/page/[^"]+)"', index.text)
    assert len(parts) == 2
    for part in parts:
        answer = httpx.get(live.url + part)
        assert answer.status_code == 200
        assert answer.headers["content-encoding"] == "gzip"
        assert "immutable" in answer.headers["cache-control"]
        plain = httpx.get(live.url + part, headers={"Accept-Encoding": "identity"})
        assert plain.content == answer.content == (built / Path(part).name).read_bytes()
    for wrong in ("nothing.js", "..%2f__init__.py", ".hidden"):
        assert httpx.get(f"{live.url}/page/{wrong}").status_code == 404


def test_without_the_page_the_server_says_how_to_get_it(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(page_files, "FOLDER", tmp_path / "static")
    live = scripted(final("Still here."))
    answer = httpx.get(live.url)
    assert answer.status_code == 200
    assert "make web" in answer.text
    assert live.any_client().responses.create(model="tiny", input="Hi").output_text == "Still here."
