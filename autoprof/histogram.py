"""Log-linear buckets for durations: 16 steps an octave, so a bucket is at most 6.25 % wide."""

from __future__ import annotations

_STEPS_BITS = 4
_STEPS = 1 << _STEPS_BITS


def bucket(duration_ns: int) -> int:
    """Return the bucket of a duration; negative durations count as 0.

    Values below 16 ns have a bucket each; above, every octave has 16 (HdrHistogram's layout).
    """
    if duration_ns < _STEPS:
        return duration_ns if duration_ns > 0 else 0
    shift = duration_ns.bit_length() - _STEPS_BITS - 1
    return (shift << _STEPS_BITS) + (duration_ns >> shift)


def lower_ns(index: int) -> int:
    """Return the smallest duration of a bucket."""
    if index < _STEPS:
        return max(index, 0)
    shift = (index >> _STEPS_BITS) - 1
    return (_STEPS + (index & (_STEPS - 1))) << shift


def midpoint_ns(index: int) -> int:
    """Return the duration that stands for a bucket in reports."""
    return (lower_ns(index) + lower_ns(index + 1)) // 2


def quantile_ns(buckets: dict[int, int], share: float) -> int | None:
    """Return the duration below which `share` of the counted durations lie; None when there are none."""
    total = sum(buckets.values())
    if not total:
        return None
    rank = min(total, max(1, -(-int(share * total * 1_000_000) // 1_000_000)))  # floats round up, too
    seen = 0
    for index in sorted(buckets):
        seen += buckets[index]
        if seen >= rank:
            return midpoint_ns(index)
    return None
