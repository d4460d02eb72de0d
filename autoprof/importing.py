"""Our own imports inside the application's calls, and forks: a child must not be born with a module half imported.

importlib's lock of a module is held by the thread that imports it. In a child forked meanwhile there is no such thread,
and the next import of that module waits for ever (CPython, Lib/importlib/_bootstrap.py: `_ModuleLock` knows no fork).
An application that imports everything before it forks has nothing to fear, unless we import something later.
"""

from __future__ import annotations

import os
import sys
from time import monotonic

from autoprof.primitives import RLock, get_ident, nap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

LIMIT_S = 1.0
"""How long a fork and an import wait for each other: finders of the application may take part in an import."""

_OURS = os.path.dirname(os.path.abspath(__file__)) + os.sep
_IMPORTLIB = ("<frozen importlib._bootstrap>", "<frozen importlib._bootstrap_external>")
_GATES = ("_find_and_load", "_handle_fromlist", "_gcd_import")

_lock = RLock()


class Importing:
    """Around an import statement of ours that a call of the application's may be the first to reach."""

    def __enter__(self) -> None:
        _lock.acquire(True, LIMIT_S)

    def __exit__(self, *_: object) -> None:
        if _lock._is_owned():  # type: ignore[attr-defined]
            _lock.release()


importing = Importing()


def hold() -> None:
    """Wait before a fork until no thread imports on our account; let none begin."""
    global _lock
    until_s = monotonic() + LIMIT_S
    if not _lock.acquire(True, LIMIT_S):
        _lock = RLock()
        _lock.acquire()
    while _others_import() and monotonic() < until_s:
        nap(0.0002)


def release() -> None:
    """Let imports begin again: in the parent and in the child, by the thread that forked."""
    global _lock
    if _lock._is_owned():  # type: ignore[attr-defined]
        _lock.release()
    else:
        _lock = RLock()


def _others_import() -> bool:
    """Tell whether another thread is inside an import that a module of ours began."""
    own = get_ident()
    return any(_is_our_import(frame) for ident, frame in list(sys._current_frames().items()) if ident != own)


def _is_our_import(frame: FrameType | None) -> bool:
    begun = False
    while frame is not None:
        code = frame.f_code
        if code.co_filename in _IMPORTLIB:
            begun = (
                code.co_name in _GATES
            )  # else a loader executes a module: whoever called that one began it
        elif begun and code.co_filename.startswith(_OURS):
            return True
        elif not code.co_filename.endswith("importlib/__init__.py"):
            begun = False
        frame = frame.f_back
    return False
