"""Times of `call_graph` against functions that time themselves.

The functions take a millisecond and more, and are slowed by the hook as they are: on 3.11 every instruction of a thread
that has a profiler's hook takes some 1.7 times as long, under cProfile too. Calls of a few microseconds are not compared:
what the hook costs is taken off as an estimate, and the estimate's error is of their size.
"""

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
    """Compare a tree's counts, cumulative and own times, recursion among them, in the same calls."""
    run = Run(folder, "tree", _RULE)
    known = run(5)
    (file,) = run.files("call_graph-*.json")
    found = _functions(file)
    truth = {name: calls for name, (calls, _, _) in known.items()}
    yield counts_row("call_graph: tree, calls", truth, {name: found[name]["calls"] for name in known})
    for name, (_, cumulative_ns, own_ns) in known.items():
        told = found[name]
        what = f"call_graph: tree, {name}"
        yield relative_row(f"{what}, cumulative", cumulative_ns / 1e6, told["cumulative_ns"] / 1e6, BOUND)
        if own_ns:
            yield relative_row(f"{what}, own", own_ns / 1e6, told["self_ns"] / 1e6, BOUND)


def _functions(file: Path) -> dict[str, dict[str, Any]]:
    return {each["target"].rpartition(":")[2]: each for each in json.loads(file.read_text())["functions"]}
