"""A thread of ours: outside `threading`, interruptible in its sleep, and really gone when a fork comes.

From 3.12 on `os.fork()` warns an application that has more than one operating-system thread (`/proc/self/stat`). Ours
must not be the reason, so they end before a fork and start again after it.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os
import sys
from functools import partial
from time import monotonic

from autoprof import guard
from autoprof.primitives import allocate_lock, get_ident, get_native_id, nap, start_new_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


FORK_WAIT_S = 0.1
CHANGE_WAIT_S = 1.0
FORK_DELICATE_WAIT_S = 5.0
"""How long a fork waits for a thread of ours; for a change of policy; for a thread that must not be cut off."""

_FAULTS = ("SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV", "SIGSYS", "SIGTRAP")
_IMPORTLIB = "<frozen importlib._bootstrap>"


def _start_without_signals(work: Callable[[], None]) -> None:
    """Start a thread that takes no signal of the process: who blocks them and calls `sigwait` must get them all.

    Beware: setting the mask runs the application's handlers, which may raise.
    """
    mask = getattr(_signal, "pthread_sigmask", None)
    if mask is None:
        start_new_thread(work, ())
        return
    before = mask(_signal.SIG_BLOCK, ())
    faults = {getattr(_signal, name) for name in _FAULTS if hasattr(_signal, name)}
    try:
        mask(_signal.SIG_BLOCK, _signal.valid_signals() - faults)  # inherited by the new thread
        start_new_thread(work, ())
    finally:
        mask(_signal.SIG_SETMASK, before)


_CPROFILE = "cProfile"
_CPROFILE_NAP_S = 0.05
_monitoring = getattr(sys, "monitoring", None)
_profiler: Callable[[], str | None] = (
    partial(_monitoring.get_tool, 2) if _monitoring else partial(getattr, sys, "", None)
)


class Background:
    """One run of a background thread; for another run make another object.

    Attributes:
        wanted: False once `stop` was called; the work looks at it, or at what `pause` returns.
        delicate: set by the work while no fork should come.
        running: between the start and the end of the work.
    """

    def __init__(self, name: str, work: Callable[[Background], None]) -> None:
        self.name = name
        self.wanted = True
        self.running = self.delicate = False
        self._work = work
        self._native_id = self._ident = 0
        self._alarm = allocate_lock()
        self._alarm.acquire()
        self._profilers = iter(_profiler, None)
        self._naps = iter(partial(self._alarm.acquire, True, _CPROFILE_NAP_S), None)

    def start(self) -> bool:
        """Start the thread; False where there can't be one (interpreter shutdown, WebAssembly, limits)."""
        self.running = True
        try:
            # Not threading.Thread: ours must not show in the application's threading.enumerate().
            _start_without_signals(self._run)
        except Exception as error:
            self.running = False
            if guard.is_foreign(error):
                raise  # a timeout of the application's that struck here
            if sys.platform != "emscripten" and not sys.is_finalizing() and "shutdown" not in str(error):
                guard.count(f"start of the {self.name}", error)
        return self.running

    def _run(self) -> None:
        ident = self._ident = get_ident()
        guard.suppressed.add(ident)
        try:
            self._native_id = get_native_id()
            self._work(self)
        except BaseException as error:  # a dying thread must not print into the application's stderr
            guard.count(self.name, error)
        finally:
            guard.suppressed.discard(ident)
            self.running = False

    def pause(self, seconds: float = -1.0) -> bool:
        """Sleep until the time is over or somebody calls `wake`; without a time, until then. Go on?"""
        self._alarm.acquire(True, seconds)
        # Beware: from 3.12 on cProfile keeps one stack for all threads; a call here, or a return, is taken for the
        # application's. Being asked for the next item by `for` is neither: no event.
        for profiler in self._profilers:
            if profiler != _CPROFILE or not self.wanted:
                break
            for _ in self._naps:
                break
        else:
            self._profilers = iter(_profiler, None)  # an iterator that has ended stays so
        return self.wanted

    def wake(self) -> None:
        """End the present or the next pause."""
        try:
            self._alarm.release()
        except RuntimeError:
            pass  # awake already

    def stop(self, wait_s: float = 0.0, delicate_wait_s: float = 0.0) -> bool:
        """Ask the thread to end and wait for it; True when it is gone, from the operating system too.

        Args:
            delicate_wait_s: how long to wait while it must not be cut off, see `is_delicate`.
        """
        self.wanted = False
        self.wake()
        began_s = monotonic()
        while self._is_there():
            waited_s = monotonic() - began_s
            if waited_s >= wait_s and (waited_s >= delicate_wait_s or not self.is_delicate()):
                return False
            nap(0.0002)
        return True

    def is_delicate(self) -> bool:
        """Tell whether a fork now would leave the child waiting for ever: for an import's lock, or for SQLite's."""
        if self.delicate:
            return True
        frame = sys._current_frames().get(self._ident)
        while frame is not None:
            if frame.f_code.co_filename == _IMPORTLIB:
                return True
            frame = frame.f_back
        return False

    def _is_there(self) -> bool:
        return self.running or (
            bool(self._native_id) and os.path.exists(f"/proc/self/task/{self._native_id}")
        )
