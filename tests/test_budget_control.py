"""The budget's controller against a simulated process: the cost stays under its share, whatever is offered."""

from __future__ import annotations

import itertools
import random
import statistics
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprof import budget, clock, gate, testing
from autoprof.budget import Budget, level_of
from autoprof.costs import prices, purse
from autoprof.sampler import recorder

pytestmark = pytest.mark.usefixtures("known_prices")


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
        self.reckoning_ns = 20_000 + 1_600 * probes  # as measured
        self.used_ns = 0
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
        with self.clock, pytest.MonkeyPatch.context() as patch:
            patch.setattr(clock, "thread_ns", self._thread_ns)
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

    def _thread_ns(self) -> int:
        self.used_ns += self.reckoning_ns
        return self.used_ns

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


@pytest.mark.parametrize("probes", [1, 400])
@pytest.mark.parametrize("at_s", [0, 20])
def test_a_reckoning_that_was_held_up_does_not_put_off_the_next(probes: int, at_s: float) -> None:
    """A garbage collection of the application's heap may fall into it, and takes hundreds of milliseconds."""
    process = Process(0.005, probes)
    process.run(lambda _: 100_000, at_s)
    usual_ns, process.reckoning_ns = process.reckoning_ns, 500_000_000
    reckoned_ns = process.budget._last_ns
    while process.budget._last_ns == reckoned_ns:
        process.run(lambda _: 100_000, 0.01)
    process.reckoning_ns = usual_ns
    process.run(lambda _: 500_000, 25)  # the purse is empty soon
    assert sum(process.spent[-1000:]) >= 0.8 * 0.005 * 10e9
    assert process.worst_mean(10) <= 0.005 * 1.3


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
