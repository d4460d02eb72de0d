"""Never break the host: internal failures are counted, logged once, swallowed; and never profile ourselves."""

from __future__ import annotations

import os
import sys

from autoprof.importing import load
from autoprof.primitives import get_ident, strand_ident

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType

internal_errors: dict[str, int] = {}
"""Failures of ours by the place they happened at, for `status` and `doctor`."""

suppressed: set[int] = set()
"""Threads (by ident) that are inside autoprof or a receiver: nothing is measured there."""

listeners: list[object] = []
"""Called as `listener(where, error)` after a failure was counted (the session sends `internal_error`)."""

_logged: set[str] = set()

_STDLIB = os.path.dirname(os.__file__) + os.sep
_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_HOMES = frozenset(("autoprof", "blinker", "psutil", "pyinstrument", "yaml"))
"""Where exceptions that our own frames raise are defined, besides the standard library."""


def forget() -> None:
    """Start clean in a forked child: of the parent's threads only the one that forked is there."""
    suppressed.intersection_update((strand_ident(),))


def strict() -> bool:
    """Tell whether internal failures are raised in the caller (AUTOPROF_STRICT)."""
    return os.environ.get("AUTOPROF_STRICT", "").strip().lower() in ("1", "true", "yes", "on")


def report(where: str, error: BaseException) -> None:
    """Count a failure of ours; log it once per place; raise it only under AUTOPROF_STRICT.

    Never raises otherwise, not even when logging is broken or memory is short; but what came from outside and
    only happened to hit us (see `is_foreign`) goes on to the application.
    """
    if is_foreign(error):
        raise error
    note(where, error)
    if strict():
        raise error


def note(where: str, error: BaseException) -> None:
    """Count a failure, log it once, tell listeners: `report` for a place where nothing can be raised."""
    try:
        count(where, error)
        for listener in listeners:
            listener(where, error)  # type: ignore[operator]
    except Exception:
        internal_errors["guard"] = internal_errors.get("guard", 0) + 1


def is_foreign(error: BaseException) -> bool:
    """Tell whether an exception is the application's: from its signal handler, or thrown into the thread.

    A timeout by `signal.alarm` or `PyThreadState_SetAsyncExc` must reach the application wherever it strikes.
    """
    traceback = error.__traceback__
    if traceback is None:
        return False
    handlers = _handler_codes()
    while True:
        if traceback.tb_frame.f_code in handlers:
            return True
        if traceback.tb_next is None:
            break
        traceback = traceback.tb_next
    place = traceback.tb_frame.f_code.co_filename
    if not place.startswith((_PACKAGE, _STDLIB, "<frozen ")) or "-packages" in place.removeprefix(_PACKAGE):
        return False  # a library of ours raised it, or code of the application that ours has called
    home = type(error).__module__.partition(".")[0]
    return type(error) is TimeoutError or (home not in _HOMES and home not in sys.stdlib_module_names)


def _handler_codes() -> set[CodeType]:
    """Return the codes of the application's signal handlers: Python functions and methods."""
    signal = sys.modules.get("signal")
    if signal is None:
        return set()
    handlers = [signal.getsignal(each) for each in signal.valid_signals()]
    return {each.__code__ for each in handlers if hasattr(each, "__code__")}


def count(where: str, error: BaseException) -> None:
    """Count a failure and log it once, in a place that can't raise even under AUTOPROF_STRICT."""
    try:
        internal_errors[where] = internal_errors.get(where, 0) + 1
        if where not in _logged:
            _logged.add(where)
            warn(f"internal error in {where}: {named(error)}; autoprof goes on without it")
    except Exception:  # at the recursion limit not even the log can be asked for
        internal_errors["guard"] = internal_errors.get("guard", 0) + 1


def named(error: BaseException) -> str:
    """Return an error's type and text on one line, whatever its text holds and even if it has none."""
    try:
        text = str(error)[:1000]
    except Exception:
        text = "its text can't be had"
    shown = "".join([each if each.isprintable() else f"\\u{ord(each):04x}" for each in text])
    return f"{type(error).__name__}: {shown}"


def warn(message: str) -> None:
    """Log one WARNING on the `autoprof` logger, unmeasured; swallow what a handler raises."""
    _log(30, message)


def inform(message: str) -> None:
    """Log one INFO line on the `autoprof` logger, only if the application has loaded logging."""
    if "logging" in sys.modules:
        _log(20, message)


def threads_of_python() -> dict[int, object]:
    """Return what `threading.enumerate` lists, by ident: ours must not be in it."""
    found: dict[int, object] = getattr(sys.modules.get("threading"), "_active", {})
    return found


def _log(level: int, message: str) -> None:
    ident = strand_ident()
    entered = ident not in suppressed
    suppressed.add(ident)
    try:
        logger = load("logging").getLogger("autoprof")
        known = get_ident() in threads_of_python()
        logger.log(level, "%s", message)
        if not known:
            threads_of_python().pop(
                get_ident(), None
            )  # logging asks for the thread's name, which makes it up
    except Exception:
        internal_errors["log"] = internal_errors.get("log", 0) + 1
    finally:
        if entered:
            suppressed.discard(ident)
