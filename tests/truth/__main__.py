"""`python -m tests.truth [--check] [--python X.Y] [NAME…]`."""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.__main__ import environment, interpreters
from tests.truth import calls, durations, flames, graphs, memory, shares
from tests.truth.rows import HEAD, Row
from tests.truth.running import ROOT

Rows = Callable[[Path], Iterator[Row]]

ALL: dict[str, Rows] = {
    "calls": calls.rows,
    "durations": durations.rows,
    "call_graph": graphs.rows,
    "shares": shares.sampled_rows,
    "slow": shares.slow_rows,
    "mixed": shares.mixed_rows,
    "mixed_short": shares.mixed_short_rows,
    "waiting": shares.waiting_rows,
    "memory": memory.rows,
    "flame_graph": flames.rows,
}


def main() -> int:
    """Compare and print; see the package."""
    parser = argparse.ArgumentParser(prog="python -m tests.truth", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ALL)}; all by default")
    parser.add_argument("--check", action="store_true", help="exit 1 if a bound is broken")
    parser.add_argument("--python", metavar="X.Y", help="in the environment that `python -m tests` makes")
    given = parser.parse_args()
    for name in given.names:
        if name not in ALL:
            parser.error(f"there is no {name!r}: {', '.join(ALL)}")
    if given.python and given.python != "{}.{}".format(*sys.version_info):
        return _elsewhere(given.python, [*given.names, *(["--check"] if given.check else [])])
    print(f"Python {platform.python_version()}\n{HEAD}", flush=True)
    broken = count = 0
    with tempfile.TemporaryDirectory(prefix="truth-") as folder:
        for name in given.names or ALL:
            for row in ALL[name](Path(folder, name)):
                print(row.line(), flush=True)
                count += 1
                broken += not row.holds
    print(f"{count} compared, {broken} broken")
    return 1 if given.check and broken else 0


def _elsewhere(version: str, arguments: list[str]) -> int:
    for found, python in interpreters():
        if found == version:
            command = [environment(version, python, "test"), "-m", "tests.truth", *arguments]
            return subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}).returncode
    print(f"no CPython {version} found", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
