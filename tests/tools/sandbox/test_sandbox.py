"""What a sandbox does with ordinary programs: output, state, limits, cancellation, many at once."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_oss.errors import ParameterError
from gpt_oss.tools.sandbox import Limits, Sandbox, SandboxError, open_sandbox
from gpt_oss.tools.sandbox import bubblewrap as bubblewrap_module
from gpt_oss.tools.sandbox.attacks import MARKER, left_over
from gpt_oss.tools.sandbox.base import Output
from gpt_oss.tools.sandbox.seatbelt import command, open_seatbelt, profile
from gpt_oss.tools.sandbox.seccomp import program
from gpt_oss.tools.sandbox.unsandboxed import Unsandboxed

LIMITS = Limits(wall_s=20)
FORGERY = """
import os
for fd in range(3, 20):
    try:
        os.write(fd, b'{"done": 0}\\n' * 9)
    except OSError:
        pass
"""


@pytest.mark.parametrize("kind", ["bwrap", "dangerously-unsandboxed"])
class TestAnySandbox:
    async def open(self, kind: str, sandbox: Sandbox) -> Sandbox:
        return sandbox if kind == "bwrap" else Unsandboxed()

    async def test_output_and_exit_code(self, kind: str, sandbox: Sandbox) -> None:
        box = await self.open(kind, sandbox)
        code = "import sys\nprint('out')\nprint('err', file=sys.stderr)\nsys.exit(3)"
        result = await box.run(code, LIMITS)
        assert (result.output, result.exit_code, result.ok) == ("out\nerr\n", 3, False)
        assert (await box.run("print('ünïcödé 🐳')", LIMITS)).output == "ünïcödé 🐳\n"
        assert (await box.run("", LIMITS)).ok
        assert "SyntaxError" in (await box.run("def", LIMITS)).output
        assert (await box.run("import sys; sys.stdout.buffer.write(b'\\xff\\xfe')", LIMITS)).output == "��"

    async def test_nothing_is_kept_between_programs(self, kind: str, sandbox: Sandbox) -> None:
        box = await self.open(kind, sandbox)
        await box.run("open('left', 'w').write('x')", LIMITS)
        assert (await box.run("import os; print(os.path.exists('left'))", LIMITS)).output == "False\n"

    async def test_long_output_is_cut_in_the_middle(self, kind: str, sandbox: Sandbox) -> None:
        box = await self.open(kind, sandbox)
        code = "print('first'); print('x' * 200_000); print('last')"
        result = await box.run(code, replace(LIMITS, output_bytes=1000))
        assert result.cut
        assert result.output.startswith("first\nxxx")
        assert result.output.endswith("xxx\nlast\n")
        assert "199012 characters left out" in result.output
        assert len(result.output) < 1100

    async def test_time_is_limited(self, kind: str, sandbox: Sandbox) -> None:
        box = await self.open(kind, sandbox)
        result = await box.run("print('begun', flush=True)\nimport time; time.sleep(60)", replace(LIMITS, wall_s=1.0))
        assert (result.output, result.timed_out, result.exit_code) == ("begun\n", True, None)

    async def test_a_session_keeps_its_state_like_a_notebook(self, kind: str, sandbox: Sandbox) -> None:
        session = (await self.open(kind, sandbox)).session(LIMITS)
        try:
            assert (await session.execute("x = 5\ndef f(): return x + 1")).output == ""
            assert (await session.execute("f()")).output == "6\n"
            assert (await session.execute("_ * 2")).output == "12\n"
            assert (await session.execute("print('a'); 'b'")).output == "a\n'b'\n"
            assert (await session.execute("None")).output == ""
            failed = await session.execute("y = 1\nraise ValueError('no')")
            assert failed.exit_code == 1
            assert failed.output == (
                'Traceback (most recent call last):\n  File "<cell 6>", line 2, in <module>\n'
                "    raise ValueError('no')\nValueError: no\n"
            )
            assert (await session.execute("y")).output == "1\n"
            assert "SyntaxError" in (await session.execute("1 +")).output
            assert (
                await session.execute("import subprocess; subprocess.run(['echo', 'child']).returncode")
            ).output == ("child\n0\n")
            assert (await session.execute("[n for n in dir() if not n.startswith('_')]")).output == (
                "['f', 'subprocess', 'x', 'y']\n"
            )
            assert (await session.execute("raise SystemExit")).exit_code == 0
            assert (await session.execute("x")).output == "5\n"
            assert (await session.execute("import pickle\nclass A: pass\npickle.loads(pickle.dumps(A())).__class__")).ok
        finally:
            await session.close()

    async def test_an_interrupt_keeps_the_state(self, kind: str, sandbox: Sandbox) -> None:
        session = (await self.open(kind, sandbox)).session(replace(LIMITS, wall_s=0.7))
        try:
            await session.execute("x = 7")
            for code in ("while True: pass", "import time; time.sleep(60)"):
                stopped = await session.execute(code)
                assert (stopped.timed_out, stopped.state_lost) == (True, False)
                assert stopped.output.rstrip().endswith("KeyboardInterrupt")
            assert (await session.execute("x")).output == "7\n"
        finally:
            await session.close()

    async def test_an_interrupt_works_under_a_host_that_ignores_interrupts(self, kind: str, sandbox: Sandbox) -> None:
        """What a script starts with `&` does."""
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            session = (await self.open(kind, sandbox)).session(replace(LIMITS, wall_s=0.7))
            try:
                stopped = await session.execute("while True: pass")
            finally:
                await session.close()
        finally:
            signal.signal(signal.SIGINT, before)
        assert (stopped.timed_out, stopped.state_lost) == (True, False)

    async def test_what_ignores_an_interrupt_is_killed_and_the_next_call_starts_anew(
        self, kind: str, sandbox: Sandbox
    ) -> None:
        session = (await self.open(kind, sandbox)).session(replace(LIMITS, wall_s=0.7))
        try:
            await session.execute("x = 7")
            lost = await session.execute("pow(7, 10**9)")
            assert (lost.timed_out, lost.state_lost, lost.exit_code) == (True, True, None)
            assert "NameError" in (await session.execute("x")).output
            gone = await session.execute("import os; os._exit(3)")
            assert (gone.timed_out, gone.state_lost) == (False, True)
            assert (await session.execute("1")).output == "1\n"
        finally:
            await session.close()

    async def test_a_session_survives_floods_and_broken_streams(self, kind: str, sandbox: Sandbox) -> None:
        session = (await self.open(kind, sandbox)).session(replace(LIMITS, output_bytes=1000))
        try:
            flood = await session.execute("print('x' * 5_000_000)")
            assert flood.cut
            assert not flood.state_lost
            for code in ("import sys; sys.stdout.close()", "sys.stderr = None", "import os; os.close(1)"):
                await session.execute(code)
            assert (await session.execute("2 + 2")).exit_code in (0, 1)
            await session.execute(FORGERY)
            assert (await session.execute("1")) is not None
        finally:
            await session.close()


async def test_a_child_that_runs_on_does_not_answer_for_its_parent(sandbox: Sandbox) -> None:
    session = sandbox.session(LIMITS)
    try:
        await session.execute("import os\nif os.fork() == 0:\n    pass")
        assert [(await session.execute(code)).exit_code for code in ("1/0", "1", "1/0")] == [1, 0, 1]
    finally:
        await session.close()


async def test_cancelling_a_program_leaves_nothing_running(sandbox: Sandbox) -> None:
    code = f"import subprocess; subprocess.run(['sleep', '{MARKER}'])"
    task = asyncio.create_task(sandbox.run(code, LIMITS))
    while not left_over():
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert left_over() == []


async def test_cancelling_a_session_leaves_nothing_running_and_it_can_be_used_again(sandbox: Sandbox) -> None:
    session = sandbox.session(LIMITS)
    await session.execute("x = 1")
    task = asyncio.create_task(session.execute(f"import subprocess; subprocess.run(['sleep', '{MARKER}'])"))
    while not left_over():
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert left_over() == []
    assert "NameError" in (await session.execute("x")).output
    await session.close()
    await session.close()


async def test_fifty_at_once(sandbox: Sandbox) -> None:
    before = len(os.listdir("/proc/self/fd"))
    results = await asyncio.gather(*(sandbox.run(f"print({n} ** 2)", Limits(wall_s=60)) for n in range(50)))
    assert [result.output for result in results] == [f"{n**2}\n" for n in range(50)]
    assert len(os.listdir("/proc/self/fd")) <= before + 2


async def test_sessions_do_not_see_each_other(sandbox: Sandbox) -> None:
    one, two = sandbox.session(LIMITS), sandbox.session(LIMITS)
    try:
        await asyncio.gather(one.execute("x = 1; open('f', 'w').write('1')"), two.execute("x = 2"))
        assert (await one.execute("x, open('f').read()")).output == "(1, '1')\n"
        assert (await two.execute("import os; x, os.path.exists('f')")).output == "(2, False)\n"
    finally:
        await asyncio.gather(one.close(), two.close())


async def test_it_fails_closed_where_nothing_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bubblewrap_module.shutil, "which", lambda *args, **more: None)
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    with pytest.raises(SandboxError, match=r"so no code is run.*bubblewrap is not installed") as caught:
        await open_sandbox("auto")
    assert "apt install bubblewrap" in (caught.value.hint or "")


async def test_a_sandbox_that_leaks_sockets_is_refused(monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox) -> None:
    allow_all = program(os.uname().machine)[-8:]
    monkeypatch.setattr(bubblewrap_module.seccomp, "program", lambda machine: allow_all)
    with pytest.raises(SandboxError, match="does not hold on this machine"):
        await open_sandbox("bwrap")


async def test_unknown_names_are_refused() -> None:
    with pytest.raises(ParameterError, match="choose one of auto, bwrap"):
        await open_sandbox("none")
    if sys.platform != "darwin":
        with pytest.raises(SandboxError, match="not macOS"):
            await open_seatbelt()


def test_the_seatbelt_policy_denies_by_default_and_takes_paths_as_parameters() -> None:
    text = profile(["/usr/lib", "/opt/python"])
    assert text.splitlines()[1] == "(deny default)"
    assert "network" not in text
    assert "/opt/python" not in text
    words = command(["/usr/lib", '/opt/"odd'], "/private/tmp/x", Limits(), keep=False)
    assert '-DREAD1=/opt/"odd' in words
    assert "-DSCRATCH=/private/tmp/x" in words


@given(st.lists(st.binary(max_size=300), max_size=30), st.integers(10, 200))
def test_output_keeps_both_ends(parts: list[bytes], limit: int) -> None:
    output = Output(limit)
    for part in parts:
        output.add(part)
    whole = b"".join(parts)
    assert output.total == len(whole)
    assert output.cut == (len(whole) > limit)
    if output.cut:
        assert (
            output.text().encode("utf-8", "replace").startswith(whole[: limit // 2].decode("utf-8", "replace").encode())
        )
        assert f"{len(whole) - limit} characters left out" in output.text()
    else:
        assert output.text() == whole.decode("utf-8", "replace")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody without rights")
def test_a_plain_user_has_the_same_walls_without_control_groups(sandbox: Sandbox) -> None:
    """The watch on memory and the limit on files stand in for them. Run with the system's Python, which anybody may."""
    root = Path(__file__).parents[3]
    names = ("memory of many processes", "a flood of empty files", "fork bomb")
    script = (
        "import asyncio, sys\n"
        "from gpt_oss.tools.sandbox.attacks import ATTACKS, host, try_attack\n"
        "from gpt_oss.tools.sandbox import open_sandbox\n"
        "async def main():\n"
        "    box = await open_sandbox('bwrap')\n"
        "    assert 'watch' in box.about, box.about\n"
        "    with host() as target:\n"
        f"        for attack in [a for a in ATTACKS if a.name in {names!r}]:\n"
        "            outcome = await try_attack(box, attack, target)\n"
        "            print(attack.name, outcome.held, outcome.note)\n"
        "asyncio.run(main())\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["cp", "-r", str(root / "gpt_oss"), folder], check=True)
        subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
        done = subprocess.run(
            ["setpriv", "--reuid=60001", "--regid=60001", "--clear-groups", "/usr/bin/python3", "-c", script],
            env={"PATH": "/usr/bin:/bin:/usr/sbin", "PYTHONPATH": folder, "HOME": "/nonexistent"},
            cwd="/",
            capture_output=True,
            text=True,
            timeout=100,
        )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(" True ")[0] for line in lines] == ["fork bomb", *names[:2]], done.stdout
