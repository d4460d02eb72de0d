"""The test command: what it counts, and what it says once more at the end of a long log."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.__main__ import TOLD_AGAIN_LINES, Totals, failures

FAILING = """
def test_holds():
    assert "left" != "right"

def test_breaks():
    assert "left" == "right"
"""


def lines_of_pytest(folder: Path, source: str) -> tuple[list[str], int]:
    (folder / "test_made_up.py").write_text(source)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_made_up.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    return done.stdout.splitlines(), done.returncode


def test_a_failed_test_is_counted_and_told_once_more(tmp_path: Path) -> None:
    totals = Totals()
    lines, status = lines_of_pytest(tmp_path, FAILING)
    totals.add("pytest on 3.12", "3.12", ["progress"] * 500 + lines, status)
    assert (totals.passed, totals.failed, totals.broken) == (1, 1, ["pytest on 3.12"])
    told = "\n".join(totals.told)
    assert "assert 'left' == 'right'" in told
    assert "FAILED test_made_up.py::test_breaks" in told
    assert "progress" not in told


def test_nothing_is_told_of_a_run_that_passed(tmp_path: Path) -> None:
    totals = Totals()
    totals.add("pytest", "3.12", *lines_of_pytest(tmp_path, "def test_holds(): pass"))
    assert (totals.passed, totals.failed, totals.told) == (1, 0, [])


def test_an_error_outside_a_test_is_told_too(tmp_path: Path) -> None:
    totals = Totals()
    totals.add("pytest", "3.12", *lines_of_pytest(tmp_path, "import no_such_module_at_all"))
    assert totals.failed == 1
    assert "no_such_module_at_all" in "\n".join(totals.told)


def test_a_run_that_died_counts_once_and_its_last_lines_are_told() -> None:
    totals = Totals()
    totals.add("pytest", "3.13", [f"line {n}" for n in range(1000)], -11)
    assert (totals.passed, totals.failed) == (0, 1)
    assert totals.told[-1] == "3.13 | line 999"
    assert len(totals.told) == TOLD_AGAIN_LINES


def test_of_many_failures_the_end_is_told() -> None:
    section = ["=== FAILURES ===", *("E  " + "x" * n for n in range(1000)), "=== warnings summary ===", "noise"]
    told = failures([*section, "FAILED test_one.py::test_it"])
    assert len(told) == TOLD_AGAIN_LINES
    assert told[-1] == "FAILED test_one.py::test_it"
    assert "noise" not in told
