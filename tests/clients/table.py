"""Every client that is said to work, run for real against our server: `python -m tests.clients.table`.

Installs each into a folder of its own, plays a script of tokens to it through the whole server, and writes the table of
docs/compatibility.md. Needs PyPI, npm and node; not part of `make test`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from gpt_oss.backends.scripted import ScriptedGenerator
from gpt_oss.server.gate import ServerOptions
from gpt_oss.server.state.store import Store
from gpt_oss.vocabulary import decode, encode_with_special
from tests.server.conftest import serving

SCRIPTS = Path(__file__).parent / "scripts"
DOCUMENT = Path(__file__).parents[2] / "docs" / "compatibility.md"
MARK = "<!-- table: python -m tests.clients.table -->"
FEATURES = (
    "answer",
    "stream",
    "reasoning",
    "tools",
    "free-form tools",
    "structured output",
    "state",
    "WebSocket",
    "--oss",
)
THINK = "<|channel|>analysis<|message|>{}<|end|><|start|>assistant"
FINAL = "<|channel|>final<|message|>{}<|return|>"
CALL = "<|channel|>commentary to=functions.{} <|constrain|>json<|message|>{}<|call|>"
FREE = "<|channel|>commentary to=functions.{}<|message|>{}<|call|>"
PATCH = "*** Begin Patch\n*** Update File: main.py\n@@\n-print('old')\n+print('new')\n*** End Patch"


@dataclass(frozen=True)
class Client:
    name: str
    script: str
    packages: tuple[str, ...]  # the first is the one whose version is shown

    @property
    def is_python(self) -> bool:
        return self.script.endswith(".py")


CLIENTS = (
    Client("openai-python", "openai_python.py", ("openai", "websockets")),
    Client("openai-node", "openai_node.mjs", ("openai",)),
    Client("Codex CLI", "codex_node.mjs", ("@openai/codex",)),
    Client("openai-agents (Python)", "agents_python.py", ("openai-agents",)),
    Client("@openai/agents (JS)", "agents_node.mjs", ("@openai/agents", "openai", "zod")),
    Client("langchain-openai", "langchain_python.py", ("langchain-openai",)),
    Client("litellm", "litellm_python.py", ("litellm",)),
    Client("llm", "llm_python.py", ("llm",)),
    Client("ai (Vercel)", "ai_sdk_node.mjs", ("ai", "@ai-sdk/openai", "@ai-sdk/openai-compatible", "zod")),
    Client("ollama-python", "ollama_python.py", ("ollama",)),
    Client("anthropic-python", "anthropic_python.py", ("anthropic",)),
)


def reply(prompt: list[int]) -> Sequence[int]:
    """What the model would say: it greets, calls the tool that fits, reports what it answered, and fills in a form."""
    text = decode(prompt)
    messages = text.split("<|start|>")[1:-1]
    asked = next(m.split("<|message|>", 1)[1] for m in reversed(messages) if m.startswith("user"))
    answered = messages[-1].startswith("functions.")
    if "weather" in asked and "get_weather" in text and not answered:
        said = THINK.format("I ask.") + CALL.format("get_weather", '{"city": "Oslo"}')
    elif answered and "get_weather" in messages[-1]:
        said = FINAL.format("It rains in Oslo.")
    elif "edit main.py" in asked and not answered:
        command = json.dumps({"cmd": "sed -i s/old/new/ main.py"})
        said = THINK.format("I edit.") + CALL.format("exec_command", command)
    elif "patch main.py" in asked and not answered:
        said = THINK.format("I patch.") + FREE.format("apply_patch", PATCH)
    elif "run a command" in asked and not answered:
        said = CALL.format("run_commands", '{"commands": ["echo rain"]}')
    elif answered:
        said = FINAL.format("Done.")
    elif "report" in asked:
        said = FINAL.format('{"city": "Oslo", "rain": true}')
    else:
        said = THINK.format("Be friendly.") + FINAL.format("Hello!")
    return encode_with_special(said)


def install(client: Client, folder: Path) -> tuple[list[str], Path, str]:
    """(what runs its script, the folder to run it in, its version)."""
    place = folder / client.script.split(".")[0]
    package = client.packages[0]
    if client.is_python:
        python = place / "bin" / "python"
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
            subprocess.run([python, "-m", "pip", "install", "--quiet", *client.packages], check=True)
        code = f"import importlib.metadata as m; print(m.version({package!r}))"
        version = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
        return [str(python), str(SCRIPTS / client.script)], place, version
    if not (place / "node_modules" / package).exists():
        place.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "install", "--silent", "--no-audit", *client.packages], cwd=place, check=True)
    for script in (client.script, "features.mjs"):  # modules are looked for beside the script
        (place / script).write_text((SCRIPTS / script).read_text())
    version = json.loads((place / "node_modules" / package / "package.json").read_text())["version"]
    return ["node", str(place / client.script)], place, version


def run(client: Client, folder: Path, url: str) -> tuple[str, dict[str, object]]:
    command, place, version = install(client, folder)
    environment = {
        **os.environ, "OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": "none", "CLIENTS_HOME": str(folder),
        "CLIENTS_NODE": str(place), "OPENAI_AGENTS_DISABLE_TRACING": "1",
    }  # fmt: skip
    done = subprocess.run(command, env=environment, cwd=place, capture_output=True, text=True, timeout=600)
    results = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    (folder / f"{client.script}.log").write_text(done.stdout + done.stderr)
    if not results:
        return version, {"answer": f"it ended with {done.returncode}; see {client.script}.log"}
    return version, json.loads(results[-1].removeprefix("RESULT "))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.clients.table", description=__doc__.splitlines()[0])
    default = Path.home() / ".cache" / "gpt-oss" / "clients"
    parser.add_argument("--work", type=Path, default=default, help="where clients are installed (default: %(default)s)")
    parser.add_argument("--only", action="append", default=[], help="a client by its script's name; repeatable")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    chosen = [c for c in CLIENTS if not args.only or c.script.split(".")[0] in args.only]
    rows, failures = [], []
    with tempfile.TemporaryDirectory() as folder:
        store = Store(str(Path(folder) / "server.db"))
        with serving(ScriptedGenerator(reply), ServerOptions(ollama=True), store=store) as live:
            for client in tqdm(chosen, unit="client"):
                version, results = run(client, args.work, live.url)
                cells = ["yes" if results.get(f) is True else "**no**" if f in results else "" for f in FEATURES]
                rows.append(f"| {client.name} {version} | " + " | ".join(cells) + " |")
                failures += [f"{client.name}, {f}: {why}" for f, why in results.items() if why is not True]
        store.close()
    head = [f"| client | {' | '.join(FEATURES)} |", "|---" * (len(FEATURES) + 1) + "|"]
    table = "\n".join([*head, *rows])
    print(table, *failures, sep="\n")
    if not args.only:
        before, rest = DOCUMENT.read_text().split(MARK, 1)
        DOCUMENT.write_text(f"{before}{MARK}\n\n{table}\n{rest[rest.index('<!-- end -->') - 1 :]}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
