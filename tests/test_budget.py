"""The budget: what profiling costs stays under its share, whatever is offered; estimates stay unbiased; counts exact."""

from __future__ import annotations

import itertools
import random
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprof import advice, budget, calibration, gate, session, testing, wiring
from autoprof.budget import Account, Budget, level_of
from autoprof.costs import prices, purse
from autoprof.probe import IF_SLOW, Probe
from autoprof.reports import html, status, text
from autoprof.sampler import recorder
from autoprof.store_reader import StoreReader
from tests import mechanisms
from tests.mechanisms import Loaded

BOTH = ["spliced_at_import", "decorated_at_import"]
SOURCE = "def f(x=1, *, act=None):\n    if act: act()\n    return x\n"
WEBASSEMBLY = sys.platform == "emscripten"

pytestmark = pytest.mark.usefixtures("known_prices")


@pytest.fixture
def load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_flushes: None
) -> Iterator[Callable[..., Loaded]]:
    """Load a module under a budget; its ticks come from the test alone, and the prices are the usual ones."""
    monkeypatch.setattr(calibration, "calibrate", lambda installer: None)
    monkeypatch.setattr(wiring.Session, "_reckon", lambda self: None)
    before = mechanisms.policy

    def policy(*arguments: Any, **options: Any) -> dict[str, Any]:
        share = options.pop("budget", "1%")
        kind = options.pop("kind", "profile")
        made = before(*arguments, **options)
        made["budget"] = share
        made["rules"][0]["policy"] = kind
        if kind == IF_SLOW:
            made["rules"][0] |= {"env": ["dev"]}
        return made

    monkeypatch.setattr(mechanisms, "policy", policy)
    yield from mechanisms.loads(tmp_path)


@pytest.fixture(params=BOTH)
def loaded(request: pytest.FixtureRequest, load: Any) -> Callable[..., Loaded]:
    return lambda source=SOURCE, **options: load(request.param, source, **options)


def the_budget() -> Budget:
    assert session.current is not None
    return session.current.budget


def reckon(clock: testing.FakeClock, s: float = 1.0) -> None:
    """Let time pass and reckon; whatever the real sampler and writer have used meanwhile."""
    clock.advance(s=s)
    the_budget().tick()


# the level


@given(st.lists(st.floats(0, 1e12), max_size=30), st.floats(0, 1e12))
def test_cut_to_the_level_demands_fill_the_room(demands: list[float], room: float) -> None:
    level = level_of(demands, room)
    granted = [min(each, level) for each in demands]
    assert sum(granted) <= max(room, 0) * (1 + 1e-9) + 1e-6
    if sum(demands) > room:
        assert sum(granted) == pytest.approx(room, rel=1e-6, abs=1e-6)
    else:
        assert granted == demands


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=30), st.floats(0, 1e10), st.floats(1, 10))
def test_more_room_never_lowers_the_level(demands: list[float], room: float, factor: float) -> None:
    assert level_of(demands, room * factor) >= level_of(demands, room) * (1 - 1e-9)


@given(st.floats(0, 100), st.floats(0, 100))
def test_the_advance_is_paid_back_once(start_s: float, span_s: float) -> None:
    earned = budget._earned_s(start_s, start_s + span_s)
    assert span_s - budget.PAID_BACK_S - 1e-9 <= earned <= span_s + 1e-9
    assert budget._earned_s(0, 60.0) == pytest.approx(60.0 - budget.PAID_BACK_S)


# the controller against a simulated process


class Process:
    """Probes without code: a number of calls a second is offered to each, at a price that only the process knows."""

    def __init__(self, share: float, probes: int = 1, rate: float = 1.0, price_ns: float = 3_000.0) -> None:
        self.clock = testing.FakeClock()
        prices.charge(prices.warm_ns)  # what a look at the first calls would have found
        self.share, self.price_ns = share, price_ns
        self.probes = [SimulatedProbe(rate, price_ns) for _ in range(probes)]
        self.background_ns = 0.0
        self.background_s = 0.0
        self.wanted = False
        self.spent: list[float] = []
        self.factors: list[float] = []
        with self.clock:
            self.budget = Budget(
                share,
                lambda: self.probes,
                lambda: int(self.background_ns),
                self._wake,  # type: ignore[arg-type, return-value]
            )

    def _wake(self) -> None:
        self.wanted = True

    def run(self, offered: Callable[[float], float], seconds: float, step_s: float = 0.01) -> None:
        """Live for a while; a sampled call costs its price, and draws as `calls.begin` does."""
        chance = random.Random(1)
        with self.clock:
            for _ in range(round(seconds / step_s)):
                now_s = (self.clock.now_ns - 1_000_000_000) / 1e9
                before = self.cost
                for each in self.probes:
                    each.live(offered(now_s) * step_s / len(self.probes), chance)
                self.background_ns += self.background_s * step_s * 1e9
                self.clock.advance(s=step_s)
                self.budget.tick()
                self.spent.append(self.cost - before)
                self.factors.append(self.probes[0].thinning)

    @property
    def cost(self) -> float:
        return sum(each.concluded * self.price_ns for each in self.probes) + self.background_ns

    def worst_mean(self, window_s: float, step_s: float = 0.01, skip_s: float = 0.0) -> float:
        """Return the largest mean over a window, as a share of a core."""
        width, first = round(window_s / step_s), round(skip_s / step_s)
        sums = [0.0]
        for each in self.spent[first:]:
            sums.append(sums[-1] + each)
        return (
            max(later - earlier for earlier, later in zip(sums, sums[width:], strict=False)) / window_s / 1e9
        )


class SimulatedProbe:
    """What the budget sees of a probe; `live` makes its calls."""

    policy, every_ns, strategy, emits, stopwatch_ns, target = "profile", 0, None, False, 0.0, "m:f"
    closed_until_ns = 0

    def __init__(self, rate: float, true_price_ns: float) -> None:
        self.rate, self.true_price_ns = rate, true_price_ns
        self.thinning, self.state, self.reason = 1.0, "installed", ""
        self.price_ns = prices.open_ns
        self.calls = self.concluded = 0
        self.skips = 0
        self.stand_for = 0.0
        made = gate.Gate(lambda _: None, lambda *_: None, lambda *_: None)
        self.gates: list[gate.Gate] = []
        made.probes = (self,)
        self.gate = made

    @property
    def opened_ns(self) -> float:
        return self.concluded * self.true_price_ns

    def tally(self) -> tuple[int, int]:
        return self.calls, 0

    def settle(self, declined: int) -> tuple[int, float]:
        """Its price stays the same."""
        return self.concluded, self.opened_ns

    def rate_at(self, _: object) -> float:
        return self.rate * self.thinning

    def live(self, calls: float, chance: random.Random) -> None:
        left = int(calls + chance.random())
        while left > 0:
            rate = self.rate * self.thinning
            gap = gate.draw_gap(gate.gap_scale(rate))
            self.calls += min(gap + 1, left)
            left -= gap + 1
            if left >= 0:
                self.concluded += 1
                self.stand_for += 1.0 / rate
                purse.left_ns -= self.price_ns
                if purse.left_ns < 0:
                    budget.cut(self.gate)


@pytest.mark.parametrize("offered_s", [10_000, 100_000, 1_000_000])
@pytest.mark.parametrize("price_ns", [1_500, 4_500])
def test_ten_seconds_mean_under_the_budget_whatever_is_offered(offered_s: int, price_ns: float) -> None:
    process = Process(0.01, price_ns=price_ns)
    process.run(lambda _: offered_s, 25)
    assert process.worst_mean(10) <= 0.01 * 1.2
    assert sum(process.spent[-1000:]) / 10e9 >= 0.01 * 0.8  # and it is used


@pytest.mark.parametrize("offered_s", [20_000, 1_000_000])
def test_it_settles_within_seconds_and_does_not_oscillate(offered_s: int) -> None:
    process = Process(0.01)
    process.run(lambda _: offered_s, 30)
    settled = process.factors[1500:]
    assert max(settled) / min(settled) < 1.3
    turns = [now - before for before, now in itertools.pairwise(settled) if now != before]
    assert sum((one > 0) != (other > 0) for one, other in itertools.pairwise(turns)) <= 3


def test_a_burst_after_quiet_is_bounded() -> None:
    process = Process(0.01)
    process.run(lambda now_s: 100 if now_s < 20 or now_s > 22 else 1_000_000, 40)
    assert process.worst_mean(10) <= 0.01 * 1.2
    assert process.factors[1900] == 1.0  # what fits is not cut
    assert process.factors[-1] == 1.0  # and full rates come back


def test_bursts_every_second_do_not_make_it_swing() -> None:
    process = Process(0.01)
    process.run(lambda now_s: 1_000_000 if now_s % 1 < 0.1 else 0, 40)
    assert process.worst_mean(10) <= 0.01 * 1.2
    settled = process.factors[2000:]
    assert max(settled) / min(settled) < 70  # the purse may cut once or twice within a burst, by 8 each


def test_many_probes_share_what_there_is() -> None:
    process = Process(0.01, probes=50)
    process.run(lambda _: 500_000, 20)
    assert process.worst_mean(10) <= 0.01 * 1.3  # each gate pays once more before it hears of the empty purse
    factors = [each.thinning for each in process.probes]
    assert max(factors) / min(factors) < 1.5


def test_the_background_comes_off_the_same_budget() -> None:
    process = Process(0.01)
    process.run(lambda _: 100_000, 3)
    process.background_s = 0.006
    process.run(lambda _: 100_000, 25)
    assert process.worst_mean(10, skip_s=8) <= 0.01 * 1.2


def test_sampled_calls_dearer_than_their_share_are_thinned_and_not_shed() -> None:
    """In a service they cost tens of microseconds, and a wide rule leaves each of its functions less than that."""
    recorder.stop(2.0)  # the simulated process has its own
    prices.warm_ns = 500_000.0
    prices.charge(prices.warm_ns)
    try:
        process = Process(0.005, probes=400, price_ns=500_000.0)
        process.run(lambda _: 200_000, 60)
    finally:
        prices.forget()
    assert {each.state for each in process.probes} == {"installed"}
    assert min(each.thinning for each in process.probes) > 0.0
    assert process.worst_mean(20, skip_s=30) <= 0.005 * 1.2
    assert sum(process.spent[-2000:]) >= 0.7 * 0.005 * 20e9


def test_what_is_owed_has_an_end() -> None:
    """A background that takes thrice the budget for a minute must not keep all measuring from going on after it."""
    process = Process(0.01)
    process.background_s = 0.03
    process.run(lambda _: 100_000, 60)
    process.background_s = 0.0
    process.run(lambda _: 100_000, 10)
    assert sum(process.spent[-400:]) >= 0.7 * 0.01 * 4e9
    assert process.worst_mean(5, skip_s=62) <= 0.01 * 1.2


def test_the_sampler_is_left_a_share_of_what_the_writer_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    process = Process(0.01)
    monkeypatch.setattr(recorder, "stretch", 1.0)
    reckoning = process.budget
    reckoning._sampler_s = reckoning._background_s = 3.4e6
    reckoning._stretch()
    assert recorder.stretch == 1.0, "a third of the budget is what it may take"
    reckoning._background_s += 5e6
    for _ in range(20):
        before = recorder.stretch
        reckoning._stretch()
        reckoning._background_s -= reckoning._sampler_s * (1 - before / recorder.stretch)
        reckoning._sampler_s *= before / recorder.stretch
    assert reckoning._sampler_s == pytest.approx(budget.SAMPLER_SHARE * 5e6, rel=0.05)


def test_the_sampler_pays_its_part_of_a_debt(monkeypatch: pytest.MonkeyPatch) -> None:
    process = Process(0.01)
    monkeypatch.setattr(recorder, "stretch", 1.0)
    reckoning = process.budget
    reckoning._sampler_s = reckoning._background_s = 3.4e6
    for level_s, stretched in ((1.0, False), (0.0, False), (-1.0, True), (-5.0, True)):
        recorder.stretch, reckoning._level_ns = 1.0, level_s * 1e7
        reckoning._stretch()
        assert (recorder.stretch > 1.0) == stretched
    for _ in range(60):
        before = recorder.stretch
        reckoning._stretch()
        reckoning._background_s -= reckoning._sampler_s * (1 - before / recorder.stretch)
        reckoning._sampler_s *= before / recorder.stretch
    assert reckoning._sampler_s == pytest.approx(budget.SAMPLER_SHARE * budget.LEAST_REST * 1e7, rel=0.05)


def test_without_pressure_nothing_is_cut() -> None:
    process = Process(0.01)
    process.run(lambda _: 1_000, 20)
    assert set(process.factors) == {1.0}


@settings(max_examples=8, deadline=None)
@given(
    st.lists(st.sampled_from([0, 300, 5_000, 50_000, 400_000]), min_size=3, max_size=6),
    st.floats(1_500, 4_500),
)
def test_any_course_of_load_keeps_to_the_budget(course: list[int], price_ns: float) -> None:
    process = Process(0.01, price_ns=price_ns)
    process.run(lambda now_s: course[min(int(now_s / 3), len(course) - 1)], 3 * len(course) + 8)
    assert process.worst_mean(10) <= 0.01 * 1.2


def test_weights_stand_for_all_calls() -> None:
    """The sum of the weights of sampled calls is an unbiased estimate of the calls, cuts in bursts included."""
    ratios = []
    for seed in range(12):
        gate._random.seed(seed)
        process = Process(0.01)
        process.run(lambda now_s: 200_000 if now_s % 5 < 2 else 5_000, 15)
        probe = process.probes[0]
        ratios.append(probe.stand_for / probe.calls)
    spread = statistics.stdev(ratios) / len(ratios) ** 0.5
    assert abs(statistics.mean(ratios) - 1) < 4 * spread + 0.01
    gate.reseed()


# real gates


def test_counts_stay_exact_and_the_burst_is_bounded(loaded: Any) -> None:
    module = loaded()
    for _ in range(60_000):
        module.f()
    probe = module.probe("f")
    allowed = int(purse_at_start() / prices.open_ns)
    assert probe.calls == 60_000
    assert allowed <= probe.profiled <= allowed + 50
    assert 0 < probe.thinning < 0.01


def purse_at_start() -> float:
    return budget.ADVANCE_S * 0.01 * 1e9


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


# the stopwatch


def slow_module(load: Any, **options: Any) -> tuple[Loaded, Probe]:
    module = load("spliced_at_import", SOURCE, kind=IF_SLOW, threshold="100ms", **options)
    assert session.current is not None
    return module, session.current.installer.probes[f"{module.name}:f", IF_SLOW]


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


# force, status, report


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
