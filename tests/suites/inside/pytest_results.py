"""Run pytest and write down what became of each test, also when the interpreter dies on the way.

    python pytest_results.py RESULTS ARGUMENTS...

A line of RESULTS is `[test, outcome]` in JSON, in the order of the tests.
"""

from __future__ import annotations

import json
import re
import signal
import sys
from typing import TextIO

import pytest


class Recorder:
    """A pytest plugin: one line for each test, and one for each module that can't be collected."""

    def __init__(self, results: TextIO) -> None:
        self._results = results
        self._outcome = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what matters most of set-up, call and tear-down."""
        if report.when == "setup":
            self._outcome = ""
        if report.when == "call" or report.outcome != "passed":
            worse = self._outcome in ("", "passed")
            self._outcome = outcome_of(report) if worse else self._outcome
        if report.when == "teardown":
            self._write(report.nodeid, self._outcome)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Write down what can't be collected or is skipped as a whole."""
        if report.outcome != "passed":
            self._write(report.nodeid, f"collection {report.outcome}")

    def _write(self, test: str, outcome: str) -> None:
        self._results.write(json.dumps([test, outcome]) + "\n")
        self._results.flush()


def outcome_of(report: pytest.TestReport) -> str:
    """Name an outcome; of the exception only the type, for messages hold addresses and times."""
    if hasattr(report, "wasxfail"):
        return "failed as expected" if report.skipped else "passed unexpectedly"
    if not report.failed:
        return report.outcome
    crash = getattr(report.longrepr, "reprcrash", None)
    kind = re.split(r"[^\w.]", crash.message, maxsplit=1)[0] if crash is not None else "?"
    return f"{'failed' if report.when == 'call' else 'error in ' + report.when}: {kind}"


def main() -> int:
    """Run the command line."""
    del sys.path[0]  # this folder: nothing here must be importable by the tests
    results, *arguments = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job inherits it ignored
    with open(results, "w", encoding="utf-8", buffering=1) as lines:
        return int(pytest.main(arguments, plugins=[Recorder(lines)]))


if __name__ == "__main__":
    sys.exit(main())
