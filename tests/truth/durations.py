"""Durations, told by `stop` and by the report, against a clock inside the very same calls."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path

from tests.truth.rows import Row, relative_row
from tests.truth.running import Run

POLICIES = {
    "profile": "policy: profile, rate: 1.0",
    "profile_if_slow": "policy: profile_if_slow, threshold: 500us, rate: 1.0",
    "profile_production": "policy: profile_production, sample_rate: 1.0",
}
CALLS = 101
"""Odd, so that the median is one call's duration and no mean of two."""

BUCKET_PERCENT = 6.25
"""Width of the histogram's buckets, which the report's quantiles are read from."""


def rows(folder: Path) -> Iterator[Row]:
    """Compare three policies on plain functions and coroutines, 1 to 20 ms a call."""
    for policy, rule in POLICIES.items():
        run = Run(folder / policy, "durations", f"match: ['__main__:plain', '__main__:waits'], {rule}")
        found = run(CALLS)
        report = run.report()
        for function, kind in (("plain", "function"), ("waits", "coroutine")):
            reference, told, outside = (
                found[name][function] for name in ("reference_ns", "told_ns", "outside_ns")
            )
            what = f"duration: {policy}, {kind}"
            yield _each_row(f"{what}, each call between its clocks", reference, told, outside)
            yield _median_row(f"{what}, stop, median error of {len(told)} calls", reference, told)
            yield relative_row(
                f"{what}, report's p50",
                statistics.median(reference) / 1e6,
                report[f"__main__:{function}"]["duration_ns"]["p50"] / 1e6,
                BUCKET_PERCENT,
            )


def _each_row(what: str, reference: list[int], told: list[int], outside: list[int]) -> Row:
    """Count the calls that were told as shorter than inside of them, or longer than around them; noise is in all three."""
    wrong: float = sum(not a <= b <= c for a, b, c in zip(reference, told, outside, strict=False))
    if not len(reference) == len(told) == len(outside):
        wrong = float("nan")
    return Row(what, f"{len(reference)} calls", f"{len(told)} told", wrong, 0, "wrong")


def _median_row(what: str, reference: list[int], told: list[int]) -> Row:
    """Compare call by call; the median, since who takes the processor away between two clocks is no error."""
    errors = sorted((abs(b - a) / a, a, b) for a, b in zip(reference, told, strict=False))
    _, true_ns, told_ns = errors[len(errors) // 2]
    bound = 5 if min(reference) >= 1_000_000 else float("nan")
    return relative_row(what, true_ns / 1e6, told_ns / 1e6, bound)
