"""What probes have counted since the last look: most have let calls through and measured none."""

from __future__ import annotations

from autoprof.inline import InlineGate
from autoprof.probe import IF_SLOW
from autoprof.store_records import CallsDelta, ProbeDelta

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from autoprof.gate import Gate
    from autoprof.probe import Probe
    from autoprof.store_records import ProbeKey as Key

    Counts = tuple[int, ...]


class Told:
    """What was told of a probe the last time.

    Attributes:
        counts: profiled, discarded, slow, samples, nanoseconds, nanoseconds of overhead.
        key: target, rule, policy, strategy.
        mark: `Probe.mark` then: while it is the same, nothing but calls was counted.
        gates, gate: of a probe with one gate in front of a plain function, none of whose calls was measured lately;
            else None. Only a call that opens that gate changes the mark.
        place: `InlineGate.place` then.
    """

    __slots__ = (
        "calls", "counts", "gate", "gates", "key", "mark", "memory_bytes", "place", "skipped",
    )  # fmt: skip

    def __init__(self) -> None:
        self.gates: tuple[Gate, ...] | None = None
        self.gate: Any = None
        self.place = (0, 0, 0, 0)
        self.key: Key = ("",) * 4
        self.calls = 0
        self.counts: Counts = (0,) * 6
        self.skipped: dict[str, int] = {}
        self.memory_bytes: int | None = None
        self.mark: object = None


def news(probe: Probe, told: Told, thorough: bool = True) -> ProbeDelta | CallsDelta | None:
    """Return what a probe has counted since the last time, None when that is nothing; remember it.

    Args:
        thorough: False: where the gate has opened for nobody lately, look at nothing but how many calls it let through.
            What a failure of ours in `begin` counts is then told later.
    """
    if not thorough and probe.gates is told.gates and probe.rule is told.key[1]:
        place = told.gate.place()
        before = told.place
        if place[0] == before[0] and place[2] == before[2] and place[3] == before[3]:
            new = place[1] - before[1]
            if new <= 0:
                return None
            told.place = place
            told.calls += new
            return CallsDelta(told.key, new)
    gates = probe.gates
    gate = gates[0] if len(gates) == 1 and isinstance(gates[0], InlineGate) else None
    before = gate.place() if gate is not None else told.place
    found = _news(probe, told)
    told.gates = told.gate = None
    # Not right after a call that was measured: a sample may still be on its way.
    if (
        gate is not None
        and not isinstance(found, ProbeDelta)
        and _is_plain(probe, gate)
        and gate.place() == before
    ):
        told.gates, told.gate, told.place = gates, gate, before
    return found


def _is_plain(probe: Probe, gate: Gate) -> bool:
    """Tell whether nothing but calls is counted of a probe until its gate opens."""
    return probe.policy != IF_SLOW and not gate.generator_like and not probe.busy


def _news(probe: Probe, told: Told) -> ProbeDelta | CallsDelta | None:
    if told.key[1] is not probe.rule:
        told.key = (probe.target, probe.rule, probe.policy, probe.strategy_name)
    calls, declined = probe.tally()
    mark = probe.mark(declined)
    if (
        mark != told.mark
        or probe.policy == IF_SLOW  # whose calls are timed without a mark
        or probe.durations
        or probe.callees
        or probe.memory_counts
        or probe.weighed_calls
    ):
        return _all_news(probe, told, mark, calls)
    before = told.calls
    if calls <= before:
        return None
    told.calls = calls
    return CallsDelta(told.key, calls - before)


def _all_news(probe: Probe, told: Told, mark: object, calls: int) -> ProbeDelta | None:
    before, now = told.counts, _counts_of(probe)
    calls_before = told.calls
    calls = max(calls, calls_before)
    told.calls, told.counts, told.mark = calls, now, mark
    skipped_before, memory_before = told.skipped, told.memory_bytes
    skipped, memory_bytes = told.skipped, told.memory_bytes = probe.skipped, probe.memory_delta_bytes
    durations, callees = probe.take_durations(), probe.take_callees()
    memory_counts, weighed = probe.take_memory_counts(), probe.take_weighed()
    tables = durations or callees or memory_counts or weighed
    if (
        not tables
        and calls == calls_before
        and now == before
        and skipped == skipped_before
        and memory_bytes == memory_before
    ):
        return None
    return ProbeDelta(
        *told.key,
        calls=calls - calls_before,
        profiled=now[0] - before[0],
        discarded=now[1] - before[1],
        slow=now[2] - before[2],
        samples=now[3] - before[3],
        total_ns=now[4] - before[4],
        overhead_ns=max(now[5] - before[5], 0),
        skipped={
            reason: new for reason, count in skipped.items() if (new := count - skipped_before.get(reason, 0))
        },
        durations=durations,
        max_ns=probe.max_ns,
        memory_delta_bytes=memory_bytes if memory_bytes is None else memory_bytes - (memory_before or 0),
        callees=callees,
        memory_counts=memory_counts,
        weighed=weighed,
    )


def _counts_of(probe: Probe) -> Counts:
    return (
        probe.profiled,
        probe.discarded,
        probe.slow,
        probe.samples,
        probe.time_ns,
        probe.overhead_ns,
    )


def merged(deltas: list[Any]) -> list[Any]:
    """Add up deltas of the same probe, so that a store that can't be written costs bounded memory."""
    out: dict[Key, Any] = {}
    for each in deltas:
        key = each.key
        first = out.get(key)
        if first is None:
            out[key] = each
            continue
        if each.only_calls:
            first.calls += each.calls
            continue
        if first.only_calls:
            first = out[key] = first.in_full()
        for name in ("calls", "profiled", "discarded", "slow", "samples", "total_ns", "overhead_ns"):
            setattr(first, name, getattr(first, name) + getattr(each, name))
        first.max_ns = max(first.max_ns, each.max_ns)
        if each.memory_delta_bytes is not None:
            first.memory_delta_bytes = (first.memory_delta_bytes or 0) + each.memory_delta_bytes
        for name in ("skipped", "durations", "callees", "memory_counts", "weighed"):
            both = dict(getattr(first, name))
            for index, count in getattr(each, name).items():
                both[index] = both.get(index, 0) + count
            setattr(first, name, both)
    return list(out.values())
