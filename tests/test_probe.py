"""What runs when a gate opens: what is measured, what is skipped and why, and what receivers are told."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from autoprof import ends, flight, guard, session, signals, testing, turns
from autoprof.probe import Busy, Probe
from tests import mechanisms
from tests.mechanisms import Loaded

WEBASSEMBLY = sys.platform == "emscripten"
Load = Callable[..., Loaded]
SOURCE = "def f(x=1, *, fail=None, act=None):\n    if act: act()\n    if fail: raise fail\n    return x\n"


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Load]:
    yield from mechanisms.loads(tmp_path)


@pytest.fixture(params=["spliced_at_import", "decorated_at_import"])
def loaded(request: pytest.FixtureRequest, load: Load) -> Callable[..., Loaded]:
    return lambda source=SOURCE, **options: load(request.param, source, **options)


def test_a_call_that_returns(loaded: Any) -> None:
    module = loaded(metadata={"team": "pay"})
    with testing.capture() as events:
        assert module.f(5) == 5
    assert events.names == ["start", "stop", "complete"]
    start, stop, complete = events
    assert start.measurements["system_time"] > 10**18
    assert start.metadata["opts"]["rate"] == 1.0
    assert stop.measurements["duration_ns"] >= 0
    assert stop.metadata["result"] == "int"
    assert set(complete.measurements) == {"duration_ns", "memory_delta", "samples"}
    assert complete.measurements["memory_delta"] is None
    assert complete.metadata["profile"] is None
    keys = {"event", "module", "function", "target", "rule", "policy", "strategy", "pid", "thread", "env"}
    for event in events:
        assert keys | {"service", "user"} <= set(event.metadata)
        assert event.target == event.metadata["target"] == f"{module.name}:f"
        assert event.metadata["user"] == {"team": "pay"}
        assert (event.metadata["policy"], event.metadata["strategy"]) == ("profile", "sample")


def test_a_call_that_raises(loaded: Any) -> None:
    module = loaded()
    error = KeyError("reason")
    with testing.capture() as events, pytest.raises(KeyError):
        module.f(fail=error)
    assert events.names == ["start", "exception", "complete"]
    metadata = events[1].metadata
    assert metadata["kind"] == "KeyError"
    assert metadata["reason"] is error
    assert [name for _, _, name in metadata["stacktrace"]] == ["f"]
    assert module.probe("f").profiled == 1


def test_no_values_leave_the_process(loaded: Any) -> None:
    module = loaded()
    with testing.capture() as events:
        module.f("secret argument")
    assert "secret" not in repr(list(events))


def test_emit_metrics_false_sends_nothing_and_counts(loaded: Any) -> None:
    module = loaded(emit_metrics=False)
    with testing.capture() as events:
        module.f()
    assert not events
    assert (module.probe("f").calls, module.probe("f").profiled) == (1, 1)


def test_threshold_discards_faster_calls(loaded: Any) -> None:
    module = loaded(threshold="20ms")
    probe = module.probe("f")
    with testing.FakeClock() as clock, testing.capture() as events:
        module.f(act=lambda: clock.advance(ms=19))
        module.f(act=lambda: clock.advance(ms=21))
    assert (probe.calls, probe.profiled, probe.discarded) == (2, 1, 1)
    assert [each.name for each in events if each.name != "start"] == ["stop", "complete"]
    assert probe.max_ns == events.named("stop")[0].measurements["duration_ns"] == 21_000_000
    assert probe.total_ns == 21_000_000


@pytest.mark.usefixtures("no_flushes")
def test_durations_add_up(loaded: Any) -> None:
    module = loaded()
    probe = module.probe("f")
    with testing.FakeClock() as clock:
        for ms in (1, 2, 3):
            module.f(act=lambda ms=ms: clock.advance(ms=ms))
    assert (probe.total_ns, probe.max_ns) == (6_000_000, 3_000_000)
    assert sum(probe.take_durations().values()) == 3
    assert probe.take_durations() == {}


def test_many_durations_take_little_room() -> None:
    probe = Probe("m:f", "rule 1", "profile", None, {})
    for duration_ns in range(20_000):
        probe.record(duration_ns)
    assert len(probe.durations) < 250
    assert sum(probe.take_durations().values()) == probe.profiled == 20_000


def test_nested_calls_are_counted_as_skipped(loaded: Any) -> None:
    module = loaded()
    module.f(act=lambda: module.f(act=module.f))
    probe = module.probe("f")
    assert (probe.calls, probe.profiled, probe.skipped) == (3, 1, {"nested": 2})


def test_inside_a_receiver_nothing_is_measured(loaded: Any) -> None:
    module = loaded()

    def receiver(sender: str, *, measurements: Any, metadata: Any) -> None:
        module.f()

    with signals.stop.connected_to(receiver):
        module.f()
    probe = module.probe("f")
    assert (probe.calls, probe.profiled, probe.skipped) == (2, 1, {"nested": 1})


@pytest.mark.parametrize("which", ["settrace", "setprofile"])
def test_another_profiler_has_the_right_of_way(loaded: Any, which: str) -> None:
    module = loaded()
    getter, setter = getattr(sys, which.replace("set", "get")), getattr(sys, which)
    before = getter()
    setter(lambda *_: None)
    try:
        module.f()
    finally:
        setter(before)
    assert module.probe("f").skipped == {"other_profiler": 1}
    if before is None:
        module.f()
        assert module.probe("f").profiled == 1


@pytest.mark.skipif(sys.version_info < (3, 12), reason="sys.monitoring")
def test_a_monitoring_profiler_has_the_right_of_way(loaded: Any) -> None:
    module = loaded()
    monitoring: Any = sys.monitoring  # type: ignore[attr-defined, unused-ignore]
    if monitoring.get_tool(2) is not None:
        pytest.skip("a profiler runs")
    monitoring.use_tool_id(2, "somebody")
    try:
        module.f()
    finally:
        monitoring.free_tool_id(2)
    assert module.probe("f").skipped == {"other_profiler": 1}


def test_conclude_is_idempotent(loaded: Any) -> None:
    module = loaded()
    probe = module.probe("f")
    held: list[Any] = []
    module.f(act=lambda: held.extend(flight.in_flight[next(iter(flight.in_flight))]))
    call = held[0]
    before = probe.profiled, probe.total_ns, len(flight.in_flight)
    ends.finish(call, None)
    ends.unwind(call, ValueError())
    assert (probe.profiled, probe.total_ns, len(flight.in_flight)) == before
    assert not probe.busy


def test_interrupted_finish_leaves_nothing_open(loaded: Any) -> None:
    module = loaded()

    def interrupt(sender: str, *, measurements: Any, metadata: Any) -> None:
        raise KeyboardInterrupt

    with signals.stop.connected_to(interrupt), pytest.raises(KeyboardInterrupt):
        module.f()
    module.f()
    probe = module.probe("f")
    assert (probe.calls, probe.profiled, probe.skipped) == (2, 2, {})
    assert not flight.in_flight and not probe.busy


def test_a_failing_strategy_start_runs_the_call_unmeasured(loaded: Any) -> None:
    module = loaded()
    probe = module.probe("f")

    class Broken:
        name = "broken"

        def start(self, probe: Probe, flight: Any) -> Any:
            raise ValueError("strategy")

        def stop(self, probe: Probe, flight: Any, state: Any, duration_ns: int) -> dict[str, Any]:
            raise AssertionError

    probe.strategy = Broken()
    errors = guard.internal_errors.get("begin", 0)
    assert module.f(3) == 3
    assert module.f(4) == 4
    assert (probe.calls, probe.profiled, probe.skipped) == (2, 0, {"error": 2})
    assert guard.internal_errors.pop("begin") == errors + 2
    assert not flight.in_flight and not probe.busy


def test_a_busy_strategy_is_skipped(loaded: Any) -> None:
    module = loaded()
    probe = module.probe("f")

    class Full:
        name = "full"

        def start(self, probe: Probe, flight: Any) -> Any:
            raise Busy("full")

        def stop(self, *_: Any) -> dict[str, Any]:
            raise AssertionError

    probe.strategy = Full()
    assert module.f(3) == 3
    assert (probe.calls, probe.profiled, probe.skipped) == (1, 0, {"busy": 1})


def test_a_failing_strategy_stop_keeps_the_result(loaded: Any) -> None:
    module = loaded()
    probe = module.probe("f")

    class Broken:
        name = "broken"

        def start(self, probe: Probe, flight: Any) -> Any:
            return "state"

        def stop(self, *_: Any) -> dict[str, Any]:
            raise ValueError("strategy")

    probe.strategy = Broken()
    assert module.f(3) == 3
    assert probe.calls == 1 and probe.skipped == {"error": 1}
    guard.internal_errors.pop("strategy broken")


def test_every_closes_the_gate_for_a_while(loaded: Any) -> None:
    module = loaded(every="1s")
    probe = module.probe("f")
    assert session.current is not None
    with testing.FakeClock() as clock:
        for _ in range(5):
            module.f()
        assert (probe.calls, probe.profiled) == (5, 1)
        clock.advance(ms=999)
        turns.keep_time()
        module.f()
        assert probe.profiled == 1
        clock.advance(ms=2)
        turns.keep_time()
        for _ in range(4):
            module.f()
        assert (probe.calls, probe.profiled, probe.skipped) == (10, 2, {})
        clock.advance(s=2)
        turns.keep_time()


def test_two_policies_on_one_function(load: Load, tmp_path: Path) -> None:
    start = mechanisms.policy("subject_two", str(tmp_path / "out"))
    start["rules"].append({"match": "subject_two:*", "policy": "profile_production", "sample_rate": 0})
    start["rules"].append({"match": "subject_two:f", "policy": "profile_production", "sample_rate": 1.0})
    module = mechanisms.spliced_at_import(SOURCE, "subject_two", start)
    try:
        for _ in range(10):
            module.f()
        assert session.current is not None
        found = session.current.installer.probes
        always = found["subject_two:f", "profile"]
        never = found["subject_two:f", "profile_production"]
        assert (always.calls, always.profiled) == (10, 10)
        assert (never.calls, never.profiled) == (10, 0)
    finally:
        del sys.modules["subject_two"]


def test_two_policies_with_rates_of_their_own(load: Load, tmp_path: Path) -> None:
    start = mechanisms.policy("subject_two", str(tmp_path / "out"), rate=0.3)
    start["rules"].append({"match": "subject_two:*", "policy": "profile_production", "sample_rate": 0.1})
    module = mechanisms.spliced_at_import(SOURCE, "subject_two", start)
    try:
        count = 10_000
        for _ in range(count):
            module.f()
        assert session.current is not None
        found = session.current.installer.probes
        for kind, rate in (("profile", 0.3), ("profile_production", 0.1)):
            probe = found["subject_two:f", kind]
            assert probe.calls == count
            assert abs(probe.profiled - rate * count) < 5 * (count * rate * (1 - rate)) ** 0.5
    finally:
        del sys.modules["subject_two"]


def test_production_sends_its_own_signal(load: Load, tmp_path: Path) -> None:
    start = mechanisms.policy("subject_two", str(tmp_path / "out"))
    start["rules"] = [{"match": "subject_two:*", "policy": "profile_production", "sample_rate": 1.0}]
    module = mechanisms.spliced_at_import(SOURCE, "subject_two", start)
    try:
        with testing.capture() as events:
            module.f()
        assert events.names == ["start", "stop", "production", "complete"]
        assert set(events[2].measurements) == {"duration_ns"}
    finally:
        del sys.modules["subject_two"]


def test_generators_are_measured_to_their_end(loaded: Any) -> None:
    module = loaded(
        "def g(n, clock):\n    for i in range(n):\n        clock.advance(ms=1)\n        yield i\n"
    )
    probe = module.probe("g")
    with testing.FakeClock() as clock, testing.capture(sender=probe.target) as events:
        made = module.g(3, clock)
        next(made)
        assert events.names == ["start"]
        clock.advance(ms=10)
        assert list(made) == [1, 2]
        del made
        gc.collect()
    assert probe.profiled == 1
    assert probe.total_ns == 13_000_000
    assert events.names == ["start", "stop", "complete"]
    assert not flight.afloat


def test_an_abandoned_generator_ends_when_it_dies(loaded: Any) -> None:
    module = loaded("def g():\n    yield 1\n    yield 2\n")
    made = module.g()
    next(made)
    assert module.probe("g").profiled == 0 and len(flight.afloat) == 1
    del made
    gc.collect()
    assert module.probe("g").profiled == 1 and not flight.afloat


def test_force_measures_every_call_and_gives_the_rate_back(loaded: Any) -> None:
    module = loaded(rate=0.0, every="1h")
    probe = module.probe("f")
    module.f()
    with testing.force(f"{module.name}:f"):
        for _ in range(5):
            module.f()
    for _ in range(5):
        module.f()
    assert (probe.calls, probe.profiled, probe.rate) == (11, 5, 0.0)
    with pytest.raises(LookupError, match="no probe is on"):
        testing.force(f"{module.name}:nothing")


def test_force_before_the_module_is_imported(load: Load, tmp_path: Path) -> None:
    session.start(mechanisms.policy("subject_later", str(tmp_path / "out"), rate=0.0))
    assert session.current is not None
    with testing.force("subject_later:f"):
        code = session.current.installer.rewrite_code(compile(SOURCE, "later.py", "exec"), "subject_later")
        scope: dict[str, Any] = {"__name__": "subject_later"}
        exec(code, scope)
        scope["f"]()
    scope["f"]()
    probe = session.current.installer.probes["subject_later:f", "profile"]
    assert (probe.calls, probe.profiled) == (2, 1)


def test_force_without_autoprof() -> None:
    with pytest.raises(LookupError, match="not started"):
        testing.force("shop:total")


def test_fake_clock_leaves_no_trace() -> None:
    from autoprof import clock, sampler

    real = clock.monotonic_ns
    with testing.FakeClock(monotonic_ns=5) as fake:
        assert turns.monotonic_ns() == clock.monotonic_ns() == 5
        fake.advance(s=1, ms=1, us=1, ns=1)
        assert turns.monotonic_ns() == 1_001_001_006
        assert clock.wall_ns() == fake.now_wall_ns
    assert turns.monotonic_ns is clock.monotonic_ns is real
    assert sampler.clock.monotonic_ns is real


def test_durations_are_counted_in_the_histograms_buckets() -> None:
    from autoprof.histogram import bucket

    for duration_ns in (-1, 0, 1, 15, 16, 17, 31, 32, 1_000, 123_456_789, 10**13):
        probe = Probe("m:f", "rule 1", "profile", None, {})
        probe.record(duration_ns)
        assert probe.take_durations() == {bucket(duration_ns): 1}
