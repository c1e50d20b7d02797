"""Builds the server's page out of web/ while a package is built, where npm is there and it has not been built yet.

Not where GPT_OSS_PAGE=0 is set. A package without the page is whole but for it, so a failure is told and no more.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

VARIABLE = "GPT_OSS_PAGE"
LONGEST_S = 300


def build_page(root: Path) -> None:
    """root: of the source tree. What `make web` does, unless it was done."""
    npm, web = shutil.which("npm"), root / "web"
    there = (root / "gpt_oss" / "server" / "static" / "index.html").exists()
    if there or npm is None or not (web / "package.json").exists() or os.environ.get(VARIABLE) == "0":
        return
    install = ["ci", "--no-audit", "--no-fund", "--fetch-retries=1", "--fetch-timeout=20000"]
    try:
        for arguments in (install, ["run", "build"]):
            command = [npm, *arguments]
            subprocess.run(command, cwd=web, check=True, timeout=LONGEST_S, stdout=sys.stderr, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"The page of the server is left out ({error}); `make web` builds it later.", file=sys.stderr)
