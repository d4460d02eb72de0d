"""`python -m tests.coexistence`: the table, in Markdown."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tests.__main__ import interpreters

from . import __doc__ as description
from .rows import ROWS, Row, check
from .tools import prepare, version_of


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; return 1 if a row failed."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.coexistence",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--python", action="append", metavar="X.Y", help="only this version")
    given = parser.parse_args(argv)
    pythons = [each for each in interpreters() if not given.python or each[0] in given.python]
    if not pythons:
        print("no CPython 3.11, 3.12 or 3.13 found", file=sys.stderr)
        return 2
    results: dict[str, list[str]] = {row.name: [] for row in ROWS}
    versions: dict[str, str] = {}
    failed = False
    for version, python in pythons:
        venv, minor = prepare(python), int(version.partition(".")[2])
        for row in ROWS:
            versions[row.name] = version_of(venv, row.distribution)
            result, problem = _result(row, venv, minor)
            results[row.name].append(result)
            if problem:
                failed = True
                print(f"{version}: {problem}", file=sys.stderr)
    heads = ["tool", "version", "started", "the same", *(version for version, _ in pythons)]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for row in ROWS:
        started = " ".join(row.command) or "python -m debugpy --listen … --wait-for-client run_day.py"
        cells = [row.name, versions[row.name], f"`{started}`", row.compared, *results[row.name]]
        print(f"| {' | '.join(cells)} |")
    return int(failed)


def _result(row: Row, venv: object, minor: int) -> tuple[str, str]:
    if minor not in row.versions:
        return f"– ({row.unavailable})", ""
    try:
        return f"both right, {check(row, venv, minor)}", ""  # type: ignore[arg-type]
    except Exception as error:
        return "**different**", f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    sys.exit(main())
