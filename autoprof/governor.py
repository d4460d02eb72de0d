"""Pauses measuring while the machine, the container or this process is under load, and resumes it.

One thread looks twice a second. Gates are closed and opened from outside: a call never asks, and a paused function
costs what a closed gate costs.
"""

from __future__ import annotations

from autoprof import calls, guard, load, loops, telling, turns
from autoprof.background import Background
from autoprof.clock import monotonic_ns, thread_ns
from autoprof.primitives import allocate_lock, get_ident
from autoprof.sampler import recorder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from autoprof.gate import Gate
    from autoprof.load import Judge, Meter, Reading
    from autoprof.policy import Policy
    from autoprof.probe import Probe

PERIOD_S = 0.5
DEFAULT_CPU, DEFAULT_MEMORY = 0.8, 0.9
MEASURING = ("installed", "shed")
_PERIOD_NS = int(PERIOD_S * 1e9)


class Governor:
    """The governor of one session.

    Attributes:
        reason: one sentence why measuring is paused; "" while it is not.
        meter, judge: what reads and what decides; made by the first `start`.
        on_change: called after a pause or a resumption, on this thread.
        resting: says how many probes that mind the load wait for their function's first call.
        busy_ns: processor time that looking has taken.

    Args:
        policy: has the limits, as shares; None in it: never pause because of that. Without one the defaults.
        everything: gives the session's probes.
    """

    meter: Meter
    judge: Judge
    _thread: Background | None

    def __init__(self, policy: Policy | None, everything: Callable[[], Iterable[Probe]]) -> None:
        self._everything = everything
        self._limits = (policy.load_cpu, policy.load_memory) if policy else (DEFAULT_CPU, DEFAULT_MEMORY)
        self._ended = False
        self._rested = False
        self.on_change: Callable[[], None] = _nobody
        self.resting: Callable[[], int] = int
        self.busy_ns = 0
        self._prepared = False
        self._clean()

    def _clean(self) -> None:
        self._starting = allocate_lock()
        self._thread = None
        self._owner = 0
        self.reason = ""
        self._prepared = False
        self._paused_ns = 0
        self._unsettled = False

    def prepare(self) -> None:
        """Make what reads and what decides, unless they are there."""
        if not self._prepared:
            self.meter = load.Meter()
            self.judge = load.Judge(*self._limits)
            self._prepared = True

    def start(self) -> None:
        """Start the thread unless it runs or there is no limit."""
        if not self._starting.acquire(False):
            return  # another thread's call does so
        try:
            self._rested = False
            running = self._thread is not None and self._thread.running
            if self._ended or self._limits == (None, None) or running:
                return
            self.prepare()
            thread = self._thread = Background("governor", self._run)
            if not thread.start():
                self._thread = None
        finally:
            self._starting.release()

    def retarget(self, policy: Policy) -> None:
        """Take the limits of another policy; the next look goes by them."""
        self._limits = policy.load_cpu, policy.load_memory
        if self._prepared:
            self.judge.cpu, self.judge.memory = self._limits
        if any(gate.used or gate.size for each in self._subject() for gate in each.gates):
            self.start()

    def rest(self, wait_s: float, delicate_wait_s: float = 0.0) -> None:
        """End the thread for now: a fork comes, or the end."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._rested = True
            own = self._owner == get_ident()
            thread.stop(0.0 if own else wait_s, 0.0 if own else delicate_wait_s)

    @property
    def rested(self) -> bool:
        """Whether a thread was ended by `rest` and has not been started again."""
        return self._rested

    def resume(self) -> None:
        """Have the next call of a function whose gate is closed rouse the session, if the thread ran before `rest`.

        The next measured call of another does so too: `recorder.on_wake`.
        """
        if self._rested:
            self._have_roused()

    def forget(self) -> None:
        """Start clean in a forked child: nothing is paused, and no thread runs until a call comes."""
        paused = bool(self.reason)
        self._clean()
        loops.forget()
        if paused:
            self._hold("", wake=False)
        if self._rested:
            self._have_roused()

    def _have_roused(self) -> None:
        for each in self._subject():
            for gate in each.gates:
                if gate.begin is calls.begin and (gate.timer is each or each.paused):
                    gate.begin = calls.rouse
                    gate.retune(1.0)

    def end(self, wait_s: float = 0.5) -> None:
        """End for good: nothing is paused any more, and nothing will be."""
        self._ended = True
        self.rest(wait_s)
        self.reason = ""
        for each in self._everything():
            each.paused = ""

    def adopt(self, probe: Probe) -> None:
        """Pause one more probe, if measuring is paused."""
        if self.reason and probe.check_load:
            turns.hold(probe, self.reason)

    def _subject(self) -> list[Probe]:
        return [each for each in list(self._everything()) if each.check_load and each.state in MEASURING]

    def _run(self, thread: Background) -> None:
        self._owner = get_ident()
        try:
            while thread.wanted:
                try:
                    self._turn(thread)
                except Exception as error:
                    guard.note("governor", error)
                    thread.pause(PERIOD_S)
        finally:
            self._owner = 0

    def _turn(self, thread: Background) -> None:
        slept_ns, waited_ns = monotonic_ns(), self.meter.waited_ns()
        if not thread.pause(PERIOD_S):
            return
        used_ns = thread_ns()
        late_ns = monotonic_ns() - slept_ns - _PERIOD_NS
        self.meter.woke(late_ns - (self.meter.waited_ns() - waited_ns))
        try:
            self.look()
        finally:
            self.busy_ns += thread_ns() - used_ns

    def look(self) -> None:
        """Look once; pause or resume when it is time to."""
        now_ns = monotonic_ns()
        reading = self.meter.read(now_ns)
        if self._ended:
            return
        if self.judge.look(reading, now_ns, self.meter.cpu_of, self.meter.memory_of):
            self._change(reading, now_ns)
        elif self._unsettled:
            self._unsettled = False
            self._hold(self.reason)  # for those whose first call ran while the others were held

    def _change(self, reading: Reading, now_ns: int) -> None:
        reason = self.reason = self.judge.reason
        held = self._hold(reason)
        self._unsettled = True
        measurements: dict[str, float | None] = dict(zip(reading._fields, reading, strict=True))
        if reason:
            self._paused_ns = now_ns
            telling.send_session("paused", measurements, reason=reason, probes=held)
        else:
            measurements["paused_ns"] = now_ns - self._paused_ns
            telling.send_session("resumed", measurements, reason=self.judge.below(reading), probes=held)
        self.on_change()

    def _hold(self, reason: str, wake: bool = True) -> int:
        """Pause every probe that minds the load, or with "" let them go on; return how many."""
        subject = self._subject()
        for each in subject:
            if self._ended:
                return 0  # `stop` closes them, and no stopwatch may go on after it
            turns.hold(each, reason)
        timed = [gate for each in subject for gate in each.gates if gate.timer is each and not _is_new(gate)]
        if reason:
            recorder.watch.retain(_is_timing)
        else:
            for gate in timed:
                recorder.watch.add(gate)  # type: ignore[arg-type]
            if timed and wake and recorder.idle:
                recorder.wake()
        return len(subject) + self.resting()


def _is_new(gate: Gate) -> bool:
    return gate.begin is calls.first or gate.begin is calls.waken


def _is_timing(gate: Gate) -> bool:
    return gate.timer is None or not gate.timer.paused


def _nobody() -> None:
    """Stand in until the session listens."""
