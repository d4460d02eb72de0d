"""What is told of a probe adds up to what it has counted, whatever is counted in between."""

from __future__ import annotations

import sys
import threading
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from autoprof.collecting import Told, merged, news
from autoprof.gate import FOREVER, Gate, TimedGate
from autoprof.inline import RUN, InlineGate
from autoprof.probe import IF_SLOW, Probe
from autoprof.store_records import CallsDelta, ProbeDelta

SUMS = ("calls", "profiled", "discarded", "slow", "samples", "total_ns", "overhead_ns", "memory_delta_bytes")
TABLES = ("skipped", "durations", "callees", "memory_counts")


def nothing(*_: Any) -> None:
    """Stand in for what gates call."""


def probe_of(policy: str) -> tuple[Probe, Gate]:
    timed = policy == IF_SLOW
    gate = (
        TimedGate(nothing, nothing, nothing, nothing, nothing) if timed else Gate(nothing, nothing, nothing)
    )
    options = {"rate": 0.1, "threshold_ns": 1_000_000 if timed else None}
    made = Probe("shop:f", "mine", policy, None, options)
    made.prepare()
    made.memory_delta_bytes = 0
    made.add(gate)
    gate.close()
    return made, gate


def call(probe: Probe, gate: Gate) -> None:
    next(gate.ticks)
    if isinstance(gate, TimedGate):
        gate.total += 0.001


def remember(probe: Probe, gate: Gate) -> None:
    assert probe.memory_delta_bytes is not None
    probe.memory_delta_bytes += 4_096
    probe.memory_counts["blocks"] = probe.memory_counts.get("blocks", 0) + 3


def counts_callee(probe: Probe, gate: Gate) -> None:
    probe.callees["shop:g"] = probe.callees.get("shop:g", 0) + 1


def add(name: str) -> Any:
    def one(probe: Probe, gate: Gate) -> None:
        setattr(probe, name, getattr(probe, name) + 1)

    return one


EVENTS: dict[str, Any] = {
    "call": call,
    "measured": lambda probe, gate: probe.record(1_234_567),
    "skipped": lambda probe, gate: probe.skip("nested"),
    "traced": lambda probe, gate: next(gate.traced),
    "missed": lambda probe, gate: next(gate.missed),
    "discarded": add("discarded"),
    "slow": add("slow"),
    "sample": add("samples"),
    "looked": add("looked"),
    "charge": lambda probe, gate: probe.charge(500),
    "memory": remember,
    "callee": counts_callee,
    "weighed": lambda probe, gate: probe.weigh(3.0, 10),
    "flush": None,
}


@pytest.mark.parametrize("policy", ["profile", IF_SLOW])
@given(events=st.lists(st.sampled_from(sorted(EVENTS)), max_size=40))
@example(events=["weighed", "flush", "weighed"])
def test_deltas_add_up(policy: str, events: list[str]) -> None:
    probe, gate = probe_of(policy)
    told, deltas = Told(), []
    durations: dict[int, int] = {}
    for event in [*events, "flush"]:
        if EVENTS[event] is not None:
            EVENTS[event](probe, gate)
            continue
        durations = {
            index: durations.get(index, 0) + probe.durations.get(index, 0)
            for index in {*durations, *probe.durations}
        }
        delta = news(probe, told)
        if delta is not None:
            deltas.append(delta)
    assert news(probe, told) is None
    calls = sum(event in ("call", "traced", "missed") for event in events)
    expected = {
        "calls": calls,
        "profiled": events.count("measured"),
        "discarded": events.count("discarded"),
        "slow": events.count("slow"),
        "samples": events.count("sample"),
        "total_ns": probe.time_ns,
        "overhead_ns": probe.overhead_ns,
        "memory_delta_bytes": 4_096 * events.count("memory"),
    }
    found = {name: sum(getattr(each, name, 0) or 0 for each in deltas) for name in SUMS}
    assert found == expected
    whole = merged(deltas)
    assert len(whole) <= 1
    for each in (each.in_full() if each.only_calls else each for each in whole):
        skipped = {"nested": events.count("skipped"), "other_profiler": events.count("traced")}
        assert each.skipped == {reason: count for reason, count in skipped.items() if count}
        assert each.durations == durations
        assert each.callees == ({"shop:g": events.count("callee")} if "callee" in events else {})
        assert each.memory_counts == ({"blocks": 3 * events.count("memory")} if "memory" in events else {})
        assert each.weighed.get("calls", 0) == 2 * events.count("weighed")


def test_calls_alone_are_told_as_such() -> None:
    probe, gate = probe_of("profile")
    told = Told()
    assert news(probe, told) is not None, "that memory is measured"
    call(probe, gate)
    delta = news(probe, told)
    assert isinstance(delta, CallsDelta) and delta.calls == 1
    probe.record(5)
    delta = news(probe, told)
    assert isinstance(delta, ProbeDelta) and delta.profiled == 1
    assert merged([delta]) == [delta]


def test_the_mark_is_that_of_before_the_look() -> None:
    """What is counted while the numbers are read is told the next time, not lost."""
    probe, _ = probe_of("profile")
    told = Told()

    class Late(dict):  # type: ignore[type-arg]
        def copy(self) -> Any:
            probe.durations[7] = 1  # another thread's call ends
            probe.profiled += 1
            return dict(self)

    probe.durations = Late({3: 1})
    probe.profiled = 1
    first, second = news(probe, told), news(probe, told)
    assert first is not None and first.profiled == 1
    assert second is not None and (second.profiled, second.durations) == (1, {7: 1})


def test_a_gate_whose_count_falls_for_a_moment_is_told_once() -> None:
    probe, gate = probe_of("profile")
    told = Told()
    for _ in range(5):
        call(probe, gate)
    assert news(probe, told).calls == 5  # type: ignore[union-attr]
    gate.used -= 1  # `in_place` takes a tick back for an instant
    assert news(probe, told) is None
    gate.used += 1
    call(probe, gate)
    assert news(probe, told).calls == 1  # type: ignore[union-attr]
    assert FOREVER > probe.calls == 6


def inline_probe() -> tuple[Probe, InlineGate]:
    gate = InlineGate(nothing, nothing, nothing)
    made = Probe("shop:f", "mine", "profile", None, {"rate": 0.1})
    made.add(gate)
    gate.close()
    return made, gate


def closed_call(gate: InlineGate) -> None:
    assert gate.step(), "closed"


def opened(gate: InlineGate) -> None:
    """Go through `begin` as a call does, that of the inner function included."""
    gate.retune(1.0)
    next(gate.countdown)
    assert gate.claim()
    gate.lend()
    closed_call(gate)
    gate.close()


def measured(probe: Probe, gate: InlineGate) -> None:
    opened(gate)
    probe.record(1_234_567)


def turned_away(probe: Probe, gate: InlineGate) -> None:
    opened(gate)
    probe.skip("nested")


def many_calls(probe: Probe, gate: InlineGate) -> None:
    for _ in range(RUN + 3):
        closed_call(gate)


INLINE_EVENTS: dict[str, tuple[int, Any]] = {
    "call": (1, lambda probe, gate: closed_call(gate)),
    "calls": (RUN + 3, many_calls),
    "measured": (1, measured),
    "skipped": (1, turned_away),
    "retuned": (0, lambda probe, gate: gate.close()),
    "traced": (1, lambda probe, gate: next(gate.traced)),
    "missed": (1, lambda probe, gate: next(gate.missed)),
    "flush": (0, None),
}


@given(events=st.lists(st.sampled_from(sorted(INLINE_EVENTS)), max_size=40))
@example(events=["call", "flush", "call", "flush", "measured", "flush", "flush", "calls", "flush", "traced"])
def test_short_looks_miss_nothing(events: list[str]) -> None:
    probe, gate = inline_probe()
    told, deltas = Told(), []
    for event in [*events, "flush"]:
        if event != "flush":
            INLINE_EVENTS[event][1](probe, gate)
            continue
        delta = news(probe, told, False)
        if delta is not None:
            deltas.append(delta)
    assert news(probe, told) is None, "a thorough look finds no more"
    assert sum(each.calls for each in deltas) == sum(INLINE_EVENTS[each][0] for each in events) == probe.calls
    full = [each for each in deltas if isinstance(each, ProbeDelta)]
    assert sum(each.profiled for each in full) == events.count("measured")
    assert sum(sum(each.durations.values()) for each in full) == events.count("measured")
    skipped = {"nested": events.count("skipped"), "other_profiler": events.count("traced")}
    for reason, count in skipped.items():
        assert sum(each.skipped.get(reason, 0) for each in full) == count


def looked_at_shortly(probe: Probe, gate: InlineGate) -> Told:
    """Return what was told of a probe whose next look may be a short one."""
    told = Told()
    for kind in (ProbeDelta, CallsDelta):
        closed_call(gate)
        assert isinstance(news(probe, told), kind)
    assert told.gates is probe.gates
    return told


def test_what_no_open_gate_has_counted_is_told_by_a_thorough_look() -> None:
    probe, gate = inline_probe()
    told = looked_at_shortly(probe, gate)
    probe.skip("error")
    assert news(probe, told, False) is None
    found = news(probe, told)
    assert isinstance(found, ProbeDelta) and found.skipped == {"error": 1}


def test_no_short_look_while_a_call_is_in_progress() -> None:
    probe, gate = inline_probe()
    told = looked_at_shortly(probe, gate)
    opened(gate)
    probe.prepare()
    probe.busy.add(1)
    for _ in range(3):
        news(probe, told, False)
    probe.busy.discard(1)
    probe.record(5)
    found = news(probe, told, False)
    assert isinstance(found, ProbeDelta) and found.profiled == 1


def test_no_short_look_right_after_a_measured_call() -> None:
    probe, gate = inline_probe()
    told = looked_at_shortly(probe, gate)
    measured(probe, gate)
    assert isinstance(news(probe, told, False), ProbeDelta)
    probe.samples += 1  # the sampler's thread comes late
    found = news(probe, told, False)
    assert isinstance(found, ProbeDelta) and found.samples == 1


def test_a_new_rules_label_is_told() -> None:
    probe, gate = inline_probe()
    told = looked_at_shortly(probe, gate)
    probe.rule = "another"
    closed_call(gate)
    found = news(probe, told, False)
    assert isinstance(found, CallsDelta) and found.key == ("shop:f", "another", "profile", "sample")
    closed_call(gate)
    assert news(probe, told, False).key is found.key  # type: ignore[union-attr]


def test_calls_between_the_looks_of_one_look_are_told_later(monkeypatch: pytest.MonkeyPatch) -> None:
    probe, gate = inline_probe()
    told = looked_at_shortly(probe, gate)
    tally = Probe.tally

    def then_another(self: Probe) -> tuple[int, int]:
        found = tally(self)
        closed_call(gate)
        return found

    monkeypatch.setattr(Probe, "tally", then_another)
    assert news(probe, told) is None and told.gates is None
    monkeypatch.undo()
    assert news(probe, told, False).calls == 1  # type: ignore[union-attr]


def test_a_probe_that_left_keeps_no_gate_alive() -> None:
    probe, gate = inline_probe()
    told = looked_at_shortly(probe, gate)
    probe.leave()
    assert news(probe, told, False) is None
    assert told.gate is None and told.gates is None


def test_a_call_that_opens_the_gate_while_calls_are_added_up_counts_once() -> None:
    _, gate = inline_probe()
    for _ in range(RUN + 7):
        closed_call(gate)

    class Traced:
        """Asked where other threads may run, too."""

        def __iter__(self) -> Any:
            return self

        def __next__(self) -> bool:
            raise StopIteration

        def __length_hint__(self) -> int:
            gate.retune(1.0)
            next(gate.countdown)
            assert gate.claim()
            return FOREVER

    gate.traced = Traced()  # type: ignore[assignment]
    assert gate.tally() == (RUN + 7, 0)


def test_short_looks_beside_threads_tell_every_call_once() -> None:
    probe, gate = inline_probe()
    gate.retune(0.01)
    told, deltas, each_thread = Told(), [], 20_000

    def call_often() -> None:
        for _ in range(each_thread):
            if not gate.step() and gate.claim():
                gate.lend()
                gate.step()

    threads = [threading.Thread(target=call_often) for _ in range(4)]
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for each in threads:
            each.start()
        while any(each.is_alive() for each in threads):
            deltas.append(news(probe, told, False))
        for each in threads:
            each.join()
    finally:
        sys.setswitchinterval(interval_s)
    deltas.append(news(probe, told))
    assert sum(each.calls for each in deltas if each is not None) == probe.calls
    assert all(each.calls >= 0 for each in deltas if each is not None)


def test_short_looks_go_on_over_the_ends_of_runs() -> None:
    probe, gate = inline_probe()
    told = looked_at_shortly(probe, gate)
    for number in range(1, 2 * RUN):
        closed_call(gate)
        found = news(probe, told, False)
        assert isinstance(found, CallsDelta) and found.calls == 1
        assert told.calls == probe.calls == number + 2
