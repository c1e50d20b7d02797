"""Direct fetches: what may be fetched, and what a hostile server cannot do."""

from __future__ import annotations

import gzip
import ipaddress
import shutil
import socket
import ssl
import subprocess
import time
import tracemalloc
import zlib
from typing import Any

import pytest

from gpt_oss.tools.simple_browser.backend import BackendError
from gpt_oss.tools.simple_browser.fetch import Fetcher, is_public
from tests.tools.simple_browser.web import Answer, Request, serve

HTML = {"content-type": "text/html"}
BOMB_IN_A_BOMB = gzip.compress(gzip.compress(b"x" * 100_000_000))  # some hundred bytes


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
        "168.63.129.16",
        "192.0.0.192",
        "100.100.100.200",
        "fd00:ec2::254",
        "64:ff9b:1::a00:1",
        "::127.0.0.1",
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
        url = f"http://{name}/new?x=1"
        assert (page.title, page.text, page.url) == ("Né", f"\nURL: {url}\nü", url)
        assert web.requests[-1].headers["host"] == name
        assert (await fetcher.page(f"view-source:http://{name}/new")).text == "<title>Né</title>ü"
        await fetcher.close()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(404, b"no", HTML), "answered 404"),
        (Answer(200, b"%PDF", {"content-type": "application/pdf"}), "is application/pdf, which is not text"),
        (Answer(200, b"\x89PNG\0\0", {"content-type": "text/plain"}), "is binary"),
        (Answer(200, b"x" * 300_000, HTML), "more than 0.125 MiB"),
        (Answer(200, gzip.compress(b"x" * 50_000_000), {**HTML, "content-encoding": "gzip"}), "more than 0.125 MiB"),
        (Answer(200, BOMB_IN_A_BOMB, {**HTML, "content-encoding": "gzip, gzip"}), "was not asked for"),
        (Answer(200, b"broken", {**HTML, "content-encoding": "gzip"}), "cannot be decompressed"),
        (Answer(200, b"br", {**HTML, "content-encoding": "br"}), "was not asked for: br"),
        (Answer(200, b"half", HTML, cut=True), "cannot be fetched"),
        (Answer(200, b"drip" * 20, HTML, pause_s=0.1), "took longer than"),
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


async def test_a_bomb_takes_little_memory() -> None:
    bomb = Answer(200, gzip.compress(b"x" * 200_000_000), {**HTML, "content-encoding": "gzip"})
    with serve(lambda r: bomb) as web:
        fetcher = Fetcher(allowed=[web.host], largest=1 << 20)
        tracemalloc.start()
        with pytest.raises(BackendError, match="more than 1 MiB"):
            await fetcher.page(web.url)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        await fetcher.close()
    assert peak < 8 << 20


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "identity"])
async def test_compressed_pages_are_read(encoding: str) -> None:
    plain = b"<p>" + b"word " * 50_000
    body = {"gzip": gzip.compress(plain), "deflate": zlib.compress(plain), "identity": plain}[encoding]
    with serve(lambda r: Answer(200, body, {**HTML, "content-encoding": encoding})) as web:
        fetcher = Fetcher(allowed=[web.host])
        assert (await fetcher.page(web.url)).text.count("word") == 50_000
        await fetcher.close()


@pytest.mark.parametrize(
    ("body", "charset", "said"),
    [
        ("Grüße".encode(), "", "Grüße"),
        ("Grüße “”".encode("cp1252"), "; charset=iso-8859-1", "Grüße “”"),
        ("<meta charset='koi8-r'>привет".encode("koi8-r"), "", "привет"),
        ('<meta http-equiv="x" content="text/html; charset=Shift_JIS">日本'.encode("shift_jis"), "", "日本"),
        ("Größe".encode("utf-16"), "; charset=utf-8", "Größe"),
        ("\ufeffGröße".encode(), "", "Größe"),
        (b"<meta charset='x-odd'>a\xff\xfeb", "; charset=nonsense", "a\ufffd\ufffdb"),
        *((b"a\\ud800b", f"; charset={name}", "a\\ud800b") for name in ("idna", "punycode", "undefined", "utf-7")),
        (b"a\\ud800b", "; charset=unicode_escape", "a\\ud800b"),
    ],
)
async def test_character_sets(body: bytes, charset: str, said: str) -> None:
    with serve(lambda r: Answer(200, body, {"content-type": f"text/html{charset}"})) as web:
        fetcher = Fetcher(allowed=[web.host])
        assert (await fetcher.page(web.url)).text == f"\nURL: {web.url}\n{said}"
        await fetcher.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Of `site.test`, signed by itself."""
    if not shutil.which("openssl"):
        pytest.skip("needs the openssl command")
    key, crt = (str(tmp_path_factory.mktemp("tls") / name) for name in ("key", "crt"))
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=site.test"
    subprocess.run(
        [*command.split(), "-addext", "subjectAltName=DNS:site.test", "-keyout", key, "-out", crt],
        check=True,
        capture_output=True,
    )
    return key, crt


@pytest.mark.parametrize(("name", "trusted"), [("site.test", True), ("other.test", False)])
async def test_tls_is_checked_for_the_name_and_not_for_the_address(
    name: str, trusted: bool, certificate: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **more: real("127.0.0.1", *rest, **more))
    key, crt = certificate
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(crt, key)
    asked: list[str | None] = []
    server.sni_callback = lambda _, sni, __: asked.append(sni)
    with serve(lambda r: Answer(200, b"secret of site.test", HTML), tls=server) as web:
        place = f"{name}:{web.host.split(':')[1]}"
        fetcher = Fetcher(allowed=[place], tls=ssl.create_default_context(cafile=crt), timeout_s=5)
        if trusted:
            assert "secret of site.test" in (await fetcher.page(f"https://{place}/")).text
            assert web.requests[0].headers["host"] == place
        else:
            with pytest.raises(BackendError, match="certificate"):
                await fetcher.page(f"https://{place}/")
            assert web.requests == []
        await fetcher.close()
    assert asked == [name]


async def test_the_next_address_is_tried_where_one_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(lambda r: Answer(200, b"here", HTML)) as web:
        port = int(web.host.split(":")[1])
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in ("127.0.0.99", "127.0.0.1")]
        real = socket.getaddrinfo
        monkeypatch.setattr(
            socket, "getaddrinfo", lambda host, *r, **m: found if host == "two.test" else real(host, *r, **m)
        )
        fetcher = Fetcher(allowed=[f"two.test:{port}"])
        assert "here" in (await fetcher.page(f"http://two.test:{port}/")).text
        await fetcher.close()


async def test_one_private_address_among_public_ones_is_enough_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 80)) for host in ("93.184.216.34", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    fetcher = Fetcher()
    with pytest.raises(BackendError, match="private or reserved"):
        await fetcher.page("http://mixed.test/")
    await fetcher.close()
