"""What runs when a call under the stopwatch was slow, at its end, in its thread."""

from __future__ import annotations

from sys import _getframe, getprofile, modules

from autoprof import arbiter, flight, gate, guard, telling
from autoprof.calls import count_starved, other_profiler
from autoprof.clock import monotonic_ns
from autoprof.primitives import strand_ident
from autoprof.sampler import recorder
from autoprof.turns import close_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

    from autoprof.gate import TimedGate
    from autoprof.probe import Probe


def slow(gate_: TimedGate, started_s: float, elapsed_s: float, result: object) -> None:
    """Hear of a slow call that returned."""
    try:
        _told(gate_, started_s, elapsed_s, _getframe(1), type(result), None)
    except (RecursionError, MemoryError) as failure:
        if isinstance(failure, MemoryError) and gate_.timer is not None:
            count_starved((gate_.timer,))
        raise  # the prologue's own: the call stays untold
    except Exception as failure:
        guard.report("stopwatch", failure)


def slow_raised(gate_: TimedGate, started_s: float, elapsed_s: float, error: BaseException) -> None:
    """Hear of a slow call that raised."""
    try:
        _told(gate_, started_s, elapsed_s, _getframe(1), None, error)
    except (RecursionError, MemoryError) as failure:
        if isinstance(failure, MemoryError) and gate_.timer is not None:
            count_starved((gate_.timer,))
        raise  # the prologue's own: the call stays untold
    except Exception as failure:
        guard.report("stopwatch", failure)


def _told(
    gate_: TimedGate,
    started_s: float,
    elapsed_s: float,
    frame: FrameType,
    result: type | None,
    error: BaseException | None,
) -> None:
    entered_ns = monotonic_ns()
    probe: Probe | None = gate_.timer
    ident = strand_ident()
    if probe is None or probe.state != "installed" or ident in guard.suppressed or started_s < flight.born_s:
        return
    duration_ns = int(elapsed_s * 1e9)
    probe.slow += 1
    probe.record(duration_ns, 0, 0)  # the gate has added it to the total
    stacks, samples = recorder.watch.take(frame, int(started_s * 1e9))
    if other_profiler(gate_) and not arbiter.is_ours(getprofile()):  # our own tracer hides our frames
        probe.skip("other_profiler")
        return
    if probe.strategy is not None and _is_measured(gate_, probe, ident):
        return  # the end of that measurement tells all
    kept = probe.strategy is None and not probe.closed_until_ns and gate._random.random() < probe.keeps
    if kept:
        probe.profiled += 1
        if stacks:
            recorder.keep(probe, stacks)
        if probe.every_ns:
            close_for(probe, probe.every_ns)
    if probe.emits and "blinker" in modules and any(telling.ears):
        telling.send_end(samples, probe, duration_ns, result, error, {}, kept)
    probe.charge(monotonic_ns() - entered_ns)


def _is_measured(gate_: TimedGate, probe: Probe, ident: int) -> bool:
    """Tell whether a strategy has been at work since this call's start."""
    for call in flight.in_flight.get(ident, ())[-1:]:
        if call.gate is gate_ and any(measured is probe for measured, _ in call.states or ()):
            return True
    return False
