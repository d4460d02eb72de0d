"""What runs when a gate opens: begin. How the call ends: `ends`.

They are plain functions shared by all gates: called from the prologue, they take no switch of threads between
their return and the next instruction, which the tick of the inner call relies on where the gap is short.
"""

from __future__ import annotations

import sys
import weakref
from collections import deque
from sys import _getframe, getprofile, gettrace, modules

from autoprof import arbiter, flight, gate, guard, primitives, telling
from autoprof.budget import cut, run_out
from autoprof.clock import monotonic_ns
from autoprof.costs import prices, purse
from autoprof.declining import decline, has_gate, run_in_place
from autoprof.ends import stop_strategies
from autoprof.flight import Flight, drop, push
from autoprof.gate import CLAIMED, LENT
from autoprof.primitives import GREENLET as _GREENLET
from autoprof.primitives import get_ident, strand_ident
from autoprof.probe import IF_SLOW, NEVER_NS, NOBODY, Busy
from autoprof.sampler import recorder
from autoprof.turns import chosen, close_for, combined_rate, expire, retune

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType
    from typing import Any

    from autoprof.gate import Gate
    from autoprof.probe import Probe

DEPTH_IN_FLIGHT = 50
"""Open calls of one thread at a time: each costs the application one level of recursion."""

_COVERAGE = "coverage"
measure_under_coverage = False
"""For our own tests: measure although coverage's C tracer then misses lines of callers that handle an exception."""

_get_tool: Callable[[int], str | None] | None = getattr(getattr(sys, "monitoring", None), "get_tool", None)


def other_profiler(gate_: Gate) -> bool:
    """Tell whether somebody else's tracer or profiler is at work here; ours would show up in its results.

    Coverage's `sys.monitoring` core is unharmed by an open gate and does not count. Its C tracer is not: an exception
    that leaves a measured call shows as one more `return` of the caller, whose later lines then count as missing.
    """
    tracer = gettrace()
    if tracer is not None and not (measure_under_coverage and type(tracer).__module__.startswith(_COVERAGE)):
        return True
    profiler = getprofile()
    if profiler is not None and not arbiter.is_waiting(profiler):
        return True
    if _get_tool is not None:
        return _get_tool(0) is not None or _get_tool(2) is not None
    return gate_.generator_like and sys.get_coroutine_origin_tracking_depth() > 0


def _code_to_run(gate_: Gate) -> Any:
    """Return the code for the inner call, or None when the gate can't vouch for it.

    Others may have put a changed copy of our code into the function (`types.coroutine`, `code.replace`): the copy
    carries the same gate, but the gate's own code is then not what the call should run.
    """
    code = gate_.code() if gate_.code is not None else None
    owner = gate_.owner() if gate_.owner is not None else None
    if owner is None or owner.__code__ is code:
        return code
    replaced = owner.__code__
    if has_gate(replaced, gate_):
        gate_.code = weakref.ref(replaced)
        return replaced
    return None


def waken(gate_: Gate) -> Flight | None:
    """Be `begin` at the very first call of a gate that has no probes yet: have them made."""
    try:
        on_waken(gate_)
    except (RecursionError, MemoryError):
        raise
    except Exception as error:
        gate_.scale = None  # once is enough: the gate stays closed
        guard.report("first call", error)
    if gate_.begin is waken:  # another thread makes them now, or they could not be made
        turned_away.append(gate_)
        return decline(gate_)
    return first(gate_, 4)


turned_away: deque[Gate] = deque(maxlen=10_000)
"""Gates of calls that came while another thread made the probes: these are told of them later, see `dormant`."""


def first(gate_: Gate, depth: int = 3) -> Flight | None:
    """Be `begin` at a gate's very first call: find the owner, draw the first gap, wake the session.

    Args:
        depth: as `begin` takes it.
    """
    try:
        # The scale first: other threads are in `begin` from the next line on, and draw their gaps from it.
        gate_.scale = gate.gap_scale(combined_rate(gate_))
        gate_.begin = begin
        on_first_call(gate_)
        retune(gate_)
        if gate_.step():
            return run_in_place(gate_)
    except (RecursionError, MemoryError):
        gate_.begin = first
        raise
    except Exception as error:
        guard.report("first call", error)
    return begin(gate_, depth)


def nobody(gate_: Gate) -> None:
    """Stand in where there is no session."""


on_first_call: Callable[[Gate], None] = nobody
"""Set by the session: finds the gate's owner and starts the writer."""

on_waken: Callable[[Gate], object] = nobody
"""Set by the session: makes the probes of a gate that has rested, and has it begin with `first`."""


def rouse(gate_: Gate) -> Flight | None:
    """Be `begin` of a gate whose next call is to start our threads again, measured or not; see `governor`."""
    try:
        gate_.begin = begin
        on_roused()
        retune(gate_)
        if gate_.step():
            return run_in_place(gate_)
    except (RecursionError, MemoryError):
        gate_.begin = rouse
        raise
    except Exception as error:
        guard.report("rouse", error)
    return begin(gate_, 3)


def nobody_roused() -> None:
    """Stand in where there is no session."""


on_roused: Callable[[], None] = nobody_roused
"""Set by the session: starts the threads that ended before a fork."""


def begin(gate_: Gate, depth: int = 2) -> Flight | None:
    """Open a call: return it to be measured, or None to run the body in place.

    Args:
        depth: of the frame that makes the call, seen from `_take_off`.
    """
    claimed = ident = 0
    probes = gate_.probes
    call: Flight | None = None
    try:
        claimed = gate_.claim(True)
        if not claimed:
            return run_in_place(gate_)
        # As in `strand_ident`, which would be a call more.
        threads = primitives.getcurrent is None and _GREENLET not in modules
        ident = get_ident() if threads else strand_ident()
        entered_ns = monotonic_ns()
        if len(probes) != 1:
            probes = chosen(gate_, probes)
        reason = _why_not(gate_, probes, ident)
        code = _code_to_run(gate_) if reason is None else None
        if code is None:
            for each in probes:
                each.skip(reason or "error")
        else:
            call = _take_off(gate_, code, probes, ident, entered_ns, depth)
        if call is None:
            if claimed == LENT:
                # There is no inner call. Beware: between the step and the next line nothing may interrupt.
                if not gate_.step():
                    gate_.used += 1  # others have taken it
                claimed = CLAIMED
            return _decline(gate_, probes)
        started_ns = call.started_ns = monotonic_ns()
        left_ns = purse.left_ns = purse.left_ns - probes[0].price_ns
        if call.states:
            probes[0].charge(started_ns - entered_ns)
            left_ns = purse.left_ns
        if left_ns < 0.0:
            cut(gate_)
        if claimed == CLAIMED:
            gate_.lend()
    except BaseException as error:
        # First of all, since what follows may fail too: `missed` counts the call, or it never comes to run.
        if claimed == CLAIMED:
            gate_.used -= 1
        if call is not None and call.states:
            stop_strategies(call, 0, False)
        _ground(ident, gate_, probes)
        if isinstance(error, MemoryError):
            count_starved(probes)
        if isinstance(error, (RecursionError, MemoryError)) or not isinstance(error, Exception):
            raise
        if claimed == CLAIMED or (claimed and not gate_.step()):
            gate_.used += 1
        return _begin_failed(gate_, probes, error, claimed)
    return call


def _decline(gate_: Gate, probes: tuple[Probe, ...]) -> Flight | None:
    if not probes and gate_.timer is not None:
        run_out(gate_)
    elif probes and probes[0].price_ns:
        purse.left_ns -= prices.skip_ns
        if purse.left_ns < 0.0:
            cut(gate_)
    return run_in_place(gate_)


def _take_off(
    gate_: Gate, code: CodeType, probes: tuple[Probe, ...], ident: int, entered_ns: int, depth: int
) -> Flight | None:
    """Make the call and tell everybody that it begins; None when no probe can measure it now."""
    call = Flight()
    call.code = code
    call.gate = gate_
    call.probes = probes
    call.ident = ident
    call.entered_ns = call.started_ns = entered_ns
    call.generation = flight.generation
    call.living = call.states = call.stacks = call.weights = None
    call.samples = limit_ns = 0
    call.done = False
    followed = False
    for each in probes:
        now_and_then = each.expires_ns is not NEVER_NS or each.paused or each.every_ns
        if now_and_then and not _wants(each, entered_ns):
            probes = call.probes = tuple([other for other in probes if other is not each])
            continue
        if each.strategy is not None:
            followed = True
        if not limit_ns or each.limit_ns > limit_ns:
            limit_ns = each.limit_ns
        if each.threshold_ns is not None and each.sampled:
            call.stacks = {}
        if each.thinning != 1.0:
            call.weights = {**(call.weights or {}), each: each.weight}
        if each.busy is NOBODY:
            each.prepare()
        each.busy.add(ident)
    if not probes:
        return None
    call.limit_ns = limit_ns
    try:
        call.caller = _getframe(depth)
    except ValueError:
        call.caller = None
    if "blinker" in modules and any(telling.ears):
        telling.send_start(call)
    if followed and not _start_strategies(call):
        return None
    try:
        if followed:
            for each in call.probes:  # a call that came meanwhile saw no flight, and cleared up
                each.busy.add(ident)
        if gate_.generator_like:
            call.function, call.suspended_ns = None, 0
        elif (stack := flight.in_flight.get(ident)) is not None:
            stack.append(call)
        elif primitives.getcurrent is None:
            flight.in_flight[ident] = [call]
        else:
            push(call)
        if recorder.idle:  # after the push: it looks for open calls once more when it has said that it sleeps
            recorder.wake()
    except BaseException:
        stop_strategies(call, 0, False)
        raise
    return call


def _wants(probe: Probe, entered_ns: int) -> bool:
    """Tell whether a probe that is not always at work measures this call, the first of its `every`."""
    if probe.expires_ns <= entered_ns:
        expire(probe)
        return False
    if probe.paused:
        probe.skip("paused")  # since the gate opened for this call
        return False
    return probe.policy == IF_SLOW or not probe.every_ns or close_for(probe, probe.every_ns)


def _ground(ident: int, gate_: Gate, probes: tuple[Probe, ...]) -> None:
    """Take back what a failed `begin` has made visible."""
    for each in probes:
        each.busy.discard(ident)
    stack = flight.in_flight.get(ident)
    if stack and stack[-1].gate is gate_:
        drop(stack[-1])


def _why_not(gate_: Gate, probes: tuple[Probe, ...], ident: int) -> str | None:
    if ident in guard.suppressed:
        return "nested"
    if len(probes) == 1:  # as nearly all gates have: a loop takes longer
        if ident in probes[0].busy and _really_busy(probes[0], ident):
            return "nested"
    else:
        if not probes:
            return "nested"
        for each in probes:
            if ident in each.busy and _really_busy(each, ident):
                return "nested"
    stack = flight.in_flight.get(ident)
    if stack is not None and len(stack) >= DEPTH_IN_FLIGHT:
        return "nested"
    if other_profiler(gate_):
        return "busy" if arbiter.is_ours(getprofile()) else "other_profiler"
    return None


def _really_busy(probe: Probe, ident: int) -> bool:
    """Tell whether a call of the probe is open in this thread; clear up after one that interrupts cut short.

    An interrupt in `begin`, or one in `finish` and another in `unwind`, leaves a call that nothing will ever end.
    """
    flight.drop_abandoned(ident)
    for call in flight.in_flight.get(ident, ()):
        if probe in call.probes:
            return True
    probe.busy.discard(ident)
    return False


def _start_strategies(call: Flight) -> bool:
    """Start what measures the call; False when nothing can now."""
    call.returned = flight.UNKNOWN
    for each in call.probes:
        if each.strategy is None or not _wants_profile(call.gate, each):
            continue
        call.started_ns = call.entered_ns
        try:
            state = each.strategy.start(each, call)
            call.states = [*(call.states or ()), (each, state)]
        except Busy as busy:
            each.skip(busy.reason)
            if each.policy != IF_SLOW:
                each.busy.discard(call.ident)
                call.probes = tuple([other for other in call.probes if other is not each])
        except BaseException:
            stop_strategies(call, 0, False)
            raise
    return bool(call.probes)


def _wants_profile(gate_: Gate, probe: Probe) -> bool:
    """Tell whether this call is one of the share whose slow ones are kept; only asked where every call is timed."""
    if probe.policy != IF_SLOW or gate_.timer is probe:
        return True
    return gate._random.random() < probe.keeps


def count_starved(probes: tuple[Probe, ...]) -> None:
    """Count a call as skipped for want of memory, if there is room for that."""
    try:
        for each in probes:
            each.skip("error")
    except MemoryError:
        pass  # not even for this is there room; the body runs all the same


def _begin_failed(gate_: Gate, probes: tuple[Probe, ...], error: Exception, claimed: int) -> Flight | None:
    for each in probes:
        each.skip("error")
    guard.report("begin", error)
    return run_in_place(gate_) if claimed else decline(gate_)
