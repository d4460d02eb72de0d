"""The profiled run: its policy, and what autoprof says about it afterwards."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .catalogue import Suite
from .environments import REPOSITORY, environment

WANTED_SHARE = 0.98


@dataclass(frozen=True, slots=True)
class Counts:
    """What `autoprof report` says, summed over all functions and processes."""

    targets: int
    calls: int
    profiled: int
    nested: int
    skipped_by: dict[str, int]

    @property
    def share(self) -> float:
        """The part of the calls that went through the open gate; 0 without calls."""
        return (self.profiled + self.nested) / self.calls if self.calls else 0.0


class ReportError(Exception):
    """There is no report to read; the message says what came instead."""


POLICIES = {
    "profile": "policy: profile\n    rate: 1.0",
    # Every call is a slow one that is told and kept: the most that the stopwatch ever does.
    "profile_if_slow": "policy: profile_if_slow\n    threshold: 0ms\n    rate: 1.0",
    # No call is slow: what production does nearly always.
    "stopwatch": "policy: profile_if_slow\n    threshold: 1d\n    rate: 1.0",
    "profile_memory": "policy: profile_memory\n    rate: 1.0",
    "profile_calls": "policy: profile_calls\n    rate: 1.0",
}
"""What can be put on every function; each one run of its own."""


def policy(suite: Suite, output: Path, kind: str = "profile") -> str:
    """Return a policy that measures every call of every function of the suite's packages."""
    globs = ", ".join(json.dumps(glob) for glob in suite.globs)
    return f"""\
version: 1
env: suites
output: {json.dumps(str(output))}
reload: off
budget: off
load: {{cpu: off, memory: off}}
rules:
  - name: everything
    match: [{globs}]
    {POLICIES[kind]}
    env: [suites]
    check_load: false
"""


def read_report(python: Path, output: Path) -> Counts:
    """Ask `autoprof report` about all runs in a folder; tests that clear the environment begin new runs.

    Raises:
        ReportError: it failed, or what it wrote is not what the contract says.
    """
    command = [str(python), "-m", "autoprof", "report", str(output), "--run", "all", "--format", "json"]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise ReportError(f"autoprof report ended with status {done.returncode} and said: {last}")
    try:
        return count(json.loads(done.stdout))
    except (ValueError, KeyError, TypeError) as error:
        raise ReportError(f"autoprof report wrote something else: {error!r}") from error


def count(report: dict[str, list[dict[str, object]]]) -> Counts:
    """Add up the rows of a report."""
    skipped_by: dict[str, int] = {}
    calls = profiled = 0
    for row in report["probes"]:
        calls += _number(row["calls"])
        profiled += _number(row["profiled"])
        by = row["skipped_by"] or {}
        assert isinstance(by, dict)
        for reason, times in by.items():
            skipped_by[reason] = skipped_by.get(reason, 0) + _number(times)
    return Counts(len(report["probes"]), calls, profiled, skipped_by.get("nested", 0), skipped_by)


def _number(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(f"a count is {value!r}")
    return value
