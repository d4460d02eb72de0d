"""The clocks everything is measured with; tests put a fake one in."""

from __future__ import annotations

from time import perf_counter_ns, time_ns

monotonic_ns = perf_counter_ns
"""Durations: nanoseconds of a clock that never goes back."""

wall_ns = time_ns
"""Points in time: nanoseconds since the epoch."""
