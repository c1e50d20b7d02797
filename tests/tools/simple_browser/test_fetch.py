"""Direct fetches: what may be fetched, and what a hostile server cannot do."""

from __future__ import annotations

import gzip
import ipaddress
import socket
import time
from typing import Any

import pytest

from gpt_oss.tools.simple_browser.backend import BackendError
from gpt_oss.tools.simple_browser.fetch import Fetcher, is_public
from tests.tools.simple_browser.web import Answer, Request, serve

HTML = {"content-type": "text/html"}


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.9.9.9",
        "10.0.0.1",
        "172.16.5.5",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "192.0.2.1",
        "198.18.0.1",
        "::1",
        "::",
        "fe80::1",
        "fc00::1",
        "fec0::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::",
        "2001:db8::1",
    ],
)
def test_private_and_reserved_addresses_are_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "64:ff9b::101:101", "::ffff:1.1.1.1"]
)
def test_public_addresses_are(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1/", "private or reserved"),
        ("http://localhost:80/", "private or reserved"),
        ("http://[::1]/", "private or reserved"),
        ("http://2130706433/", "private or reserved|no host"),
        ("http://0x7f.1/", "private or reserved|no host"),
        ("http://127.1/", "private or reserved|no host"),
        ("http://169.254.169.254/latest/meta-data", "private or reserved"),
        ("file:///etc/passwd", "only http and https"),
        ("ftp://example.org/", "only http and https"),
        ("gopher://127.0.0.1:6379/_x", "only http and https"),
        ("http://user:secret@example.org/", "plain host name"),
        ("http:///x", "plain host name"),
        ("http://example.org:99999/", "not a URL"),
        ("http://[::1", "not a URL"),
        ("nonsense", "only http and https"),
        ("http://a..b/", "no host"),
        ("http://" + "a" * 300 + ".org/", "no host"),
    ],
)
async def test_what_is_not_fetched(url: str, said: str) -> None:
    fetcher = Fetcher(timeout_s=5)
    with pytest.raises(BackendError, match=said):
        await fetcher.page(url)
    await fetcher.close()


async def test_a_redirect_to_a_private_address_is_refused() -> None:
    with serve(lambda r: Answer(200, b"secret", HTML)) as inner:
        for location in (inner.url, "http://169.254.169.254/", "file:///etc/passwd", "//[::1]/", "http://[bad"):
            with serve(lambda r, to=location: Answer(302, headers={"location": to})) as outer:  # type: ignore[misc]
                fetcher = Fetcher(allowed=[outer.host])
                with pytest.raises(BackendError):
                    await fetcher.page(outer.url)
                await fetcher.close()
        assert inner.requests == []


async def test_a_name_that_changes_its_address_is_connected_where_it_was_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """DNS rebinding: the first answer is public, every later one is this machine. Only the first may be used."""
    answers = iter(["203.0.114.1"])
    real = socket.getaddrinfo
    asked: list[str] = []

    def resolve(host: Any, *rest: Any, **more: Any) -> Any:
        asked.append(str(host))
        if host == "rebind.test":
            return real(next(answers, "127.0.0.1"), *rest, **more)
        return real(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with serve(lambda r: Answer(200, b"secret", HTML)) as inner:
        port = inner.host.split(":")[1]
        fetcher = Fetcher(timeout_s=0.5)
        with pytest.raises(BackendError, match=r"did not answer|cannot be fetched"):
            await fetcher.page(f"http://rebind.test:{port}/")
        await fetcher.close()
        assert inner.requests == []
    assert asked.count("rebind.test") == 1


async def test_pages_come_with_the_name_that_was_asked_for() -> None:
    def answer(request: Request) -> Answer:
        if request.path == "/old":
            return Answer(301, headers={"location": "/new?x=1"})
        return Answer(200, "<title>Né</title>ü".encode("latin-1"), {"content-type": "text/html; charset=latin-1"})

    with serve(answer) as web:
        name = web.host.replace("127.0.0.1", "localhost")
        fetcher = Fetcher(allowed=[name])
        page = await fetcher.page(f"http://{name}/old#part")
        assert (page.title, page.text, page.url) == ("Né", "ü", f"http://{name}/new?x=1")
        assert web.requests[-1].headers["host"] == name
        assert (await fetcher.page(f"view-source:http://{name}/new")).text == "<title>Né</title>ü"
        await fetcher.close()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(404, b"no", HTML), "answered 404"),
        (Answer(200, b"%PDF", {"content-type": "application/pdf"}), "is application/pdf, which is not text"),
        (Answer(200, b"\x89PNG\0\0", {"content-type": "text/plain"}), "is binary"),
        (Answer(200, b"x" * 300_000, HTML), "larger than 0.1"),
        (Answer(200, gzip.compress(b"x" * 50_000_000), {**HTML, "content-encoding": "gzip"}), "larger than 0.1"),
        (Answer(200, b"broken", {**HTML, "content-encoding": "gzip"}), "broke off"),
        (Answer(200, b"half", HTML, cut=True), "broke off"),
        (Answer(302, headers={"location": "/again"}), "more than 8 redirects"),
        (Answer(200, b"late", HTML, then=lambda: time.sleep(1.0)), "did not answer"),
    ],
)
async def test_hostile_answers_are_one_sentence(answer: Answer, said: str) -> None:
    with serve(lambda r: answer) as web:
        fetcher = Fetcher(allowed=[web.host], timeout_s=0.5, largest=1 << 17)
        with pytest.raises(BackendError, match=said):
            await fetcher.page(web.url)
        await fetcher.close()


@pytest.mark.parametrize("charset", ["", "; charset=nonsense", "; charset=utf-8"])
async def test_bytes_that_fit_no_charset_are_replaced(charset: str) -> None:
    with serve(
        lambda r: Answer(200, b"<meta charset='x-odd'>a\xff\xfeb", {"content-type": f"text/html{charset}"})
    ) as web:
        fetcher = Fetcher(allowed=[web.host])
        assert (await fetcher.page(web.url)).text.startswith("a")
        await fetcher.close()
