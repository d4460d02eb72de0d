"""The budget under real gates: the burst is bounded, estimates stay unbiased, counts exact."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from autoprof import budget as budget_module
from autoprof import gate, session, testing
from autoprof.costs import prices, purse
from autoprof.reports import html, text
from autoprof.sampler import recorder
from autoprof.store_reader import StoreReader
from tests import budgeted, mechanisms
from tests.budgeted import purse_at_start, reckon, the_budget

WEBASSEMBLY = sys.platform == "emscripten"

pytestmark = pytest.mark.usefixtures("known_prices")


load, loaded = budgeted.load, budgeted.loaded


def test_counts_stay_exact_and_the_burst_is_bounded(loaded: Any) -> None:
    module = loaded()
    for _ in range(60_000):
        module.f()
    probe = module.probe("f")
    allowed = int(purse_at_start() / prices.open_ns)
    assert probe.calls == 60_000
    assert allowed <= probe.profiled <= allowed + 50
    assert 0 < probe.thinning < 0.01


def test_short_scripts_lose_nothing(loaded: Any) -> None:
    module = loaded()
    for _ in range(2_500):
        module.f()
    assert (module.probe("f").profiled, module.probe("f").thinning) == (2_500, 1.0)


def test_off_bounds_nothing(loaded: Any) -> None:
    module = loaded(budget="off")
    for _ in range(60_000):
        module.f()
    assert module.probe("f").profiled == 60_000
    assert not the_budget().due()


def test_decorators_have_the_default_budget() -> None:
    session.start(None)
    try:
        assert the_budget().share == 0.01
        assert purse.left_ns == purse_at_start()
    finally:
        session.stop()
    assert purse.left_ns == float("inf")
    assert gate.timed_at_most == gate.FOREVER


def test_rates_come_back_when_the_load_is_gone(loaded: Any) -> None:
    with testing.FakeClock() as clock:
        module = loaded()
        probe = module.probe("f")
        for _ in range(60_000):
            module.f()
        reckon(clock)
        assert 0 < probe.thinning < 0.5
        assert "the budget leaves" in probe.reason
        for _ in range(40):
            reckon(clock)
        assert (probe.thinning, probe.reason, probe.state) == (1.0, "", "installed")
        profiled = probe.profiled
        module.f()
        assert probe.profiled == profiled + 1
    assert probe.calls == 60_001


def test_estimates_stay_right_while_the_rate_changes(loaded: Any, tmp_path: Path) -> None:
    """Cheap calls come in a burst, dear ones in peace: without weights the dear ones would pass for the usual."""
    module = loaded()
    probe = module.probe("f")
    probe.price_ns = 1.0  # the purse would be empty at once
    ran = {1: 0, 50: 0}
    with testing.FakeClock() as clock:
        purse.left_ns = 1e12
        for factor, ms, count in (
            (1.0, 50, 400),
            (0.01, 1, 80_000),
            (0.1, 1, 20_000),
            (1.0, 50, 400),
            (0.02, 1, 50_000),
        ):
            probe.thinning = factor
            gate_ = probe.gates[0]
            if gate_.used or gate_.size:
                gate_.retune(probe.rate_at(gate_))

            def act(ms: int = ms) -> None:
                clock.advance(ms=ms)

            for _ in range(count):
                module.f(act=act)
            ran[ms] += count
            assert session.current is not None
    session.current.flusher.flush()
    session.current.flusher.close()
    data = StoreReader([str(tmp_path / "out")]).select("last")
    (row,) = data.probes
    true_ms = 800 * 50 + 150_000 * 1
    assert row.calls == 150_800
    assert row.estimated_total_ns == pytest.approx(true_ms * 1e6, rel=0.1)
    unweighted = row.total_ns / sum(row.durations.values()) * row.calls
    assert unweighted > 2 * true_ms * 1e6  # what the weights are for


@pytest.mark.usefixtures("no_flushes")
@pytest.mark.skipif(WEBASSEMBLY, reason="no threads there")
def test_stacks_are_weighed_with_the_rate_their_call_was_drawn_with(loaded: Any) -> None:
    module = loaded()
    probe = module.probe("f")
    probe.thinning = 1 / 1024
    deadline = time.monotonic() + 60

    def act() -> None:
        if threading.get_ident() in probe.busy:
            probe.thinning = 1.0  # later changes do not matter
            while not probe.samples and time.monotonic() < deadline:
                time.sleep(0.001)

    began_ns = time.perf_counter_ns()
    while not probe.samples and time.monotonic() < deadline:
        module.f(act=act)
    spent_ns = time.perf_counter_ns() - began_ns
    found = [sums for (each, _), sums in recorder.drain().items() if each is probe]
    weight_ns = sum(sums[1] for sums in found)
    assert weight_ns % 1024 == 0 and weight_ns > 0
    assert weight_ns <= 1024 * (spent_ns + recorder.interval_ns), "the first look stands for an interval"


def test_long_calls_keep_the_weight_they_began_with(loaded: Any) -> None:
    module = loaded()
    probe = module.probe("f")
    with testing.FakeClock() as clock:

        def act() -> None:
            clock.advance(s=1)
            probe.thinning = 0.001

        module.f(act=act)
    assert probe.profiled == 1
    assert probe.weighed_calls == 0 and probe.weighed_ns == 0


def test_the_hook_of_a_tracing_strategy_is_paid_for(loaded: Any) -> None:
    module = loaded("def g(): pass\n\ndef f():\n    for _ in range(3000): g()\n", strategy="call_graph")
    probe = module.probe("f")
    module.f()
    assert probe.profiled == 1
    assert probe.overhead_ns > 3_000 * 200


@pytest.mark.skipif(WEBASSEMBLY, reason="no threads there")
def test_rendering_on_the_worker_is_paid_by_its_probe(loaded: Any) -> None:
    module = loaded("def f():\n    return sorted(range(9))\n", strategy="call_graph", **{"async": True})
    probe = module.probe("f")
    module.f()
    assert session.current is not None
    flusher = session.current.flusher
    deadline = time.monotonic() + 60
    while not flusher.artefacts and not any(Path(session.current.output).glob("*call_graph*")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    flusher.rest(60)
    assert probe.measured_ns > 0 and flusher.busy_ns >= 0


def test_force_beats_the_budget(loaded: Any) -> None:
    module = loaded()
    probe = module.probe("f")
    for _ in range(30_000):
        module.f()
    before = probe.profiled
    assert probe.thinning < 1
    with testing.FakeClock() as clock, testing.force(probe.target):
        purse.left_ns = -1e9
        for _ in range(500):
            module.f()
        assert probe.profiled == before + 500
        reckon(clock)
        assert probe.thinning == 1.0


def test_reports_show_what_was_paid(loaded: Any, tmp_path: Path) -> None:
    module = loaded()
    for _ in range(2_000):
        module.f()
    assert session.current is not None
    session.current.flusher.close()
    data = StoreReader([str(tmp_path / "out")]).select("last")
    (row,) = data.probes
    assert row.overhead_ns == pytest.approx(2_000 * prices.open_ns, rel=0.01)
    assert data.processes[0].overhead_ns >= row.overhead_ns
    assert "% of a core" in text.render(data).splitlines()[1]
    assert "% of a core" in html.render(data)


# threads, children, the real background


@pytest.mark.skipif(WEBASSEMBLY, reason="no threads there")
def test_threads_share_the_purse_and_counts_stay_exact(loaded: Any) -> None:
    module = loaded()

    def work() -> None:
        for _ in range(20_000):
            module.f()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    probe = module.probe("f")
    assert probe.calls == 80_000
    assert probe.profiled <= purse_at_start() / prices.open_ns + 200


@pytest.mark.skipif(WEBASSEMBLY, reason="no processes there")
@pytest.mark.parametrize("rewrite", ["splice", "decorate"])
def test_a_real_process_is_bounded(tmp_path: Path, rewrite: str) -> None:
    """With its own threads, clocks and calibration: the burst is bounded, and the prices are this machine's."""
    done = mechanisms.python(f"""
import sys, time, types
from autoprof import costs, session
rules = [{{"match": "subject:*", "policy": "profile", "rate": 1.0}}]
session.start({{"version": 1, "load": "off", "reload": "off", "rewrite": {rewrite!r},
               "output": {str(tmp_path / "out")!r}, "rules": rules}})
source = "def f(x):\\n    return x\\n"
installer = session.current.installer
code = compile(source, "/nowhere/subject.py", "exec")
code = (installer.rewrite_code(code, "subject") if {rewrite!r} == "splice"
        else installer.rewrite_source(source, "/nowhere/subject.py", "subject"))
module = types.ModuleType("subject")
sys.modules["subject"] = module
exec(code, module.__dict__)
probe = installer.probes["subject:f", "profile"]
calls = 0
deadline = time.monotonic() + 60
while not (costs.prices.rounds > 1 and 0 < probe.thinning < 1 and "budget" in probe.reason):
    for _ in range(1000):
        module.f(1)
    calls += 1000
    assert time.monotonic() < deadline
assert probe.calls == calls, (probe.calls, calls)
assert 300 < costs.prices.open_ns < 60_000, costs.prices.open_ns
session.stop()
from autoprof import guard
print("bounded", guard.internal_errors)
""")
    assert done.stdout == "bounded {}\n", done.stdout + done.stderr


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="no fork there")
def test_a_forked_child_has_its_own_budget(loaded: Any) -> None:
    module = loaded()
    for _ in range(30_000):
        module.f()
    assert session.current is not None
    session.current.rest()  # what a fork does before: a thread left running would take the samples of later tests
    session.current.in_child()  # what the child does
    assert purse.left_ns == purse_at_start()
    assert not the_budget().accounts


def test_calls_that_are_not_measured_pay_too(loaded: Any) -> None:
    """Recursion: inside a measured call every gate opens in vain, at a third of the price."""
    module = loaded()
    module.f(act=lambda: [module.f() for _ in range(60_000)])
    probe = module.probe("f")
    assert (probe.calls, probe.profiled) == (60_001, 1)
    assert probe.skipped["nested"] <= purse_at_start() / prices.skip_ns + 50


def test_reckoning_is_paid_with_a_tenth_of_the_budget(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with testing.FakeClock() as clock:
        load("spliced_at_import", budgeted.SOURCE).f()
        budget = the_budget()
        reckon(clock)
        monkeypatch.setattr(budget, "_cost_ns", 2_500_000)
        clock.advance(s=2.4)
        assert not budget.due()
        budget._empty()
        assert budget.due(), "a purse is empty"
        monkeypatch.setattr(budget, "_woken", False)
        clock.advance(s=0.2)
        assert budget.due()
        monkeypatch.setattr(budget, "_cost_ns", 4_000_000)
        assert not budget.due(), "ten times as much would be 4 s: that is too long"
        clock.advance(s=0.2)
        assert budget.due()
        monkeypatch.setattr(budget, "_cost_ns", 8_000_000)
        clock.advance(s=1.1)
        assert not budget.due(), "a fifth of the budget is the most"
        clock.advance(s=0.2)
        assert budget.due()


def test_a_reckoning_that_was_held_up_does_not_count(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    me = threading.get_ident()
    with testing.FakeClock() as clock:
        load("spliced_at_import", budgeted.SOURCE).f()
        budget = the_budget()
        for took_ns in (90_000_000, 1_000, 90_000_000, 2_000, 90_000_000):
            moments = iter((0, took_ns))
            monkeypatch.setattr(
                budget_module.clock,
                "thread_ns",
                lambda moments=moments: next(moments) if threading.get_ident() == me else 0,
            )
            reckon(clock)
    assert budget._cost_ns == 2_000
