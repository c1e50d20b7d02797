"""Which servers share a data folder, and which of them have ended, however that came about.

A server holds a lock on a file of its own in `instances`, which the operating system lets go of when the process ends.
The next one takes over a file that nobody holds. Host, port and process number play no part.
"""

from __future__ import annotations

import os
import sys
import uuid
from contextlib import suppress
from pathlib import Path


class Instance:
    """This server among those that share a data folder.

    folder: where the files are.
    alone: whether nobody but the servers of this folder uses the database, so that one that is not known has ended.
    """

    def __init__(self, folder: Path, *, alone: bool) -> None:
        self._folder = folder / "instances"
        for each in (folder, self._folder):
            each.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._alone = alone
        self._handle = -1
        self._file = self._take()
        self.name = f"{self._file.name}/{uuid.uuid4().hex[:8]}"  # the second part differs from start to start

    def _take(self) -> Path:
        for file in sorted(self._folder.iterdir()):
            self._handle = _locked(file)
            if self._handle >= 0:
                return file
        file = self._folder / uuid.uuid4().hex[:12]
        self._handle = _locked(file, make=True)
        return file

    def close(self) -> None:
        """From now on this server has ended."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def is_gone(self, name: str) -> bool:
        """Whether the server of that name has ended."""
        if name == self.name:
            return False
        file = self._folder / name.partition("/")[0]
        if file == self._file:
            return True  # a run before this one
        if file.parent != self._folder or not file.is_file():
            return self._alone
        handle = _locked(file)
        if handle < 0:
            return False
        os.close(handle)
        return True


def _locked(file: Path, *, make: bool = False) -> int:
    """A descriptor that holds the file's lock; -1 where another process does."""
    try:
        handle = os.open(file, os.O_RDWR | (os.O_CREAT if make else 0), 0o600)
    except OSError:
        return -1
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        with suppress(OSError):
            os.close(handle)
        return -1
    return handle
