"""Imports that we begin inside the application's calls, and forks: no child is born with a module half imported.

importlib's lock of a module is held by the thread that imports it. In a child forked meanwhile there is no such thread,
and the next import of that module waits for ever (CPython, Lib/importlib/_bootstrap.py: `_ModuleLock` knows no fork).
An application that imports everything before it forks has nothing to fear, unless we import something later.
"""

from __future__ import annotations

from _frozen_importlib import _gcd_import  # type: ignore[attr-defined]

from autoprof.primitives import RLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LIMIT_S = 1.0
"""How long a fork and an import wait for each other: finders of the application may take part in an import."""

_lock = RLock()


def load(name: str) -> Any:
    """Return a module, whole; import it if need be, while no fork comes.

    Not an import statement: an application that has replaced `__import__`, as tests do, must not be asked.
    """
    _lock.acquire(True, LIMIT_S)
    try:
        return _gcd_import(name)
    finally:
        if _lock._is_owned():  # type: ignore[attr-defined]
            _lock.release()


def hold() -> None:
    """Wait before a fork for imports under way, and let none begin."""
    global _lock
    if not _lock.acquire(True, LIMIT_S):
        _lock = RLock()
        _lock.acquire()


def release() -> None:
    """Let imports begin again: in the parent and in the child, by the thread that forked."""
    global _lock
    if _lock._is_owned():  # type: ignore[attr-defined]
        _lock.release()
    else:
        _lock = RLock()
