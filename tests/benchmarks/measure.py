"""Timing of pairs: interleaved, smallest of many, median of rounds."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

ROUNDS = 5


@dataclass(frozen=True)
class Figure:
    """One measured figure and the limit it is held against."""

    name: str
    value: float
    unit: str
    limit: float | None = None
    at_least: bool = False
    note: str = ""

    @property
    def holds(self) -> bool:
        """Whether the limit is kept; a figure without one always holds."""
        if self.limit is None:
            return True
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def line(self) -> str:
        """The figure as a row of the table."""
        bound = "" if self.limit is None else f"{'>=' if self.at_least else '<='} {self.limit:g} {self.unit}"
        verdict = "" if self.limit is None else ("ok" if self.holds else "BROKEN")
        return (
            f"{self.name:52s} {self.value:10.2f} {self.unit:7s} {bound:18s} {verdict:7s} {self.note}".rstrip()
        )


def loop_ns(function: Callable[[int], object], calls: int) -> float:
    """Return nanoseconds a call of a one-argument function, the loop included."""
    numbers = range(calls)
    began = time.perf_counter_ns()
    for number in numbers:
        function(number)
    return (time.perf_counter_ns() - began) / calls


def by_turns(functions: dict[str, Callable[[int], object]], calls: int, repeats: int = 7) -> dict[str, float]:
    """Return the best of several interleaved timings for each function: nanoseconds a call."""
    best = dict.fromkeys(functions, float("inf"))
    for _ in range(repeats):
        for name, function in functions.items():
            best[name] = min(best[name], loop_ns(function, calls))
    return best


def median_of(rounds: list[float]) -> float:
    """The median of the rounds."""
    return statistics.median(rounds)


def version() -> tuple[int, int]:
    """The interpreter that is measured."""
    return sys.version_info[:2]
