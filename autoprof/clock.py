"""The clocks everything is measured with; tests put a fake one in."""

from __future__ import annotations

from time import perf_counter_ns, process_time_ns, time_ns

try:
    from time import thread_time_ns
except ImportError:  # WebAssembly has no threads, so no clock of theirs
    thread_time_ns = process_time_ns

monotonic_ns = perf_counter_ns
"""Durations: nanoseconds of a clock that never goes back."""

wall_ns = time_ns
"""Points in time: nanoseconds since the epoch."""

thread_ns = thread_time_ns
"""Processor time of the calling thread in nanoseconds."""
