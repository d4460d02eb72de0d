"""Count the entries of one function inside one call of it, recursion included, and follow nothing else.

From 3.12 on `sys.monitoring` tells them by an event on this function's code alone, so only its callers pay (about
0.3 us an entry, 0.1 us in other threads); on 3.11 a `sys.setprofile` hook sees all calls of the thread.
"""

from __future__ import annotations

import os
import sys
from sys import _getframe, setprofile
from weakref import ref

from autoprof import arbiter, guard
from autoprof.flight import has_ended
from autoprof.frames import frame_of
from autoprof.primitives import RLock, current_greenlet, get_ident
from autoprof.rewrite.epilogue import first_resume

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

    from autoprof.flight import Flight

_TOOL_IDS = (4, 3)
"""0, 1, 2 and 5 are promised to others; the last two are free, and tools look for one from below."""

_NAME = "autoprof"
_monitoring: Any = getattr(sys, "monitoring", None)
_changing = RLock()
_active: dict[int, tuple[Entries, ...]] = {}
_tool_id: int | None = None
_prepared = False


class Entries:
    """Counts the entries of a flight's function inside that call."""

    def __init__(self, flight: Flight) -> None:
        self.code = flight.code
        self.resumable = flight.gate.generator_like
        self.ident = get_ident()
        self.here = current_greenlet()
        self.entered = 0
        # Weakly, as in the tracer, and last, since an interrupt may strike here.
        self.flight: Callable[[], Flight | None] = ref(flight, self._lost)

    def note(self, frame: FrameType) -> None:
        """Count a frame of the function that begins, if it belongs to the call."""
        if self._holds(frame):
            self.entered += 1

    def stop(self) -> int:
        """End it; return the count."""
        raise NotImplementedError

    def _lost(self, _: object) -> None:
        """Let go of a call that nobody will end."""
        arbiter.let_go(self.stop)

    def _holds(self, frame: FrameType | None) -> bool:
        if not self.resumable:
            # A plain call has its thread for itself until it ends, but for greenlets.
            return get_ident() == self.ident and current_greenlet() is self.here
        flight = self.flight()
        living = flight.living() if flight is not None and flight.living is not None else None
        root = frame_of(living) if living is not None else None
        while frame is not None and root is not None:
            if frame is root:
                return True
            frame = frame.f_back
        return False


def count(flight: Flight) -> Monitored | Hooked | None:
    """Start to count; `stop()` of the answer ends it and returns the count. None when a tool is at work."""
    found = Hooked(flight) if _monitoring is None else Monitored(flight)
    return found if found.start() else None


class Monitored(Entries):
    """Counts by an event on the function's code; any number at a time."""

    def start(self) -> bool:
        """Switch the event on; False when both tool ids are taken."""
        code = self.code
        with _changing:
            if not _take_tool():
                return False
            others = self._others()
            _active[id(code)] = (*others, self)
            if not others:
                _monitoring.set_local_events(_tool_id, code, _monitoring.events.PY_START)
        return True

    def stop(self) -> int:
        """Switch it off unless others count the same function."""
        code = self.code
        with _changing:
            others = self._others()
            if others:
                _active[id(code)] = others
            elif _active.pop(id(code), None) is not None:
                _monitoring.set_local_events(_tool_id, code, 0)
                if not _active:
                    _give_tool_back()
        self.flight = _over
        return self.entered

    def _others(self) -> tuple[Entries, ...]:
        """Return who else counts the function, but for those that an interrupt left behind."""
        known = _active.get(id(self.code), ())
        return tuple(each for each in known if each is not self and not has_ended(each.flight()))


def _take_tool() -> bool:
    global _tool_id, _prepared
    if _tool_id is not None:
        return True
    for tool_id in _TOOL_IDS:
        try:
            _monitoring.use_tool_id(tool_id, _NAME)
        except ValueError:
            continue
        _monitoring.register_callback(tool_id, _monitoring.events.PY_START, _begins)
        _tool_id = tool_id
        if not _prepared and hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=forget)
        _prepared = True
        return True
    return False


def _give_tool_back() -> None:
    global _tool_id
    tool_id, _tool_id = _tool_id, None
    if tool_id is not None:
        _monitoring.register_callback(tool_id, _monitoring.events.PY_START, None)
        _monitoring.free_tool_id(tool_id)


def _begins(code: Any, offset: int) -> None:
    """Be the callback of `sys.monitoring`."""
    try:
        for each in _active.get(id(code), ()):
            each.note(_getframe(1))
    except Exception as error:
        guard.report("entries", error)


def forget() -> None:
    """Start clean in a forked child: what was counted is the parent's call."""
    global _changing
    _changing = RLock()
    codes = [each[0].code for each in _active.values()]
    _active.clear()
    if _tool_id is not None:
        for code in codes:
            _monitoring.set_local_events(_tool_id, code, 0)
        _give_tool_back()


class Hooked(Entries):
    """Counts by a hook on this thread; one at a time.

    Attributes:
        measuring: False: another probe's call may be measured beside it, since it does not ask for times.
    """

    measuring = False
    hook: Any = None

    def __init__(self, flight: Flight) -> None:
        super().__init__(flight)
        code = flight.code
        start = 2 * (first_resume(code.co_code) or 0) if self.resumable else 0

        def hook(frame: FrameType, event: str, arg: Any) -> None:
            if event == "call" and frame.f_code is code and (not start or frame.f_lasti <= start):
                try:
                    self.note(frame)
                except Exception as error:
                    guard.report("entries", error)
            elif self.hook is None:
                arbiter.take_off(hook)

        self.hook = hook

    @property
    def ended(self) -> bool:
        """Whether the call died without a stop."""
        return self.flight() is None

    def start(self) -> bool:
        """Put the hook on; False when another tool is at work."""
        if not arbiter.acquire(self):
            self.flight = _over
            self.hook = None  # a cycle, which would keep the application's frames until the next collection
            return False
        setprofile(self.hook)
        return True

    def stop(self) -> int:
        """Take the hook off; in another thread it does so itself at its next event."""
        self.abandon()
        arbiter.release(self)
        self.flight = _over
        return self.entered

    def abandon(self) -> None:
        """Take the hook off, here or at its next event."""
        hook, self.hook = self.hook, None
        arbiter.take_off(hook)


def _over() -> None:
    """Stand in for the weak reference to a flight that was stopped."""
