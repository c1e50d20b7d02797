"""Containers, with Podman's own service on a socket of ours and an image made of this machine's Python."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpt_oss.tools.sandbox import Limits, SandboxError
from gpt_oss.tools.sandbox import container as container_module
from gpt_oss.tools.sandbox.attacks import ATTACKS, MARKER, Attack, Host, host, left_over, try_attack
from gpt_oss.tools.sandbox.container import ContainerSandbox, open_container

pytestmark = pytest.mark.docker
IMAGE = "python:3.11"
LIMITS = Limits(wall_s=20)
# Without CAP_SYS_RESOURCE the default limits cannot be raised; crun refuses hybrid control groups.
CONF = """
[containers]
default_ulimits=["nofile=1024:1024","nproc=512:512"]
[engine]
cgroup_manager="cgroupfs"
events_logger="file"
runtime="runc"
"""
# The engine writes an /etc/passwd of its own into the container: reading it tells nothing of the host.
HELD = [attack for attack in ATTACKS if attack.name != "read the host's files"]


def make_image(file: Path) -> None:
    """The system's Python with the libraries it needs, and nothing else."""
    python = os.path.realpath("/usr/bin/python3")
    script = "import sysconfig; print(sysconfig.get_path('stdlib'))"
    library = Path(subprocess.run([python, "-c", script], capture_output=True, text=True, check=True).stdout.strip())
    programs = [python, *(os.path.realpath(f"/usr/bin/{name}") for name in ("sleep", "sh"))]
    modules = [str(path) for path in library.glob("lib-dynload/*.so")]
    told = subprocess.run(["ldd", *programs, *modules], capture_output=True, text=True, check=True).stdout
    needed = {word for line in told.splitlines() for word in line.split() if word[0] == "/" and word[-1] != ":"}
    with tarfile.open(file, "w") as tar:
        for name in ("proc", "sys", "dev", "tmp", "etc", "mnt", "usr", "usr/bin", "usr/lib"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(folder)
        for name in ("bin", "lib", "lib64"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, f"usr/{name}"
            tar.addfile(link)
        tar.add(python, "usr/bin/python3")
        for name in ("sleep", "sh"):
            tar.add(os.path.realpath(f"/usr/bin/{name}"), f"usr/bin/{name}")
        for path in sorted(needed):
            tar.add(os.path.realpath(path), str(Path(path).parent.resolve() / Path(path).name).lstrip("/"))
        tar.add(library, str(library).lstrip("/"), filter=lambda item: None if "__pycache__" in item.name else item)


@pytest.fixture(scope="module")
def engine() -> Iterator[str]:
    """The address of a service that is ours alone."""
    pytest.importorskip("docker", reason="the docker SDK is not installed")
    missing = [name for name in ("podman", "runc") if shutil.which(name, path="/usr/bin:/usr/sbin:/bin") is None]
    if missing or os.geteuid() != 0 or not os.path.islink("/lib") or not os.path.exists("/usr/bin/python3"):
        pytest.skip(f"needs root, a merged /usr with Python, podman and runc; missing: {missing}")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "containers.conf").write_text(CONF)
        env = {**os.environ, "CONTAINERS_CONF": str(folder / "containers.conf")}
        podman = ["podman", "--root", f"{folder}/root", "--runroot", f"{folder}/run", "--storage-driver", "overlay"]
        make_image(folder / "image.tar")
        made = subprocess.run(
            [*podman, "import", f"{folder}/image.tar", IMAGE], env=env, capture_output=True, text=True
        )
        if made.returncode:
            pytest.skip(f"podman cannot import an image: {made.stderr.strip()[-200:]}")
        address = f"unix://{folder}/podman.sock"
        with open(folder / "log", "wb") as log:
            service = subprocess.Popen([*podman, "system", "service", "--time", "0", address], env=env, stderr=log)
        try:
            deadline = time.monotonic() + 20
            while not (folder / "podman.sock").exists():
                if service.poll() is not None or time.monotonic() > deadline:
                    pytest.skip(f"podman's service does not start: {(folder / 'log').read_text()[-200:]}")
                time.sleep(0.05)
            yield address
        finally:
            service.terminate()
            service.wait()
            subprocess.run([*podman, "rm", "--all", "--force"], env=env, capture_output=True)
            subprocess.run(["umount", f"{folder}/root/overlay"], capture_output=True)


@pytest.fixture(scope="module")
def opened(engine: str) -> Iterator[ContainerSandbox]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", engine)
        try:
            sandbox = asyncio.run(open_container("podman", IMAGE))
        except SandboxError as error:
            if "cannot start a container" in str(error):
                pytest.skip(f"podman cannot start containers here: {error}")
            raise
        yield sandbox
        asyncio.run(sandbox.close())


@pytest.fixture
def sandbox(opened: ContainerSandbox) -> Iterator[ContainerSandbox]:
    yield opened
    assert opened._client.containers.list(all=True, filters={"label": "gpt-oss=sandbox"}) == []


@pytest.fixture(scope="module")
def target() -> Iterator[Host]:
    with host() as made:
        yield made


@pytest.mark.parametrize("in_session", [False, True], ids=["program", "session"])
@pytest.mark.parametrize("attack", HELD, ids=lambda attack: attack.name)
async def test_it_is_held(sandbox: ContainerSandbox, target: Host, attack: Attack, in_session: bool) -> None:
    outcome = await try_attack(sandbox, attack, target, in_session=in_session)
    assert outcome.held, f"{outcome.note}\n{outcome.result.output[-2000:]}"


async def test_the_hosts_files_are_not_there(sandbox: ContainerSandbox, target: Host) -> None:
    code = f"import os; print([os.path.exists(p) for p in ({target.bait!r}, '/etc/shadow', '/root/.bashrc')])"
    assert (await sandbox.run(code, LIMITS)).output == "[False, False, False]\n"
    passwd = (await sandbox.run("print(open('/etc/passwd').read())", LIMITS)).output
    assert not set(passwd.split()) & set(Path("/etc/passwd").read_text().split())


async def test_a_session_keeps_variables_and_files(sandbox: ContainerSandbox) -> None:
    session = sandbox.session(replace(LIMITS, wall_s=1.5))
    try:
        await session.execute("x = 6; open('f', 'w').write('kept')")
        assert (await session.execute("x * 7, open('/mnt/data/f').read()")).output == "(42, 'kept')\n"
        stopped = await session.execute("while True: pass")
        assert (stopped.timed_out, stopped.state_lost) == (True, False)
        assert (await session.execute("x")).output == "6\n"
        gone = await session.execute("import os; os._exit(3)")
        assert (gone.exit_code, gone.state_lost) == (None, True)
        assert "NameError" in (await session.execute("x")).output
    finally:
        await session.close()


async def test_many_at_once(sandbox: ContainerSandbox) -> None:
    results = await asyncio.gather(*(sandbox.run(f"print({n} ** 2)", Limits(wall_s=60)) for n in range(12)))
    assert [result.output for result in results] == [f"{n**2}\n" for n in range(12)]


async def test_cancelling_leaves_nothing_running(sandbox: ContainerSandbox) -> None:
    code = f"import subprocess; subprocess.run(['sleep', '{MARKER}'])"
    task = asyncio.create_task(sandbox.run(code, LIMITS))
    while not left_over():
        await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert left_over() == []


@pytest.mark.parametrize("wait_s", [0.0, 0.02, 0.1, 0.2, 0.4])
async def test_cancelling_a_start_leaves_no_container(sandbox: ContainerSandbox, wait_s: float) -> None:
    """The fixture looks for containers that are left; a thread that makes one is not stopped by a cancellation."""
    task = asyncio.create_task(sandbox.run("import time; time.sleep(60)", LIMITS))
    await asyncio.sleep(wait_s)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_engine_that_leaks_sockets_is_refused(sandbox: ContainerSandbox, monkeypatch: Any) -> None:
    allow_all = container_module.seccomp.program(os.uname().machine)[-8:]
    monkeypatch.setattr(container_module.seccomp, "program", lambda machine: allow_all)
    with pytest.raises(SandboxError, match="does not hold on this machine: open"):
        await open_container("podman", IMAGE)


async def test_an_image_that_is_not_there_is_named(sandbox: ContainerSandbox) -> None:
    with pytest.raises(SandboxError, match="no image nobody/nothing") as caught:
        await open_container("podman", "nobody/nothing:1")
    assert caught.value.hint == "podman pull nobody/nothing:1"
