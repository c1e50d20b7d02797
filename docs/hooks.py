"""What MkDocs does beside the pages: a link from a page to a file of the repository becomes a page that shows the file.

So `../gpt_oss/turn.py` works where the Markdown is read in the repository and on the site, which needs no address of a
repository. `<!-- include: examples/weather.py -->` becomes the file itself. Knows nothing of what the pages say.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

REPOSITORY = Path(__file__).parents[1]
LINK = re.compile(r"(\]\()(\.\./[^)#\s]+)((?:#[^)\s]*)?\))")
INCLUDE = re.compile(r"<!-- include: (\S+) -->")
LANGUAGES = {".py": "python", ".cc": "cpp", ".h": "cpp", ".toml": "toml", ".yml": "yaml", ".sh": "bash"}


def linked(page: str) -> set[Path]:
    """Files of the repository that a page of docs/ links to."""
    found = set()
    for _, target, _ in LINK.findall(page):
        path = (REPOSITORY / "docs" / target).resolve()
        if path.is_relative_to(REPOSITORY) and path.is_file():
            found.add(path.relative_to(REPOSITORY))
    return found


def page_of(path: Path) -> str:
    """Where the page of a repository's file is, from docs/."""
    return f"source/{path.as_posix()}.md"


def shown(path: Path) -> str:
    text = (REPOSITORY / path).read_text(encoding="utf-8")
    if path.suffix == ".md":
        return f"# {path.name}\n\n{without_links(text)}" if not text.startswith("# ") else without_links(text)
    return f"# {path.as_posix()}\n\n{fenced(path, text)}\n"


def fenced(path: Path, text: str) -> str:
    fence = "`" * (max((len(run) for run in re.findall("`+", text)), default=2) + 1)
    fence = max(fence, "```", key=len)
    return f"{fence}{LANGUAGES.get(path.suffix, 'text')}\n{text.rstrip()}\n{fence}"


def included(match: re.Match[str]) -> str:
    path = Path(match[1])
    return fenced(path, (REPOSITORY / path).read_text(encoding="utf-8"))


def without_links(text: str) -> str:
    """A file that is shown away from its folder: links to its neighbours would lead nowhere."""
    return re.sub(r"\[([^\]]*)\]\((?!https?:)[^)]*\)", r"\1", text)


def on_files(files: Files, config: Any) -> Files:
    sources: set[Path] = set()
    for file in list(files.documentation_pages()):
        sources |= linked(Path(file.abs_src_path).read_text(encoding="utf-8"))
    for path in sorted(sources):
        files.append(File.generated(config, page_of(path), content=shown(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    if page.file.src_uri.startswith("source/"):
        return markdown
    here = posixpath.dirname(page.file.src_uri)

    def to_page(match: re.Match[str]) -> str:
        path = (REPOSITORY / "docs" / match[2]).resolve()
        if not (path.is_relative_to(REPOSITORY) and path.is_file()):
            return match[0]
        return match[1] + posixpath.relpath(page_of(path.relative_to(REPOSITORY)), here or ".") + ")"

    return INCLUDE.sub(included, LINK.sub(to_page, markdown))
