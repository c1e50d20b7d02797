"""Writes the tables that are figures: `python docs/figures.py` (generated.py: `--check`).

docs/choosing.md: what hardware can reach at most, from its memory bandwidth and the bytes that a token needs.
README.md: what was measured, from the tables of docs/performance.md.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from generated import DOCS, REPOSITORY, between, main

sys.path.insert(0, str(REPOSITORY))
from benchmarks.cpu import bytes_per_step
from gpt_oss.model.config import ModelConfig

MODELS = {"20b": (ModelConfig(), 13.8), "120b": (ModelConfig(num_hidden_layers=36, num_experts=128), 65.3)}  # GB
ROOM_GB = 1.5  # cache of an 8,000-token conversation, activations, the program


@dataclass(frozen=True)
class Hardware:
    """memory_gb: of the GPU, or the most usual beside a processor. gb_per_s: as its maker gives it."""

    name: str
    backend: str
    memory_gb: int
    gb_per_s: float
    precision: str = "exact"


HARDWARE = (
    Hardware("desktop, 2 × DDR4-3200", "cpu", 32, 51, "balanced"),
    Hardware("desktop, 2 × DDR5-5600", "cpu", 64, 90, "balanced"),
    Hardware("desktop, 2 × DDR5-5600, 128 GB", "cpu", 128, 90, "balanced"),
    Hardware("server, 8 × DDR5-4800", "cpu", 256, 307, "balanced"),
    Hardware("server, 12 × DDR5-4800", "cpu", 384, 461, "balanced"),
    Hardware("Apple M4", "metal", 32, 120),
    Hardware("Apple M4 Pro", "metal", 48, 273),
    Hardware("Apple M4 Max", "metal", 128, 546),
    Hardware("Apple M3 Ultra", "metal", 256, 819),
    Hardware("GeForce RTX 4060 Ti 16 GB", "triton", 16, 288),
    Hardware("GeForce RTX 3090", "triton", 24, 936),
    Hardware("GeForce RTX 4090", "triton", 24, 1008),
    Hardware("GeForce RTX 5090", "triton", 32, 1792),
    Hardware("A100 80 GB", "triton", 80, 2039),
    Hardware("H100 SXM", "triton", 80, 3350),
    Hardware("H200", "triton", 141, 4800),
    Hardware("Instinct MI300X", "triton", 192, 5300),
)


def ceilings() -> str:
    lines = [
        "| hardware | memory | backend | bandwidth | gpt-oss-20b | gpt-oss-120b |",
        "|---|---:|---|---:|---:|---:|",
    ]
    for hardware in HARDWARE:
        cells = [ceiling(hardware, *model) for model in MODELS.values()]
        lines.append(
            f"| {hardware.name} | {hardware.memory_gb} GB | {hardware.backend} | {hardware.gb_per_s:,.0f} GB/s | "
            + " | ".join(cells)
            + " |"
        )
    return "\n".join(lines)


def ceiling(hardware: Hardware, config: ModelConfig, size_gb: float) -> str:
    if size_gb + ROOM_GB > hardware.memory_gb:
        return "–"
    rate = hardware.gb_per_s * 1e9 / bytes_per_step(config, hardware.precision, 1, 0)
    return f"{rate:,.0f}"


# ---- what was measured ----------------------------------------------------------------------------------------------


def rows(block: str, key_cells: int = 1) -> dict[str, list[str]]:
    """The rows of a table of docs/performance.md by their first cell or cells."""
    page = (DOCS / "performance.md").read_text(encoding="utf-8")
    text = page.split(f"<!-- begin {block} -->")[1].split("<!-- end")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.split("\n") if line.startswith("|")]
    return {" ".join(row[:key_cells]): row[key_cells:] for row in cells}


def measured() -> str:
    versus = rows("benchmarks.vs_llama_cpp")
    prefix = rows("benchmarks.prefix")
    lines = ["| gpt-oss-20b's shape, 2 cores, tokens/s | ours | llama.cpp | ik_llama.cpp |", "|---|---:|---:|---:|"]
    for case, said in (
        ("prefill:512", "reading a prompt of 512 tokens"),
        ("decode:1@0", "writing, 1 conversation"),
        ("decode:8@0", "writing, 8 conversations at once"),
    ):
        ours, *theirs = (cell.split(" ")[0] for cell in versus[case][:3])
        lines.append(f"| {said} | **{ours}** | {' | '.join(theirs)} |")
    first = seconds(prefix["10000 tokens, never seen"][0])
    again = seconds(next(row[0] for name, row in prefix.items() if name.endswith("after a restart")))
    lines.append(
        f"| a prompt of 10,000 tokens again, after a restart: first token | **{again} s**, not {first} s | | |"
    )
    gpu = rows("benchmarks.gpu", 2)
    lines += ["", "| one NVIDIA H200, tokens/s | gpt-oss-20b | gpt-oss-120b |", "|---|---:|---:|"]
    for case, said in (
        ("prefill 8192", "reading a prompt of 8,192 tokens"),
        ("decode 1 at 1024", "writing, 1 conversation"),
        ("decode 64 at 1024", "writing, 64 conversations at once"),
    ):
        lines.append(f"| {said} | {gpu[f'20b {case}'][0]} | {gpu[f'120b {case}'][0]} |")
    return "\n".join(lines)


def seconds(cell: str) -> str:
    return f"{float(cell.removesuffix(' ms').replace(',', '')) / 1000:.1f}"


def files() -> dict[Path, str]:
    choosing, readme = DOCS / "choosing.md", REPOSITORY / "README.md"
    return {
        choosing: between(choosing, "python docs/figures.py", ceilings()),
        readme: between(readme, "python docs/figures.py", measured()),
    }


if __name__ == "__main__":
    sys.exit(main(files()))
