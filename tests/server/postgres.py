"""A PostgreSQL server of our own for the tests, from Debian's package, on a Unix socket in a folder of theirs."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote


def binaries() -> Path | None:
    """Where `initdb` and `postgres` are, or None."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    path = shutil.which("initdb") or (found[-1] if found else None)
    return None if path is None else Path(path).resolve().parent


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of an empty database."""
    programs = binaries()
    assert programs is not None
    with tempfile.TemporaryDirectory(prefix="gpt-oss-pg-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        data = folder / "data"
        data.mkdir(mode=0o700)
        as_user: dict[str, str] = {}
        if os.geteuid() == 0:  # which PostgreSQL refuses
            as_user = {"user": "nobody"}
            for path in (folder, data):
                shutil.chown(path, "nobody")
        user = as_user.get("user") or pwd.getpwuid(os.geteuid()).pw_name

        def run(program: str, *arguments: str) -> None:
            command = [str(programs / program), *arguments]
            subprocess.run(command, check=True, capture_output=True, cwd=folder, **as_user)  # type: ignore[call-overload]

        run("initdb", "-D", str(data), "-A", "trust", "-U", user, "--no-sync")
        options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
        run("pg_ctl", "-D", str(data), "-w", "-l", str(folder / "log"), "-o", options, "start")
        try:
            yield f"postgres://{user}@/postgres?host={quote(str(folder), safe='')}"
        finally:
            run("pg_ctl", "-D", str(data), "-m", "immediate", "stop")
