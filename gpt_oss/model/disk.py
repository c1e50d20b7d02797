"""Is there room? Asked before anything large is written or fetched."""

from __future__ import annotations

import shutil
from pathlib import Path

from gpt_oss.errors import GptOssError


def require_space(folder: Path, needed_bytes: int, error: type[GptOssError]) -> None:
    """Raise `error` when the disk that will hold `folder` (it need not exist yet) has less than needed_bytes free."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free_bytes = shutil.disk_usage(existing).free
    if free_bytes < needed_bytes:
        raise error(
            f"{folder}: {needed_bytes / 1e9:.1f} GB are needed and {free_bytes / 1e9:.1f} GB are free",
            hint="Make room, or choose a folder on another disk.",
        )
