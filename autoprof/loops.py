"""Whether callbacks wait in an event loop of asyncio: looked at from outside, with nothing scheduled on it.

A loop of CPython (Lib/asyncio/base_events.py) keeps the callbacks that could run in the deque `_ready`, without the one
that runs, and its timers in the heap `_scheduled`. Loops written in C, such as uvloop's, show neither and are left out.
"""

from __future__ import annotations

import weakref
from collections import deque
from sys import modules
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LATE_S = 0.005
"""A timer is waited for when it is overdue by so much; less is the accuracy of a sleeping loop."""

READY_MIN = 2
"""One callback that could run is what a loop is about to run: a look gets the GIL when the loop asks its selector."""

LOOPS_KEPT = 16

_known: dict[int, weakref.ref[Any]] = {}


def meet() -> None:
    """Remember the loop that runs on the calling thread, if one does."""
    asyncio = modules.get("_asyncio")
    if asyncio is None:
        return
    loop = asyncio._get_running_loop()
    if loop is None:
        return
    known = _known.get(id(loop))
    if known is not None and known() is loop:
        return
    if len(_known) >= LOOPS_KEPT:
        _known.clear()
    _known[id(loop)] = weakref.ref(loop)


def forget() -> None:
    """Know no loop: those of a forked child's parent do not run in the child."""
    _known.clear()


def waits() -> bool:
    """Tell whether, in a loop that runs, a callback could run now and does not."""
    return any(_waits(each()) for each in list(_known.values()))


def _waits(loop: Any) -> bool:
    try:
        found = object.__getattribute__(loop, "__dict__")  # no code of a subclass runs here
    except AttributeError:
        return False
    if found.get("_thread_id") is None:
        return False
    ready, scheduled = found.get("_ready"), found.get("_scheduled")
    if type(ready) is not deque or type(scheduled) is not list:
        return False
    if len(ready) >= READY_MIN:
        return True
    for timer in scheduled[:1]:
        when = getattr(timer, "_when", None)
        if type(when) is float and not getattr(timer, "_cancelled", True):
            return monotonic() - when > LATE_S
    return False
