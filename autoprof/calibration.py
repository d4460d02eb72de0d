"""Measure what a sampled call and a stopwatch cost on this machine, on a background thread, in the first seconds.

A function of our own is called a hundred times through the real thing, under the processor clock of the thread:
waiting for the GIL, or for a core, does not count. What shares the core at that moment does, by a factor of two, so it
is done a few times over, and the cheapest is taken. The budget pays for it in the very seconds in which it pays its
advance back: so each is measured only where calls are measured that way.
"""

from __future__ import annotations

import weakref
from types import FunctionType

from autoprof import calls, clock, ends, guard, stopwatch
from autoprof.costs import FEWEST, prices, spans
from autoprof.gate import Gate, TimedGate
from autoprof.inline import InlineGate
from autoprof.primitives import get_ident
from autoprof.probe import IF_SLOW, Probe
from autoprof.sampler import recorder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from autoprof.installer import Installer

_ROUNDS = 4
_BATCHES = 3
_OPENED = 40
_TIMED = 250
_LEAST_NS, _MOST = 300.0, 20.0
"""Below the one, or above so many times the usual figure, it is the clock that is wrong."""


def _subject() -> None:
    """Do nothing: what it takes under a gate is what the gate takes."""


def calibrate(installer: Installer) -> None:
    """Replace the usual prices by this machine's, once calls are being measured."""
    opens = prices.rounds < _ROUNDS and installer.made
    times = prices.timed_rounds < _ROUNDS and recorder.watch and installer.backend == "splice"
    if not recorder.ticks or not (opens or times):
        return
    ident = get_ident()
    guard.suppressed.discard(ident)  # else our own thread is not measured
    try:
        if opens:
            _measure_opened(installer.backend == "splice")
        if times:
            _measure_timed()
    finally:
        guard.suppressed.add(ident)


def _measure_opened(spliced: bool) -> None:
    prices.rounds += 1
    again = prices.rounds > 1
    bare_ns = _cheapest(_copy(), _OPENED)
    probe, gate, opened = _opened(spliced)
    before = spans.copy()
    spans.clear()
    opened_ns = _cheapest(opened, _OPENED) - bare_ns
    span_ns = _usual(spans.copy())
    spans.clear()
    spans.extend(before)
    _part(probe, gate)
    if probe.profiled < _OPENED * _BATCHES:  # somebody else's tracer was in the way
        return
    if _LEAST_NS < opened_ns < _MOST * prices.warm_ns:
        prices.warm_ns = min(opened_ns, prices.warm_ns) if again else opened_ns
        if span_ns:
            prices.warm_span_ns = min(span_ns, prices.warm_span_ns or span_ns)
        prices.follow()


def _measure_timed() -> None:
    prices.timed_rounds += 1
    probe, gate, timed = _timed()
    timed_ns = _cheapest(timed, _TIMED) - _cheapest(_copy(), _TIMED)
    _part(probe, gate)
    if 0.0 < timed_ns < _MOST * prices.stopwatch_ns:
        again = prices.timed_rounds > 1
        prices.stopwatch_ns = min(timed_ns, prices.stopwatch_ns) if again else timed_ns


def _part(probe: Probe, gate: Gate) -> None:
    """Leave no cycle behind: an application may look at what its garbage collector finds."""
    probe.gates, gate.probes = (), ()
    if isinstance(gate, TimedGate):
        gate.timer = None


def _usual(taken: Iterable[int]) -> float:
    """Return what a span takes when nothing comes in between; 0 when there are too few to tell."""
    ordered = sorted(taken)
    return float(ordered[len(ordered) // 4]) if len(ordered) >= FEWEST else 0.0


def _copy() -> Any:
    return FunctionType(_subject.__code__.replace(), globals(), "_subject")


def _cheapest(function: Callable[[], None], count: int) -> float:
    """Return nanoseconds a call, in the best of some batches."""
    best_ns = float("inf")
    for _ in range(_BATCHES):
        numbers = range(count)
        began_ns = clock.thread_ns()
        for _ in numbers:
            function()
        best_ns = min(best_ns, (clock.thread_ns() - began_ns) / count)
    return best_ns


def _private_probe(kind: str, options: dict[str, Any]) -> Probe:
    probe = Probe("autoprof.calibration:_subject", "none", kind, None, options)
    probe.sampled = probe.emits = False
    probe.price_ns = 0.0
    return probe


def _opened(spliced: bool) -> tuple[Probe, Gate, Any]:
    gate = (InlineGate if spliced else Gate)(calls.begin, ends.finish, ends.unwind)
    probe = _private_probe("profile", {"rate": 1.0})
    function = _behind(gate, spliced)
    probe.add(gate)
    gate.retune(1.0)
    return probe, gate, function


def _timed() -> tuple[Probe, Gate, Any]:
    gate = TimedGate(calls.begin, ends.finish, ends.unwind, stopwatch.slow, stopwatch.slow_raised)
    probe = _private_probe(IF_SLOW, {"rate": 1.0, "threshold_ns": 10**18})
    function = _behind(gate, True)
    probe.add(gate)
    gate.close()
    gate.time_calls(True)
    return probe, gate, function


def _behind(gate: Gate, spliced: bool) -> Any:
    function = _copy()
    code = gate.original = function.__code__
    gate.module, gate.qualname = __name__, "_subject"
    if not spliced:
        from autoprof.rewrite.decorate import wrap

        gate.code = lambda: code
        return wrap(function, gate)
    from autoprof.rewrite.splice import splice

    new = splice(code, gate)
    gate.code = weakref.ref(new)
    function.__code__ = new
    return function
