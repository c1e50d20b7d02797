"""Who may ask: keys from the environment or the command line, and a file of keys of which only hashes are kept.

A file has a line for each key: `NAME SALT HASH`, the hash being BLAKE2b of the key, keyed with the salt (RFC 7693, 32
bytes, in hex). Keys are random and long, so a fast hash is enough, and checking one costs microseconds.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gpt_oss.errors import ParameterError

SHORTEST = 8  # characters; a key that people think up is best not too short to be guessed at once


@dataclass(frozen=True)
class HashedKey:
    """A key that is known by its hash. name: whose it is."""

    name: str
    salt: bytes
    hash: bytes

    @classmethod
    def of(cls, name: str, key: str) -> HashedKey:
        salt = secrets.token_bytes(16)
        return cls(name, salt, _hash(key, salt))

    def is_of(self, shown: bytes) -> bool:
        """Whether this key was shown, in a time that does not depend on how much of it is right."""
        return hmac.compare_digest(hashlib.blake2b(shown, key=self.salt, digest_size=32).digest(), self.hash)


class Keys:
    """The keys that a server takes.

    plain: keys as they are.
    hashed: those of a file, as `read_keys` gives them.
    path: the file that they are read from again when it changes, so that a key can be taken away while it runs.
    Without any of them, everybody may ask; a file that has lost its last key lets nobody in.
    """

    def __init__(
        self, plain: Iterable[str] = (), hashed: Iterable[HashedKey] = (), *, path: Path | None = None
    ) -> None:
        self._plain = tuple(HashedKey.of(_name_of(key), key) for key in plain)
        self._hashed = tuple(hashed)
        self._path = path
        self._needed = bool(self._plain or self._hashed or path is not None)
        self._read = _changed(path)

    def __bool__(self) -> bool:
        """Whether a key is needed."""
        return self._needed

    def owner(self, shown: str) -> str | None:
        """The name of the key that was shown; None where it is none of these."""
        self._read_again()
        raw = shown.encode(errors="surrogatepass")
        right = [key.name for key in (*self._plain, *self._hashed) if key.is_of(raw)]
        return right[0] if shown and right else None

    def allow(self, shown: str) -> bool:
        return self.owner(shown) is not None

    def _read_again(self) -> None:
        now = _changed(self._path)
        if self._path is None or now == self._read:
            return
        self._read = now
        try:
            self._hashed = read_keys(self._path, may_be_empty=True)
        except ParameterError:
            self._hashed = ()  # nobody comes in by a file that cannot be read


def _changed(path: Path | None) -> tuple[int, int] | None:
    """What tells that a file has changed; None where it is not there."""
    try:
        found = path.stat() if path is not None else None
    except OSError:
        return None
    return None if found is None else (found.st_mtime_ns, found.st_size)


def _name_of(key: str) -> str:
    """A name for a key that has none, which does not tell it."""
    return f"key-{hashlib.blake2b(key.encode(errors='surrogatepass'), digest_size=6).hexdigest()}"


def check_plain(keys: Iterable[str], where: str) -> list[str]:
    """The keys. Raises ParameterError for one that is empty or short, naming where it came from."""
    checked = list(keys)
    for key in checked:
        if not key.strip():
            raise ParameterError(f"{where} is empty", hint="An empty key would let everybody in.")
        if len(key) < SHORTEST:
            raise ParameterError(f"{where}: a key has at least {SHORTEST} characters")
    return checked


def read_keys(path: Path, *, may_be_empty: bool = False) -> tuple[HashedKey, ...]:
    """The keys of a file. Raises ParameterError, which names the line, also for a file without any."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ParameterError(f"the key file {path} cannot be read: {error}") from error
    keys = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            name, salt, value = line.split()
            key = HashedKey(name, bytes.fromhex(salt), bytes.fromhex(value))
        except ValueError:
            raise ParameterError(
                f"{path}, line {number}, is not NAME SALT HASH",
                hint="`gpt-oss serve --new-key NAME` writes such a line.",
            ) from None
        if len(key.salt) > 64 or len(key.hash) != 32:
            raise ParameterError(f"{path}, line {number}, has no salt and hash of a key")
        keys.append(key)
    if not keys and not may_be_empty:
        raise ParameterError(f"the key file {path} has no key", hint="`gpt-oss serve --new-key NAME` adds one.")
    return tuple(keys)


def new_key(path: Path, name: str) -> str:
    """A new key, whose hash is added to the file; the key itself is kept nowhere. Raises ParameterError."""
    if not name or any(character.isspace() for character in name) or name.startswith("#"):
        raise ParameterError("a key's name is one word")
    if path.exists() and any(key.name == name for key in read_keys(path, may_be_empty=True)):
        raise ParameterError(f"{path} has a key called {name!r} already")
    key = f"sk-{secrets.token_urlsafe(32)}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    hashed = HashedKey.of(name, key)
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{name} {hashed.salt.hex()} {hashed.hash.hex()}\n")
    return key


def _hash(key: str, salt: bytes) -> bytes:
    return hashlib.blake2b(key.encode(errors="surrogatepass"), key=salt, digest_size=32).digest()
