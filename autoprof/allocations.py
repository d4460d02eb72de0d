"""Where memory is allocated: tracemalloc, for one call at a time, with the application always first.

An application that traces already goes on, and its own traces are read. One that begins to while ours runs gets the
tracer at once: while ours runs, `tracemalloc` says and does what it would without us. Beware: names bound earlier
(`from tracemalloc import start`) go past that.
"""

from __future__ import annotations

import os
import tracemalloc

from autoprof import clock
from autoprof.primitives import allocate_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    Sites = tuple[dict[str, int], dict[str, int]]
    """`file:line` → bytes alive, and → blocks alive: no containers in it, which gc would count as live objects."""

BEFORE_MAX_NS = 250_000_000
"""What reading the application's traces may take: they are read twice a call."""

_WAIT_S = 1.0
_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_OWN = frozenset((tracemalloc.__file__, "<unknown>"))
_start: Callable[..., Any] = tracemalloc.start
_stop: Callable[[], Any] = tracemalloc.stop
_is_tracing: Callable[[], bool] = tracemalloc.is_tracing
_get_traced_memory: Callable[[], tuple[int, int]] = tracemalloc.get_traced_memory
_slot = allocate_lock()
_running: Trace | None = None
_foreign_too_slow = False


class Trace:
    """The allocations of one call; other threads' are in it.

    Attributes:
        note: why there are no sites, as a sentence; empty when there are.
        peak_bytes: most that was allocated at a time since the call began; None in the application's traces.
        tracer_bytes: what our tracing itself has come to use in the call.
    """

    def __init__(self) -> None:
        self.note = ""
        self.peak_bytes: int | None = None
        self.tracer_bytes = 0
        self._ours = False
        self._before: Sites = ({}, {})
        self._sites: Sites | None = None
        self._claim = allocate_lock()
        self._done = allocate_lock()
        self._done.acquire()

    def _begin(self) -> None:
        global _foreign_too_slow
        if not _is_tracing():
            self._ours = True
            _cover()
            _start(1)
            self.tracer_bytes = -tracemalloc.get_tracemalloc_memory()
            return
        if _foreign_too_slow:
            self.note = "the application's own traces are too many to be read twice a call"
            return
        began_ns = clock.monotonic_ns()
        self._before = _sites(tracemalloc._get_traces())  # type: ignore[attr-defined]
        _foreign_too_slow = clock.monotonic_ns() - began_ns > BEFORE_MAX_NS

    def end(self, note: str = "") -> None:
        """Take the traces and let others have the tracer; the first of several callers does it.

        Args:
            note: given to end without taking them.
        """
        if not self._claim.acquire(False):
            return
        traces = None
        try:
            self.note = self.note or note
            if not self.note and not _is_tracing():
                self.note = "the application ended the tracing inside the call"
            if not self.note:
                traces = tracemalloc._get_traces()  # type: ignore[attr-defined]
            if self._ours:
                self.peak_bytes = _get_traced_memory()[1]
                self.tracer_bytes += tracemalloc.get_tracemalloc_memory()
        finally:
            if self._ours:
                _stop()
                _uncover()
            _release(self)
            try:
                self._sites = None if traces is None else _less(_sites(traces), self._before)
            finally:
                self._done.release()

    def sites(self) -> Sites | None:
        """Return what grew or shrank, after `end`; None, with `note`, when that is not known."""
        if not self._done.acquire(True, _WAIT_S):  # another thread ends it at the limit, this very moment
            self.note = self.note or "ending the trace took too long"
            return None
        return self._sites


def begin() -> Trace | None:
    """Begin to trace for one call; None while another call is traced."""
    global _running
    if not _slot.acquire(False):
        return None
    trace = _running = Trace()
    try:
        trace._begin()
    except BaseException:
        trace.end("tracing could not begin")
        raise
    return trace


def _release(trace: Trace) -> None:
    global _running
    if _running is trace:
        _running = None
        _slot.release()


def forget() -> None:
    """Start clean in a forked child, which inherits the tracing of its parent's call."""
    global _slot, _running
    trace, _running = _running, None
    _slot = allocate_lock()
    if trace is not None and trace._ours:
        trace._claim.acquire(False)
        _stop()
        _uncover()


def _sites(traces: Iterable[Any]) -> Sites:
    """Add up traces by the line that allocated, our own lines left out."""
    sums: dict[tuple[str, int], list[int]] = {}
    for _, size_bytes, frames, *_ in traces:
        both = sums.get(frames[0])
        if both is None:
            sums[frames[0]] = [size_bytes, 1]
        else:
            both[0] += size_bytes
            both[1] += 1
    named = [
        (f"{file}:{line}", both)
        for (file, line), both in sums.items()
        if not file.startswith(_PACKAGE) and file not in _OWN
    ]
    return {name: both[0] for name, both in named}, {name: both[1] for name, both in named}


def _less(now: Sites, before: Sites) -> Sites:
    """Return the differences, without the lines where there are none."""
    sizes, counts = (
        {place: new.get(place, 0) - old.get(place, 0) for place in new.keys() | old.keys()}
        for new, old in zip(now, before, strict=True)
    )
    changed = [place for place in sizes if sizes[place] or counts[place]]
    return {place: sizes[place] for place in changed}, {place: counts[place] for place in changed}


def _start_for_the_application(nframe: int = 1) -> None:
    """Be `tracemalloc.start` while ours runs: the application gets the tracer, our call loses its sites."""
    trace = _running
    if trace is not None and trace._ours:
        trace.end("the application began to trace inside the call")
    _start(nframe)


def _stop_for_the_application() -> None:
    """Be `tracemalloc.stop` while ours runs: for the application there is nothing to stop."""
    if not _only_ours():
        _stop()


def _is_the_application_tracing() -> bool:
    """Be `tracemalloc.is_tracing` while ours runs."""
    return not _only_ours() and _is_tracing()


def _traced_memory_for_the_application() -> tuple[int, int]:
    """Be `tracemalloc.get_traced_memory` while ours runs."""
    return (0, 0) if _only_ours() else _get_traced_memory()


def _only_ours() -> bool:
    return _running is not None and _running._ours


_COVERS: dict[str, tuple[Any, Any]] = {
    "start": (_start, _start_for_the_application),
    "stop": (_stop, _stop_for_the_application),
    "is_tracing": (_is_tracing, _is_the_application_tracing),
    "get_traced_memory": (_get_traced_memory, _traced_memory_for_the_application),
}
"""Name in tracemalloc → the real function, ours."""


def _cover() -> None:
    for name, (real, ours) in _COVERS.items():
        if getattr(tracemalloc, name) is real:
            setattr(tracemalloc, name, ours)


def _uncover() -> None:
    for name, (real, ours) in _COVERS.items():
        if getattr(tracemalloc, name) is ours:
            setattr(tracemalloc, name, real)
