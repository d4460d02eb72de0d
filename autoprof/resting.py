"""Threads that have not run since they were last looked at: they stand where they stood.

Most threads of a service wait. Reading the processor time of one takes a fifth of what walking its stack does, and
where it has not grown nothing of the thread has changed, so that the look before counts once more.

Linux numbers the processor clock of a thread by the thread (`make_thread_cpuclock`, include/linux/posix-timers.h). To
ask for that of a thread that is no more is an error, unlike `pthread_getcpuclockid`, which follows a dangling pointer.
"""

from __future__ import annotations

import sys
import time

from autoprof.primitives import get_native_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from autoprof.flight import Flight

    Strand = tuple[int, list[Flight]]

_PER_THREAD, _SCHEDULED = 4, 2
_KEPT = 1_000
_READINGS = 10


class Seen:
    """The last look at one thread.

    Attributes:
        clock_id: of its processor time, which was `used_ns` before the look.
        counts: what the look has counted: the stack's sums, the probe, the call's place in the thread's list, counted
            from its end, and how many calls it stands for. None where that is not kept: the thread had run.
        until_ns: when it does not count any more.
    """

    __slots__ = ("clock_id", "counts", "until_ns", "used_ns")

    def __init__(self, clock_id: int, used_ns: int) -> None:
        self.clock_id, self.used_ns = clock_id, used_ns
        self.counts: list[tuple[list[int], Any, int, float]] | None = None
        self.until_ns = 0

    def note(self, call: Flight, place: int, probe: Any, sums: list[int]) -> None:
        """Keep what was counted."""
        if self.counts is not None:
            weight = call.weights.get(probe, 1.0) if call.weights else 1.0
            self.counts.append((sums, probe, place, weight))
            self.until_ns = min(self.until_ns, call.started_ns + min(call.limit_ns, probe.limit_ns))

    def count_again(self, calls: list[Flight], weight_ns: int) -> None:
        """Count the look once more."""
        for sums, probe, place, weight in self.counts or ():
            sums[0] += 1
            sums[1] += weight_ns if weight == 1.0 else int(weight_ns * weight)
            probe.samples += 1
            if place + len(calls) >= 0:  # else it runs again, just now
                calls[place].samples += 1


class Resting:
    """The last look at each thread. It holds no calls, and no frames."""

    def __init__(self) -> None:
        self._seen: dict[int, Seen] = {}
        self._exact: bool | None = None

    def forget(self) -> None:
        """Have every thread walked at the next look: what was counted is counted no more."""
        self._seen.clear()

    def count(self, strands: list[Strand], now_ns: int, weight_ns: int) -> list[Strand]:
        """Count the looks at those threads once more that have not run; return the others."""
        if self._exact is None:
            self._exact = clocks_are_exact()
        if not self._exact:
            return strands
        return [each for each in strands if not self._rests(each, now_ns, weight_ns)]

    def _rests(self, strand: Strand, now_ns: int, weight_ns: int) -> bool:
        ident, calls = strand
        seen = self._seen.get(ident)
        if seen is None:
            self._meet(ident)
            return False
        try:
            used_ns = time.clock_gettime_ns(seen.clock_id)
        except OSError:
            self._seen.pop(ident, None)
            return False
        if used_ns != seen.used_ns:
            seen.used_ns, seen.counts = used_ns, None
        elif seen.counts is None or now_ns > seen.until_ns:
            # Noted when it was met resting once: of threads that run all the time nothing is.
            seen.counts, seen.until_ns = [], now_ns + (1 << 62)
        else:
            seen.count_again(calls, weight_ns)
            return True
        return False

    def of(self, ident: int, calls: list[Flight]) -> Seen | None:
        """Return where to note the look at a thread; None where the next may find another stack.

        Args:
            calls: those in flight on it. What one of them keeps for itself would not be counted again.
        """
        seen = self._seen.get(ident)
        if seen is None or seen.counts is None:
            return None
        if any(each.stacks is not None for each in calls):
            seen.counts = None
        return seen

    def _meet(self, ident: int) -> None:
        thread = getattr(sys.modules.get("threading"), "_active", {}).get(ident)
        native_id = getattr(thread, "native_id", None)
        if native_id is None:
            return  # nobody's: the stack of such a thread is walked each time
        if len(self._seen) >= _KEPT:
            self._seen.clear()
        clock_id = _clock_id(native_id)
        try:
            self._seen[ident] = Seen(clock_id, time.clock_gettime_ns(clock_id))
        except OSError:
            pass


def _clock_id(native_id: int) -> int:
    return ((~native_id) << 3) | _PER_THREAD | _SCHEDULED


def clocks_are_exact() -> bool:
    """Tell whether there are such clocks, and they advance whenever their thread runs, and not by ticks."""
    if sys.platform != "linux":
        return False
    clock_id = _clock_id(get_native_id())
    try:
        for _ in range(_READINGS):
            before_ns = time.thread_time_ns()
            between_ns = time.clock_gettime_ns(clock_id)
            if not before_ns < between_ns < time.thread_time_ns():
                return False
    except (OSError, OverflowError):
        return False
    return True
