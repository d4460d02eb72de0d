"""Rows of the table: what is true, what autoprof says, how far apart they may be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

HEAD = f"{'what':64s} {'truth':>22s} {'measured':>22s} {'error':>12s} {'bound':>9s}"


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        error: in the bound's unit; never negative.
        unit: `%` of the truth, `points`, or `wrong` for counts.
    """

    what: str
    truth: str
    measured: str
    error: float
    bound: float
    unit: str

    @property
    def holds(self) -> bool:
        """Whether the bound is kept; an error that is no number breaks it."""
        return self.error <= self.bound

    def line(self) -> str:
        """The row as printed."""
        digits = 0 if self.unit == "wrong" else 2
        short = {"points": "pts"}.get(self.unit, self.unit)
        error, bound = f"{self.error:.{digits}f} {short}", f"{self.bound:g} {short}"
        verdict = "ok" if self.holds else "BROKEN"
        return f"{self.what:64s} {self.truth:>22s} {self.measured:>22s} {error:>12s} {bound:>9s} {verdict}"


def shares_row(
    what: str, truth: Mapping[str, float], found: Mapping[str, float], points: float, samples: int, least: int
) -> Row:
    """Compare shares; the error is that of the part that is farthest off.

    Args:
        truth: part → its time in any unit.
        found: part → its weight in any unit.
        samples: looks there were; fewer than `least` say nothing, and break the row.
    """
    true, seen = percentages(truth), percentages(found)
    error = max(abs(true[part] - seen.get(part, 0.0)) for part in true)
    if samples < least:
        error = float("nan")
    return Row(f"{what}, {samples:,} samples", _list(true, true), _list(true, seen), error, points, "points")


def percentages(parts: Mapping[str, float]) -> dict[str, float]:
    """Return each part's percentage of the sum; nothing where the sum is 0."""
    total = sum(parts.values())
    return {part: 100 * value / total for part, value in parts.items()} if total else {}


def _list(order: Mapping[str, float], shares: Mapping[str, float]) -> str:
    return "/".join(f"{shares.get(part, 0.0):.1f}" for part in order)


def relative_row(what: str, truth: float, measured: float, bound: float, unit: str = "ms") -> Row:
    """Compare two numbers; the error is relative to the truth."""
    error = 100 * abs(measured - truth) / truth if truth else float("nan")
    return Row(what, f"{truth:,.2f} {unit}", f"{measured:,.2f} {unit}", error, bound, "%")


def counts_row(what: str, truth: Mapping[Any, int], found: Mapping[Any, int], least: int = 1) -> Row:
    """Compare counts key by key; the error is how many keys differ. Fewer than `least` keys break the row."""
    wrong: float = sum(truth.get(key) != found.get(key) for key in {**truth, **found})
    if len(truth) < least:
        wrong = float("nan")
    size, seen = f"{len(truth):,} fn", f"{len(found):,} fn"
    return Row(
        what, f"{sum(truth.values()):,} in {size}", f"{sum(found.values()):,} in {seen}", wrong, 0, "wrong"
    )
