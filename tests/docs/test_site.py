"""The site builds without a warning and fetches nothing; what scripts compute in it is what they compute now."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"
GENERATED = ("cli_reference", "diagrams", "pictures", "figures")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built by `mkdocs build --strict` with no network to be had."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {"PATH": "/usr/bin:/bin", "NO_MKDOCS_2_WARNING": "1", "https_proxy": "http://127.0.0.1:9"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_site_fetches_nothing(site: Path) -> None:
    fetched = re.compile(
        r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"?(https?:)?//|<link\b[^>]*rel=\"?(?:stylesheet|preconnect|icon)[^>]*href=\"?https?://|@import|url\(\"?https?://"
    )
    wrong = [
        path.relative_to(site) for path in site.rglob("*.html") if fetched.search(path.read_text(encoding="utf-8"))
    ]
    wrong += [
        path.relative_to(site) for path in site.rglob("*.css") if re.search(r"url\(\"?https?://", path.read_text())
    ]
    wrong += [path.relative_to(site) for path in site.rglob("*.svg") if "href" in path.read_text(encoding="utf-8")]
    assert not wrong


def test_every_page_is_in_the_menu(site: Path) -> None:
    home = (site / "index.html").read_text(encoding="utf-8")
    missing = [
        path.name for path in DOCS.glob("*.md") if f'href="{path.stem}.html"' not in home and path.stem != "index"
    ]
    assert not missing, f"name them in mkdocs.yml's nav: {missing}"


def test_links_to_source_are_pages(site: Path) -> None:
    shown = (site / "source" / "gpt_oss" / "turn.py.html").read_text(encoding="utf-8")
    assert "class" in shown
    assert "gpt_oss/turn.py" in shown


@pytest.mark.parametrize("script", GENERATED)
def test_what_is_computed_is_up_to_date(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    generated = importlib.import_module("generated")
    wrong = generated.stale(importlib.import_module(script).files())
    assert not wrong, f"run `make docs`: {wrong} is not what docs/{script}.py makes"
