"""Whether one function is faster than another, from their histograms of durations.

The comparison is of medians: production durations have long tails, and one stalled call in a few hundred moves a mean
further than most changes to the code do. Both medians get a distribution-free interval from order statistics (the
binomial ranks that enclose the median: Conover, Practical Nonparametric Statistics, 3.2); the two are combined on the
logarithmic scale into an interval of the ratio by MOVER (Zou & Donner 2008, "Construction of confidence intervals about
effect measures", Statistics in Medicine 27), which needs no shape and no random numbers.

A histogram knows a duration only to its bucket, up to 6.25 % wide. Within a bucket calls are taken to lie evenly,
which is right where the counts change little from bucket to bucket, and wrong where a spike is narrower than a bucket.
So both ends are moved outwards by the unknown part of the bucket: nothing where the neighbours hold as many calls
(noise aside), up to the bucket's edge where they hold none. These allowances are no noise: they are added up, and no
number of calls makes them smaller.

It is assumed that calls are independent and were measured under the same conditions, as when two versions are used in
turn. Spikes at every single bucket (a clock that ticks in steps of just 6 %) would go unnoticed.
"""

from __future__ import annotations

import math

from autoprof.histogram import lower_ns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

CONFIDENCE = 0.95
_Z = 1.959964  # normal quantile of 0.975
_Z_POWER = 0.841621  # of 0.8: the chance that a difference of the size asked for is found
_EXACT_UP_TO = 1_000  # calls, above which the binomial ranks are the normal ones within one
LEAST_CALLS = 6  # of fewer, not even the smallest and the largest enclose the median at 95 %
_SHORTEST_NS = 0.5
_BUCKETS = 1_024  # 2**63 ns lies below; a damaged store may say anything

FASTER, SLOWER, CANT_TELL = "faster", "slower", "can't tell"


class Median:
    """The median of one histogram with its interval, all in nanoseconds.

    Attributes:
        calls: Durations in the histogram.
        low_ns, high_ns: Ends of the interval by rank alone; None with too few calls.
        low_unknown_ns, high_unknown_ns: How much further out they may lie inside their buckets.
    """

    __slots__ = ("calls", "high_ns", "high_unknown_ns", "low_ns", "low_unknown_ns", "median_ns")

    def __init__(self, durations: Mapping[int, int]) -> None:
        counts = {index: count for index, count in durations.items() if count > 0 <= index < _BUCKETS}
        self.calls = sum(counts.values())
        self.median_ns = _at(counts, self.calls / 2)[0] if counts else 0.0
        self.low_ns: float | None = None
        self.high_ns: float | None = None
        self.low_unknown_ns = self.high_unknown_ns = 0.0
        rank = lower_rank(self.calls)
        if rank:
            self.low_ns, self.low_unknown_ns, _ = _at(counts, rank - 0.5)
            self.high_ns, _, self.high_unknown_ns = _at(counts, self.calls - rank + 0.5)

    @property
    def interval_ns(self) -> tuple[float, float] | None:
        """The ends with what is unknown inside the buckets; None with too few calls."""
        if self.low_ns is None or self.high_ns is None:
            return None
        return self.low_ns - self.low_unknown_ns, self.high_ns + self.high_unknown_ns


class Comparison:
    """What can be said of `b` against `a`.

    Attributes:
        ratio: Median of `b` over median of `a`; None where one has no call.
        low, high: The interval of the ratio; None with too few calls.
        verdict: `faster`, `slower` or `can't tell`: what `b` is.
        difference: The relative difference that `more` is about.
        more: Measured calls still needed of `a` and of `b`: 0 when every difference as large as `difference` is
            ruled out already, None when no number of calls would do.
    """

    __slots__ = ("a", "b", "difference", "high", "low", "more", "ratio", "verdict")

    def __init__(self, a: Median, b: Median, difference: float = 0.05) -> None:
        self.a, self.b = a, b
        self.difference = difference
        self.verdict = CANT_TELL
        self.low: float | None = None
        self.high: float | None = None
        self.more: tuple[int, int] | None = (0, 0)
        self.ratio: float | None = b.median_ns / a.median_ns if a.calls and b.calls else None
        if self.ratio is None or a.low_ns is None or b.low_ns is None:
            self.more = (max(LEAST_CALLS - a.calls, 0), max(LEAST_CALLS - b.calls, 0))
        else:
            self._decide(math.log(self.ratio))

    def _decide(self, effect: float) -> None:
        below, unknown_below = _reach(self.b, self.a)
        above, unknown_above = _reach(self.a, self.b)
        low, high = effect - below - unknown_below, effect + above + unknown_above
        self.low, self.high = math.exp(low), math.exp(high)
        if high < 0:
            self.verdict = FASTER
        elif low > 0:
            self.verdict = SLOWER
        elif max(-low, high) > math.log1p(self.difference):
            self.difference = max(self.difference, math.expm1(abs(effect)))
            self.more = self._calls_needed(max(below, above), max(unknown_below, unknown_above))

    def _calls_needed(self, reach: float, unknown: float) -> tuple[int, int] | None:
        """Return the calls after which `difference` is found four times in five; noise falls as 1/sqrt(calls)."""
        room = math.log1p(self.difference) - unknown
        if room <= 0:
            return None
        times = max((reach * (1 + _Z_POWER / _Z) / room) ** 2, 1.1)
        return math.ceil((times - 1) * self.a.calls), math.ceil((times - 1) * self.b.calls)


def lower_rank(calls: int) -> int:
    """Return the largest rank r such that the r-th smallest and r-th largest enclose the median; 0: there is none."""
    if calls > _EXACT_UP_TO:
        return int((calls + 1 - _Z * math.sqrt(calls)) / 2)
    limit = (1 - CONFIDENCE) / 2 * 2**calls
    below = rank = 0
    while (below := below + math.comb(calls, rank)) <= limit:
        rank += 1
    return rank


def _reach(lower: Median, upper: Median) -> tuple[float, float]:
    """Return how far, in logarithms, the ratio may lie beyond its estimate: by chance, and inside the buckets.

    `lower` is the median that would have to be smaller than it seems, `upper` the one that would be larger.
    """
    assert lower.low_ns is not None and upper.high_ns is not None
    chance = math.hypot(math.log(lower.median_ns / lower.low_ns), math.log(upper.high_ns / upper.median_ns))
    least_ns = max(lower.low_ns - lower.low_unknown_ns, _SHORTEST_NS / 2)
    unknown = math.log(lower.low_ns / least_ns) + math.log1p(upper.high_unknown_ns / upper.high_ns)
    return chance, max(unknown, 0.0)


def _at(counts: Mapping[int, int], position: float) -> tuple[float, float, float]:
    """Return the duration below which `position` calls lie, and what is unknown below and above it in its bucket."""
    seen = 0
    index = count = 0
    for index in sorted(counts):
        count = counts[index]
        if seen + count >= position:
            break
        seen += count
    lower, upper = lower_ns(index), lower_ns(index + 1)
    value_ns = max(lower + (upper - lower) * (position - seen) / count, _SHORTEST_NS)
    uneven = _unevenness(counts, index)
    return value_ns, uneven * max(value_ns - lower, 0.0), uneven * (upper - value_ns)


def _unevenness(counts: Mapping[int, int], index: int) -> float:
    """Return by which share a bucket's count differs from its neighbours', beyond two standard errors."""
    count = counts[index]
    width = lower_ns(index + 1) - lower_ns(index)
    found = 0.0
    for other in (index - 1, index + 1):
        scale = width / (lower_ns(other + 1) - lower_ns(other)) if other >= 0 else 1.0
        beside = counts.get(other, 0)
        noise = 2 * math.sqrt(count + beside * scale * scale)
        found = max(found, (abs(count - beside * scale) - noise) / count)
    return min(found, 1.0)
