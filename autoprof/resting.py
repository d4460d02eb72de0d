"""Threads that have not run since they were last looked at: they stand where they stood.

Most threads of a service wait. Reading the processor time of one takes a fifth of what walking its stack does, and
where it has not grown nothing of the thread has changed, so that the look before counts once more.

Linux numbers the processor clock of a thread by the thread (`make_thread_cpuclock`, include/linux/posix-timers.h). To
ask for that of a thread that is no more is an error, unlike `pthread_getcpuclockid`, which follows a dangling pointer.
"""

from __future__ import annotations

import sys
import time
from math import inf
from os import getpid

from autoprof.primitives import get_native_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from autoprof.flight import Flight

_PER_THREAD, _SCHEDULED = 4, 2
_KEPT = 1_000
_READINGS = 10


class Seen:
    """The last look at one thread.

    Attributes:
        clock_id: of its processor time, which was `used_ns` before the look.
        rested: whether it had not run since the look before: of threads that run all the time nothing is kept.
        kept: what the look has found; None when nothing is kept.
    """

    __slots__ = ("clock_id", "kept", "rested", "used_ns")

    def __init__(self, clock_id: int, used_ns: int) -> None:
        self.clock_id, self.used_ns = clock_id, used_ns
        self.rested = False
        self.kept: Any = None


class Resting:
    """What was seen of each thread, as long as it has not run. What is kept should hold no calls, and no frames."""

    def __init__(self) -> None:
        self._seen: dict[int, Seen] = {}
        self._exact: bool | None = None

    def forget(self) -> None:
        """Have every thread walked at the next look."""
        self._seen.clear()

    def kept(self, ident: int) -> Any:
        """Return what `keep` was given; None when the thread has run since, or may have. Before each look."""
        seen = self._seen.get(ident)
        if seen is None:
            self._meet(ident)
            return None
        try:
            used_ns = time.clock_gettime_ns(seen.clock_id)
        except OSError:
            self._seen.pop(ident, None)
            return None
        seen.rested = used_ns == seen.used_ns
        if not seen.rested:
            seen.used_ns, seen.kept = used_ns, None
        return seen.kept

    def wants(self, ident: int) -> bool:
        """Tell whether a thread rests, so that a look at it is worth to be kept."""
        seen = self._seen.get(ident)
        return seen is not None and seen.rested

    def keep(self, ident: int, what: Any) -> None:
        """Keep what a look has found on a thread that rests."""
        seen = self._seen.get(ident)
        if seen is not None and seen.rested:
            seen.kept = what

    def _meet(self, ident: int) -> None:
        if self._exact is None:
            self._exact = clocks_are_exact()
        if not self._exact:
            return
        native_id = _native_id(ident)
        if native_id is None:
            return  # nobody's: the stack of such a thread is walked each time
        if len(self._seen) >= _KEPT:
            self._seen.clear()
        clock_id = _clock_id(native_id)
        try:
            self._seen[ident] = Seen(clock_id, time.clock_gettime_ns(clock_id))
        except OSError:
            pass


class Counted:
    """The sums that a look at the calls of one thread has added to.

    Attributes:
        until_ns: when the first of them is not looked at any more.
    """

    __slots__ = ("_sums", "until_ns")

    def __init__(self) -> None:
        self._sums: list[tuple[list[int], Any, int, float]] = []
        self.until_ns = inf

    def note(self, call: Flight, place: int, probe: Any, sums: list[int]) -> None:
        """Take in what was added to: the samples and nanoseconds of a stack.

        Args:
            place: of the call in its thread's list, counted from the end.
        """
        weight = call.weights.get(probe, 1.0) if call.weights else 1.0
        self._sums.append((sums, probe, place, weight))
        self.until_ns = min(self.until_ns, call.started_ns + min(call.limit_ns, probe.limit_ns))

    def count_again(self, calls: list[Flight], weight_ns: int) -> None:
        """Add the same look once more."""
        for sums, probe, place, weight in self._sums:
            sums[0] += 1
            sums[1] += weight_ns if weight == 1.0 else int(weight_ns * weight)
            probe.samples += 1
            if place <= len(calls):  # else the thread runs again, just now
                calls[-place].samples += 1


def _native_id(ident: int) -> int | None:
    """Return what the operating system calls a thread, if `threading` knows. Runs no code of the application's classes.

    Beware: after a fork the main thread's object still has the number that its thread had in the parent.
    """
    threading = sys.modules.get("threading")
    thread = getattr(threading, "_active", {}).get(ident)
    if thread is None:
        return None
    found: object = object.__getattribute__(thread, "__dict__").get("_native_id")
    if type(found) is not int or (thread is getattr(threading, "_main_thread", None) and found != getpid()):
        return None
    return found


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
