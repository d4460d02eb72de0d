"""How measured calls end: by return, by exception, or unseen; each is written down once.

Like `begin` these are plain functions shared by all gates; `finish` and `unwind` are called from the prologue.
"""

from __future__ import annotations

import weakref
from _functools import partial  # type: ignore[import-not-found]
from sys import _getframe, modules

from autoprof import flight, gate, guard, loops, telling
from autoprof.clock import monotonic_ns
from autoprof.costs import NOT_LOOKED_AT, spans
from autoprof.flight import Flight, afloat, drop, greenlets
from autoprof.frames import frame_of
from autoprof.primitives import interrupt_main, start_new_thread
from autoprof.probe import IF_SLOW
from autoprof.sampler import recorder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from autoprof.gate import Gate
    from autoprof.probe import Probe


_NOTHING: dict[Probe, dict[str, Any]] = {}


def finish(call: Flight, result: object) -> None:
    """Close a call that returned."""
    try:
        ended_ns = monotonic_ns()
        if call.done:
            call.function = None
        elif call.gate.generator_like and call.function is not None:
            _watch(call, result, ended_ns)
        else:
            if call.states:
                call.returned = result
                conclude(call, ended_ns, type(result), None)
                call.returned = flight.UNKNOWN
            else:
                conclude(call, ended_ns, type(result), None)
    except Exception as error:
        guard.report("finish", error)


def unwind(call: Flight, error: BaseException) -> None:
    """Close a call that raised."""
    try:
        ended_ns = monotonic_ns()
        conclude(call, ended_ns, None, error)
    except Exception as failure:
        guard.report("unwind", failure)


def _watch(call: Flight, result: Any, ended_ns: int) -> None:
    """Follow a coroutine or generator to its end without wrapping it.

    The inner function object dies with the body's frame, even when a Task keeps the coroutine; the coroutine itself
    dies first when a traceback keeps the frame. Whichever comes first is the end.
    """
    try:
        loops.meet()
    except Exception:  # out of memory, or one level too deep: another call will meet it
        pass
    function, call.function = call.function, None
    for each in call.probes:
        each.busy.discard(call.ident)
    call.caller = None
    # No closure: making one crashes 3.12 and 3.13 when memory runs out (see `rewrite.splice`).
    ended = partial(_end_noticed, call)
    call.gate.raised = raised
    call.result = type(result)
    call.living = weakref.ref(result, ended)
    call.watches = weakref.ref(function, ended)
    afloat[id(call)] = call  # the sampler may look at it from here on
    if recorder.idle:
        recorder.wake()


def _end_noticed(call: Flight, _: object) -> None:
    """Be the callback of the weak references to a generator-like object and its inner function."""
    try:
        # Beware: as for `conclude`, there may be no level left for `end_unseen`.
        conclude(call, monotonic_ns(), call.result, None)
    except KeyboardInterrupt:
        # A callback's exception is only printed, and the interrupt is the application's: send it once more, from
        # a thread, so that it does not arrive in here again.
        start_new_thread(interrupt_main, ())
    except Exception as error:  # the interpreter would print it into the application's stderr
        guard.note("end of a coroutine", error)


def end_unseen(call: Flight, ended_ns: int) -> None:
    """Close a generator-like call whose end was noticed from outside."""
    try:
        conclude(call, ended_ns, call.result, None)
    except Exception as error:
        guard.report("end of a coroutine", error)


def raised(gate_: Gate, error: BaseException) -> None:
    """Close the generator-like call whose body an exception is leaving; called from that body's frame.

    A generator that is closed half-way ends with GeneratorExit, which is no failure of it.
    """
    try:
        ended_ns = monotonic_ns()
        frame = _getframe(1)
        followed = False
        for call in list(afloat.values()):
            if call.gate is not gate_:
                continue
            living = call.living() if call.living is not None else None
            if living is not None and frame_of(living) is frame:
                conclude(call, ended_ns, call.result, None if isinstance(error, GeneratorExit) else error)
            else:
                followed = True
        if not followed:
            gate_.raised = None
    except Exception as failure:
        guard.report("end of a coroutine", failure)


recorder.on_ended = end_unseen


def conclude(call: Flight, ended_ns: int, result: type | None, error: BaseException | None) -> None:
    """Write a call down once, however often its end is noticed.

    Args:
        result: of what class the returned object is.
    """
    if call.living is not None:
        afloat.pop(id(call), None)
        call.living = call.watches = None
    else:
        ident = call.ident
        stack = flight.in_flight.get(ident)
        if stack is not None and len(stack) == 1 and stack[0] is call and not greenlets:
            flight.in_flight.pop(ident, None)  # as in `drop`, without a call of it
        else:
            drop(call)
        for each in call.probes:
            each.busy.discard(ident)
    call.caller = None
    # An interrupt can end `finish` half-way, and `unwind` comes here again: the clearing above must happen twice.
    if call.done or call.generation != flight.generation:
        return
    call.done = True
    duration_ns = ended_ns - call.started_ns
    timed = call.states is not None
    extra = stop_strategies(call, duration_ns) if timed else _NOTHING
    for each in call.probes:
        if each.policy == IF_SLOW:
            timed |= _write_slow_down(call, each, duration_ns, result, error, extra.get(each))
            continue
        if each.threshold_ns is not None and duration_ns < each.threshold_ns:
            each.discarded += 1
            continue
        # Beware: at the recursion limit a call deeper is a level too many.
        each.record(duration_ns)
        if call.weights:
            each.weigh(call.weights.get(each, 1.0), duration_ns)
        if call.stacks:
            recorder.keep(each, call.stacks)
        if each.emits and "blinker" in modules and any(telling.ears):
            timed |= telling.send_end(call.samples, each, duration_ns, result, error, extra.get(each) or {})
    if timed:
        call.probes[0].charge(monotonic_ns() - ended_ns)
    elif not ended_ns & NOT_LOOKED_AT:
        spans.append(call.started_ns - call.entered_ns + monotonic_ns() - ended_ns)


def _write_slow_down(
    call: Flight,
    probe: Probe,
    duration_ns: int,
    result: type | None,
    error: BaseException | None,
    found: dict[str, Any] | None,
) -> bool:
    """Count a call under `profile_if_slow`, and tell receivers if it was slow; was anybody told?

    Args:
        found: what the probe's strategy measured; None without one.
    """
    if call.gate.generator_like:  # only its own time counts, as closely as the sampler's looks can tell
        duration_ns = max(duration_ns - call.suspended_ns, 0)
    probe.looked += 1
    if call.weights:
        probe.weigh(call.weights.get(probe, 1.0), duration_ns)
    if probe.threshold_ns is not None and duration_ns < probe.threshold_ns:
        if found is not None:
            probe.discarded += 1
        if call.gate.timer is not probe:
            probe.total_ns += duration_ns
        return False
    kept = slow_is_kept(call, probe, duration_ns, found is not None)
    if kept:
        probe.profiled += 1
        if call.stacks:
            recorder.keep(probe, call.stacks)
    if probe.emits and "blinker" in modules and any(telling.ears):
        return telling.send_end(call.samples, probe, duration_ns, result, error, found or {}, kept)
    return False


def slow_is_kept(call: Flight, probe: Probe, duration_ns: int, measured: bool) -> bool:
    """Count a slow call and tell whether its profile is kept.

    Args:
        measured: a strategy has run from the call's start.
    """
    if call.gate.timer is not probe:  # else the stopwatch has counted it
        probe.slow += 1
        probe.record(duration_ns, 0)
    return measured if probe.strategy is not None else gate._random.random() < probe.keeps


def stop_strategies(call: Flight, duration_ns: int, whole: bool = True) -> dict[Probe, dict[str, Any]]:
    """Stop what measures the call; keep what it found unless the call was not whole or under the threshold."""
    extra: dict[Probe, dict[str, Any]] = {}
    for probe, state in call.states or ():
        try:
            kept = whole and (probe.threshold_ns is None or duration_ns >= probe.threshold_ns)
            extra[probe] = probe.strategy.stop(probe, call, state, duration_ns, kept)
        except Exception as failure:
            probe.skip("error")
            guard.report(f"strategy {probe.strategy_name}", failure)
    call.states = None
    return extra
