"""A thread of ours: outside `threading`, interruptible in its sleep, and really gone when a fork comes.

From 3.12 on `os.fork()` warns an application that has more than one operating-system thread (`/proc/self/stat`). Ours
must not be the reason, so they end before a fork and start again after it.
"""

from __future__ import annotations

import os
import sys
from _thread import allocate_lock, get_ident, start_new_thread
from time import monotonic, sleep

from autoprof import guard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

try:
    from _thread import get_native_id
except ImportError:  # no threads to speak of

    def get_native_id() -> int:
        """Return 0: this platform does not number its threads."""
        return 0


class Background:
    """One run of a background thread; for another run make another object.

    Attributes:
        wanted: False once `stop` was called; the work looks at it, or at what `pause` returns.
        running: between the start and the end of the work.
    """

    def __init__(self, name: str, work: Callable[[Background], None]) -> None:
        self.name = name
        self.wanted = True
        self.running = False
        self._work = work
        self._native_id = 0
        self._alarm = allocate_lock()
        self._alarm.acquire()

    def start(self) -> bool:
        """Start the thread; False where there can't be one (interpreter shutdown, WebAssembly, limits)."""
        self.running = True
        try:
            # Not threading.Thread: ours must not show in the application's threading.enumerate().
            start_new_thread(self._run, ())
        except Exception as error:
            self.running = False
            if sys.platform != "emscripten" and not sys.is_finalizing() and "shutdown" not in str(error):
                guard.count(f"start of the {self.name}", error)
        return self.running

    def _run(self) -> None:
        ident = get_ident()
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
        return self.wanted

    def wake(self) -> None:
        """End the present or the next pause."""
        try:
            self._alarm.release()
        except RuntimeError:
            pass  # awake already

    def stop(self, wait_s: float = 0.0) -> bool:
        """Ask the thread to end and wait for it; True when it is gone, from the operating system too."""
        self.wanted = False
        self.wake()
        deadline_s = monotonic() + wait_s
        while self._is_there():
            if monotonic() >= deadline_s:
                return False
            sleep(0.0002)
        return True

    def _is_there(self) -> bool:
        return self.running or (
            bool(self._native_id) and os.path.exists(f"/proc/self/task/{self._native_id}")
        )
