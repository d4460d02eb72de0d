"""Memory deltas against blocks of known size."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.truth.rows import Row, relative_row
from tests.truth.running import Run

MIB = 1 << 20
BOUND = 5


def rows(folder: Path) -> Iterator[Row]:
    """Compare `memory`, `complete` and the report's sum for fresh, touched blocks of 16, 32 and 64 MiB."""
    run = Run(folder / "blocks", "blocks", "match: '__main__:keep', policy: profile_memory, rate: 1.0")
    found = run()
    for event in ("told", "summed"):
        name = {"told": "memory", "summed": "complete"}[event]
        for size in sorted(set(found["sizes"])):
            deltas = [delta for true, delta in zip(found["sizes"], found[event], strict=True) if true == size]
            worst = max(deltas, key=lambda delta: abs(delta - size))
            yield relative_row(f"memory delta: profile_memory, {name}", size / MIB, worst / MIB, BOUND, "MiB")
    total = run.report()["__main__:keep"]["memory_delta_bytes"]
    yield relative_row(
        "memory delta: profile_memory, the report's sum",
        sum(found["sizes"]) / MIB,
        total / MIB,
        BOUND,
        "MiB",
    )
