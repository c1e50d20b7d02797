"""Writes deploy/man/gpt-oss.1 from the commands' own arguments: `make man`. A test compares the file with them."""

from __future__ import annotations

import datetime
import sys
from pathlib import Path

from argparse_manpage.manpage import Manpage

from gpt_oss import __version__
from gpt_oss.cli import build_parser

PAGE = Path(__file__).resolve().parents[1] / "deploy" / "man" / "gpt-oss.1"
RELEASED = datetime.date(2026, 11, 26)  # of this version: a page must not change with the day it is written on


def text() -> str:
    data = {
        "prog": "gpt-oss",
        "project_name": "gpt-oss",
        "version": __version__,
        "date": RELEASED.isoformat(),
        "manual_title": "gpt-oss",
        "manual_section": "1",
        "description": "run gpt-oss-20b and gpt-oss-120b on hardware of your own",
    }
    return str(Manpage(build_parser(), _data=data))


if __name__ == "__main__":
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(text(), encoding="utf-8")
    sys.exit(0)
