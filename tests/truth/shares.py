"""Sampled shares against times that the functions measure themselves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.truth.rows import Row, shares_row
from tests.truth.running import Run

MS = 1_000_000
SAMPLED = {
    "every call, one busy thread": (1.0, 1, "busy", 24),
    # At 5 % of one thread's calls 2 000 samples take five minutes; twenty waiting threads have them in one.
    "1 in 20, twenty waiting threads": (0.05, 20, "idle", 6),
}
SLOW = {
    "busy, 1ms": ("1ms", "busy", 40, 100 * MS),
    "busy, 10ms": ("10ms", "busy", 30, 200 * MS),
    "asleep, 1ms": ("1ms", "idle", 30, 60 * MS),
}

MIXED = {
    "computes 50, waits 30 and 20 ms, 1ms": ("1ms", 30, 100 * MS),
    "computes 50, waits 30 and 20 ms, 10ms": ("10ms", 40, 100 * MS),
}
MIXED_SHORT = {"computes 2, waits 1.2 and 0.8 ms, 1ms": ("1ms", 500, 4 * MS)}


def sampled_row(folder: Path, name: str) -> Row:
    """Compare short calls, 70/20/10 %; takes as long as SAMPLED says."""
    rate, threads, wait, seconds = SAMPLED[name]
    rule = f"match: '__main__:work', policy: profile, rate: {rate}, interval: 1ms, check_load: false"
    run = Run(folder / f"sample-{wait}", "shares", rule)
    truth = run(threads, wait, seconds)
    found, _ = run.samples_below("__main__:work", list(truth))
    samples = int(sum(found.values()))
    return shares_row(f"shares: sample, {name}", truth, found, 4, samples, 2_000)


def sampled_rows(folder: Path) -> Iterator[Row]:
    """Compare short calls at two rates."""
    for name in SAMPLED:
        yield sampled_row(folder, name)


def slow_rows(folder: Path) -> Iterator[Row]:
    """Compare the stacks of slow calls, 50/30/20 % from the beginning of each call."""
    for name, (interval, wait, calls, span_ns) in SLOW.items():
        slow = f"threshold: {span_ns // (2 * MS)}ms, rate: 1.0, interval: {interval}"
        rule = f"match: '__main__:work', policy: profile_if_slow, {slow}"
        run = Run(folder / f"slow-{wait}-{interval}", "phases", rule)
        truth = run(wait, calls, span_ns)
        found, samples = run.samples_below("__main__:work", list(truth))
        yield shares_row(f"shares: profile_if_slow, {name}", truth, found, 4, samples, 200)


def mixed_rows(folder: Path) -> Iterator[Row]:
    """Compare calls that compute for longer than the switch interval of 5 ms, and wait."""
    yield from _mixed(folder, MIXED)


def mixed_short_rows(folder: Path) -> Iterator[Row]:
    """Compare calls that compute for less than that, and wait."""
    yield from _mixed(folder, MIXED_SHORT)


def _mixed(folder: Path, cases: dict[str, tuple[str, int, int]]) -> Iterator[Row]:
    for name, (interval, calls, span_ns) in cases.items():
        rule = f"match: '__main__:work', policy: profile, rate: 1.0, interval: {interval}"
        run = Run(folder / f"mixed-{interval}", "phases", rule)
        truth = run("mixed", calls, span_ns)
        found, samples = run.samples_below("__main__:work", list(truth))
        yield shares_row(f"shares: sample, {name}", truth, found, 4, samples, 200)


def waiting_rows(folder: Path) -> Iterator[Row]:
    """Compare what a hundred coroutines wait for, 60/40 %."""
    rules = {
        "profile": "policy: profile, rate: 1.0",
        "profile_if_slow": "policy: profile_if_slow, threshold: 20ms, rate: 1.0",
    }
    for policy, rule in rules.items():
        run = Run(folder / f"tasks-{policy}", "tasks", f"match: '__main__:work', {rule}, interval: 10ms")
        truth = run(3)
        found, _ = run.samples_below("__main__:work", list(truth))
        samples = int(sum(found.values()))
        yield shares_row(f"async wall shares: {policy}, 100 tasks", truth, found, 5, samples, 500)
