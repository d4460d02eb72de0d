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
            reference, told = found["reference_ns"][function], found["told_ns"][function]
            what = f"duration: {policy}, {kind}"
            yield _each_call(f"{what}, stop, 95th of {len(told)} calls", reference, told)
            yield relative_row(
                f"{what}, report's p50",
                statistics.median(reference) / 1e6,
                report[f"__main__:{function}"]["duration_ns"]["p50"] / 1e6,
                BUCKET_PERCENT,
            )


def _each_call(what: str, reference: list[int], told: list[int]) -> Row:
    """Compare call by call; a call that was not told, or told twice, breaks the row.

    Not the worst but the 95th of a hundred: whoever takes the processor away between the two clocks is no error.
    """
    if len(reference) != len(told) or min(reference) < 1_000_000:
        return Row(what, f"{len(reference)} calls", f"{len(told)} calls", float("nan"), 5, "%")
    errors = sorted((abs(b - a) / a, a, b) for a, b in zip(reference, told, strict=True))
    _, true_ns, told_ns = errors[int(0.95 * len(errors))]
    return relative_row(what, true_ns / 1e6, told_ns / 1e6, 5)
