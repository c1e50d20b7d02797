"""Downloads, for real, from a small server on this machine that speaks as much of the hub's API as is asked of it."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gpt_oss.errors import DownloadError
from gpt_oss.model.checkpoint import open_checkpoint
from gpt_oss.model.config import ModelConfig
from gpt_oss.model.download import belongs, download
from gpt_oss.model.factory import write_random_checkpoint

REPO, COMMIT = "openai/gpt-oss-tiny", "0123456789abcdef0123456789abcdef01234567"
TINY = ModelConfig(
    num_hidden_layers=2, num_experts=4, experts_per_token=2, vocab_size=512, hidden_size=64, intermediate_size=64,
    head_dim=16, num_attention_heads=4, num_key_value_heads=2,
)  # fmt: skip


class Hub(ThreadingHTTPServer):
    """files: what the repository holds. cut: names whose next transfer breaks off. ranges: as asked for."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = files
        self.cut: set[str] = set()
        self.ranges: list[tuple[str, int]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        path = self.path.split("?")[0]
        if path.startswith(f"/api/models/{REPO}/tree"):
            tree = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in self.server.files.items()
            ]
            return self.send(200, json.dumps(tree).encode(), body)
        if path.startswith(f"/api/models/{REPO}"):
            siblings = [{"rfilename": name, "size": len(data)} for name, data in self.server.files.items()]
            return self.send(200, json.dumps({"id": REPO, "sha": COMMIT, "siblings": siblings}).encode(), body)
        for name, data in self.server.files.items():
            if path in (f"/{REPO}/resolve/{COMMIT}/{name}", f"/{REPO}/resolve/main/{name}"):
                return self.send_file(name, data, body)
        return self.send(404, b"{}", body, {"X-Error-Code": "RepoNotFound"})

    def send_file(self, name: str, data: bytes, body: bool) -> None:
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        extra = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if start:
            extra["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if body:
            self.server.ranges.append((name, start))
        if body and name in self.server.cut:
            self.server.cut.discard(name)
            self.send(200, data[start : len(data) // 2], body, extra, length=len(data) - start)
            self.close_connection = True
            self.connection.close()
            return
        self.send(206 if start else 200, data[start:], body, extra)

    def send(
        self, status: int, data: bytes, body: bool, extra: dict[str, str] | None = None, length: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (extra or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        if body:
            self.wfile.write(data)
            self.wfile.flush()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A repository as the released ones are: all three layouts."""
    folder = tmp_path_factory.mktemp("repository")
    write_random_checkpoint(folder / "original", TINY)
    metal = write_random_checkpoint(folder / "model.bin", TINY, layout="metal")
    tune = write_random_checkpoint(folder / "hf", TINY, layout="huggingface")
    found = {f"original/{p.name}": p.read_bytes() for p in (folder / "original").iterdir()}
    found |= {p.name: p.read_bytes() for p in tune.iterdir()}
    return found | {"metal/model.bin": metal.read_bytes(), "README.md": b"# A model\n"}


@pytest.fixture
def hub(files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 4096)  # what is on disk when it breaks off
    server = Hub(files)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("layout", ["original", "huggingface", "metal"])
def test_each_layout_arrives_whole_and_alone(hub: Hub, tmp_path: Path, layout: str) -> None:
    path = download(REPO, layout, tmp_path / "here", endpoint=hub.url)  # type: ignore[arg-type]
    assert open_checkpoint(path).layout == layout
    names = {str(p.relative_to(tmp_path / "here")) for p in (tmp_path / "here").rglob("*") if p.is_file()}
    assert {n for n in names if not n.startswith(".cache")} == {n for n in hub.files if belongs(n, layout)}  # type: ignore[arg-type]


def test_a_cut_transfer_goes_on_where_it_stopped(hub: Hub, tmp_path: Path) -> None:
    name = "original/model.safetensors"
    hub.cut.add(name)
    for _ in range(3):  # the hub's library may try again by itself
        try:
            path = download(REPO, "original", tmp_path / "here", endpoint=hub.url)
            break
        except DownloadError:
            continue
    assert open_checkpoint(path).layout == "original"
    starts = [start for file, start in hub.ranges if file == name]
    assert starts[0] == 0
    assert starts[-1] > 0
    before = len(hub.ranges)
    download(REPO, "original", tmp_path / "here", endpoint=hub.url)
    assert len(hub.ranges) == before  # nothing is fetched twice


def test_what_cannot_be_had_is_said(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DownloadError, match="openai/nothing"):
        download("openai/nothing", "original", tmp_path, endpoint=hub.url)
    with pytest.raises(DownloadError, match="not a repository's name"):
        download("a/b/c", "original", tmp_path, endpoint=hub.url)
    with pytest.raises(DownloadError, match="could not be fetched"):
        download(REPO, "original", tmp_path, endpoint="http://127.0.0.1:9")
    hub.files = {"README.md": b""}
    with pytest.raises(DownloadError, match="no weights in the metal layout"):
        download(REPO, "metal", tmp_path, endpoint=hub.url)


def test_a_full_disk_is_noticed_before_the_first_byte(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(DownloadError, match=r"\d"):
        download(REPO, "original", tmp_path / "here", endpoint=hub.url)
    assert hub.ranges == []
