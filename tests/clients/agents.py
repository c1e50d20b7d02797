"""Coding agents: how each is pointed at our server, and what it must do on disk in one session without a user.

A session: read a file, edit it, and run a test that fails before the edit. model.py says what the model answers.
"""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
import tempfile
import traceback
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.clients.model import LOOK, READ_PARTS, REPAIR, Model

TEST = """
import pathlib
here = pathlib.Path(__file__).parent
assert "new" in (here / "main.py").read_text()
(here / "passed.txt").write_text("yes")
print("all is well")
"""
PART = """
import sys
print(f"This is part {sys.argv[1]}.", *range(1500))
"""
LIMIT_S = 180


@dataclass(frozen=True)
class Agent:
    """One agent's program and settings, in which {url}, {home}, {work} and {task} are filled in.

    files: written below {home}, but those that begin with {work} below that. before: run first. short: the same agent,
    set to a context of 28,000 tokens, where it compacts by itself. again: the words that go on with its last session.
    """

    program: str
    words: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    before: tuple[tuple[str, ...], ...] = ()
    reads_pictures: bool = False
    short: Agent | None = None
    again: tuple[str, ...] = ()


CLAUDE_CODE = Agent(
    "claude",
    ("-p", "{task}", "--model", "gpt-oss-20b", "--permission-mode", "bypassPermissions"),
    {
        "ANTHROPIC_BASE_URL": "{url}",
        "ANTHROPIC_AUTH_TOKEN": "none",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_TELEMETRY": "1",
        "IS_SANDBOX": "1",  # it refuses to skip its questions as root otherwise
    },
    reads_pictures=True,
)
CLAUDE_CODE = replace(CLAUDE_CODE, again=("-c", *CLAUDE_CODE.words))
CLAUDE_CODE = replace(CLAUDE_CODE, short=CLAUDE_CODE)  # it learns the length of the context from a refusal
CODEX = Agent(
    "codex",
    ("exec", "--skip-git-repo-check", "{task}"),
    {"CODEX_HOME": "{home}", "TMPDIR": "{work}"},  # helpers of its sandbox must not lie below the system's TMPDIR
    {
        "config.toml": """
model = "gpt-oss-20b"
model_provider = "ours"
sandbox_mode = "danger-full-access"
approval_policy = "never"
[model_providers.ours]
name = "ours"
base_url = "{url}/v1"
wire_api = "responses"
"""
    },
    reads_pictures=True,
    again=("exec", "resume", "--last", "--skip-git-repo-check", "{task}"),
)
CODEX = replace(
    CODEX,
    short=replace(
        CODEX,
        words=(*CODEX.words, "-c", "model_context_window=28000", "-c", "model_auto_compact_token_limit=20000"),
    ),
)
COPILOT = Agent(
    "copilot",
    ("-p", "{task}", "--allow-all-tools", "--allow-all-paths"),
    {
        "COPILOT_PROVIDER_BASE_URL": "{url}/v1",
        "COPILOT_PROVIDER_WIRE_API": "responses",
        "COPILOT_MODEL": "gpt-oss-20b",
        "COPILOT_OFFLINE": "true",
    },
    reads_pictures=True,
)
COPILOT_AGAIN = (*COPILOT.words, "--continue")
COPILOT_CHAT = replace(COPILOT, environment={**COPILOT.environment, "COPILOT_PROVIDER_WIRE_API": "completions"})
COPILOT_MESSAGES = replace(
    COPILOT,
    environment={
        **COPILOT.environment,
        "COPILOT_PROVIDER_BASE_URL": "{url}",
        "COPILOT_PROVIDER_TYPE": "anthropic",
    },
)
COPILOT = replace(
    COPILOT,
    again=COPILOT_AGAIN,
    short=replace(
        COPILOT,
        environment={
            **COPILOT.environment,
            "COPILOT_PROVIDER_MAX_PROMPT_TOKENS": "24000",
            "COPILOT_PROVIDER_MAX_OUTPUT_TOKENS": "4000",
        },
    ),
)


def _opencode(package: str, context: int = 131_072) -> Agent:
    """opencode with the provider of one package of the Vercel AI SDK."""
    provider = {
        "npm": package,
        "name": "ours",
        "options": {"baseURL": "{url}/v1", "apiKey": "none"},
        "models": {"gpt-oss-20b": {"name": "gpt-oss-20b", "limit": {"context": context, "output": 4000}}},
    }
    settings = {"model": "ours/gpt-oss-20b", "provider": {"ours": provider}, "share": "disabled"}
    return Agent(
        "opencode",
        ("run", "{task}", "--auto"),
        {"OPENCODE_DISABLE_AUTOUPDATE": "1", "OPENCODE_DISABLE_MODELS_FETCH": "1"},
        {"{work}/opencode.json": json.dumps(settings)},
        reads_pictures=True,
    )


OPENCODE = replace(
    _opencode("@ai-sdk/openai-compatible"),
    short=_opencode("@ai-sdk/openai-compatible", context=28_000),
    again=("run", "-c", "{task}", "--auto"),
)
OPENCODE_RESPONSES = _opencode("@ai-sdk/openai")
OPENCODE_MESSAGES = _opencode("@ai-sdk/anthropic")
CLINE = Agent(
    "cline",
    ("{task}",),
    before=(("auth", "-p", "openai", "-k", "none", "-m", "gpt-oss-20b", "-b", "{url}/v1"),),
)
CONTINUE = Agent(
    "cn",
    ("--config", "{home}/config.yaml", "--auto", "-p", "{task}"),
    {"CONTINUE_TELEMETRY_ENABLED": "0"},
    {
        "config.yaml": """
name: ours
version: 1.0.0
schema: v1
models:
  - name: gpt-oss-20b
    provider: openai
    model: gpt-oss-20b
    apiBase: {url}/v1
    apiKey: none
    roles: [chat, edit, apply]
    capabilities: [tool_use]
"""
    },
)
QWEN_CODE = Agent(
    "qwen",
    ("--yolo", "--auth-type", "openai", "-p", "{task}"),
    {"OPENAI_BASE_URL": "{url}/v1", "OPENAI_API_KEY": "none", "OPENAI_MODEL": "gpt-oss-20b"},
)
QWEN_CODE = replace(QWEN_CODE, reads_pictures=True, again=(*QWEN_CODE.words, "-c"))
QWEN_CODE = replace(QWEN_CODE, short=QWEN_CODE)  # it, too, learns it from a refusal


def _pi(api: str, base_url: str) -> Agent:
    """pi, speaking one of the APIs that it knows."""
    model = {"id": "gpt-oss-20b", "reasoning": True, "contextWindow": 131_072, "maxTokens": 4000}
    provider = {"baseUrl": base_url, "api": api, "apiKey": "none", "models": [model]}
    return Agent(
        "pi",
        ("-p", "{task}", "--provider", "ours", "--model", "gpt-oss-20b"),
        {"PI_OFFLINE": "1", "PI_TELEMETRY": "0"},
        {".pi/agent/models.json": json.dumps({"providers": {"ours": provider}})},
        reads_pictures=True,
    )


PI = _pi("openai-completions", "{url}/v1")
PI = replace(PI, again=(*PI.words, "-c"))
PI_RESPONSES = _pi("openai-responses", "{url}/v1")
PI_MESSAGES = _pi("anthropic-messages", "{url}")
AIDER = Agent(
    "aider",
    (
        *("--model", "openai/gpt-oss-20b", "--edit-format", "diff", "--no-show-model-warnings", "--no-check-update"),
        *("--analytics-disable", "--no-git", "--yes-always", "--no-show-release-notes", "--no-detect-urls"),
        *("--test-cmd", "python3 {work}/test.py", "--auto-test", "--message", "{task}", "{work}/main.py"),
    ),
    {"OPENAI_API_BASE": "{url}/v1", "OPENAI_API_KEY": "none", "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
)


@dataclass(frozen=True)
class Host:
    """Where an agent is run: the folder of its programs, one for its sessions, and the servers that it may ask.

    small_url: of a server whose context has 28,000 tokens. announce: is told of each feature before its session."""

    programs: Path
    sessions: Path
    url: str
    small_url: str
    model: Model
    announce: Callable[[str], None]


def run_agent(agent: Agent, host: Host) -> tuple[dict[str, object], str]:
    """(What worked: True, or what went wrong, by feature; all that the agent printed.)"""
    results: dict[str, object] = {}
    printed: list[str] = []
    tasks: dict[str, Callable[[Agent, Host, Path, list[str]], None]] = {"edits and tests": _edits_and_tests}
    tasks |= {"resumed": _resumed} if agent.again else {}
    tasks |= {"picture": _picture} if agent.reads_pictures else {}
    tasks |= {"compaction": _compaction} if agent.short else {}
    for feature, work in tasks.items():
        host.announce(feature)
        folder = Path(tempfile.mkdtemp(dir=host.sessions))
        try:
            work(agent, host, folder, printed)
            results[feature] = True
        except Exception as error:
            printed.append(traceback.format_exc())
            results[feature] = f"{type(error).__name__}: {error}"[:300]
        shutil.rmtree(folder, ignore_errors=True)
    return results, "\n".join(printed)


def _edits_and_tests(agent: Agent, host: Host, folder: Path, printed: list[str]) -> None:
    work = folder / "work"
    work.mkdir()
    (work / "main.py").write_text("print('old')\n")
    (work / "test.py").write_text(TEST)
    said = _session(agent, host.programs, host.url, folder, REPAIR.format(work), printed)
    found = (work / "main.py").read_text(), (work / "passed.txt").exists()
    assert found == ("print('new')\n", True), (
        f"main.py is {found[0]!r}, the test has {'' if found[1] else 'not '}passed"
    )
    assert "The test passes." in said or "all is well" in said, f"it said {said[-200:]!r}"


def _resumed(agent: Agent, host: Host, folder: Path, printed: list[str]) -> None:
    """The second session has a word of its own only: what it says, it knows from the first."""
    _edits_and_tests(agent, host, folder, printed)
    said = _session(replace(agent, words=agent.again), host.programs, host.url, folder, "How did it end?", printed)
    assert "The test passes." in said, f"it said {said[-200:]!r}"


def _picture(agent: Agent, host: Host, folder: Path, printed: list[str]) -> None:
    work = folder / "work"
    work.mkdir()
    (work / "picture.png").write_bytes(png())
    said = _session(agent, host.programs, host.url, folder, LOOK.format(work), printed)
    assert "I looked." in said, f"it said {said[-200:]!r}"


def _compaction(agent: Agent, host: Host, folder: Path, printed: list[str]) -> None:
    work = folder / "work"
    work.mkdir()
    (work / "part.py").write_text(PART)
    before = host.model.compactions
    task = READ_PARTS.format(work)
    assert agent.short is not None
    said = _session(agent.short, host.programs, host.small_url, folder, task, printed)
    assert "All parts were read." in said, f"it said {said[-200:]!r}"
    assert host.model.compactions > before, "it never asked for a summary"


def _session(agent: Agent, programs: Path, url: str, folder: Path, task: str, printed: list[str]) -> str:
    """All that an agent prints in a session of one task, in folder/work and with folder/home as its user's."""
    values = {"url": url, "home": str(folder / "home"), "work": str(folder / "work"), "task": task}
    (folder / "home").mkdir(exist_ok=True)
    for name, text in agent.files.items():
        path = folder / "home" / _filled(name, values)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_filled(text, values))
    environment = {
        "PATH": f"{programs}:/usr/local/bin:/usr/bin:/bin",
        "HOME": values["home"],
        "NO_COLOR": "1",
        "LANG": "C.UTF-8",
        **{name: _filled(value, values) for name, value in agent.environment.items()},
    }
    for words in (*agent.before, agent.words):
        done = subprocess.run(
            [programs / agent.program, *(_filled(word, values) for word in words)],
            env=environment, cwd=folder / "work", stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=LIMIT_S,
        )  # fmt: skip
        printed += [done.stdout, done.stderr]
    return done.stdout + done.stderr


def _filled(text: str, values: Mapping[str, str]) -> str:
    return re.sub(r"\{(url|home|work|task)\}", lambda match: values[match[1]], text)


def png(side: int = 8) -> bytes:
    """A square picture in one colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + b"\x20\x60\xc0" * side) * side
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
