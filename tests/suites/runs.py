"""One run of one suite: a child process, its outcomes, its time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from .catalogue import Suite
from .environments import environment

INSIDE = Path(__file__).resolve().parent / "inside"
STATUS = "<exit status>"
"""The pseudo test that stands for how the whole run ended."""


@dataclass(frozen=True, slots=True)
class Run:
    """What became of every test, by its name, and how long all took."""

    outcomes: dict[str, str]
    seconds: float

    @property
    def tests(self) -> int:
        """How many tests there were."""
        return len(self.outcomes) - (STATUS in self.outcomes)


def run_suite(suite: Suite, python: Path, source: Path | None, results: Path, **variables: str) -> Run:
    """Run a suite in a process group of its own; what it prints goes to a log beside `results`.

    Args:
        source: the unpacked sdist, the current folder of a pytest run.
        results: where the outcomes are written.
        variables: environment variables on top of the usual ones.
    """
    results.parent.mkdir(parents=True, exist_ok=True)
    results.unlink(missing_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix=f"suite-{suite.name}-", ignore_cleanup_errors=True) as scratch,
        results.with_suffix(".log").open("wb") as log,
    ):
        work, temp = Path(scratch) / "work", Path(scratch) / "tmp"
        work.mkdir()
        temp.mkdir()
        started = time.monotonic()
        process = subprocess.Popen(
            _command(suite, python, source, results),
            cwd=source or work,
            env=environment(TMPDIR=str(temp), **variables),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        status = _wait(process, suite.timeout_s)
        seconds = time.monotonic() - started
    return Run({**read_outcomes(results), STATUS: status}, seconds)


def read_outcomes(results: Path) -> dict[str, str]:
    """Read the outcomes of a run, possibly one that was cut off; a repeated name gets a number."""
    outcomes: dict[str, str] = {}
    seen: Counter[str] = Counter()
    if results.exists():
        for line in results.read_text("utf-8").splitlines():
            try:
                test, outcome = json.loads(line)
            except ValueError:
                continue  # the last line of a run that was killed
            seen[test] += 1
            outcomes[test if seen[test] == 1 else f"{test} #{seen[test]}"] = outcome
    return outcomes


def _command(suite: Suite, python: Path, source: Path | None, results: Path) -> list[str]:
    command = [str(python), str(INSIDE / f"{suite.runner}_results.py"), str(results.absolute())]
    if suite.runner == "pytest":
        command += ["-p", "no:cacheprovider", "--verbose", f"--rootdir={source}"]
    return [*command, *suite.arguments]


def _wait(process: subprocess.Popen[bytes], timeout_s: int) -> str:
    """Wait for the end and name it; whatever is left of the process group is killed."""
    try:
        code = process.wait(timeout_s)
        return f"killed by {signal.Signals(-code).name}" if code < 0 else str(code)
    except subprocess.TimeoutExpired:
        return f"not finished after {timeout_s} s"
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # nobody was left
        process.wait()
