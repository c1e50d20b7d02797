"""The prefix cache on disk, so that a prompt seen yesterday is not computed again today.

One file: a line of JSON (format, identity, digest of the rest, block names), then each block's bytes as the model gives
them. A file that is damaged, of another model or of another version is ignored: it is only a cache.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from pathlib import Path

import numpy as np

from gpt_oss.backends.base import Model
from gpt_oss.engine.blocks import PagedCache

FORMAT = "gpt-oss prefix cache 1"
log = logging.getLogger(__name__)
_NONE = np.empty(0, np.int32)


def save_prefixes(cache: PagedCache, model: Model, path: Path, identity: str, limit_bytes: int) -> int:
    """Write the cached blocks that nobody holds, the most recently used first, and return how many. Atomic."""
    pieces: list[tuple[str, bytes, bytes]] = []
    size = 0
    idle = [("full", *entry) for entry in cache.full.cached()] + [("window", *e) for e in cache.windowed.cached()]
    for kind, name, block in reversed(idle):
        one = np.array([block], np.int32)
        data = model.read_cache(one, _NONE) if kind == "full" else model.read_cache(_NONE, one)
        size += len(data)
        if size > limit_bytes:
            break
        pieces.append((kind, name, data))
    pieces.reverse()  # least recently used first, as they are to be read
    body = b"".join(data for _, _, data in pieces)
    header = {
        "format": FORMAT,
        "identity": identity,
        "digest": hashlib.blake2b(body, digest_size=16).hexdigest(),
        "blocks": [(kind, name.hex(), len(data)) for kind, name, data in pieces],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(json.dumps(header).encode() + b"\n" + body)
        os.replace(temporary, path)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        log.warning("the prefix cache was not saved: %s", error)
        return 0
    return len(pieces)


def load_prefixes(cache: PagedCache, model: Model, path: Path, identity: str) -> int:
    """Put the blocks of a saved file into free blocks of the cache, and return how many."""
    if not path.exists():
        return 0
    try:
        with path.open("rb") as file:
            header = json.loads(file.readline())
            body = file.read()
        if header["format"] != FORMAT or header["identity"] != identity:
            return 0
        if hashlib.blake2b(body, digest_size=16).hexdigest() != header["digest"]:
            raise ValueError("its contents do not match their digest")
        entries = [(str(kind), bytes.fromhex(name), int(length)) for kind, name, length in header["blocks"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("the prefix cache %s is ignored: %s", path, error)
        return 0
    start = 0
    loaded = 0
    for kind, name, length in entries:
        pool = cache.full if kind == "full" else cache.windowed
        data = body[start : start + length]
        start += length
        if name in pool or pool.available == 0:
            continue
        block = pool.take()
        one = np.array([block], np.int32)
        blocks, window_blocks = (one, _NONE) if kind == "full" else (_NONE, one)
        model.write_cache(blocks, window_blocks, data)
        pool.publish(block, name)
        pool.release(block)
        loaded += 1
    return loaded
