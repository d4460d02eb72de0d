"""The thread primitives as C made them, and who runs here: a thread, or a greenlet on one.

gevent and eventlet put stand-ins into `_thread` that switch greenlets. Ours must not: a lock of ours is taken inside
the application's calls, and our threads have to run while its greenlets wait. When autoprof is imported first, nothing
is patched yet; else a second instance of the built-in module is made, which nobody has patched.
"""

from __future__ import annotations

import _thread
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

_PATCHED = ("allocate_lock", "get_ident", "start_new_thread")


def _unpatched(module: ModuleType) -> ModuleType:
    """Return the module, or another instance of it when somebody has replaced some of its functions."""
    builtin = type(len)
    if all(type(getattr(module, name)) is builtin for name in _PATCHED):
        return module
    from _frozen_importlib import BuiltinImporter
    from _imp import create_builtin, exec_builtin

    spec = BuiltinImporter.find_spec(module.__name__)
    assert spec is not None
    fresh = create_builtin(spec)
    exec_builtin(fresh)
    return fresh


_real: Any = _unpatched(_thread)

RLock = _thread.RLock
"""Neither gevent nor eventlet replaces it here."""

allocate_lock: Callable[[], _thread.LockType] = _real.allocate_lock
get_ident: Callable[[], int] = _real.get_ident
interrupt_main: Callable[[], None] = _real.interrupt_main
start_new_thread: Callable[..., int] = _real.start_new_thread
get_native_id: Callable[[], int] = getattr(_real, "get_native_id", int)
"""0 where threads have no number in the operating system."""

GREENLET = "greenlet._greenlet"

getcurrent: Callable[[], Any] | None = None
"""Of the package greenlet; None until somebody has asked for the strand while it was there."""


def nap(seconds: float) -> None:
    """Sleep without letting greenlets switch: `time.sleep` may be patched."""
    lock = allocate_lock()
    lock.acquire()
    lock.acquire(True, seconds)


def current_greenlet() -> Any:
    """Return the greenlet that runs; None where the package is not in use."""
    global getcurrent
    if getcurrent is None:
        module = sys.modules.get(GREENLET)
        getcurrent = getattr(module, "getcurrent", None)  # it may be half imported
        if getcurrent is None:
            return None
    return getcurrent()


def strand_ident() -> int:
    """Return a number of what runs here, different from that of anything else alive.

    It is the thread's ident, but in a greenlet other than the thread's first the address of the greenlet.
    """
    if getcurrent is None and GREENLET not in sys.modules:
        return get_ident()
    greenlet = current_greenlet()
    return get_ident() if greenlet is None or greenlet.parent is None else id(greenlet)
