"""Run by the Python of an environment that the package was installed into, with nothing else at hand: whether it has
what it needs and no more, and answers in a terminal and over HTTP. Needs no pytest, so that every builder can run it.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from importlib import metadata
from pathlib import Path

HEAVY = ("torch", "triton", "transformers", "fastapi", "uvicorn", "sqlalchemy", "numpy", "rich")
NEEDED = (
    "gpt_oss/harmony/data/o200k_base.tiktoken",
    "gpt_oss/demo/demo.safetensors",
    "gpt_oss/demo/pages/lake-baikal.md",
    "gpt_oss/backends/cpu/_native.pyi",
)


def check_files() -> None:
    files = metadata.files("gpt-oss") or []
    names = {file.as_posix() for file in files}
    for name in NEEDED:
        assert name in names, f"{name} is missing"
    assert any(name.startswith("gpt_oss/backends/cpu/_native.") and name.endswith((".so", ".pyd")) for name in names)
    for name in names:
        top = name.split("/")[0]
        assert top == "gpt_oss" or top.startswith("gpt_oss-") or top == "..", f"{name} does not belong here"
        assert not name.endswith((".cc", ".h", ".cmake", ".ts")), f"{name} is a source"
    if os.name == "posix":
        assert any(name.endswith("share/man/man1/gpt-oss.1") for name in names)
    licences = {Path(name).name for name in names if "dist-info/licenses/" in name}
    assert licences == {"LICENSE", "NOTICE"}, licences


def check_imports() -> None:
    script = f"import sys, gpt_oss; print(gpt_oss.__file__); print([n for n in {HEAVY} if n in sys.modules])"
    path, loaded = run(["-c", script]).splitlines()
    assert not (Path(path).parents[1] / "pyproject.toml").exists(), f"{path} is in a checkout"
    assert loaded == "[]", f"import gpt_oss loads {loaded}"


def check_terminal() -> None:
    lines = run(["-m", "gpt_oss.cli", "--version"]).splitlines()
    assert lines[0] == f"gpt-oss {metadata.version('gpt-oss')}", lines
    about = json.loads(run(["-m", "gpt_oss.cli", "version", "--json"]))
    assert about["kernels_usable"], "no kernels"
    assert "plain" in about["kernels_compiled"]
    print(about)
    hello = run(["-m", "gpt_oss.cli", "generate", "demo", "--chat", "-p", "hello", "-l", "20"])
    assert "<|channel|>" in hello, hello
    print(hello)
    answer = run(["-m", "gpt_oss.cli", "chat", "demo", "-m", "What is 4821 * 377?"])
    print(answer)
    # Where no sandbox works, as in most containers, it has no python to calculate with, and says so.
    assert ("1817517" if sandbox_works() else "python tool, which is off") in answer, answer


def sandbox_works() -> bool:
    script = "import asyncio; from gpt_oss.tools.sandbox import open_sandbox as o; asyncio.run(o('auto'))"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, check=False).returncode == 0


def check_server() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile() as log:
        command = [sys.executable, "-m", "gpt_oss.cli", "serve", "demo", "--no-store", "--port", str(port)]
        server = subprocess.Popen(command, cwd=tempfile.gettempdir(), stderr=log)
        try:
            deadline = time.monotonic() + 240
            while True:
                try:
                    assert json.loads(get(f"{url}/health"))["status"] == "ok"
                    break
                except OSError:
                    if server.poll() is not None or time.monotonic() > deadline:
                        log.seek(0)
                        raise AssertionError(log.read().decode()) from None
                    time.sleep(0.3)
            question = {"model": "demo", "messages": [{"role": "user", "content": "Hello!"}]}
            answer = json.loads(get(f"{url}/v1/chat/completions", question))
            assert answer["choices"][0]["message"]["content"], answer
            print(answer["choices"][0]["message"]["content"])
            page = get(f"{url}/")
            built = any("server/static/index.html" in file.as_posix() for file in metadata.files("gpt-oss") or [])
            assert ("<script" in page) == built, page
        finally:
            server.terminate()
            server.wait(60)


def run(arguments: list[str]) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=tempfile.gettempdir(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip()


def get(url: str, body: object = None) -> str:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", "Accept": "text/html, */*"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return str(answer.read().decode())


if __name__ == "__main__":
    check_files()
    check_imports()
    check_terminal()
    check_server()
    print("installed: ok")
