"""What costs more than the budget has is shed, is told of, and gets a second chance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autoprof import advice, budget, gate, session, testing
from autoprof.budget import Account
from autoprof.costs import prices, purse
from autoprof.probe import IF_SLOW
from autoprof.reports import status
from autoprof.store_reader import StoreReader
from tests import budgeted
from tests.budgeted import purse_at_start, reckon, slow_module, the_budget

pytestmark = pytest.mark.usefixtures("known_prices")


load, loaded = budgeted.load, budgeted.loaded


def test_a_stopwatch_called_too_often_is_shed_at_once_and_tried_again(load: Any) -> None:
    with testing.FakeClock() as clock, testing.capture("shed") as events:
        module, probe = slow_module(load)
        f = module.f
        allowed = gate.timed_at_most
        for _ in range(allowed + 1_000):
            f()
        assert probe.state == "shed"  # by itself, before any tick
        assert not events
        assert probe.gates[0].timer is None and probe.gates[0].clock is gate.EXHAUSTED
        reckon(clock, 0.5)
        (event,) = events
        assert event.target == probe.target
        assert event.measurements["calls_per_s"] > 100_000
        assert event.measurements["cost_ns_per_s"] > event.measurements["allowed_ns_per_s"]
        assert event.measurements["budget"] == 0.01
        assert "sampled instead" in event.metadata["reason"] == probe.reason
        assert 0 < probe.thinning < 1
        assert (probe.calls, probe.looked) == (allowed + 1_000, 0)
        # sampled: some calls are looked at, and slow ones are found
        before = probe.slow
        while probe.slow == before:
            f(act=lambda: clock.advance(ms=200))
        assert probe.weighed_ns > 0
        calls = probe.calls
        # quiet: the second chance after ten seconds, not before
        while probe.state == "shed":
            reckon(clock)
        assert clock.now_ns >= 10_000_000_000
        assert (probe.state, probe.reason, probe.thinning) == ("installed", "", 1.0)
        assert probe.gates[0].timer is probe and probe.gates[0].clock is gate.CLOCK
        assert probe not in probe.gates[0].probes
        f()
        assert probe.calls == calls + 1


def test_a_stopwatch_shed_again_waits_twice_as_long(load: Any) -> None:
    waits = []
    with testing.FakeClock() as clock:
        module, probe = slow_module(load)
        account = Account()
        the_budget().accounts[probe] = account
        for _ in range(3):
            for _ in range(gate.timed_at_most + 1):
                module.f()
            assert probe.state == "shed"
            reckon(clock, 0.5)
            began_ns = clock.now_ns
            while probe.state == "shed":
                reckon(clock)
            waits.append((clock.now_ns - began_ns) / 1e9)
    assert waits[0] >= 10
    assert waits[1] >= 20
    assert waits[2] >= 40


def test_total_time_of_a_shed_stopwatch_is_estimated(load: Any) -> None:
    module, probe = slow_module(load)
    module.f()
    budget.stop_timing(probe)
    probe.state, probe.thinning = "shed", 0.05
    probe.gates[0].retune(0.05)
    with testing.FakeClock() as clock:
        for _ in range(40_000):
            module.f(act=lambda: clock.advance(us=10))
        before_ns = probe.total_ns
        assert probe.looked == pytest.approx(2_000, rel=0.25)
        assert probe.looked + probe.weighed_calls == pytest.approx(40_000, rel=0.25)
        assert before_ns + probe.weighed_ns == pytest.approx(40_000 * 10_000, rel=0.25)
    assert probe.calls == 40_001


def test_a_share_changes_in_a_running_session(load: Any) -> None:
    module, probe = slow_module(load)
    for _ in range(gate.timed_at_most + 10):
        module.f()
    assert probe.state == "shed"
    the_budget().change(None)
    assert purse.left_ns == float("inf")
    assert probe.state == "installed" and probe.gates[0].timer is probe
    the_budget().change(0.02)
    assert purse.left_ns == 2 * purse_at_start()


def test_a_generator_under_profile_if_slow_is_thinned(loaded: Any) -> None:
    source = "def f():\n    yield 1\n"
    with testing.FakeClock() as clock:
        module = loaded(source, kind=IF_SLOW, threshold="100ms")
        assert session.current is not None
        probe = session.current.installer.probes[f"{module.name}:f", IF_SLOW]
        for _ in range(20_000):
            list(module.f())
        assert probe.calls == 20_000
        assert probe.looked < 20_000
        reckon(clock)
        assert probe.thinning < 1


def test_force_gives_a_shed_stopwatch_back(load: Any) -> None:
    module, probe = slow_module(load)
    for _ in range(gate.timed_at_most + 10):
        module.f()
    assert probe.state == "shed"
    with testing.force(probe.target):
        assert probe.state == "installed" and probe.gates[0].timer is probe


def test_a_profile_too_dear_for_the_budget_is_shed(loaded: Any) -> None:
    with testing.FakeClock() as clock, testing.capture("shed") as events:
        module = loaded()
        probe = module.probe("f")
        module.f()
        probe.measured_ns += 5_000_000_000  # a strategy that took five seconds
        reckon(clock)
        assert (probe.state, probe.thinning) == ("shed", 0.0)
        assert "its gate is closed" in probe.reason and len(events) == 1
        profiled = probe.profiled
        for _ in range(100):
            module.f()
        assert (probe.profiled, probe.calls) == (profiled, 101)
        for _ in range(15):
            reckon(clock)
        assert probe.state == "installed" and probe.thinning > 0


def test_status_and_doctor_tell(load: Any, tmp_path: Path) -> None:
    module, probe = slow_module(load)
    for _ in range(gate.timed_at_most + 10):
        module.f()
    with testing.FakeClock() as clock:
        reckon(clock, 0.5)
    assert session.current is not None
    (told,) = session.current.status()
    assert told.state == "shed" and "sampled instead" in told.reason
    assert told.overhead_ns >= gate.timed_at_most * prices.stopwatch_ns
    assert told.gate_ns == told.calls * 10
    session.current.flusher.close()
    data = StoreReader([str(tmp_path / "out")]).select("last")
    assert "shed" in status.render(data)
    assert any(each.startswith(f"shed: {probe.target}: timing its") for each in advice.cost_lines(data, None))
