"""Forked processes that leave by `os._exit`, without atexit: who tells them to write what is left first."""

from __future__ import annotations

import sys

from autoprof import guard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from autoprof.flusher import Flusher

_FAMILY = ("multiprocessing.util", "billiard.util")
_connected = False


def close_with_finalizers(flusher: Flusher) -> None:
    """Have a forked child of multiprocessing, or of Celery's copy of it, write when its finalizers run."""
    for name in _FAMILY:
        util = sys.modules.get(name)
        if util is None:
            continue

        def register(_: object, finalize: Callable[..., object] = util.Finalize) -> None:
            finalize(None, flusher.close, exitpriority=-100)

        try:
            util.register_after_fork(flusher, register)
        except Exception as error:
            guard.report("multiprocessing", error)


def close_with_celery(close: Callable[..., None]) -> None:
    """Have the processes of Celery's pool write when they are told to end: they run no finalizers.

    Beware: connected before the fork, once. In the child another thread of the parent could have had the signal's lock.
    """
    global _connected
    signals = sys.modules.get("celery.signals")
    if signals is None or _connected:
        return
    _connected = True
    try:
        signals.worker_process_shutdown.connect(close, weak=False, dispatch_uid="autoprof")
    except Exception as error:
        guard.report("celery", error)
