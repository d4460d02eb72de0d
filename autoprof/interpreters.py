"""Subinterpreters: autoprof refuses to run in them and says why; the main interpreter goes on."""

from __future__ import annotations

import _thread
import os

from autoprof import guard

_TOLD_VARIABLE = "AUTOPROF_SUBINTERPRETER_TOLD"

REASON = (
    "autoprof does nothing in a subinterpreter: forks, signals and the store's file locks belong to the process, and "
    "two copies of autoprof would get into each other's way; the main interpreter is profiled as before"
)


def is_main() -> bool:
    """Tell whether this is the process' main interpreter."""
    ask = getattr(_thread, "_is_main_interpreter", None)
    if ask is not None:
        return bool(ask())
    try:
        import _xxsubinterpreters as interpreters  # type: ignore[import-not-found]  # 3.11 has no other way
    except ImportError:
        return True
    return bool(interpreters.get_current() == interpreters.get_main())


def refused() -> bool:
    """Tell whether autoprof must stay off here; the first subinterpreter of a process logs the reason."""
    if is_main():
        return False
    # Every interpreter has its own modules; what they share is the environment.
    if os.environ.get(_TOLD_VARIABLE) != str(os.getpid()):
        os.environ[_TOLD_VARIABLE] = str(os.getpid())
        guard.warn(REASON)
    return True
