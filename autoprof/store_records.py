"""What goes into the store and what comes out of it: plain shapes, no SQLite.

Writing uses deltas (increments since the last write); reading gives sums over processes.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import TypeAlias

    Stack: TypeAlias = tuple[str, ...]
    ProbeKey: TypeAlias = tuple[str, str, str, str]  # target, rule, policy, strategy

Key = tuple[str, str, str]
"""(target, policy, strategy): what one row of a report is about."""


class Labelled:
    """What is told of one probe; its subclasses say what."""

    __slots__ = ("policy", "rule", "strategy", "target")

    if TYPE_CHECKING:
        target: str
        rule: str
        policy: str
        strategy: str

    @property
    def key(self) -> ProbeKey:
        """Target, rule, policy and strategy."""
        return self.target, self.rule, self.policy, self.strategy


class ProbeDelta(Labelled):
    """What one probe counted since the last write.

    Args:
        target: `module:qualname`.
        rule: Label of the rule (or `decorator`).
        policy: Kind, such as `profile`.
        strategy: Such as `sample`.
        calls: Entries of the function.
        profiled: Measurements finished.
        skipped: Gate openings that were not measured, by reason.
        discarded: Measurements under the rule's threshold.
        slow: Calls over the threshold.
        samples: Stack samples taken.
        total_ns: Sum of the durations counted in `durations`.
        durations: Histogram, `autoprof.histogram` bucket to count.
        max_ns: Longest of those durations.
        memory_delta_bytes: Sum of the rss changes; None when not measured.
        overhead_ns: What measuring cost.
        callees: Calls of each function made inside the target.
        memory_counts: What calls did to memory besides rss: `blocks`, the Python blocks they left behind besides their
            results, and `blocks_calls`, of how many calls that is known.
        weighed: What the measured calls stand for beyond themselves, where the budget had cut the rate they were drawn
            with: `calls`, and their `total_ns`.
    """

    __slots__ = (
        "callees", "calls", "discarded", "durations", "max_ns", "memory_counts", "memory_delta_bytes", "overhead_ns",
        "profiled", "samples", "skipped", "slow", "total_ns", "weighed",
    )  # fmt: skip

    only_calls = False

    def __init__(
        self,
        target: str,
        rule: str,
        policy: str,
        strategy: str,
        *,
        calls: int = 0,
        profiled: int = 0,
        skipped: Mapping[str, int] | None = None,
        discarded: int = 0,
        slow: int = 0,
        samples: int = 0,
        total_ns: int = 0,
        durations: Mapping[int, int] | None = None,
        max_ns: int = 0,
        memory_delta_bytes: int | None = None,
        overhead_ns: int = 0,
        callees: Mapping[str, int] | None = None,
        memory_counts: Mapping[str, int] | None = None,
        weighed: Mapping[str, int] | None = None,
    ) -> None:
        self.target, self.rule, self.policy, self.strategy = target, rule, policy, strategy
        self.calls, self.profiled, self.discarded, self.slow = calls, profiled, discarded, slow
        self.skipped = skipped or {}
        self.samples, self.total_ns, self.max_ns = samples, total_ns, max_ns
        self.durations = durations or {}
        self.memory_delta_bytes, self.overhead_ns = memory_delta_bytes, overhead_ns
        self.callees = callees or {}
        self.memory_counts = memory_counts or {}
        self.weighed = weighed or {}


class CallsDelta:
    """What one probe counted since the last write, where nothing of it was measured: as most are, most of the time.

    Args:
        key: Target, rule, policy and strategy, as in `ProbeDelta`; one tuple for all deltas of a probe.
        calls: As in `ProbeDelta`.
    """

    __slots__ = ("calls", "key")

    only_calls = True

    def __init__(self, key: ProbeKey, calls: int) -> None:
        self.key = key
        self.calls = calls

    def in_full(self) -> ProbeDelta:
        """Return it with all that is nothing."""
        return ProbeDelta(*self.key, calls=self.calls)


class StackDelta(Labelled):
    """How often one stack was seen under one probe since the last write.

    Args:
        stack: Frame labels, root first: `module:qualname (file:line)`.
        samples: Times seen.
        weight_ns: Time the samples stand for.
    """

    __slots__ = ("samples", "stack", "weight_ns")

    def __init__(
        self,
        target: str,
        rule: str,
        policy: str,
        strategy: str,
        stack: Stack,
        samples: int,
        weight_ns: int = 0,
    ) -> None:
        self.target, self.rule, self.policy, self.strategy = target, rule, policy, strategy
        self.stack, self.samples, self.weight_ns = stack, samples, weight_ns


class Artefact(Labelled):
    """A file that a strategy wrote, such as a flame graph.

    Args:
        path: Relative to the output folder, or absolute.
        format: `svg`, `html`, `json`.
        created_ns: Since the epoch.
        duration_ns: Of the call it shows; None when unknown.
        size_bytes: Of the file.
    """

    __slots__ = ("created_ns", "duration_ns", "format", "path", "size_bytes")

    def __init__(
        self,
        target: str,
        rule: str,
        policy: str,
        strategy: str,
        path: str,
        format: str,
        created_ns: int,
        *,
        duration_ns: int | None = None,
        size_bytes: int = 0,
    ) -> None:
        self.target, self.rule, self.policy, self.strategy = target, rule, policy, strategy
        self.path, self.format, self.created_ns = path, format, created_ns
        self.duration_ns, self.size_bytes = duration_ns, size_bytes


class ProbeState(Labelled):
    """The state of one probe, or of a rule that matched nothing (`target` is then its glob), for `status`."""

    __slots__ = ("reason", "state")

    def __init__(self, target: str, rule: str, policy: str, strategy: str, state: str, reason: str) -> None:
        self.target, self.rule, self.policy, self.strategy = target, rule, policy, strategy
        self.state, self.reason = state, reason


class ProbeRow:
    """One row of a report: a (target, policy, strategy) summed over processes."""

    __slots__ = (
        "callees", "calls", "discarded", "durations", "max_ns", "memory_counts", "memory_delta_bytes", "overhead_ns",
        "pids", "policy", "profiled", "rules", "samples", "skipped_by", "slow", "strategy", "target", "total_ns",
        "weighed",
    )  # fmt: skip

    def __init__(self, target: str, policy: str, strategy: str) -> None:
        self.target, self.policy, self.strategy = target, policy, strategy
        self.rules: list[str] = []
        self.pids: set[tuple[str, int]] = set()
        self.calls = self.profiled = self.discarded = self.slow = self.samples = 0
        self.total_ns = self.max_ns = self.overhead_ns = 0
        self.memory_delta_bytes: int | None = None
        self.skipped_by: dict[str, int] = {}
        self.durations: dict[int, int] = {}
        self.callees: dict[str, int] = {}
        self.memory_counts: dict[str, int] = {}
        self.weighed: dict[str, int] = {}

    @property
    def key(self) -> Key:
        """(target, policy, strategy)."""
        return (self.target, self.policy, self.strategy)

    @property
    def rule(self) -> str:
        """The label of its rule; several (after a reload) are joined."""
        return ", ".join(self.rules)

    @property
    def skipped(self) -> int:
        """Gate openings that were not measured, for whatever reason."""
        return sum(self.skipped_by.values())

    @property
    def processes(self) -> int:
        """Number of processes that counted something."""
        return len(self.pids)

    @property
    def estimated_total_ns(self) -> int | None:
        """Mean measured duration times calls; None when nothing was measured.

        Calls drawn while the budget had cut the rate count for as many as they stand for. `profile_if_slow` times every
        call, so there it is an estimate only where the budget shed the stopwatch; its `durations` are those of slow
        calls.
        """
        total_ns = self.total_ns + self.weighed.get("total_ns", 0)
        if self.policy == "profile_if_slow":
            return total_ns or None
        measured = sum(self.durations.values()) + self.weighed.get("calls", 0)
        return round(total_ns / measured * self.calls) if measured else None


class ProcessRow:
    """One process; `ended_ns` is None while it lives, its last sign of life if it was killed."""

    __slots__ = (
        "alive", "dropped", "ended_ns", "env", "host", "instance", "last_ns", "overhead_ns", "pid", "run",
        "service", "started_ns", "version",
    )  # fmt: skip

    def __init__(self, pid: int, host: str, run: str, started_ns: int, last_ns: int) -> None:
        self.pid, self.host, self.run = pid, host, run
        self.started_ns, self.last_ns = started_ns, last_ns
        self.ended_ns: int | None = None
        self.overhead_ns = self.dropped = 0
        self.alive = False
        self.env = ""
        self.service: str | None = None
        self.instance: str | None = None
        self.version: str | None = None


class RunInfo:
    """One start of an application, its children included; `ended_ns` is None while a process of it lives."""

    __slots__ = ("ended_ns", "last_ns", "processes", "run", "started_ns")

    def __init__(self, run: str, processes: Iterable[ProcessRow]) -> None:
        rows = list(processes)
        self.run, self.processes = run, len(rows)
        self.started_ns = min(row.started_ns for row in rows)
        self.last_ns = max(row.last_ns for row in rows)
        ends = [row.ended_ns for row in rows]
        self.ended_ns = None if None in ends else max(end for end in ends if end is not None)


class ReportData:
    """Everything a report needs. Empty when `probes` is.

    Attributes:
        run: The run's id, `all` when every run was asked for.
        runs: The runs in it, oldest first.
        started_ns: When the first of its processes started; with `since`, not before that.
        ended_ns: When the last one ended; None while one lives.
        probes: Rows, the largest estimated total first.
        stacks: Per row key: stack (root first) to [samples, weight_ns].
        dropped: Samples and profiles that were measured but not kept.
    """

    __slots__ = (
        "artefacts", "dropped", "ended_ns", "notices", "probes", "processes", "run", "runs", "stacks",
        "started_ns", "states",
    )  # fmt: skip

    def __init__(self, run: str) -> None:
        self.run = run
        self.runs: list[RunInfo] = []
        self.started_ns = 0
        self.ended_ns: int | None = None
        self.probes: list[ProbeRow] = []
        self.processes: list[ProcessRow] = []
        self.stacks: dict[Key, dict[Stack, list[int]]] = {}
        self.artefacts: list[Artefact] = []
        self.states: list[ProbeState] = []
        self.dropped = 0
        self.notices: list[str] = []

    @property
    def lived_ns(self) -> int:
        """How long its processes have lived, added up."""
        return sum(max((row.ended_ns or row.last_ns) - row.started_ns, 0) for row in self.processes)
