"""The telemetry bus: blinker signals in the default namespace, receivers kept apart from the application.

`autoprof.signals.stop` and `blinker.signal("autoprof.stop")` are one object. A receiver is called as
`receiver(sender, *, measurements, metadata)` on the thread of the measured call; sender is the target.
"""

from __future__ import annotations

import blinker

from autoprof import clock, events, guard
from autoprof.primitives import strand_ident

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

SLOW_RECEIVER_NS = 50_000_000

start = blinker.signal("autoprof.start")
stop = blinker.signal("autoprof.stop")
exception = blinker.signal("autoprof.exception")
sample = blinker.signal("autoprof.sample")
slow_operation = blinker.signal("autoprof.slow_operation")
production = blinker.signal("autoprof.production")
memory = blinker.signal("autoprof.memory")
calls = blinker.signal("autoprof.calls")
complete = blinker.signal("autoprof.complete")
policy_loaded = blinker.signal("autoprof.policy_loaded")
policy_rejected = blinker.signal("autoprof.policy_rejected")
probe_installed = blinker.signal("autoprof.probe_installed")
probe_removed = blinker.signal("autoprof.probe_removed")
paused = blinker.signal("autoprof.paused")
resumed = blinker.signal("autoprof.resumed")
shed = blinker.signal("autoprof.shed")
internal_error = blinker.signal("autoprof.internal_error")

__all__ = sorted((*events.NAMES, "connect", "disconnect"))

_by_name: dict[str, blinker.Signal] = {name: blinker.signal(events.PREFIX + name) for name in events.NAMES}
_slow_logged: set[str] = set()
sent = 0
"""Signals sent so far; more or less, under threads: it tells whether there was one."""


def connect(receiver: Callable[..., Any], *names: str, sender: str | None = None, weak: bool = True) -> None:
    """Connect a receiver to several signals by name, to all of them when no name is given.

    Raises:
        ValueError: no signal has that name.
    """
    for name in names:
        if name not in _by_name:
            raise ValueError(f"no signal is called {name!r}; there are {', '.join(events.NAMES)}")
    for name in names or events.NAMES:
        _by_name[name].connect(receiver, sender=blinker.ANY if sender is None else sender, weak=weak)


def disconnect(receiver: Callable[..., Any], *names: str, sender: str | None = None) -> None:
    """Undo `connect` with the same arguments; receivers that are not connected are no error."""
    for name in names or events.NAMES:
        _by_name[name].disconnect(receiver, sender=blinker.ANY if sender is None else sender)


def listening(name: str) -> bool:
    """Tell whether anybody receives a signal."""
    return bool(_by_name[name].receivers)


def send(name: str, sender: str, measurements: dict[str, Any], metadata: dict[str, Any]) -> None:
    """Call every receiver of a signal; none of them sees another's exception, the application sees none.

    KeyboardInterrupt alone passes. What a receiver calls is not measured.
    """
    global sent
    sent += 1
    signal = _by_name[name]
    ident = strand_ident()
    entered = ident not in guard.suppressed
    guard.suppressed.add(ident)
    try:
        for receiver in signal.receivers_for(sender):
            _call(name, receiver, sender, measurements, metadata)
    finally:
        if entered:
            guard.suppressed.discard(ident)


def _call(
    name: str,
    receiver: Callable[..., Any],
    sender: str,
    measurements: dict[str, Any],
    metadata: dict[str, Any],
) -> None:
    began_ns = clock.monotonic_ns()
    try:
        receiver(sender, measurements=measurements, metadata=metadata)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        where = f"receiver of {name}"
        guard.internal_errors[where] = guard.internal_errors.get(where, 0) + 1
        if name != "internal_error" and where not in _slow_logged:
            _slow_logged.add(where)
            guard.warn(f"a receiver of autoprof.{name} raised {guard.named(error)}")
    took_ns = clock.monotonic_ns() - began_ns
    if took_ns > SLOW_RECEIVER_NS and name not in _slow_logged:
        _slow_logged.add(name)
        took_ms = took_ns // 1_000_000
        guard.warn(f"a receiver of autoprof.{name} took {took_ms} ms; it runs inside the measured call")
