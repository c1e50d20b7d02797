"""Numbers that pages give in words, held to the code that they are about."""

from __future__ import annotations

import re
from pathlib import Path

import gpt_oss
from gpt_oss.tools.sandbox.attacks import ATTACKS

REPOSITORY = Path(__file__).parents[2]


def text(name: str) -> str:
    return (REPOSITORY / name).read_text(encoding="utf-8")


def test_as_many_hostile_programs_as_are_named() -> None:
    for name in ("README.md", "docs/tools.md"):
        assert re.findall(r"(\d+)\s+hostile programs", text(name)) == [str(len(ATTACKS))], name


def test_the_reference_is_as_short_as_it_is_said_to_be() -> None:
    lines = text("gpt_oss/model/reference.py").count("\n")
    for name in ("README.md", "docs/awesome.md"):
        said = re.search(r"(\d+) lines of (?:float64 )?numpy", text(name))
        assert said is not None, name
        assert abs(lines - int(said[1])) < 25


def test_figures_of_memory_are_those_of_the_models() -> None:
    """docs/choosing.md: the cache, as the cpu backend lays it out."""
    from gpt_oss.backends.cpu.memory import cache_bytes_per_token, cache_size
    from gpt_oss.model.config import ModelConfig

    configs = (ModelConfig(), ModelConfig(num_hidden_layers=36, num_experts=128))
    rows = {cells[0]: cells[1:] for line in text("docs/choosing.md").split("\n") if (cells := _cells(line))}
    for row, tokens, kv in (
        ("keys and values with `--context 8192` (cpu)", 8192, "bf16"),
        ("with `--context 131072`", 131072, "bf16"),
        ("the same with `--kv int8`", 131072, "int8"),
    ):
        for said, config in zip(rows[row], configs, strict=True):
            size = cache_size(config, tokens, 16)
            share = (size.blocks + size.window_blocks) / 2 * 16 * cache_bytes_per_token(config, kv)
            assert abs(float(said.removesuffix(" GB")) - share / 1e9) < 0.06, row


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []


def test_every_public_name_is_on_the_page() -> None:
    page = text("docs/python.md")
    missing = [name for name in gpt_oss.__all__ if name not in page]
    assert not missing
