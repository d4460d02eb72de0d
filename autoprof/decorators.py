"""The six policies as decorators; the decorated Python function stays the same object."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_OFF = ("0", "false", "no", "off")


def _apply(kind: str, function: Any, options: dict[str, Any]) -> Any:
    if os.environ.get("AUTOPROF_ENABLED", "").strip().lower() in _OFF:
        return function if function is not None else _same
    from autoprof.errors import OptionError
    from autoprof.policy import options_for

    try:
        complete = options_for(kind, **options)
    except OptionError as problem:
        from autoprof import decorated

        target = decorated.name_of(function) if function is not None else decorated.name_at(sys._getframe(2))
        if not target:
            raise
        raise OptionError(f"{target}: {problem}") from None

    def decorator(target: Any) -> Any:
        from autoprof import session

        return session.decorate(target, kind, complete)

    return decorator if function is None else decorator(function)


def _same(function: Any) -> Any:
    return function


def profile(function: Any = None, /, **options: Any) -> Any:
    """Measure a share of the calls (`rate`, default 0.01) with a strategy (default `sample`).

    Raises:
        OptionError: an option is unknown or out of range.
        TypeError: the decorated object is not a Python function or method.
    """
    return _apply("profile", function, options)


def profile_if_slow(threshold: Any = None, /, **options: Any) -> Any:
    """Keep the stacks of calls slower than `threshold` (a duration; a bare number is milliseconds).

    Raises:
        OptionError: `threshold` is missing, or an option is wrong.
    """
    if threshold is not None:
        options["threshold"] = threshold
    return _apply("profile_if_slow", None, options)


def profile_production(function: Any = None, /, **options: Any) -> Any:
    """Measure 0.1 % of the calls (`sample_rate`), pausing under load."""
    return _apply("profile_production", function, options)


def flame_graph(function: Any = None, /, **options: Any) -> Any:
    """Draw single calls as flame graphs, at most one each `every` (1 s)."""
    return _apply("flame_graph", function, options)


def profile_memory(function: Any = None, /, **options: Any) -> Any:
    """Measure what calls do to the process's memory."""
    return _apply("profile_memory", function, options)


def profile_calls(function: Any = None, /, **options: Any) -> Any:
    """Count the calls, and what they call."""
    return _apply("profile_calls", function, options)
