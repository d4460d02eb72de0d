"""Comparing runs test by test."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

MISSING = "missing"
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{6,}")


@dataclass(frozen=True, slots=True)
class Difference:
    """A test that ended otherwise."""

    test: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.test}: {self.before} -> {self.after}"


def by_name(outcomes: dict[str, str]) -> dict[str, str]:
    """Take out of the tests' names what changes from run to run: addresses of objects."""
    return {_ADDRESS.sub("0x…", test): outcome for test, outcome in outcomes.items()}


def differences(
    before: dict[str, str], after: dict[str, str], leave_out: Iterable[str] = ()
) -> list[Difference]:
    """Return every test whose outcome is not the same, or that is in one run only, in order."""
    before, after, ignored = by_name(before), by_name(after), set(leave_out)
    tests = [*before, *(test for test in after if test not in before)]
    pairs = (
        (test, before.get(test, MISSING), after.get(test, MISSING)) for test in tests if test not in ignored
    )
    return [Difference(*pair) for pair in pairs if pair[1] != pair[2]]
