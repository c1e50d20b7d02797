"""Two replicas of the demo model under Ray Serve, started as a user starts them; and what can be said on its line."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.requests import Request

pytest.importorskip("ray.serve", reason="needs ray: pip install 'gpt-oss[ray]'")

from gpt_oss.errors import BackendError, ParameterError
from gpt_oss.server.core.errors import RequestError
from gpt_oss.server.ray_app import Fleet, Front, Watchdog, fleet_and_flags, merged

# ---- without Ray ----------------------------------------------------------------------------------------------------


def test_arguments_are_those_of_the_fleet_and_of_the_server() -> None:
    fleet, flags = fleet_and_flags(
        {"checkpoint": "demo", "min_replicas": "2", "max_replicas": 8, "gpus": "0.5", "max_concurrent": "16",
         "no_store": "true", "log_prompts": False, "api_key": ["one", "two"]}
    )  # fmt: skip
    assert fleet == Fleet(min_replicas=2, max_replicas=8, gpus=0.5)
    assert flags == ["demo", "--max-concurrent", "16", "--no-store", "--api-key", "one", "--api-key", "two"]
    fixed, _ = fleet_and_flags({"replicas": "3"})
    assert (fixed.min_replicas, fixed.max_replicas) == (3, 3)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"replica": "2"}, "there is no argument 'replica'; there are .*replicas"),
        ({"port": "80"}, "there is no argument 'port'"),
        ({"replicas": "two"}, "replicas is an integer, not 'two'"),
        ({"cpus": []}, "cpus is a number"),
        ({"min_replicas": 3, "max_replicas": 2}, "min_replicas 3 and max_replicas 2"),
        ({"slack": 0.5}, "slack"),
        ({"no_store": "perhaps"}, "no_store is true or false"),
    ],
)
def test_what_is_wrong_with_an_argument_is_said(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ParameterError, match=said):
        fleet_and_flags(arguments)


def test_a_flag_of_the_server_with_a_wrong_value_is_named_as_it_was_written() -> None:
    from gpt_oss.server.ray_app import app

    with pytest.raises(ParameterError, match=r"max_concurrent.*many"):
        app({"max_concurrent": "many"})


def test_pages_of_figures_become_one_with_the_replicas_names() -> None:
    page = '# HELP x_total Of x.\n# TYPE x_total counter\nx_total{path="/a"} 3.0\n'
    found = list(text_string_to_metric_families(merged({"one": page, "two": page}).decode()))
    assert [family.name for family in found] == ["x"]
    labels = [sample.labels for sample in found[0].samples]
    assert labels == [{"path": "/a", "replica": "one"}, {"path": "/a", "replica": "two"}]


def test_a_model_with_work_and_no_steps_is_not_healthy() -> None:
    watchdog = Watchdog(stalled_s=0)
    stuck = SimpleNamespace(steps=5, running=1, waiting=2)
    watchdog.look(stuck)
    time.sleep(0.01)
    with pytest.raises(BackendError, match="3 requests, and no step"):
        watchdog.look(stuck)
    watchdog.look(SimpleNamespace(steps=6, running=1, waiting=0))
    time.sleep(0.01)
    watchdog.look(SimpleNamespace(steps=6, running=0, waiting=0))


def test_a_front_notes_who_computes_a_response() -> None:
    front = object.__new__(Front)
    front._homes = OrderedDict()
    front.answered(b'event: response.created\ndata: {"type":"response.created","response":{"id":"resp_1f","x":1', "a")
    front.answered(b'{"id": "resp_2f", "object": "response"}', "b")
    front.answered(b'{"id":"chatcmpl-3"}', "c")
    assert dict(front._homes) == {"resp_1f": "a", "resp_2f": "b"}


@pytest.mark.parametrize(
    ("client", "flags", "allowed"),
    [
        (("127.0.0.1", 1), {}, True),
        (("::1", 1), {}, True),
        (("192.0.2.7", 1), {}, False),
        (("192.0.2.7", 1), {"api_key": ["secret"]}, True),
        (("192.0.2.7", 1), {"no_key": True}, True),
    ],
)
def test_without_a_key_only_this_machine_may_ask(client: tuple[str, int], flags: dict[str, Any], allowed: bool) -> None:
    settings = {"api_key": [], "key_file": None, "no_key": False, "no_store": True, **flags}
    replicas: Any = SimpleNamespace(options=lambda **_: None)
    front = Front(replicas, argparse.Namespace(**settings))
    request = Request({"type": "http", "method": "GET", "path": "/", "headers": [], "client": client})
    with nullcontext() if allowed else pytest.raises(RequestError, match="has no key"):
        front._check_client(request)


# ---- for real -------------------------------------------------------------------------------------------------------

CONFIG = """
http_options: {{host: 127.0.0.1, port: {port}}}
applications:
- name: gpt-oss
  route_prefix: /
  import_path: gpt_oss.server.ray_app:app
  args: {{checkpoint: demo, replicas: 2, cpus: 0.5, threads: 1, context: 8192, max_concurrent: 4, max_queue: 4,
          no_code_interpreter: true, store: {store}}}
"""
NEVER_STOP = {str(token): -100 for token in (199_999, 200_002, 200_007, 200_012)}
ENDLESS: Any = {"model": "demo", "prompt": "one two", "max_tokens": 7000, "logit_bias": NEVER_STOP}
PREFIX = "These are the rules of the house, and they are many. " * 120


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of two replicas, ended with everything that Ray started."""
    folder = tmp_path_factory.mktemp("fleet")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = folder / "fleet.yaml"
    config.write_text(CONFIG.format(port=port, store=folder / "fleet.db"))
    environment = {
        **os.environ,
        "XDG_STATE_HOME": str(folder),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
    }
    environment.pop("RAY_ADDRESS", None)
    log = (folder / "log").open("w")
    command = [str(Path(sys.executable).parent / "serve"), "run", str(config)]
    process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    started: set[int] = set()
    try:
        deadline = time.monotonic() + 240
        while True:
            assert process.poll() is None, (folder / "log").read_text()[-3000:]
            assert time.monotonic() < deadline, (folder / "log").read_text()[-3000:]
            with suppress(httpx.HTTPError):
                if httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).status_code == 200:
                    break
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        started = descendants(process.pid)
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(60)
        for each in [process.pid, *started]:
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        process.wait(10)
        log.close()


def descendants(root: int) -> set[int]:
    """Processes below `root`, from /proc."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found: set[int] = set()
    while True:
        more = {each for each, parent in parents.items() if parent in found | {root}} - found
        if not more:
            return found
        found |= more


def replica_processes() -> dict[int, str]:
    found = {}
    for pid in descendants(os.getpid()):
        with suppress(OSError):
            title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if "ServeReplica:gpt-oss:replica" in title:
                found[pid] = title
    return found


def figures(url: str, name: str) -> dict[str, float]:
    """A metric by replica."""
    page = httpx.get(f"{url}/metrics", timeout=60).text
    families = list(text_string_to_metric_families(page))
    found: dict[str, float] = {}
    for sample in (each for family in families for each in family.samples if each.name == name):
        found[sample.labels["replica"]] = found.get(sample.labels["replica"], 0) + sample.value
    return found


def say(url: str, text: str, **more: Any) -> Any:
    body = {"model": "demo", "max_tokens": 8, "messages": [{"role": "user", "content": text}], **more}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.slow
class TestFleet:
    def test_both_replicas_answer(self, fleet: str) -> None:
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(lambda number: say(fleet, f"What is {number} + 4?", max_tokens=48), range(12)))
        prompts = figures(fleet, "gpt_oss_prompt_tokens_total")
        assert len(prompts) == 2
        assert all(value > 0 for value in prompts.values())

    def test_a_long_prefix_is_computed_once(self, fleet: str) -> None:
        for number in range(3):  # so that chance alone would send one of them astray
            rules = [{"role": "system", "content": f"{number}. {PREFIX}"}]
            first = say(fleet, "", messages=[*rules, {"role": "user", "content": "Hello!"}])
            again = say(fleet, "", messages=[*rules, {"role": "user", "content": f"What is {number} + 2?"}])
            cached = again["usage"]["prompt_tokens_details"]["cached_tokens"]
            assert cached > 0.8 * first["usage"]["prompt_tokens"]

    def test_a_stream_comes_piece_by_piece_as_openais_client_reads_it(self, fleet: str) -> None:
        client = openai.OpenAI(base_url=f"{fleet}/v1", api_key="none", max_retries=0)
        stream = client.responses.create(model="demo", input="What is 12 * 12?", stream=True, max_output_tokens=64)
        events = list(stream)
        assert events[0].type == "response.created"
        assert events[-1].type in ("response.completed", "response.incomplete")
        assert [event.sequence_number for event in events] == list(range(len(events)))

    def test_a_response_of_one_replica_is_read_through_the_other(self, fleet: str) -> None:
        def create(**more: Any) -> Any:
            body = {"model": "demo", "max_output_tokens": 16, **more}
            answer = httpx.post(f"{fleet}/v1/responses", json=body, timeout=120)
            assert answer.status_code == 200, answer.text
            return answer.json()

        first = create(input="My name is Ada.")
        assert httpx.get(f"{fleet}/v1/responses/{first['id']}", timeout=60).json()["id"] == first["id"]
        before = figures(fleet, "gpt_oss_prompt_tokens_total")
        with ThreadPoolExecutor(12) as pool:  # more at once than its replica is given
            after = list(pool.map(lambda _: create(input="Hi", previous_response_id=first["id"]), range(8)))
        assert {each["previous_response_id"] for each in after} == {first["id"]}
        grown = {name: value - before[name] for name, value in figures(fleet, "gpt_oss_prompt_tokens_total").items()}
        assert all(value > 0 for value in grown.values()), "both replicas followed the same response"

    def test_a_client_that_hangs_up_frees_its_replica(self, fleet: str) -> None:
        with httpx.stream("POST", f"{fleet}/v1/completions", json={**ENDLESS, "stream": True}, timeout=60) as response:
            lines = response.iter_lines()  # kept: when it goes, the connection does
            next(lines)
            assert sum(figures(fleet, "gpt_oss_answers_running").values()) == 1
        deadline = time.monotonic() + 30
        while sum(figures(fleet, "gpt_oss_answers_running").values()):
            assert time.monotonic() < deadline, "the replica goes on for a client that has gone"
            time.sleep(0.2)
        assert sum(figures(fleet, "gpt_oss_engine_running").values()) == 0

    def test_a_background_response_is_cancelled_where_it_runs(self, fleet: str) -> None:
        for _ in range(2):
            body = {"model": "demo", "input": "Count.", "background": True, "max_output_tokens": 4000}
            made = httpx.post(f"{fleet}/v1/responses", json=body, timeout=60).json()
            ended = httpx.post(f"{fleet}/v1/responses/{made['id']}/cancel", timeout=60).json()
            assert ended["status"] in ("cancelled", "completed")

    def test_a_killed_replica_is_replaced_and_requests_go_on(self, fleet: str) -> None:
        before = set(replica_processes())
        assert len(before) == 2
        names = set(figures(fleet, "gpt_oss_answers_running"))
        os.kill(min(before), signal.SIGKILL)
        for number in range(6):
            say(fleet, f"What is {number} + 5?")
        deadline = time.monotonic() + 120
        while len(figures(fleet, "gpt_oss_answers_running")) < 2:
            assert time.monotonic() < deadline, "no new replica"
            time.sleep(0.5)
        assert len(set(replica_processes()) - before) == 1
        assert len(set(figures(fleet, "gpt_oss_answers_running")) & names) == 1

    def test_a_replica_killed_in_the_middle_of_a_stream_is_told_to_the_client(self, fleet: str) -> None:
        client = openai.OpenAI(base_url=f"{fleet}/v1", api_key="none", max_retries=0)
        stream = client.completions.create(**ENDLESS, stream=True)
        for _ in range(3):
            next(stream)
        assert sorted(figures(fleet, "gpt_oss_answers_running").values()) == [0, 1]
        for pid in replica_processes():
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(openai.APIError, match="was lost; ask again"):
            list(stream)
        assert say(fleet, "Hello!")["choices"], "asked before the new replicas are there, it waits"

    def test_errors_keep_their_shape(self, fleet: str) -> None:
        wrong = httpx.post(f"{fleet}/v1/chat/completions", json={"model": "demo", "messages": 3}, timeout=60)
        assert wrong.status_code == 400
        assert wrong.json()["error"]["type"] == "invalid_request_error"
        missing = httpx.get(f"{fleet}/v1/responses/resp_none", timeout=60)
        assert missing.status_code == 404
