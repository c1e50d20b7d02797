"""Hostile programs, each of which a sandbox must hold, and the host-side proof that it did.

A program prints `ESCAPED: …` where it got through; that, a connection to our listeners, a killed victim or a process
that is left over fails it. `held_by` says what is to stop it, for the table of `python -m gpt_oss.tools.sandbox`.
Programs only try to open, create or connect; none would do harm where it succeeds.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from gpt_oss.tools.sandbox.base import Limits, Result, Sandbox, SandboxError

SECRET = "bait-5f1d9c"
MARKER = "98765.4321"  # seconds that left-over processes would sleep
LIMITS = Limits(memory_bytes=512 << 20, cpu_s=10, scratch_bytes=64 << 20, file_bytes=16 << 20)

PREAMBLE = f"""
import ctypes, errno, os, signal, socket, subprocess, sys, time
BAIT, PORT, ABSTRACT, VICTIM = {{bait!r}}, {{port}}, {{abstract!r}}, {{victim}}
MARKER = {MARKER!r}
libc = ctypes.CDLL(None, use_errno=True)
def attempt(what, action):
    try:
        result = action()
    except BaseException as error:
        print("held:", what, type(error).__name__, error)
    else:
        print("ESCAPED:", what, repr(result)[:200])
def syscall(number, *args):
    if libc.syscall(number, *args) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
def readable(path):
    with open(path, "rb") as file:
        return file.read(64)
"""


@dataclass(frozen=True)
class Attack:
    name: str
    held_by: str
    code: str
    kills: bool = False  # the sandbox ends the program, or what it prints is lost with it
    seconds: float = 1.5  # to give it


ATTACKS = (
    Attack("fork bomb", "limit on processes", """
made = 0
try:
    for _ in range(400):
        if os.fork() == 0:
            time.sleep(30); os._exit(0)
        made += 1
except OSError as error:
    print("held: after", made, error)
if made >= 400:
    print("ESCAPED: 400 processes")
"""),
    Attack("10 GB at once", "limit on address space", "attempt('10 GB', lambda: len(bytearray(10 << 30)))"),
    Attack("memory of many processes", "control group, or the watch on memory", """
children = []
for _ in range(6):
    pid = os.fork()
    if pid == 0:
        try:
            block = bytearray(300 << 20)
            for i in range(0, len(block), 4096):
                block[i] = 1
            time.sleep(1.0)
            os._exit(0)
        finally:
            os._exit(1)
    children.append(pid)
good = sum(os.waitpid(pid, 0)[1] == 0 for pid in children)
print("ESCAPED: 1.8 GB" if good == 6 else f"held: {good} of 6 lived")
""", kills=True, seconds=10),
    Attack("endless output", "the host stops reading and kills", "while True: print('x' * 65536)", kills=True),
    Attack("read the host's files", "few read-only mounts", """
for path in (BAIT, "/etc/shadow", "/etc/passwd", "/root/.bashrc", "/home", "/var/log", "/proc/1/root" + BAIT):
    attempt(path, lambda: readable(path))
"""),
    Attack("find the host's secrets in environments", "an environment of its own, also bubblewrap's", f"""
found = [key for key, value in os.environ.items() if "{SECRET}" in value]
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        if b"{SECRET}" in open(f"/proc/{{pid}}/environ", "rb").read():
            found.append(pid)
    except OSError:
        pass
print("ESCAPED:" if found else "held: nothing found", found)
"""),
    Attack("connect to the host by TCP", "network namespace, seccomp", """
attempt("127.0.0.1", lambda: socket.create_connection(("127.0.0.1", PORT), 1))
"""),
    Attack("connect to the host by an abstract socket", "network namespace", """
def connect():
    s = socket.socket(socket.AF_UNIX); s.connect(ABSTRACT)
attempt("abstract socket", connect)
"""),
    Attack("open sockets of every family", "seccomp", """
for family in range(2, 46):
    attempt(f"family {family}", lambda: socket.socket(family, socket.SOCK_STREAM))
    attempt(f"family {family}", lambda: socket.socket(family, socket.SOCK_DGRAM))
    attempt(f"family {family}", lambda: socket.socket(family, socket.SOCK_RAW))
"""),
    Attack("names and the metadata address", "network namespace, seccomp", """
attempt("DNS", lambda: socket.getaddrinfo("example.org", 80))
attempt("metadata", lambda: socket.create_connection(("169.254.169.254", 80), 1))
"""),
    Attack("write to the system", "read-only mounts", """
for path in ("/x", "/usr/x", "/usr/bin/x", "/etc/x", "/dev/x", "/dev/shm/x", "/tmp/x", "/proc/self/oom_score_adj",
             "/proc/sys/kernel/core_pattern", "/proc/sys/vm/drop_caches", "/proc/sysrq-trigger", "/packages/x"):
    attempt(path, lambda: os.close(os.open(path, os.O_WRONLY | (0 if path.startswith("/proc") else os.O_CREAT))))
"""),
    Attack("kill the host's processes", "process namespace", """
for pid in (VICTIM, os.getppid() if os.getppid() > 2 else VICTIM):
    attempt(f"kill {pid}", lambda: os.kill(pid, 0))
with open("/proc/self/status") as status:
    print("held: uid", [line for line in status if line.startswith("Uid")])
"""),
    Attack("read and trace other processes", "seccomp, read-only /proc", """
attempt("ptrace", lambda: syscall(101, 16, VICTIM, 0, 0))
attempt("process_vm_readv", lambda: syscall(310, VICTIM, 0, 0, 0, 0, 0))
attempt("/proc/1/mem", lambda: os.open("/proc/1/mem", os.O_WRONLY))
"""),
    Attack("fill the disk with one file", "limit on the size of a file", """
def fill():
    with open("/mnt/data/big", "wb") as file:
        for _ in range(64):
            file.write(bytes(1 << 20))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
attempt("64 MB file", fill)
"""),
    Attack("fill the disk with many files", "a scratch folder of fixed size", """
def fill():
    for i in range(64):
        with open(f"/mnt/data/{i}", "wb") as file:
            file.write(bytes(4 << 20))
attempt("256 MB in files", fill)
"""),
    Attack("a flood of empty files", "control group, or a limit on files", """
def flood():
    for i in range(2_000_000):
        os.close(os.open(f"/mnt/data/f{i}", os.O_CREAT | os.O_WRONLY))
attempt("2,000,000 files", flood)
""", kills=True),
    Attack("look through /proc", "process namespace, masked files", """
pids = [pid for pid in os.listdir("/proc") if pid.isdigit()]
print("ESCAPED: many processes" if len(pids) > 5 else "held: sees", pids)
for name in ("cmdline", "kallsyms", "keys", "kcore"):
    attempt(name, lambda: readable(f"/proc/{name}") or 1 / 0)
"""),
    Attack("the kernel's keyring", "seccomp", """
attempt("add_key", lambda: syscall(248, b"user", b"x", b"y", 1, -3))
attempt("request_key", lambda: syscall(249, b"user", b"x", None, -3))
"""),
    Attack("sleep for ever", "wall time", "time.sleep(1000)\nprint('ESCAPED: slept')", kills=True),
    Attack("compute for ever", "wall time", "while True: pass", kills=True),
    Attack("ignore every signal", "SIGKILL of the first process inside", """
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError, RuntimeError):
        pass
while True:
    try:
        time.sleep(1000)
    except BaseException:
        pass
""", kills=True),
    Attack("leave a daemon behind", "process namespace", """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execvp("sleep", ["sleep", MARKER])
    os._exit(0)
print("held: it ends with the sandbox")
"""),
    Attack("leave files for the next run", "a fresh scratch folder, read-only system", """
import site
attempt("sitecustomize", lambda: open(os.path.join(os.path.dirname(os.__file__), "sitecustomize.py"), "w"))
attempt("site", lambda: open(os.path.join(sys.prefix, "x.pth"), "w"))
"""),
    Attack("new namespaces and mounts", "seccomp, no capabilities", """
for flag in (0x10000000, 0x20000, 0x40000000, 0x20000000):
    attempt(f"unshare {flag:#x}", lambda: syscall(272, flag))
attempt("mount", lambda: syscall(165, b"none", b"/mnt/data", b"tmpfs", 0, None))
attempt("umount", lambda: syscall(166, b"/usr", 2))
attempt("chroot", lambda: os.chroot("/mnt/data"))
attempt("setns", lambda: syscall(308, os.open("/proc/self/ns/net", os.O_RDONLY), 0))
"""),
    Attack("dangerous system calls", "seccomp", """
for name, number in (("bpf", 321), ("perf_event_open", 298), ("userfaultfd", 323), ("io_uring_setup", 425),
                     ("memfd_create", 319), ("pidfd_getfd", 438), ("shmget", 29), ("open_by_handle_at", 304),
                     ("init_module", 175), ("kexec_load", 246)):
    attempt(name, lambda: syscall(number, 0, 0, 0, 0, 0))
"""),
    Attack("raise the limits", "hard limits", """
import resource
for limit in (resource.RLIMIT_AS, resource.RLIMIT_NPROC, resource.RLIMIT_FSIZE, resource.RLIMIT_CPU):
    attempt(f"limit {limit}", lambda: resource.setrlimit(limit, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)))
"""),
    Attack("type into the host's terminal", "seccomp, a session of its own", """
import fcntl
attempt("TIOCSTI", lambda: fcntl.ioctl(0, 0x5412, b"x"))
attempt("/dev/tty", lambda: os.open("/dev/tty", os.O_RDWR))
"""),
    Attack("become root", "no new privileges, nosuid", """
print("ESCAPED: root" if os.getuid() == 0 else "held: not root")
attempt("setuid", lambda: os.setuid(0))
for program in ("su", "passwd", "mount", "sudo"):
    run = lambda: subprocess.run([program, "-c", "id -u"], capture_output=True, timeout=1, stdin=subprocess.DEVNULL)
    attempt(program, lambda: run().stdout.strip() == b"0" or 1 / 0)
"""),
    Attack("devices and links", "mount flags, no capabilities", """
attempt("mknod", lambda: os.mknod("/mnt/data/disk", 0o060600, os.makedev(254, 0)))
attempt("hard link", lambda: os.link("/usr/bin/python3", "/mnt/data/python3"))
attempt("1 TB sparse", lambda: os.truncate(os.open("/mnt/data/s", os.O_CREAT | os.O_RDWR), 1 << 40))
os.symlink(BAIT, "/mnt/data/link")
attempt("symbolic link", lambda: readable("/mnt/data/link"))
"""),
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """held: whether it was. note: what the program met, in a few words."""

    attack: Attack
    held: bool
    note: str
    result: Result


@dataclass
class Host:
    """What a program could reach if it got out."""

    bait: str
    port: int
    abstract: str
    victim: subprocess.Popen[bytes]
    hits: list[str] = field(default_factory=list)

    def program(self, attack: Attack) -> str:
        values = {"bait": self.bait, "port": self.port, "abstract": self.abstract, "victim": self.victim.pid}
        return PREAMBLE.format(**values) + attack.code

    def damage(self) -> list[str]:
        found = list(self.hits)
        if self.victim.poll() is not None:
            found.append("the victim was killed")
        return found + left_over()


def left_over() -> list[str]:
    """Processes that a program has left on the host."""
    found = []
    for entry in Path("/proc").iterdir() if Path("/proc/self").exists() else ():
        with suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
            if words[:2] == [b"sleep", MARKER.encode()]:
                found.append(f"process {entry.name} was left")
    return found


@contextmanager
def host() -> Iterator[Host]:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        bait = Path(folder, "bait")
        bait.write_text(SECRET)
        before = os.environ.get("GPT_OSS_BAIT_KEY")
        os.environ["GPT_OSS_BAIT_KEY"] = SECRET
        tcp = socket.create_server(("127.0.0.1", 0))
        abstract = f"\0gpt-oss-bait-{uuid.uuid4().hex}"
        unix = socket.socket(socket.AF_UNIX)
        unix.bind(abstract if sys.platform == "linux" else str(Path(folder, "socket")))
        unix.listen()
        victim = subprocess.Popen(["sleep", "3600"])
        made = Host(str(bait), tcp.getsockname()[1], abstract, victim)
        for listener, name in (
            (tcp, "a TCP connection came in"),
            (unix, "a connection to the abstract socket came in"),
        ):
            threading.Thread(target=_listen, args=(listener, name, made.hits), daemon=True).start()
        try:
            yield made
        finally:
            victim.kill()
            victim.wait()
            for listener in (tcp, unix):
                with suppress(OSError):
                    listener.shutdown(socket.SHUT_RDWR)
                listener.close()
            if before is None:
                del os.environ["GPT_OSS_BAIT_KEY"]


def _listen(listener: socket.socket, name: str, hits: list[str]) -> None:
    with suppress(OSError):
        while True:
            listener.accept()[0].close()
            hits.append(name)


async def try_attack(sandbox: Sandbox, attack: Attack, target: Host, *, in_session: bool = False) -> Outcome:
    """Run one program and look at both sides."""
    code = target.program(attack)
    limits = replace(LIMITS, wall_s=attack.seconds)
    try:
        if in_session:
            session = sandbox.session(limits)
            try:
                result = await session.execute(code)
            finally:
                await session.close()
        else:
            result = await sandbox.run(code, limits)
    except SandboxError as error:
        return Outcome(attack, False, str(error), Result("", None))
    damage = [*target.damage(), *(line for line in result.output.splitlines() if line.startswith("ESCAPED"))]
    if damage:
        return Outcome(attack, False, damage[0], result)
    if not attack.kills and "held" not in result.output:
        return Outcome(attack, False, f"it did not run: {' '.join(result.output.split())[-120:]}", result)
    return Outcome(attack, True, _note(result), result)


def _note(result: Result) -> str:
    lines = [line.removeprefix("held: ") for line in result.output.splitlines() if line.startswith("held")]
    if result.timed_out:
        return f"killed after {result.seconds:.1f} s"
    if result.out_of_memory:
        return (
            "killed for its memory"
            if result.exit_code is None
            else f"some were killed for memory; {lines[0][:60] if lines else ''}"
        )
    if result.exit_code is None:
        return f"killed after {result.seconds:.1f} s"
    return lines[0][:80] if lines else "nothing came of it"
