"""Who may ask: keys given on the command line, and a file of keys of which only hashes are kept.

A file has a line for each key: `NAME SALT HASH`, the hash being scrypt's (RFC 7914, N = 2^14, r = 8, p = 1), in hex.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from gpt_oss.errors import ParameterError


@dataclass(frozen=True)
class _Hashed:
    name: str
    salt: bytes
    hash: bytes


@dataclass(frozen=True)
class Keys:
    """plain: keys as they are. hashed: of a file. None of either, and everybody may ask."""

    plain: frozenset[str] = frozenset()
    hashed: tuple[_Hashed, ...] = ()
    _known: dict[bytes, bool] = field(default_factory=dict, compare=False)  # scrypt is slow on purpose

    def __bool__(self) -> bool:
        return bool(self.plain or self.hashed)

    def allow(self, shown: str) -> bool:
        """In a time that does not depend on how much of a key is right."""
        right = [hmac.compare_digest(shown.encode(), key.encode()) for key in self.plain]
        if any(right) or not self.hashed or not shown:
            return any(right)
        short = hashlib.sha256(shown.encode()).digest()
        if short not in self._known:
            found = any(hmac.compare_digest(_hash(shown, key.salt), key.hash) for key in self.hashed)
            if len(self._known) >= 1024:
                self._known.clear()
            self._known[short] = found
        return self._known[short]


def read_keys(path: Path) -> tuple[_Hashed, ...]:
    """Raises ParameterError, which names the line."""
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
            keys.append(_Hashed(name, bytes.fromhex(salt), bytes.fromhex(value)))
        except ValueError:
            raise ParameterError(
                f"{path}, line {number}, is not NAME SALT HASH",
                hint="`gpt-oss serve --new-key NAME` writes such a line.",
            ) from None
    return tuple(keys)


def new_key(path: Path, name: str) -> str:
    """A new key, whose hash is added to the file; the key itself is kept nowhere. Raises ParameterError."""
    if not name or any(character.isspace() for character in name):
        raise ParameterError("a key's name is one word")
    if path.exists() and any(key.name == name for key in read_keys(path)):
        raise ParameterError(f"{path} has a key called {name!r} already")
    key = f"sk-{secrets.token_urlsafe(32)}"
    salt = secrets.token_bytes(16)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{name} {salt.hex()} {_hash(key, salt).hex()}\n")
    return key


def _hash(key: str, salt: bytes) -> bytes:
    return hashlib.scrypt(key.encode(), salt=salt, n=1 << 14, r=8, p=1, dklen=32)
