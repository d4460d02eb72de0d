"""What runs when a gate opens: begin, finish, unwind; and the probe that keeps the numbers.

`begin`, `finish` and `unwind` are plain functions shared by all gates: called from the prologue, they take no switch of
threads between their return and the next instruction, which the tick of the inner call relies on.
"""

from __future__ import annotations

import sys
import weakref
from _thread import allocate_lock, get_ident, interrupt_main, start_new_thread
from sys import _getframe, getprofile, gettrace, modules

from autoprof import events, flight, gate, guard, histogram
from autoprof.clock import monotonic_ns, wall_ns
from autoprof.flight import Flight, afloat, drop, push
from autoprof.sampler import frame_of, recorder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType
    from typing import Any, Protocol

    from autoprof.gate import Gate

    class Strategy(Protocol):
        """One way to measure a call; one file in `strategies/` each."""

        name: str

        def start(self, probe: Probe, flight: Flight) -> Any:
            """Begin to measure; return a state, or raise Busy."""

        def stop(self, probe: Probe, flight: Flight, state: Any, duration_ns: int) -> dict[str, Any]:
            """End it; return what `complete` says beyond the duration."""


PENDING_KEPT = 512
DEPTH_IN_FLIGHT = 50
"""Open calls of one thread at a time: each costs the application one level of recursion."""

REASONS = ("nested", "busy", "other_profiler", "paused", "error")
_COVERAGE = "coverage"
_get_tool: Callable[[int], str | None] | None = getattr(getattr(sys, "monitoring", None), "get_tool", None)


class Busy(Exception):
    """The strategy can measure only so many calls at once, and does already."""


class Probe:
    """One policy on one target.

    Attributes:
        rate: probability that a call is measured.
        state: waiting, installed, paused, shed, disabled, failed, removed; `reason` is one sentence.
        profiled, discarded, skipped, samples, slow: counts, as the contract defines them.
        pending: durations in nanoseconds not yet put into the histogram.
        sampled: whether the flight recorder keeps stacks for it.
    """

    __slots__ = (
        "_lock",
        "artefact",
        "asynchronous",
        "busy",
        "check_load",
        "closed_until_ns",
        "discarded",
        "durations",
        "emits",
        "every_ns",
        "gates",
        "limit_ns",
        "max_ns",
        "options",
        "overhead_ns",
        "pending",
        "policy",
        "profiled",
        "rate",
        "reason",
        "rule",
        "sampled",
        "samples",
        "skipped",
        "slow",
        "started_calls",
        "state",
        "strategy",
        "target",
        "threshold_ns",
        "total_ns",
    )

    def __init__(self, target: str, rule: str, policy: str, strategy: Strategy | None, options: dict[str, Any]) -> None:
        self.target = target
        self.rule = rule
        self.policy = policy
        self.strategy = strategy
        self.options = options
        self.rate = float(options.get("rate", 1.0))
        self.threshold_ns: int | None = options.get("threshold_ns")
        self.limit_ns: int = options.get("duration_ns") or gate.FOREVER
        self.every_ns: int = options.get("every_ns") or 0
        self.emits = bool(options.get("emit_metrics", True))
        self.check_load = bool(options.get("check_load", True))
        self.asynchronous = bool(options.get("asynchronous", False))
        self.sampled = strategy is None
        self.state = "installed"
        self.reason = "waiting for its first call"
        self.gates: list[Gate] = []
        self.busy: set[int] = set()
        self.closed_until_ns = 0
        self.artefact: str | None = None
        self._lock = allocate_lock()
        self.started_calls = 0
        self.clear()

    def clear(self) -> None:
        """Set all numbers to zero; calls are counted from here."""
        self.busy.clear()
        self.profiled = self.discarded = self.samples = self.slow = 0
        self.total_ns = self.max_ns = self.overhead_ns = 0
        self.skipped: dict[str, int] = {}
        self.pending: list[int] = []
        self.durations: dict[int, int] = {}
        self.started_calls = sum(each.calls for each in self.gates)
        self._lock = allocate_lock()

    @property
    def strategy_name(self) -> str:
        """The strategy as the policy file writes it."""
        return "sample" if self.strategy is None else self.strategy.name

    @property
    def calls(self) -> int:
        """Every call of the target so far, recursive ones included."""
        return sum(each.calls for each in self.gates) - self.started_calls

    @property
    def current_rate(self) -> float:
        """The rate in force: 0 while `every` keeps the gate closed or the probe is not installed."""
        return 0.0 if self.closed_until_ns or self.state != "installed" else self.rate

    def add(self, gate_: Gate) -> None:
        """Put the probe behind one more gate: a setter beside the getter, a redefinition."""
        self.gates.append(gate_)
        gate_.probes = (*gate_.probes, self)
        self.started_calls += gate_.calls

    def record(self, duration_ns: int) -> None:
        """Keep one duration; exact under threads (single bytecodes on counters, a swap on the list)."""
        self.profiled += 1
        self.total_ns += duration_ns
        if duration_ns > self.max_ns:
            self.max_ns = duration_ns
        pending = self.pending
        pending.append(duration_ns)
        if len(pending) >= PENDING_KEPT:
            self.fold()

    def fold(self) -> None:
        """Put pending durations into the histogram, unless another thread is at it."""
        # Never block here: a finaliser may run inside the lock and end a measured call of the same probe.
        if not self._lock.acquire(False):
            return
        try:
            pending, self.pending = self.pending, []
            durations = self.durations
            for duration_ns in pending:
                index = histogram.bucket(duration_ns)
                durations[index] = durations.get(index, 0) + 1
        finally:
            self._lock.release()

    def take_durations(self) -> dict[int, int]:
        """Return the histogram since the last time and start a new one."""
        self.fold()
        taken, self.durations = self.durations, {}
        return taken

    def skip(self, reason: str) -> None:
        """Count a call whose gate was open and which is not measured."""
        # `+=` on a dict switches no thread and lets no signal handler in; a `get` in between would.
        try:
            self.skipped[reason] += 1
        except KeyError:
            self.skipped.setdefault(reason, 0)
            self.skipped[reason] += 1


def retune(gate_: Gate) -> None:
    """Set a gate to what its probes want: open when any of them wants the call."""
    gate_.retune(_combined_rate(gate_))


def _combined_rate(gate_: Gate) -> float:
    none_wants = 1.0
    for each in gate_.probes:
        none_wants *= 1.0 - each.current_rate
    return 1.0 - none_wants


def _chosen(probes: tuple[Probe, ...]) -> tuple[Probe, ...]:
    """Draw which of several probes want this call, given that at least one does.

    Each call is a Bernoulli trial per probe; the gate opens at the combined rate, so the draw is conditional.
    """
    wanted: list[Probe] = []
    for index, each in enumerate(probes):
        rate = each.current_rate
        if not rate:
            continue
        if not wanted:
            none_wants = 1.0
            for other in probes[index:]:
                none_wants *= 1.0 - other.current_rate
            rate = rate / (1.0 - none_wants)
        if rate >= 1.0 or gate._random.random() < rate:
            wanted.append(each)
    return tuple(wanted)


def _other_profiler(gate_: Gate) -> bool:
    """Tell whether somebody else's tracer or profiler is at work here; ours would show up in its results.

    Coverage's C tracer and `sys.monitoring` core are unharmed by an open gate and do not count.
    """
    tracer = gettrace()
    if tracer is not None and not type(tracer).__module__.startswith(_COVERAGE):
        return True
    if getprofile() is not None:
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
    if any(each is gate_ for each in replaced.co_consts):
        gate_.code = weakref.ref(replaced)
        return replaced
    return None


def first(gate_: Gate) -> Flight | None:
    """Be `begin` at a gate's very first call: find the owner, draw the first gap, wake the session."""
    try:
        # The scale first: other threads are in `begin` from the next line on, and draw their gaps from it.
        gate_.scale = gate.gap_scale(_combined_rate(gate_))
        gate_.begin = begin
        on_first_call(gate_)
        retune(gate_)
        if next(gate_.ticks, False):
            return None
    except (RecursionError, MemoryError):
        gate_.begin = first
        raise
    except Exception as error:
        guard.report("first call", error)
    return begin(gate_, 3)


def _nobody(gate_: Gate) -> None:
    """Stand in where there is no session."""


on_first_call: Callable[[Gate], None] = _nobody
"""Set by the session: finds the gate's owner and starts the writer."""


def begin(gate_: Gate, depth: int = 2) -> Flight | None:
    """Open a call: return it to be measured, or None to run the body in place.

    Args:
        depth: of the frame that makes the call, seen from `_take_off`.
    """
    entered_ns = monotonic_ns()
    if next(gate_.ticks, False):
        return None  # another thread found the gate open too and was faster
    ident = get_ident()
    probes = gate_.probes
    call: Flight | None = None
    try:
        if len(probes) != 1:
            probes = _chosen(probes)
        reason = _why_not(gate_, probes, ident)
        code = _code_to_run(gate_) if reason is None else None
        if code is None:
            for each in probes:
                each.skip(reason or "error")
            gate_.arm(0)
            return None
        call = _take_off(gate_, code, probes, ident, entered_ns, depth)
        if call is None:
            gate_.arm(0)
            return None
        started_ns = call.started_ns = monotonic_ns()
        probes[0].overhead_ns += started_ns - entered_ns
    except BaseException as error:
        _ground(ident, gate_, probes)
        if isinstance(error, (RecursionError, MemoryError)) or not isinstance(error, Exception):
            raise
        _begin_failed(gate_, probes, error)
        return None
    if not gate_.arm(1):
        gate_.used -= 1  # the inner call takes a tick of its own
    return call


def _take_off(
    gate_: Gate, code: CodeType, probes: tuple[Probe, ...], ident: int, entered_ns: int, depth: int
) -> Flight | None:
    call = Flight()
    call.code = code
    call.gate = gate_
    call.probes = probes
    call.ident = ident
    call.entered_ns = call.started_ns = entered_ns
    call.generation = flight.generation
    call.function = call.living = call.watches = call.states = None
    call.samples = 0
    call.done = False
    call.limit_ns = probes[0].limit_ns
    try:
        call.caller = _getframe(depth)
    except ValueError:
        call.caller = None
    return call if _start(call, probes, ident) else None


def _ground(ident: int, gate_: Gate, probes: tuple[Probe, ...]) -> None:
    """Take back what a failed `begin` has made visible."""
    for each in probes:
        each.busy.discard(ident)
    stack = flight.in_flight.get(ident)
    if stack and stack[-1].gate is gate_:
        drop(stack[-1])


def _why_not(gate_: Gate, probes: tuple[Probe, ...], ident: int) -> str | None:
    if ident in guard.suppressed or not probes:
        return "nested"
    for each in probes:
        if ident in each.busy and _really_busy(each, ident):
            return "nested"
    stack = flight.in_flight.get(ident)
    if stack is not None and len(stack) >= DEPTH_IN_FLIGHT:
        return "nested"
    if _other_profiler(gate_):
        return "other_profiler"
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


def _start(call: Flight, probes: tuple[Probe, ...], ident: int) -> bool:
    """Tell receivers and strategies that the call begins; False when a strategy can't measure it now."""
    for each in probes:
        if each.every_ns:
            close_for(each, each.every_ns)
    if "blinker" in modules:
        _send_start(call)
    states: list[Any] | None = None
    for each in probes:
        if each.strategy is not None:
            call.started_ns = call.entered_ns
            states = states or []
            try:
                states.append((each, each.strategy.start(each, call)))
            except Busy:
                each.skip("busy")
                if len(probes) == 1:
                    return False
    call.states = states
    if recorder.idle:
        recorder.wake()
    if not call.gate.generator_like:
        push(call)
    for each in probes:
        each.busy.add(ident)
    return True


def close_for(probe: Probe, span_ns: int) -> None:
    """Close a probe's gates for a while; the session's clock opens them again."""
    probe.closed_until_ns = monotonic_ns() + span_ns
    for each in probe.gates:
        each.scale = gate.gap_scale(_combined_rate(each))
    reopen.append(probe)


reopen: list[Probe] = []
"""Probes whose gates wait for `closed_until_ns`; read by the session's clock."""


def _begin_failed(gate_: Gate, probes: tuple[Probe, ...], error: Exception) -> None:
    for each in probes:
        each.skip("error")
    guard.report("begin", error)
    gate_.arm(0)


def finish(call: Flight, result: object) -> None:
    """Close a call that returned."""
    ended_ns = monotonic_ns()
    try:
        if call.gate.generator_like and call.function is not None:
            _watch(call, result, ended_ns)
        else:
            conclude(call, ended_ns, type(result).__name__, None)
    except Exception as error:
        guard.report("finish", error)


def unwind(call: Flight, error: BaseException) -> None:
    """Close a call that raised."""
    if _LOSES_A_REFERENCE and type(error) is MemoryError and error.__traceback__ is None:
        _keep_for_ever(call)
    ended_ns = monotonic_ns()
    try:
        conclude(call, ended_ns, None, error)
    except Exception as failure:
        guard.report("unwind", failure)


_LOSES_A_REFERENCE = sys.version_info[:2] in ((3, 12), (3, 13))
"""There MAKE_FUNCTION gives its code object back twice when it finds no memory for the function."""


def _keep_for_ever(call: Flight) -> None:
    """Hold two references to the code that nobody will ever give back, where one was given back too often.

    A MemoryError without a traceback comes from the making of the inner function, at the latest from its call. The
    cycle gate → call → code → gate is out of the garbage collector's sight, also when the interpreter ends.
    """
    call.function = call.code
    call.watches = call.gate.lost
    call.gate.lost = call


def _watch(call: Flight, result: Any, ended_ns: int) -> None:
    """Follow a coroutine or generator to its end without wrapping it.

    The inner function object dies with the body's frame, even when a Task keeps the coroutine; the coroutine itself
    dies first when a traceback keeps the frame. Whichever comes first is the end.
    """
    function, call.function = call.function, None
    for each in call.probes:
        each.busy.discard(call.ident)
    call.caller = None
    afloat[id(call)] = call

    def ended(_: object, call: Flight = call) -> None:
        try:
            end_unseen(call, monotonic_ns())
        except KeyboardInterrupt:
            # A callback's exception is only printed, and the interrupt is the application's: send it once more, from
            # a thread, so that it does not arrive in here again.
            start_new_thread(interrupt_main, ())

    call.gate.raised = raised
    call.result = type(result).__name__
    call.living = weakref.ref(result, ended)
    call.watches = weakref.ref(function, ended)
    call.probes[0].overhead_ns += monotonic_ns() - ended_ns


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
    ended_ns = monotonic_ns()
    try:
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


def conclude(call: Flight, ended_ns: int, result: str | None, error: BaseException | None) -> None:
    """Write a call down once, however often its end is noticed."""
    if call.living is not None:
        afloat.pop(id(call), None)
        call.living = call.watches = None
    else:
        drop(call)
        for each in call.probes:
            each.busy.discard(call.ident)
    call.caller = None
    # An interrupt can end `finish` half-way, and `unwind` comes here again: the clearing above must happen twice.
    if call.done or call.generation != flight.generation:
        return
    call.done = True
    duration_ns = ended_ns - call.started_ns
    extra = _stop_strategies(call, duration_ns) if call.states else None
    for each in call.probes:
        if each.threshold_ns is not None and duration_ns < each.threshold_ns:
            each.discarded += 1
            continue
        each.record(duration_ns)
        if each.emits and "blinker" in modules:
            _send_end(call, each, duration_ns, result, error, extra)
    call.probes[0].overhead_ns += monotonic_ns() - ended_ns


def _stop_strategies(call: Flight, duration_ns: int) -> dict[Probe, dict[str, Any]]:
    extra: dict[Probe, dict[str, Any]] = {}
    for probe, state in call.states:
        try:
            extra[probe] = probe.strategy.stop(probe, call, state, duration_ns)
        except Exception as failure:
            probe.skip("error")
            guard.report(f"strategy {probe.strategy_name}", failure)
    call.states = None
    return extra


def _metadata(event: str, probe: Probe) -> dict[str, Any]:
    out = events.metadata(event, probe.target, probe.rule, probe.policy, probe.strategy_name)
    out["user"] = probe.options.get("metadata") or {}
    return out


def _send_start(call: Flight) -> None:
    from autoprof import signals

    if not signals.start.receivers:
        return
    for each in call.probes:
        if each.emits and each.policy != "profile_if_slow":
            metadata = _metadata("start", each)
            metadata["opts"] = dict(each.options)
            signals.send("start", each.target, {"system_time": wall_ns()}, metadata)


def _send_end(
    call: Flight,
    probe: Probe,
    duration_ns: int,
    result: str | None,
    error: BaseException | None,
    extra: dict[Probe, dict[str, Any]] | None,
) -> None:
    from autoprof import signals

    if error is None:
        if signals.stop.receivers:
            metadata = _metadata("stop", probe)
            metadata["result"] = result
            signals.send("stop", probe.target, {"duration_ns": duration_ns}, metadata)
    elif signals.exception.receivers:
        metadata = _metadata("exception", probe)
        metadata.update(kind=type(error).__name__, reason=error, stacktrace=_stacktrace(error))
        signals.send("exception", probe.target, {"duration_ns": duration_ns}, metadata)
    if probe.policy == "profile_production" and signals.production.receivers:
        metadata = _metadata("production", probe)
        signals.send("production", probe.target, {"duration_ns": duration_ns}, metadata)
    if signals.complete.receivers:
        found = extra.get(probe, {}) if extra else {}
        metadata = _metadata("complete", probe)
        metadata["profile"] = found.get("profile")
        measurements = {
            "duration_ns": duration_ns,
            "memory_delta": found.get("memory_delta"),
            "samples": found.get("samples", call.samples if probe.sampled else None),
        }
        signals.send("complete", probe.target, measurements, metadata)


def _stacktrace(error: BaseException) -> list[tuple[str, int, str]]:
    """Return (file, line, function) of an exception's traceback, outermost first: no values, no source."""
    out: list[tuple[str, int, str]] = []
    traceback = error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        out.append((code.co_filename, traceback.tb_lineno, code.co_qualname))
        traceback = traceback.tb_next
    return out
