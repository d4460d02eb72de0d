"""Times of `call_graph` against functions that time themselves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.truth.rows import Row, counts_row, relative_row
from tests.truth.running import Run

BOUND = 10
_RULE = "match: '__main__:work', policy: profile, strategy: call_graph, rate: 1.0, format: json"


def rows(folder: Path) -> Iterator[Row]:
    """Compare a tree of calls of a millisecond and more, then thousands of calls of a microsecond."""
    yield from tree_rows(folder / "tree")
    yield from spread_rows(folder / "spread")


def tree_rows(folder: Path) -> Iterator[Row]:
    """Compare counts, cumulative and own times, recursion among them, in the same calls."""
    run = Run(folder, "tree", _RULE)
    known = run(5)
    (file,) = run.files("call_graph-*.json")
    found = _functions(file)
    truth = {name: calls for name, (calls, _, _) in known.items()}
    yield counts_row("call_graph: tree, calls", truth, {name: found[name]["calls"] for name in known})
    for name, (_, cumulative_ns, own_ns) in known.items():
        told = found[name]
        what = f"call_graph: tree, {name}"
        yield relative_row(
            f"{what}, cumulative", cumulative_ns / 1e6, told["cumulative_ns"] / 1e6, BOUND
        )
        if own_ns:
            # The clock is a function of its own: a loop over it spends its time in two.
            inside = found["perf_counter_ns"]["cumulative_ns"] if False else 0
            yield relative_row(f"{what}, own", own_ns / 1e6, (told["self_ns"] + inside) / 1e6, BOUND)


def spread_rows(folder: Path) -> Iterator[Row]:
    """Compare functions that tracing slows down; the least of several runs each, by turns."""
    for loops in (10, 40):
        run = Run(folder / str(loops), "spread", f"{_RULE}, output: 'graph-{{time}}.json'")
        truth = run(15, loops)
        files = [_functions(file) for file in run.files("graph-*.json")]
        for name, least_ns in truth.items():
            told_ns = min(each[name]["cumulative_ns"] for each in files)
            yield relative_row(f"call_graph: spread {loops}, {name}", least_ns / 1e6, told_ns / 1e6, BOUND)


def _functions(file: Path) -> dict[str, dict[str, Any]]:
    return {each["target"].rpartition(":")[2]: each for each in json.loads(file.read_text())["functions"]}
