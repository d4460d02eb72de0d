"""The parts of one call in its flame graph, against clocks inside them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from tests.truth.rows import Row, shares_row
from tests.truth.running import Run

POINTS = 5
TARGETS = {"function": "work", "coroutine": "waits", "generator": "yields"}
CALLS = (
    ("function", "clock"),
    ("function", "arithmetic"),
    ("function", "asleep"),
    ("coroutine", "clock"),
    ("coroutine", "asleep"),
    ("generator", "clock"),
)


def rows(folder: Path) -> Iterator[Row]:
    """Compare one call each of a function, of a coroutine among twenty tasks, and of a generator."""
    for kind, how in CALLS:
        run = Run(
            folder / f"{kind}-{how}",
            "parts",
            f"match: '__main__:{TARGETS[kind]}', policy: flame_graph, format: json",
        )
        truth = run(kind, how, 200_000_000 if kind == "generator" else 1_000_000_000)
        (file,) = run.files("*.speedscope.json")
        found = _shares(file, list(truth))
        milliseconds = round(sum(found.values()) / 1e6)
        yield shares_row(f"flame_graph: {kind}, {how}", truth, found, POINTS, milliseconds, 100)


def _shares(file: Path, parts: list[str]) -> dict[str, float]:
    document = json.loads(file.read_text())
    names = [frame["name"].rpartition(":")[2].rpartition(".")[2] for frame in document["shared"]["frames"]]
    found = dict.fromkeys(parts, 0.0)
    for profile in document["profiles"]:
        for stack, weight in zip(profile["samples"], profile["weights"], strict=True):
            for part in parts:
                found[part] += weight * any(names[frame] == part for frame in stack)
    return found
