"""Draws docs/img/architecture.svg from the actual imports: `python docs/diagrams.py` (generated.py: `--check`).

grimp, which import-linter brings, reads the imports; an arrow is an import that no longer way implies. What nearly
every room imports stands at the bottom without arrows. An import that goes up, which the contract in pyproject.toml
would have to except, is not drawn. The layout is Sugiyama's: layers by the longest way, dummies where an arrow passes
a layer, neighbours' mean to order them.
"""

from __future__ import annotations

import sys
import tomllib
from collections import defaultdict
from html import escape
from itertools import pairwise
from pathlib import Path

import grimp
from generated import DOCS, REPOSITORY, main

BASE = ("errors", "params", "vocabulary", "terminal")  # imported from everywhere: no arrows
LEFT_OUT = ("metal", "responses_api")  # entry points that only call others
KINDS = {
    "faces": (("cli", "server", "chat", "demo", "doctor", "mcp_server", "generate"), "#0d6e6e"),
    "turns": (("session", "turn", "events"), "#2f7d32"),
    "what the model speaks and calls": (("harmony", "tools"), "#8a4b00"),
    "computing": (("load", "engine", "backends", "model", "training"), "#3f51b5"),
}
BOX, GAP, ROW, HEIGHT = 116, 26, 74, 34
Edge = tuple[str, str]


def heights() -> dict[str, int]:
    """Of the rooms in the contract's layers, from above."""
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = (c for c in settings["tool"]["importlinter"]["contracts"] if c["type"] == "layers")
    rows = [layer.replace("gpt_oss.", "").replace(":", "|").split("|") for layer in contract["layers"]]
    return {room.strip(): height for height, row in enumerate(rows) for room in row}


def imports() -> set[Edge]:
    height = heights()
    graph = grimp.build_graph("gpt_oss", exclude_type_checking_imports=True, cache_dir=None)
    edges = set()
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            rooms = [name.split(".")[1] for name in (module, imported) if "." in name]
            if len(rooms) == 2 and rooms[0] != rooms[1] and not {*rooms} & {*BASE, *LEFT_OUT}:
                upper, lower = rooms
                if height.get(upper, 0) <= height.get(lower, 0):
                    edges.add((upper, lower))
    return edges


def reduced(edges: set[Edge]) -> set[Edge]:
    """Without those that a longer way implies."""
    below = defaultdict(set)
    for a, b in edges:
        below[a].add(b)

    def reaches(start: str, goal: str) -> bool:
        return any(step == goal or reaches(step, goal) for step in below[start])

    return {(a, b) for a, b in edges if not any(c != b and reaches(c, b) for c in below[a])}


def layers(edges: set[Edge]) -> list[list[str]]:
    """Rooms by the longest way to them from above."""
    depth: dict[str, int] = {}

    def of(room: str) -> int:
        if room not in depth:
            depth[room] = max((of(a) + 1 for a, b in edges if b == room), default=0)
        return depth[room]

    rows: list[list[str]] = []
    for room in sorted({room for edge in edges for room in edge}):
        rows += [[] for _ in range(of(room) + 1 - len(rows))]
        rows[of(room)].append(room)
    return rows


def laid_out(edges: set[Edge]) -> tuple[list[list[str]], dict[Edge, list[str]]]:
    """Rows with a dummy wherever an arrow passes, in an order with few crossings; and every arrow's way."""
    rows = layers(edges)
    row_of = {room: number for number, row in enumerate(rows) for room in row}
    ways = {}
    for a, b in sorted(edges):
        dummies = [f"{a}>{b}>{number}" for number in range(row_of[a] + 1, row_of[b])]
        for number, dummy in enumerate(dummies, row_of[a] + 1):
            rows[number].append(dummy)
        ways[a, b] = [a, *dummies, b]
    links = sorted({pair for way in ways.values() for pair in pairwise(way)})  # sums of floats, in one order
    for sweep in range(24):
        order = range(1, len(rows)) if sweep % 2 == 0 else range(len(rows) - 2, -1, -1)
        for number in order:
            near = rows[number - 1] if sweep % 2 == 0 else rows[number + 1]
            place = {room: index / max(1, len(near) - 1) for index, room in enumerate(near)}
            here = {room: index / max(1, len(rows[number]) - 1) for index, room in enumerate(rows[number])}

            def mean(room: str, place: dict[str, float] = place, here: dict[str, float] = here) -> float:
                beside = [place[b if a == room else a] for a, b in links if room in (a, b) and {a, b} & set(place)]
                return sum(beside) / len(beside) if beside else here[room]

            rows[number].sort(key=lambda room: (mean(room), room))
    return rows, ways


def legend_step(kind: str) -> float:
    return 40 + 6.4 * len(kind)


def width_of(room: str) -> int:
    return 14 if ">" in room else BOX


def picture() -> str:
    rows, ways = laid_out(reduced(imports()))
    widths = [sum(width_of(room) + GAP for room in row) - GAP for row in rows]
    base_width = len(BASE) * (BOX + GAP) - GAP
    kinds = [*KINDS.items(), ("used everywhere, drawn without arrows", ((), "#607d8b"))]
    legend_width = sum(legend_step(kind) for kind, _ in kinds)
    width, height = max(*widths, base_width, legend_width) + 40, (len(rows) + 1) * ROW + 60
    centre = {}
    for number, row in enumerate(rows):
        x = (width - widths[number]) / 2
        for room in row:
            centre[room] = (x + width_of(room) / 2, 20 + number * ROW + HEIGHT / 2)
            x += width_of(room) + GAP
    for index, room in enumerate(BASE):
        x = (width - base_width) / 2 + index * (BOX + GAP) + BOX / 2
        centre[room] = (x, 20 + len(rows) * ROW + HEIGHT / 2)
    colour = {room: shade for rooms, shade in KINDS.values() for room in rooms}
    parts = [arrow([centre[room] for room in way]) for way in ways.values()]
    parts += [box(room, *at, colour.get(room, "#607d8b")) for room, at in sorted(centre.items()) if ">" not in room]
    legend, x = [], 20.0
    for kind, (_, shade) in kinds:
        legend.append(f'<rect x="{x}" y="{height - 26}" width="12" height="12" rx="3" fill="{shade}"/>')
        legend.append(f'<text x="{x + 18}" y="{height - 16}" fill="#333">{escape(kind)}</text>')
        x += legend_step(kind)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" font-size="12" '
            'font-family="system-ui, sans-serif" role="img" aria-label="Which room of gpt_oss imports which">',
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            '<path d="M0 0 8 4 0 8z" fill="#78909c"/></marker></defs>',
            f'<rect width="{width:.0f}" height="{height}" rx="8" fill="#fafafa"/>',
            *parts,
            *legend,
            "</svg>\n",
        ]
    )


def arrow(way: list[tuple[float, float]]) -> str:
    """From a box's lower edge through the dummies to the next box's upper edge."""
    (x, y), *rest = way
    y += HEIGHT / 2
    path = f"M{x:.0f} {y:.0f}"
    for index, (x_to, y_to) in enumerate(rest):
        last = index == len(rest) - 1
        y_top = y_to - HEIGHT / 2 - (3 if last else 0)
        half = (y + y_top) / 2
        path += f" C{x:.0f} {half:.0f} {x_to:.0f} {half:.0f} {x_to:.0f} {y_top:.0f}"
        x, y = x_to, y_top if last else y_to + HEIGHT / 2
        path += "" if last else f" V{y:.0f}"
    return f'<path d="{path}" fill="none" stroke="#90a4ae" stroke-width="1.4" marker-end="url(#tip)"/>'


def box(room: str, x: float, y: float, shade: str) -> str:
    return (
        f'<rect x="{x - BOX / 2:.0f}" y="{y - HEIGHT / 2:.0f}" width="{BOX}" height="{HEIGHT}" rx="6" fill="{shade}"/>'
        f'<text x="{x:.0f}" y="{y + 4:.0f}" text-anchor="middle" fill="#fff" font-size="13">{escape(room)}</text>'
    )


def files() -> dict[Path, str]:
    return {DOCS / "img" / "architecture.svg": picture()}


if __name__ == "__main__":
    sys.exit(main(files()))
