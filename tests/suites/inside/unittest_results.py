"""Run unittest tests and write down what became of each, also when the interpreter dies on the way.

    python unittest_results.py RESULTS NAME...             names that unittest can load
    python unittest_results.py RESULTS --through MODULE    tornado's: has `main` and `test_runner_factory`

A line of RESULTS is `[test, outcome]` in JSON, in the order of the tests. A failing subtest has its own line.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import signal
import sys
import unittest
from typing import Any, TextIO


def outcome_of(kind: str, error: Any) -> str:
    """Name an outcome; of the exception only the type, for messages hold addresses and times."""
    return f"{kind}: {error[0].__name__}"


class Recorder(unittest.TextTestResult):
    """A result that writes each outcome at once; `results` is set before the first test."""

    results: TextIO
    _bad_subtests = False  # 3.12.1 calls stopTest without startTest for skipped modules

    def startTest(self, test: unittest.TestCase) -> None:
        self._bad_subtests = False
        super().startTest(test)

    def addSuccess(self, test: unittest.TestCase) -> None:
        super().addSuccess(test)
        self._write(test, "passed")

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        super().addError(test, err)
        self._write(test, outcome_of("error", err))

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addFailure(test, err)
        self._write(test, outcome_of("failed", err))

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        super().addSkip(test, reason)
        self._write(test, "skipped")

    def addExpectedFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addExpectedFailure(test, err)
        self._write(test, outcome_of("failed as expected", err))

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
        super().addUnexpectedSuccess(test)
        self._write(test, "passed unexpectedly")

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:
        super().addSubTest(test, subtest, err)
        if err is not None:
            self._bad_subtests = True
            self._write(subtest, outcome_of("failed", err))

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        if self._bad_subtests:
            self._write(test, "failed in subtests")

    def _write(self, test: unittest.TestCase, outcome: str) -> None:
        self.results.write(json.dumps([test.id(), outcome]) + "\n")
        self.results.flush()


def runner_on(stream: TextIO) -> type[unittest.TextTestRunner]:
    """Make a runner class that keeps its hands off the warning filters and talks to `stream`."""

    class Runner(unittest.TextTestRunner):
        def __init__(self, **_: Any) -> None:
            super().__init__(stream, verbosity=2, resultclass=Recorder, warnings=False)  # type: ignore[arg-type]

    return Runner


def run_through(module_name: str) -> None:
    """Let a package's own runner do everything but the recording."""
    module = importlib.import_module(module_name)
    module.test_runner_factory = runner_on  # type: ignore[attr-defined]
    sys.modules["__main__"].all = module.all  # type: ignore[attr-defined]  # where it looks for its list of tests
    module.main()


def run_names(names: list[str]) -> bool:
    """Run CPython's own tests as `python -m test` does: no resource but the ordinary ones."""
    from test import support  # type: ignore[import-not-found,unused-ignore]

    support.use_resources = []
    suite = unittest.defaultTestLoader.loadTestsFromNames(names)
    return runner_on(sys.stderr)().run(suite).wasSuccessful()


def main() -> None:
    """Run the command line."""
    del sys.path[0]  # this folder: nothing here must be importable by the tests
    results, *names = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job inherits it ignored
    del sys.argv[1:]
    faulthandler.enable()
    with open(results, "w", encoding="utf-8", buffering=1) as Recorder.results:
        if names[0] == "--through":
            run_through(names[1])
        elif not run_names(names):
            sys.exit(1)


if __name__ == "__main__":
    main()
