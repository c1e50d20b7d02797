"""`gpt-oss --version` and `gpt-oss version --json`: what is installed, what it was built from, and what it runs on."""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gpt_oss import __version__

PACKAGE = Path(__file__).parent


@dataclass(frozen=True)
class About:
    version: str
    commit: str | None  # of the checkout that runs, else the one recorded when the kernels were built
    kernels_compiled: tuple[str, ...]  # instruction sets that this build has kernels for; none where they are missing
    kernels_usable: tuple[str, ...]  # those of them that this processor has, best first
    compiler: str | None  # of the kernels
    python: str
    platform: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def as_text(self) -> str:
        """The first line is name and version alone, for scripts."""
        return "\n".join(
            [
                f"gpt-oss {self.version}",
                f"commit    {self.commit or 'not recorded'}",
                f"kernels   {' '.join(self.kernels_compiled) or 'not built'}"
                + (f" (here: {self.kernels_usable[0]})" if self.kernels_usable else ""),
                f"compiler  {self.compiler or 'unknown'}",
                f"python    {self.python}",
                f"platform  {self.platform}",
            ]
        )


def about() -> About:
    built: dict[str, str] = {}
    usable: list[str] = []
    try:
        from gpt_oss.backends.cpu import _native

        built, usable = _native.build_info(), _native.instruction_sets()
    except (ImportError, AttributeError):  # a tree without kernels, or with older ones: said so rather than refused
        pass
    return About(
        version=__version__,
        commit=checkout_commit(PACKAGE.parent) or built.get("commit") or None,
        kernels_compiled=tuple(built.get("kernels", "").split()),
        kernels_usable=tuple(usable),
        compiler=built.get("compiler"),
        python=f"{platform.python_version()} ({platform.python_implementation()})",
        platform=platform.platform(),
    )


def checkout_commit(root: Path) -> str | None:
    """Of a checkout of this project at `root`; None elsewhere, in a repository that only contains it too."""
    if not (root / ".git").exists() or not (root / "packaging" / "backend.py").exists():
        return None
    describe = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        answer = subprocess.run(describe, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None if answer.returncode == 0 else None


class VersionAction(argparse.Action):
    """`--version`: prints and ends, as argparse's own does, but looks only then."""

    def __init__(self, option_strings: Sequence[str], dest: str, **_: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, help="what is installed, and what it was built from")

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(about().as_text())
        parser.exit()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for scripts")


def run(args: argparse.Namespace) -> int:
    print(json.dumps(about().as_json(), indent=2) if args.json else about().as_text())
    return 0
