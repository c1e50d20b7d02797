"""Every client that is said to work, run for real against our server: `python -m tests.clients.table`.

Installs each into a folder of its own, plays a script of tokens to it through the whole server, and writes the table of
docs/compatibility.md. Needs PyPI, npm and node; not part of `make test`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from gpt_oss.backends.scripted import ScriptedGenerator
from gpt_oss.server.gate import ServerOptions
from gpt_oss.server.state.store import Store
from tests.clients import agents
from tests.clients.agents import Agent, Host, run_agent
from tests.clients.model import Model
from tests.clients.recording import Recorder
from tests.clients.reuse import Sessions
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
    "edits and tests",
    "resumed",
    "picture",
    "compaction",
)


@dataclass(frozen=True)
class Client:
    """key: the name of its folder, and of its script without the suffix. packages: the first has the version that is
    shown. agent: how it is run where it is a coding agent."""

    name: str
    key: str
    packages: tuple[str, ...]
    agent: Agent | None = None

    @property
    def is_python(self) -> bool:
        return self.key.endswith("_python")

    @property
    def script(self) -> Path | None:
        path = SCRIPTS / f"{self.key}.{'py' if self.is_python else 'mjs'}"
        return path if path.exists() else None


CLIENTS = (
    Client("openai-python", "openai_python", ("openai", "websockets")),
    Client("openai-node", "openai_node", ("openai",)),
    Client("Codex CLI", "codex_node", ("@openai/codex",), agents.CODEX),
    Client("Claude Code", "claude_code_node", ("@anthropic-ai/claude-code",), agents.CLAUDE_CODE),
    Client("Copilot CLI (Responses)", "copilot_node", ("@github/copilot",), agents.COPILOT),
    Client("Copilot CLI (Chat Completions)", "copilot_node", ("@github/copilot",), agents.COPILOT_CHAT),
    Client("Copilot CLI (Messages)", "copilot_node", ("@github/copilot",), agents.COPILOT_MESSAGES),
    Client("opencode (Chat Completions)", "opencode_node", ("opencode-ai",), agents.OPENCODE),
    Client("opencode (Responses)", "opencode_node", ("opencode-ai",), agents.OPENCODE_RESPONSES),
    Client("opencode (Messages)", "opencode_node", ("opencode-ai",), agents.OPENCODE_MESSAGES),
    Client("Cline", "cline_node", ("cline",), agents.CLINE),
    Client("Continue", "continue_node", ("@continuedev/cli",), agents.CONTINUE),
    Client("Qwen Code", "qwen_code_node", ("@qwen-code/qwen-code",), agents.QWEN_CODE),
    Client("pi (Chat Completions)", "pi_node", ("@mariozechner/pi-coding-agent",), agents.PI),
    Client("pi (Responses)", "pi_node", ("@mariozechner/pi-coding-agent",), agents.PI_RESPONSES),
    Client("pi (Messages)", "pi_node", ("@mariozechner/pi-coding-agent",), agents.PI_MESSAGES),
    Client("aider", "aider_python", ("aider-chat",), agents.AIDER),
    Client("openai-agents (Python)", "agents_python", ("openai-agents",)),
    Client("@openai/agents (JS)", "agents_node", ("@openai/agents", "openai", "zod")),
    Client("langchain-openai", "langchain_python", ("langchain-openai",)),
    Client("litellm", "litellm_python", ("litellm",)),
    Client("llm", "llm_python", ("llm",)),
    Client("ai (Vercel)", "ai_sdk_node", ("ai", "@ai-sdk/openai", "@ai-sdk/openai-compatible", "zod")),
    Client("ollama-python", "ollama_python", ("ollama",)),
    Client("anthropic-python", "anthropic_python", ("anthropic",)),
    Client("pydantic-ai", "pydantic_ai_python", ("pydantic-ai-slim", "openai", "anthropic")),
    Client("llama-index", "llama_index_python", ("llama-index-llms-openai-like", "llama-index-llms-openai")),
    Client("Open WebUI", "open_webui_python", ("open-webui",)),
)


def slug(name: str) -> str:
    """The name as that of a file."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def install(client: Client, folder: Path) -> tuple[Path, str]:
    """(The folder that it is in, its version.)"""
    place = folder / client.key
    package = client.packages[0]
    if client.is_python:
        python = place / "bin" / "python"
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
            subprocess.run([python, "-m", "pip", "install", "--quiet", *client.packages], check=True)
        code = f"import importlib.metadata as m; print(m.version({package!r}))"
        version = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
        return place, version
    if not (place / "node_modules" / package).exists():
        place.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "install", "--silent", "--no-audit", *client.packages], cwd=place, check=True)
    return place, json.loads((place / "node_modules" / package / "package.json").read_text())["version"]


def run(client: Client, folder: Path, host_for: Callable[[Path], Host]) -> tuple[str, dict[str, object]]:
    """(Its version; True or what went wrong, by feature.) What it printed goes into a log in the folder."""
    place, version = install(client, folder)
    host = host_for(place / "bin" if client.is_python else place / "node_modules" / ".bin")
    results: dict[str, object] = {}
    log = ""
    if client.script is not None:
        found, log = run_script(client.script, place, host.url)
        results |= found
    if client.agent is not None:
        found, printed = run_agent(client.agent, host)
        results |= found
        log += printed
    (folder / f"{slug(client.name)}.log").write_text(log)
    return version, results


def run_script(script: Path, place: Path, url: str) -> tuple[dict[str, object], str]:
    """(What a script says of each feature, all that it printed.)"""
    environment = {
        **os.environ, "OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": "none", "CLIENTS_HOME": str(place.parent),
        "CLIENTS_NODE": str(place), "OPENAI_AGENTS_DISABLE_TRACING": "1",
    }  # fmt: skip
    if script.suffix == ".py":
        command = [str(place / "bin" / "python"), str(script)]
    else:
        for name in (script.name, "features.mjs"):  # node looks for packages in the folder of the script
            (place / name).write_text((SCRIPTS / name).read_text())
        command = ["node", str(place / script.name)]
    done = subprocess.run(command, env=environment, cwd=place, capture_output=True, text=True, timeout=600)
    results = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    log = done.stdout + done.stderr
    if not results:
        return {"answer": f"it ended with {done.returncode}; see the log"}, log
    return json.loads(results[-1].removeprefix("RESULT ")), log


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.clients.table", description=__doc__.splitlines()[0])
    default = Path.home() / ".cache" / "gpt-oss" / "clients"
    parser.add_argument("--work", type=Path, default=default, help="where clients are installed (default: %(default)s)")
    parser.add_argument("--only", action="append", default=[], metavar="KEY", help="a client by its key; repeatable")
    parser.add_argument("--record", type=Path, metavar="FOLDER", help="write what each client sends, for tests")
    parser.add_argument("--reuse", action="store_true", help="say how much of each session's prompts was known before")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    chosen = [client for client in CLIENTS if not args.only or client.key in args.only]
    rows, failures = [], []
    model, recorder = Model(), Recorder()
    generators: list[ScriptedGenerator] = []
    asked = Sessions(generators)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sessions = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=args.work)))

        def served(context_tokens: int) -> str:
            store = Store(str(folder / f"{context_tokens}.db"))
            stack.callback(store.close)
            generator = ScriptedGenerator(model, context_tokens=context_tokens)
            generators.append(generator)
            options = ServerOptions(ollama=True)
            return stack.enter_context(serving(generator, options, store=store, wrap=recorder.wrap)).url

        url, small_url = served(131_072), served(28_000)
        for client in tqdm(chosen, unit="client"):
            recorder.capture = slug(client.name)

            def announce(feature: str, name: str = client.name) -> None:
                recorder.capture = slug(f"{name} {feature}")
                asked.begin(f"{name}, {feature}")

            version, results = run(
                client, args.work, lambda programs: Host(programs, sessions, url, small_url, model, announce)
            )
            asked.end()
            cells = ["yes" if results.get(f) is True else "**no**" if f in results else "" for f in FEATURES]
            rows.append(f"| {client.name} {version} | " + " | ".join(cells) + " |")
            failures += [f"{client.name}, {f}: {why}" for f, why in results.items() if why is not True]
    if args.reuse:
        print(*asked.report, sep="\n")
    if args.record:
        recorder.save(args.record)
    head = [f"| client | {' | '.join(FEATURES)} |", "|---" * (len(FEATURES) + 1) + "|"]
    table = "\n".join([*head, *rows])
    print(table, *failures, sep="\n")
    if not args.only:
        before, rest = DOCUMENT.read_text().split(MARK, 1)
        DOCUMENT.write_text(f"{before}{MARK}\n\n{table}\n{rest[rest.index('<!-- end -->') - 1 :]}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
