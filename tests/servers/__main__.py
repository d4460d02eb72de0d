"""`python -m tests.servers`: the README's table of servers. Needs CPython 3.11, 3.12 and 3.13; installs the rest.

python -m tests.servers                 every row on every version
python -m tests.servers --python 3.12   one version
python -m tests.servers -k celery       rows by name
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

from tests.__main__ import ROOT, environment, interpreters
from tests.servers.table import ROWS, packages

HEAD = ("server and mode", "what happens", "versions", "result")


def results(python: str, keyword: str) -> dict[str, str]:
    """Run the tests with one interpreter; return the outcome by `file::test[parameters]`."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [python, "-m", "pytest", "-q", "tests/servers", f"--junitxml={report}"]
        subprocess.run([*command, *(("-k", keyword) if keyword else ())], cwd=ROOT, check=False)
        cases = ElementTree.parse(report).getroot().iter("testcase")
        return {
            f"{each.get('classname', '').rpartition('.')[2]}::{each.get('name')}": outcome(each)
            for each in cases
        }


def outcome(case: ElementTree.Element) -> str:
    """Return passed, failed, or why a test was skipped."""
    if case.find("failure") is not None or case.find("error") is not None:
        return "failed"
    skipped = case.find("skipped")
    return "passed" if skipped is None else f"skipped: {skipped.get('message')}"


def table(found: dict[str, dict[str, str]], installed: dict[str, str]) -> list[str]:
    """Return the lines of the table; rows none of whose tests ran are left out."""
    lines = [f"| {' | '.join(HEAD)} |", "|---|---|---|---|"]
    for row in ROWS:
        cells = {version: row.outcome(outcomes) for version, outcomes in found.items()}
        if not any(cells.values()):
            continue
        good = [version for version, cell in cells.items() if cell == "passed"]
        bad = [f"{version} {cell}" for version, cell in cells.items() if cell not in ("", "passed")]
        name = row.server
        if row.package:
            name = name.replace(row.package, f"{row.package} {installed.get(row.package, '')}".rstrip(), 1)
        verdict = "; ".join(bad) or row.good
        lines.append(f"| {name} | {row.what} | {' '.join(good)} | {verdict} |")
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Run, print the table; return 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.servers", description=__doc__.splitlines()[0])
    parser.add_argument("--python", action="append", metavar="X.Y", help="only this version")
    parser.add_argument("-k", dest="keyword", default="", help="only tests whose name fits (pytest's -k)")
    parser.add_argument("--here", action="store_true", help="with this interpreter as it is; install nothing")
    given = parser.parse_args(argv)
    if given.here:
        chosen = {".".join(map(str, sys.version_info[:2])): sys.executable}
    else:
        chosen = {
            version: environment(version, python, "test")
            for version, python in interpreters()
            if not given.python or version in given.python
        }
    if not chosen:
        print("no CPython 3.11, 3.12 or 3.13 found", file=sys.stderr)
        return 2
    found = {version: results(python, given.keyword) for version, python in chosen.items()}
    print("\n".join(table(found, packages(next(iter(chosen.values()))))))
    return 1 if any("failed" in each.values() for each in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
