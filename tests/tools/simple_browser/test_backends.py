"""The HTTP backends against a real server that speaks their formats, and misbehaves."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from collections.abc import Callable

import pytest

from gpt_oss.tools.simple_browser import backend as backend_module
from gpt_oss.tools.simple_browser.backend import Backend, BackendError, ExaBackend, SearxngBackend, YouComBackend
from gpt_oss.tools.simple_browser.fetch import Fetcher
from tests.tools.simple_browser.web import Answer, Request, Web, serve

# The shapes that the services answer with, reduced to what is read and a little more.
EXA_SEARCH = {
    "requestId": "r",
    "results": [
        {
            "id": "1",
            "title": "First <b>",
            "url": "https://a.org/1",
            "summary": "About & one",
            "text": "…",
            "score": 0.3,
        },
        {"id": "2", "title": None, "url": "https://a.org/2", "text": "…"},
    ],
}
EXA_CONTENTS = {
    "results": [{"url": "https://a.org/1", "title": "First", "text": '<p>Hello <a href="/2">two</a></p>'}],
    "statuses": [],
}
YOU_SEARCH = {
    "results": {
        "web": [
            {
                "url": "https://a.org/1",
                "title": "First",
                "description": "d",
                "snippets": ["A snippet", "another"],
                "page_age": "2026-10-01T00:00:00",
                "contents": {"html": "<p>livecrawled</p>"},  # where livecrawl was asked for
            }
        ],
        "news": [{"url": "https://n.org/", "title": "News", "description": "Of today"}],
    },
    "metadata": {"query": "q"},
}
YOU_CONTENTS = [
    {
        "url": "https://a.org/1",
        "title": "First",
        "html": "<p>Hello</p>",
        "markdown": None,
        "metadata": {"site_name": "A"},
    }
]
SEARXNG_SEARCH = {
    "query": "q",
    "results": [{"url": "https://a.org/1", "title": "First", "content": "A snippet", "engine": "x"}],
}


def answer_json(value: object, **more: object) -> Answer:
    return Answer(body=json.dumps(value).encode(), headers={"content-type": "application/json"}, **more)  # type: ignore[arg-type]


def exa(web: Web) -> Backend:
    return ExaBackend(source="web", api_key="key", base_url=web.url, backoff_s=0.01)


def you(web: Web) -> Backend:
    return YouComBackend(source="web", api_key="key", base_url=web.url, backoff_s=0.01)


def searxng(web: Web) -> Backend:
    return SearxngBackend(web.url, backoff_s=0.01, fetcher=Fetcher(allowed=[web.host]))


async def test_exa() -> None:
    with serve(lambda r: answer_json(EXA_SEARCH if r.path == "/search" else EXA_CONTENTS)) as web:
        backend = exa(web)
        page = await backend.search("q", 7)
        assert page.text == (
            "\nURL: \n# Search Results\n\n  * 【0†First <b>†a.org】 About & one\n  * 【1†https://a.org/2†a.org】"
        )
        assert (page.title, page.urls["1"]) == ("q", "https://a.org/2")
        sent = json.loads(web.requests[0].body)
        assert (sent["query"], sent["numResults"]) == ("q", 7)
        assert web.requests[0].headers["x-api-key"] == "key"
        page = await backend.fetch("https://a.org/1")
        assert (page.title, page.text, page.urls) == (
            "First",
            "\nURL: https://a.org/1\nHello 【0†two】",
            {"0": "https://a.org/2"},
        )
        assert json.loads(web.requests[1].body)["urls"] == ["https://a.org/1"]
        assert "<p>" in (await backend.fetch("view-source:https://a.org/1")).text
        assert len((await backend.search("q", 1)).urls) == 1
        await backend.close()
        await backend.close()


async def test_youcom() -> None:
    with serve(lambda r: answer_json(YOU_SEARCH if "/search" in r.path else YOU_CONTENTS)) as web:
        backend = you(web)
        page = await backend.search("a b", 5)
        assert page.text.endswith("  * 【0†First†a.org】 A snippet\n  * 【1†News†n.org】 Of today")
        assert web.requests[0].path == "/v1/search?query=a+b&count=5"
        assert web.requests[0].headers["x-api-key"] == "key"
        assert (await backend.fetch("https://a.org/1")).text == "\nURL: https://a.org/1\nHello"
        assert json.loads(web.requests[1].body) == {"urls": ["https://a.org/1"], "formats": ["html"]}
        await backend.close()


async def test_searxng_searches_and_fetches_directly() -> None:
    def answer(request: Request) -> Answer:
        if request.path.startswith("/search?"):
            return answer_json(SEARXNG_SEARCH)
        return Answer(body=b"<title>Page</title>Hello", headers={"content-type": "text/html; charset=utf-8"})

    with serve(answer) as web:
        backend = searxng(web)
        assert "【0†First†a.org】 A snippet" in (await backend.search("q", 5)).text
        assert web.requests[0].path == "/search?q=q&format=json"
        page = await backend.fetch(f"{web.url}/page")
        assert (page.title, page.text) == ("Page", f"\nURL: {web.url}/page\nHello")
        await backend.close()


@pytest.mark.parametrize("make", [exa, you, searxng])
@pytest.mark.parametrize("status", [429, 500, 503])
async def test_busy_servers_are_asked_again(make: Callable[[Web], Backend], status: int) -> None:
    results = {"exa": EXA_SEARCH, "you": YOU_SEARCH, "searxng": SEARXNG_SEARCH}[make.__name__]
    web: Web
    with serve(lambda r: Answer(status) if len(web.requests) < 3 else answer_json(results)) as web:
        backend = make(web)
        assert "First" in (await backend.search("q", 5)).text
        assert len(web.requests) == 3
        await backend.close()


@pytest.mark.parametrize(
    ("after", "waited"),
    [
        ("0", 0.0),
        ("3", 3.0),
        ("3600", 20.0),
        ("-5", 0.01),
        ("soon", 0.01),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 20.0),
    ],
)
async def test_retry_after_is_honoured_and_bounded(after: str, waited: float, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await real(0)

    monkeypatch.setattr(backend_module.asyncio, "sleep", sleep)
    web: Web
    with serve(
        lambda r: Answer(429, headers={"retry-after": after}) if len(web.requests) < 2 else answer_json(EXA_SEARCH)
    ) as web:
        backend = exa(web)
        await backend.search("q", 1)
        await backend.close()
    assert [pause for pause in pauses if pause in (waited, 0.01)] == [waited]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(500), "Exa answered 500 4 times"),
        (Answer(401), r"refused the request \(401\): check its key"),
        (Answer(418), "answered 418"),
        (Answer(200, b"<html>"), "not JSON"),
        (Answer(200, b"[" * 100_000), "not JSON"),
        (Answer(200, b"[1]"), "without results"),
        (Answer(200, b"\xff\xfe{"), "not JSON"),
        (Answer(200, b"{}"), "without results"),
        (Answer(200, b'{"results": 5}'), "without results"),
        (Answer(200, b'{"results": [', cut=True), "cannot be reached"),
        (Answer(200, gzip.compress(b" " * 30_000_000), {"content-encoding": "gzip"}), "more than 20 MiB"),
        (Answer(200, b"junk", {"content-encoding": "gzip"}), "cannot be decompressed"),
        (Answer(200, gzip.compress(b"{}" * 99)[:20], {"content-encoding": "gzip"}), "ends too early"),
        (Answer(200, b"{}", {"content-encoding": "gzip, gzip"}), "was not asked for"),
        (Answer(302, headers={"location": "http://169.254.169.254/"}), "answered 302"),
    ],
)
async def test_bad_answers_are_one_sentence(answer: Answer, said: str) -> None:
    with serve(lambda r: answer) as web:
        backend = exa(web)
        with pytest.raises(BackendError, match=said):
            await backend.search("q", 5)
        await backend.close()


async def test_odd_entries_are_skipped() -> None:
    with serve(lambda r: answer_json({"results": [1, None, {"title": 5}, EXA_SEARCH["results"][0]]})) as web:  # type: ignore[index]
        backend = exa(web)
        assert "First" in (await backend.search("q", 5)).text
        await backend.close()


async def test_a_slow_server_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend_module, "TIMEOUT_S", 0.2)
    with serve(lambda r: Answer(200, b"{}", then=lambda: time.sleep(1))) as web:
        backend = exa(web)
        with pytest.raises(BackendError, match="did not answer"):
            await backend.search("q", 5)
        await backend.close()


async def test_a_server_that_drips_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend_module, "TIMEOUT_S", 0.2)
    with serve(lambda r: Answer(200, b" " * 40, pause_s=0.05)) as web:
        backend = exa(web)
        with pytest.raises(BackendError, match="did not answer"):
            await backend.search("q", 5)
        await backend.close()


async def test_youcom_and_exa_say_what_they_have_no_page_of() -> None:
    for make, body in ((exa, {"results": [], "statuses": [{"status": "error"}]}), (you, []), (you, [{"html": ""}])):
        with serve(lambda r, body=body: answer_json(body)) as web:  # type: ignore[misc]
            backend = make(web)
            with pytest.raises(BackendError, match=r"has no contents for https://a\.org/"):
                await backend.fetch("https://a.org/")
            await backend.close()


async def test_an_instance_without_json_says_what_to_set() -> None:
    with serve(lambda r: Answer(403)) as web:
        backend = searxng(web)
        with pytest.raises(BackendError, match="allow the json format"):
            await backend.search("q", 5)
        await backend.close()


async def test_a_key_is_never_printed() -> None:
    with pytest.raises(BackendError) as told:
        await ExaBackend(api_key="sec\nret").search("q", 1)
    assert "sec" not in str(told.value)


async def test_a_server_that_is_not_there() -> None:
    backend = ExaBackend(api_key="key", base_url="http://127.0.0.1:9", backoff_s=0.01)
    with pytest.raises(BackendError, match="Exa cannot be reached"):
        await backend.search("q", 5)
    await backend.close()


@pytest.mark.parametrize(("kind", "variable"), [(ExaBackend, "EXA_API_KEY"), (YouComBackend, "YDC_API_KEY")])
async def test_a_missing_key_is_told_when_it_is_needed(
    kind: type[ExaBackend] | type[YouComBackend], variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(variable, raising=False)
    backend = kind(source="web")
    with pytest.raises(BackendError, match=f"set {variable}"):
        await backend.search("q", 5)
