"""What pyproject.toml promises, without building anything; tests/packaging/test_build.py builds."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import gpt_oss

REPOSITORY = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())

# Modules whose distribution has another name; the standard library and ourselves are not asked for.
DISTRIBUTIONS = {"markdown_it": "markdown-it-py", "prometheus_client": "prometheus-client", "starlette": "fastapi"}


def base_install() -> set[str]:
    return {re.split(r"[<>=\[;]", text)[0].lower().replace("_", "-") for text in PROJECT["project"]["dependencies"]}


def imported(path: Path) -> set[str]:
    """Top-level modules that a file imports, wherever in it, but not only for types and not where it may fail."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.Try):
            return
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        if isinstance(node, ast.Import):
            found.update(name.name.split(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return found - set(sys.stdlib_module_names) - {"gpt_oss"}


@pytest.mark.parametrize("room", ["harmony", "engine", "server", "chat", "backends/cpu", "tools/simple_browser"])
def test_the_base_install_has_what_these_rooms_import(room: str) -> None:
    optional = {"psycopg", "docker", "mcp", "ray", "torch"}  # extras of their own
    for path in (REPOSITORY / "gpt_oss" / room).rglob("*.py"):
        wanted = {DISTRIBUTIONS.get(name, name).replace("_", "-").lower() for name in imported(path) - optional}
        assert wanted <= base_install(), f"{path.relative_to(REPOSITORY)}: {wanted - base_install()}"


def test_names_of_extras_stay() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    assert {
        "torch",
        "triton",
        "transformers",
        "gguf",
        "train",
        "serve",
        "postgres",
        "mcp",
        "docker",
        "all",
        "test",
    } <= set(extras)
    assert not {"torch", "triton", "transformers", "mlx"} & base_install()


def test_the_version_is_one() -> None:
    assert PROJECT["project"]["version"] == gpt_oss.__version__
    newest = re.search(r"^## *\[?v?(\d+\.\d+\.\d+)", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is None or newest[1] == gpt_oss.__version__


@pytest.mark.parametrize(
    "name",
    [
        "harmony/data/o200k_base.tiktoken",
        "demo/demo.safetensors",
        "demo/pages/lake-baikal.md",
        "backends/cpu/_native.pyi",
    ],
)
def test_data_of_the_package_is_not_ignored(name: str) -> None:
    """What .gitignore covers, scikit-build-core leaves out of wheels."""
    path = f"gpt_oss/{name}"
    assert (REPOSITORY / path).is_file()
    if (REPOSITORY / ".git").exists():
        assert subprocess.run(["git", "check-ignore", "-q", path], cwd=REPOSITORY, check=False).returncode == 1


def test_what_is_built_is_included_all_the_same() -> None:
    from gpt_oss.server import page

    [pattern] = [text for text in PROJECT["tool"]["scikit-build"]["sdist"]["include"] if "static" in text]
    folder = (REPOSITORY / pattern.removesuffix("/**")).resolve()
    assert folder == (Path(page.__file__).parent / "static").resolve()


def test_importing_the_package_loads_nothing_of_the_server() -> None:
    names = {"fastapi", "uvicorn", "sqlalchemy", "cryptography", "prometheus_client", "shtab", "torch"}
    for code in ("import gpt_oss", "from gpt_oss.cli import build_parser; build_parser().format_help()"):
        script = f"import sys; {code}; print(sorted({names} & set(sys.modules)))"
        answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert answer.stdout.strip() == "[]", code
