"""deploy/ and .github/: held against the tools that read such files where they are installed, and against each other.

No container is started here: there is no engine on every machine, and images come from a registry.
"""

from __future__ import annotations

import json
import os
import plistlib
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
DEPLOY = REPOSITORY / "deploy"
WORKFLOWS = sorted((REPOSITORY / ".github" / "workflows").glob("*.yml"))
DOCKERFILES = [DEPLOY / "Dockerfile", DEPLOY / "Dockerfile.cuda"]
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def tool(name: str) -> str:
    """Of this environment, else of the system."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def check(command: list[str | Path], **rest: Any) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY, **rest)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_dockerfiles_pass_hadolint(path: Path) -> None:
    check([tool("hadolint"), path])


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_what_a_dockerfile_copies_is_there_and_sent_to_the_engine(path: Path) -> None:
    allowed = {line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", path.read_text(), re.MULTILINE)
    assert copied
    for source in " ".join(copied).split():
        assert (REPOSITORY / source).exists(), source
        assert source == "." or source.split("/")[0] in allowed, f".dockerignore keeps {source} back"
    assert {"pyproject.toml", "CMakeLists.txt", "csrc", "gpt_oss", "packaging", "deploy/man", "LICENSE"} <= allowed


def test_scripts_pass_shellcheck() -> None:
    scripts = [DEPLOY / "setup.sh", REPOSITORY / ".ci" / "run", *(REPOSITORY / "csrc").glob("*.sh")]
    check([tool("shellcheck"), *scripts])
    assert all(path.stat().st_mode & stat.S_IXUSR for path in scripts)


def test_compose_files_and_workflows_follow_their_schemas() -> None:
    validate = tool("check-jsonschema")
    check([validate, "--builtin-schema", "vendor.compose-spec", *DEPLOY.glob("compose*.yaml")])
    check([validate, "--builtin-schema", "vendor.github-workflows", *WORKFLOWS])


def test_compose_names_what_it_uses() -> None:
    services = COMPOSE["services"]
    for name, service in services.items():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name} listens to everybody on {port}"
        for secret in service.get("secrets", []):
            assert secret in COMPOSE["secrets"]
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in COMPOSE["volumes"] or (DEPLOY / source).exists(), volume
        assert set(service.get("depends_on", [])) <= set(services)
        image = service["image"]
        assert "build" in service or ":" in image, f"{image} has no version"
    assert (
        (DEPLOY / services["server"]["build"]["context"] / services["server"]["build"]["dockerfile"]).resolve().exists()
    )


@pytest.mark.parametrize("name", ["compose.yaml", "compose.cuda.yaml"])
def test_the_servers_arguments_are_those_of_serve(name: str) -> None:
    from gpt_oss.cli import build_parser

    command = yaml.safe_load((DEPLOY / name).read_text())["services"]["server"]["command"]
    args = build_parser().parse_args([word.replace("${MODEL:-demo}", "demo") for word in command])
    assert args.host == "0.0.0.0"
    assert args.key_file is not None
    assert args.store.split("@")[1].split("/")[0] in COMPOSE["services"]


def test_setup_makes_keys_that_the_server_takes(tmp_path: Path) -> None:
    """With a `docker` that runs the command here instead of in the image."""
    from gpt_oss.server.keys import Keys, read_keys

    deploy = tmp_path / "deploy"
    deploy.mkdir()
    for name in ("setup.sh", "compose.yaml"):
        shutil.copy(DEPLOY / name, deploy)
    stub = tmp_path / "bin" / "docker"
    stub.parent.mkdir()
    stub.write_text(
        "#!/usr/bin/env bash\n"
        'case " $* " in *" build "*) exit 0 ;; esac\n'
        f'while [ "$1" != server ]; do shift; done; shift\n'
        f'exec {sys.executable} -m gpt_oss.cli "${{@//\\/secrets/{deploy}/secrets}}"\n'
    )
    stub.chmod(0o755)
    environment = {**os.environ, "PATH": f"{stub.parent}:{os.environ['PATH']}", "PYTHONPATH": str(REPOSITORY)}

    first = check(["bash", deploy / "setup.sh"], env=environment)
    mine = re.search(r"Your key.*: (sk-\S+)", first)
    assert mine is not None
    keys = Keys(hashed=read_keys(deploy / "secrets" / "keys"))
    assert keys.allow(mine[1])
    assert keys.allow((deploy / "secrets" / "metrics_key").read_text().strip())
    assert stat.S_IMODE((deploy / "secrets").stat().st_mode) == 0o700
    assert stat.S_IMODE((deploy / ".env").stat().st_mode) == 0o600
    kept = {path.name: path.read_text() for path in [deploy / ".env", *(deploy / "secrets").iterdir()]}
    assert set(COMPOSE["secrets"]) <= set(kept)

    again = check(["bash", deploy / "setup.sh"], env=environment)
    assert "Your key" not in again
    assert kept == {path.name: path.read_text() for path in [deploy / ".env", *(deploy / "secrets").iterdir()]}


def exported() -> set[str]:
    """Names of /metrics, each with what Prometheus appends to those of its kind."""
    from dataclasses import fields

    from gpt_oss.engine.engine import EngineStats
    from gpt_oss.server.metrics import Metrics

    class Idle:
        def stats(self) -> EngineStats:
            return EngineStats(**{field.name: 0 for field in fields(EngineStats)})

    page = Metrics(Idle()).page().decode()
    names: set[str] = set()
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", page, re.MULTILINE):
        names |= {f"{name}_{end}" for end in ("bucket", "sum", "count")} if kind == "histogram" else {name}
    return names


def test_dashboard_and_alerts_ask_for_figures_that_there_are() -> None:
    dashboard = (DEPLOY / "grafana" / "dashboards" / "gpt-oss.json").read_text()
    alerts = (DEPLOY / "prometheus" / "alerts.yml").read_text()
    names = exported()
    asked = set(re.findall(r"\bgpt_oss_\w+", dashboard + alerts))
    assert asked <= names, asked - names
    told = {name for name in names if not name.endswith(("_created", "_sum", "_count"))}
    left_out = {"gpt_oss_engine_requests_total", "gpt_oss_engine_waiting"}  # said by others already
    left_out |= {"gpt_oss_engine_prompt_tokens_total", "gpt_oss_engine_cached_tokens_total"}
    assert told - asked <= left_out, "no panel for these"


def test_the_dashboard_is_one_that_grafana_can_lay_out() -> None:
    board = json.loads((DEPLOY / "grafana" / "dashboards" / "gpt-oss.json").read_text())
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, f"{panel['title']} covers another panel"
        taken |= cells
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    source = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text())["datasources"][0]
    assert {panel["datasource"]["uid"] for panel in board["panels"]} == {source["uid"]}
    assert source["url"].split("//")[1].split(":")[0] in COMPOSE["services"]


def test_prometheus_takes_its_files() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    [scrape] = config["scrape_configs"]
    assert scrape["authorization"]["credentials_file"].removeprefix("/run/secrets/") in COMPOSE["secrets"]
    assert scrape["static_configs"][0]["targets"][0].split(":")[0] in COMPOSE["services"]
    promtool = tool("promtool")
    check([promtool, "check", "config", "--syntax-only", DEPLOY / "prometheus" / "prometheus.yml"])
    check([promtool, "check", "rules", DEPLOY / "prometheus" / "alerts.yml"])


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    from gpt_oss.cli import build_parser

    text = (DEPLOY / "systemd" / "gpt-oss.service").read_text()
    [start] = re.findall(r"^ExecStart=(.+)$", text, re.MULTILINE)
    words = start.replace("${MODEL}", "demo").replace("$ARGUMENTS", "").split()
    assert build_parser().parse_args(words[1:]).host == "127.0.0.1"
    analyze = tool("systemd-analyze")
    unit = tmp_path / "gpt-oss.service"
    unit.write_text(text.replace(words[0], "/bin/true"))  # which need not be installed here
    said = check([analyze, "verify", "--man=no", unit])
    assert "Unknown" not in said, said
    exposure = check([analyze, "security", "--offline=yes", "--threshold=40", unit])  # of 100; fails above
    assert "Overall exposure level" in exposure


def test_the_launchd_example_is_a_property_list_of_a_command_that_exists() -> None:
    from gpt_oss.cli import build_parser

    job = plistlib.loads((DEPLOY / "launchd" / "org.gpt-oss.server.plist").read_bytes())
    assert job["Label"] == "org.gpt-oss.server"
    assert build_parser().parse_args(job["ProgramArguments"][1:]).port == 8000


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_call_what_there_is(path: Path) -> None:
    text = path.read_text()
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)", text)) <= targets
    for script in re.findall(r"(?:run: |&& |bash )((?:csrc|deploy|\.ci)/\S+)", text):
        assert (REPOSITORY / script).exists(), script
    assert re.search(r"^permissions:\n  contents: read$", text, re.MULTILINE), "jobs get more rights than they need"
    for action in re.findall(r"uses: (\S+)", text):
        assert "@" in action
