"""The chain of thought between calls, for clients that lose it: kept in memory by item and call, and sealed in items.

Most clients send a tool's answer back without the thoughts that led to the call; a gpt-oss model without them begins
again, or calls again.
"""

from __future__ import annotations

import base64
import copy
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken

from gpt_oss.errors import ParameterError


class Memory:
    """Texts by key, the ones used longest ago forgotten. most: in characters."""

    def __init__(self, most: int = 64 << 20) -> None:
        self._texts = _Texts(most)
        self._whose = ""

    def seen_by(self, whose: str) -> Memory:
        """This memory for one who recalls only what was remembered for them, under whatever key."""
        view = copy.copy(self)
        view._whose = whose
        return view

    def remember(self, keys: Iterable[str], text: str) -> None:
        for key in keys if text else ():
            self._texts.put((self._whose, key), text)

    def recall(self, key: str) -> str | None:
        return self._texts.get((self._whose, key))


class _Texts:
    """Texts by key, for any thread: requests are read on several. most: in characters."""

    def __init__(self, most: int) -> None:
        self._texts: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._size = 0
        self._most = most
        self._lock = threading.Lock()

    def put(self, key: tuple[str, str], text: str) -> None:
        with self._lock:
            self._size += len(text) - len(self._texts.pop(key, ""))
            self._texts[key] = text
            while self._size > self._most:
                self._size -= len(self._texts.popitem(last=False)[1])

    def get(self, key: tuple[str, str]) -> str | None:
        with self._lock:
            text = self._texts.get(key)
            if text is not None:
                self._texts.move_to_end(key)
        return text


class Seal:
    """Reasoning as a client may keep it without reading it; only a server with the same key opens it again."""

    def __init__(self, key: bytes | None = None) -> None:
        """key: as `key_in` gives it; None makes one that ends with the process."""
        self._fernet = Fernet(key or Fernet.generate_key())

    def close(self, text: str) -> str:
        return self._fernet.encrypt(text.encode()).decode()

    def open(self, sealed: str) -> str | None:
        """None for what another server sealed."""
        try:
            return self._fernet.decrypt(sealed.encode()).decode()
        except (InvalidToken, UnicodeError):
            return None


def key_in(path: Path) -> bytes:
    """The key in a file, which is made where there is none, for its owner alone. Raises ParameterError for another's
    file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        with suppress(PermissionError):  # a file of somebody else's stays as it is
            path.chmod(0o600)
        key = path.read_bytes().strip()
        try:
            if len(base64.urlsafe_b64decode(key)) == 32:
                return key
        except ValueError:
            pass
        raise ParameterError(f"{path} does not hold a key; remove it, and a new one is made") from None
    with os.fdopen(handle, "wb") as file:
        key = Fernet.generate_key()
        file.write(key)
        return key
