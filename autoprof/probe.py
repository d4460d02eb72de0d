"""The probe: one policy on one target, its gates and its numbers."""

from __future__ import annotations

from types import MappingProxyType

from autoprof import gate, turns
from autoprof.counting import count_elements
from autoprof.spending import Spending

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from autoprof.flight import Flight
    from autoprof.gate import Gate

    class Strategy(Protocol):
        """One way to measure a call; one file in `strategies/` each."""

        name: str

        def start(self, probe: Probe, flight: Flight) -> Any:
            """Begin to measure; return a state, or raise Busy."""

        def stop(
            self, probe: Probe, flight: Flight, state: Any, duration_ns: int, kept: bool
        ) -> dict[str, Any]:
            """End it; return what events say beyond the duration.

            Args:
                kept: False when the call is under the probe's threshold: let go of what was measured.

            Returns:
                Any of `samples`, `memory_delta` (bytes) and `profile` (path) for `complete`, and `event`: the
                policy's own event as (name, measurements, more metadata).
            """

        def forget(self) -> None:
            """Start clean in a forked child."""


IF_SLOW = "profile_if_slow"
WAITING = "waiting for its first call"
NEVER_NS = 1 << 62
"""A moment, or a time, that is never over; not `gate.FOREVER`, which is a second on 32 bits."""

REASONS = ("nested", "busy", "other_profiler", "paused", "error")


class Busy(Exception):
    """The strategy can measure only so many calls at once, and does already.

    Attributes:
        reason: what the call is counted as, one of REASONS.
    """

    reason = "busy"


class Nested(Busy):
    """The call is made inside another of the same function, and the strategy wants the outermost only."""

    reason = "nested"


NO_COUNTS: Any = MappingProxyType({})
"""The tables of a probe that was never called."""

NOBODY: set[int] = set()
"""The threads inside such a probe: taken out of, never put into."""


class Probe(Spending):
    """One policy on one target.

    Attributes:
        rate: probability that a call is measured.
        state: waiting, installed, paused, shed, disabled, failed, removed; `reason` is one sentence.
        keeps: share of the slow calls that are kept; 1 for policies other than `profile_if_slow`.
        profiled, discarded, skipped, samples, slow: counts, as the contract defines them.
        callees: calls of each function made inside the target, since they were last taken.
        memory_delta_bytes: sum of what the measured calls did to rss; None where that is not measured.
        memory_counts: sums of other changes of memory since they were last taken; see `store_records.ProbeDelta`.
        durations: histogram since it was last taken; its memory is bounded, whatever the rate.
        paused: why load keeps it from measuring, one sentence; "" while it does not.
        sampled: whether the flight recorder keeps stacks for it.
        expires_ns: moment of the monotonic clock at which its rule's `for` is over.
        turn: its one item is taken by the call that closes the gates for an `every`, and put back when they open.
    """

    __slots__ = (
        "_declined_before",
        "_skipped",
        "_timed_before_s",
        "artefact",
        "asynchronous",
        "busy",
        "callees",
        "check_load",
        "closed_until_ns",
        "discarded",
        "durations",
        "emits",
        "every_ns",
        "expires_ns",
        "gates",
        "keeps",
        "limit_ns",
        "max_ns",
        "memory_counts",
        "memory_delta_bytes",
        "options",
        "paused",
        "policy",
        "profiled",
        "rate",
        "reason",
        "rule",
        "sampled",
        "samples",
        "slow",
        "started_calls",
        "state",
        "strategy",
        "target",
        "threshold_ns",
        "total_ns",
        "turn",
    )

    def __init__(
        self, target: str, rule: str, policy: str, strategy: Strategy | None, options: dict[str, Any]
    ) -> None:
        self.target = target
        self.policy = policy
        self.strategy = strategy
        self.busy: set[int] = NOBODY
        self.sampled = strategy is None
        self.gates: tuple[Gate, ...] = ()
        self.closed_until_ns = 0
        self.turn: list[None] = turns.NEVER_FREE
        self.paused = ""
        self.artefact: str | None = None
        self.started_calls = 0
        self.state = "installed"
        super().__init__()
        self.adopt(rule, options)

    def adopt(self, rule: str, options: dict[str, Any]) -> None:
        """Measure by a rule's options from here on; what was counted stays."""
        policy = self.policy
        self.rule = rule
        self.options = options
        self.rate = float(options.get("rate", 1.0))
        self.keeps = self.rate if policy == IF_SLOW else 1.0
        self.threshold_ns: int | None = options.get("threshold_ns")
        self.limit_ns: int = options.get("duration_ns") or NEVER_NS
        self.every_ns: int = options.get("every_ns") or 0
        self.expires_ns: int = NEVER_NS
        self.emits = bool(options.get("emit_metrics", True))
        self.check_load = bool(options.get("check_load", True))
        self.asynchronous = bool(options.get("asynchronous", False))
        if bool(self.every_ns) != (self.turn is not turns.NEVER_FREE) or self.closed_until_ns:
            turns.reopen.pop(self, None)
            self.closed_until_ns = 0
            self.turn = [None] if self.every_ns else turns.NEVER_FREE
        if self.state == "shed":
            self.thinning = 1.0
        self.state = "installed"
        self.reason = "" if self.calls else WAITING

    def clear(self) -> None:
        """Set all numbers to zero; calls are counted from here."""
        if self.busy:
            self.busy.clear()
        self.profiled = self.discarded = self.samples = self.slow = 0
        self.total_ns = self.max_ns = 0
        self._skipped: dict[str, int] = NO_COUNTS
        self._declined_before = sum(each.declined for each in self.gates)
        self.durations: dict[int, int] = NO_COUNTS
        self.callees: dict[str, int] = NO_COUNTS
        self.memory_delta_bytes: int | None = None
        self.memory_counts: dict[str, int] = NO_COUNTS
        self.started_calls = sum(each.calls for each in self.gates)
        self._timed_before_s = self._timed_s
        super().clear()

    def prepare(self) -> None:
        """Make what counting needs: until its first call a probe has only what all of them share."""
        # Beware: displays and no calls, so that no thread can come between a look and the assignment.
        if self.busy is NOBODY:
            self.busy = {*()}
        if self._skipped is NO_COUNTS:
            self._skipped = {}
        if self.durations is NO_COUNTS:
            self.durations = {}
        if self.callees is NO_COUNTS:
            self.callees = {}
        if self.memory_counts is NO_COUNTS:
            self.memory_counts = {}

    @property
    def _timed_s(self) -> float:
        return sum([each.total for each in self.gates if isinstance(each, gate.TimedGate)])

    @property
    def time_ns(self) -> int:
        """What the measured calls took together; under `profile_if_slow` all calls."""
        if self.policy != IF_SLOW:
            return self.total_ns
        return self.total_ns + int((self._timed_s - self._timed_before_s) * 1e9)

    @property
    def strategy_name(self) -> str:
        """The strategy as the policy file writes it."""
        return "sample" if self.strategy is None else self.strategy.name

    @property
    def calls(self) -> int:
        """Every call of the target so far, recursive ones included."""
        return self.tally()[0]

    def tally(self) -> tuple[int, int]:
        """Return the calls so far, and how many of them found their gate open and a tracer on the thread."""
        gates = self.gates
        if len(gates) == 1:  # as nearly all have; each second all functions are asked
            calls, declined = gates[0].tally()
            return calls - self.started_calls, declined - self._declined_before
        calls, declined = -self.started_calls, -self._declined_before
        for each in gates:
            counted, traced = each.tally()
            calls += counted
            declined += traced
        return calls, declined

    def leave(self) -> None:
        """Let go of the gates; what was counted by them stays."""
        calls, declined = self.calls, sum([each.declined for each in self.gates]) - self._declined_before
        timed_s = self._timed_s - self._timed_before_s
        self.gates = ()
        self.started_calls, self._declined_before, self._timed_before_s = -calls, -declined, -timed_s

    def mark(self, declined: int) -> tuple[object, ...]:
        """Return what changes with whatever is counted of an open call and is not taken at each look.

        Args:
            declined: as `tally` has it.
        """
        return (
            self.profiled, self.discarded, self.slow, self.samples, self.looked, self.measured_ns,
            self.memory_delta_bytes, declined, self.skipped_calls if self._skipped else 0,
        )  # fmt: skip

    @property
    def concluded(self) -> int:
        """How many opened calls were measured to their end."""
        return self.looked if self.policy == IF_SLOW else self.profiled + self.discarded

    def rate_at(self, gate_: Gate) -> float:
        """Return the share of calls a gate opens for: 0 while `every` or load keeps it closed or nothing is installed.

        Every call is timed under `profile_if_slow`; without a stopwatch the gate opens for each, or for as many as
        the budget leaves.
        """
        if self.paused or self.closed_until_ns or (self.state != "installed" and self.state != "shed"):
            return 0.0
        return self.thinning * (1.0 if self.policy == IF_SLOW and gate_.timer is not self else self.rate)

    def add(self, gate_: Gate) -> None:
        """Put the probe behind one more gate: a setter beside the getter, a redefinition."""
        self.stand_behind(gate_)
        timed = isinstance(gate_, gate.TimedGate) and self.policy == IF_SLOW
        if timed:
            gate_.time_for(self)  # type: ignore[attr-defined]
            self.timed_from += gate_.calls
        if not timed or self.strategy is not None:
            gate_.probes = (*gate_.probes, self)

    def stand_from_birth(self, gate_: Gate) -> None:
        """Be the first probe behind a gate that has rested: what it has counted so far are this probe's calls."""
        if gate_ not in self.gates:
            self.gates = (*self.gates, gate_)
            gate_.probes = (*gate_.probes, self)

    def stand_behind(self, gate_: Gate) -> None:
        """Count a gate's calls, from here on."""
        self.gates = (*self.gates, gate_)
        self.started_calls += gate_.calls
        if isinstance(gate_, gate.TimedGate):
            self._timed_before_s += gate_.total
        self._declined_before += gate_.declined

    def record(self, duration_ns: int, profiled: int = 1, counted: int = 1) -> None:
        """Keep one duration; exact under threads (single bytecodes on counters).

        Args:
            profiled: 0 for a call without a profile.
            counted: 0 for one that is in the total already.
        """
        self.profiled += profiled
        if counted:
            self.total_ns += duration_ns
        if duration_ns > self.max_ns:
            self.max_ns = duration_ns
        # `histogram.bucket`, written out: at the recursion limit a call more is a level too many.
        if duration_ns < 16:
            index = duration_ns if duration_ns > 0 else 0
        else:
            shift = duration_ns.bit_length() - 5
            index = (shift << 4) + (duration_ns >> shift)
        # `+=` on a dict switches no thread and lets no signal handler in; a `get` in between would.
        try:
            self.durations[index] += 1
        except KeyError:
            one = (index,)  # before the look at the table: making it may let others run on 3.11
            if self.durations is NO_COUNTS:  # as in `prepare`, which would be a level of recursion more
                self.durations = {}
            count_elements(self.durations, one)

    def take_durations(self) -> dict[int, int]:
        """Return the histogram since the last time and start a new one."""
        taken, self.durations = self.durations, {}
        return {index: count for index, count in taken.copy().items() if count}

    def take_callees(self) -> dict[str, int]:
        """Return the counts of callees since the last time and start anew."""
        taken, self.callees = self.callees, {}
        return taken.copy()

    def take_memory_counts(self) -> dict[str, int]:
        """Return the sums of memory changes since the last time and start anew."""
        taken, self.memory_counts = self.memory_counts, {}
        return taken.copy()

    def skip(self, reason: str) -> None:
        """Count a call whose gate was open and which is not measured."""
        try:
            self._skipped[reason] += 1
        except KeyError:
            one = (reason,)
            if self._skipped is NO_COUNTS:
                self._skipped = {}
            count_elements(self._skipped, one)

    @property
    def skips(self) -> int:
        """How many calls `skipped` counts."""
        return self.skipped_calls + self.tally()[1]

    @property
    def skipped_calls(self) -> int:
        """How many of them are not for a tracer on the thread."""
        skipped = self._skipped
        return sum(skipped.values()) if skipped else 0

    @property
    def skipped(self) -> dict[str, int]:
        """Calls whose gate was open and which were not measured, by reason; a copy."""
        counts = dict(self._skipped)
        declined = sum([each.declined for each in self.gates]) - self._declined_before
        if declined:
            counts["other_profiler"] = counts.get("other_profiler", 0) + declined
        return counts
