"""Pages of others in a real Chromium: under a foreign name that leads to this machine, and from a foreign origin."""

from __future__ import annotations

import html
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gpt_oss.backends.scripted import ScriptedGenerator
from gpt_oss.server.gate import ServerOptions, known_hosts
from gpt_oss.vocabulary import encode_with_special
from tests.server.conftest import Live, serving
from tests.server.test_chat_completions import ANSWER
from tests.web.conftest import CHROMIUM

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
PAGE = """<!doctype html><title>A page of somebody else's</title><pre id="told">nothing yet</pre><script>
const told = [];
const ask = async (path, options) => {
  try { const got = await fetch("URL" + path, options); told.push(`${path} ${got.type} ${got.status}`); }
  catch (error) { told.push(`${path} refused`); }
};
(async () => {
  await ask("/v1/models");
  await ask("/v1/conversations");
  await ask("/v1/chat/completions", {method: "POST", mode: "no-cors", headers: {"Content-Type": "text/plain"},
    body: JSON.stringify({messages: [{role: "user", content: "Hi"}]})});
  document.getElementById("told").textContent = told.join("; ") + "; done";
})();
</script>"""


@pytest.fixture
def live() -> Iterator[Live]:
    options = ServerOptions(hosts=known_hosts("127.0.0.1"))
    with serving(ScriptedGenerator(lambda _: encode_with_special(ANSWER)), options) as live:
        yield live


def shown(url: str, profile: Path, *flags: str) -> str:
    """The text of a page as Chromium has it in the end."""
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", f"--user-data-dir={profile}",
        "--virtual-time-budget=10000", *flags, "--dump-dom", url,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    return html.unescape(done.stdout)


@pytest.mark.parametrize("path", ["/", "/v1/conversations", "/docs"])
def test_a_foreign_name_that_leads_here_is_refused_everything(live: Live, tmp_path: Path, path: str) -> None:
    port = live.url.rsplit(":", 1)[1]
    rules = "--host-resolver-rules=MAP evil.example 127.0.0.1"
    text = shown(f"http://evil.example:{port}{path}", tmp_path, rules)
    assert "this server is not called 'evil.example" in text


def test_our_own_name_is_let_in(live: Live, tmp_path: Path) -> None:
    port = live.url.rsplit(":", 1)[1]
    assert '"status":"ok"' in shown(f"http://localhost:{port}/health", tmp_path)


def test_a_page_of_another_origin_is_refused_everything(live: Live, tmp_path: Path) -> None:
    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(PAGE.replace("URL", live.url).encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as elsewhere:
        threading.Thread(target=elsewhere.serve_forever, daemon=True).start()
        text = shown(f"http://127.0.0.1:{elsewhere.server_port}/", tmp_path)
        elsewhere.shutdown()
    assert "/v1/models refused; /v1/conversations refused" in text
    assert "done" in text
    assert live.generator.calls == []  # nor did the one that cannot be read do anything
