"""What a sampled call is charged with: its price follows what calls take where the application makes them."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from autoprof import calibration, costs, guard, session, testing, wiring
from autoprof.costs import prices, spans
from autoprof.primitives import get_ident
from autoprof.sampler import recorder
from tests import mechanisms
from tests.mechanisms import Loaded

SOURCE = "def f(x=1, *, act=None):\n    if act: act()\n    return x\n"

pytestmark = pytest.mark.usefixtures("known_prices")


def warm(open_ns: float = 3_000.0, span_ns: float = 2_000.0) -> None:
    """Have been calibrated."""
    prices.warm_ns, prices.warm_span_ns, prices.rounds = open_ns, span_ns, 1
    prices.charge(open_ns)


@pytest.fixture(params=["spliced_at_import", "decorated_at_import"])
def loaded(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_flushes: None
) -> Iterator[Callable[..., Loaded]]:
    monkeypatch.setattr(wiring.Session, "_reckon", lambda self: None)
    before = mechanisms.policy

    def policy(*arguments: Any, **options: Any) -> dict[str, Any]:
        made = before(*arguments, **options)
        made["budget"] = "1%"
        return made

    monkeypatch.setattr(mechanisms, "policy", policy)
    for load in mechanisms.loads(tmp_path):
        yield functools.partial(load, request.param, SOURCE)


def test_a_call_costs_what_the_latest_have_taken_beyond_one_in_a_loop() -> None:
    warm()
    spans.extend([6_000] * 70)
    prices.follow()
    assert prices.open_ns == 3_000 + costs.BEYOND * 4_000
    assert prices.skip_ns == costs.SKIPPED * prices.open_ns


def test_calls_that_were_held_up_by_others_do_not_count() -> None:
    warm()
    spans.extend([6_000] * 70 + [5_000_000] * 10)
    prices.follow()
    assert prices.open_ns == 3_000 + costs.BEYOND * 4_000


def test_it_is_never_cheaper_than_in_a_loop() -> None:
    warm()
    spans.extend([500] * 70)
    prices.follow()
    assert prices.open_ns == 3_000


def test_before_the_first_look_calls_cost_more_than_in_a_loop() -> None:
    spans.extend([50_000] * 70)
    prices.follow()
    assert prices.open_ns == 10_000


@pytest.mark.parametrize("calibrated", [True, False])
def test_a_few_calls_tell_nothing_but_that_the_first_are_cold(calibrated: bool) -> None:
    warm(span_ns=2_000.0 if calibrated else 0.0)
    spans.extend([50_000] * (costs.FEWEST - 1 if calibrated else 100))
    prices.follow()
    assert prices.open_ns == 3_000 * costs.UNSEEN


def test_the_latest_calls_count() -> None:
    warm()
    spans.extend([90_000] * 1_000)
    spans.extend([2_000] * costs.SPANS)
    prices.follow()
    assert prices.open_ns == 3_000


def test_what_rare_calls_cost_is_not_lost_among_the_many_before_them() -> None:
    """The first second makes thousands of calls in a row; thinned, they come far apart, and each wakes the sampler."""
    warm()
    spans.extend([2_000] * costs.SPANS)
    prices.follow()
    for _ in range(4):
        spans.extend([34_000] * costs.FEWEST)
        prices.follow()
    assert prices.span_ns == 32_000
    assert prices.open_ns == 3_000 + costs.BEYOND * 30_000


def test_a_few_spans_are_kept_until_there_are_enough() -> None:
    warm()
    for taken in range(1, costs.FEWEST + 1):
        assert prices.span_ns == 0
        spans.append(6_000)
        prices.follow()
        assert len(spans) == taken % costs.FEWEST
    assert prices.span_ns == 6_000


def test_spans_are_those_of_the_calls(loaded: Any) -> None:
    module = loaded()
    module.f()
    with testing.FakeClock() as clock:
        clock.now_ns = 1 << 40  # none of the bits that are looked at
        spans.clear()
        module.f(act=lambda: clock.advance(ns=0x800))
        assert list(spans) == [0], "what the function itself takes is not autoprof's"
        clock.now_ns += 0x100
        module.f()
        assert len(spans) == 1


def test_about_one_call_in_eight_is_looked_at(loaded: Any) -> None:
    chance = random.Random(1)
    with testing.FakeClock() as clock:  # a loop's own rhythm may meet the clock's bits more or less often
        module = loaded()
        spans.clear()
        seen = 0
        for _ in range(4_000):
            clock.advance(ns=chance.randrange(100_000))
            module.f()
            seen += len(spans)
            spans.clear()
    assert 400 < seen < 600


def test_a_new_price_is_for_later_calls(loaded: Any) -> None:
    module = loaded()
    probe = module.probe("f")
    warm()
    for _ in range(10):
        module.f()
    before_ns = probe.overhead_ns
    assert before_ns == 30_000
    probe.settle(0)
    prices.charge(30_000)
    assert probe.overhead_ns == before_ns
    module.f()
    assert probe.overhead_ns == before_ns + 30_000
    probe.clear()
    assert probe.overhead_ns == 0
    module.f()
    assert probe.overhead_ns == 30_000


def test_the_reckoning_thins_by_the_new_price_at_once(loaded: Any) -> None:
    with testing.FakeClock() as clock:
        module = loaded()
        probe = module.probe("f")
        warm()
        assert session.current is not None
        budget = session.current.budget

        def second() -> float:
            for _ in range(1_500):
                module.f()
            spans.extend([span_ns] * costs.SPANS)
            clock.advance(s=1.0)
            budget.tick()
            return probe.thinning

        span_ns = 2_000
        budget._level_ns = budget.share * 1e9 * 0.5  # the level it is led to: neither advance nor debt
        budget._started_ns -= 60_000_000_000
        assert second() == second() == 1.0, "1 500 calls of 3 us are half of the budget"
        # The spans before have not quite faded.
        span_ns = 2_000 + round(30_000 * (1 + costs.FEWEST / costs.SPANS))
        dear = second()
    assert probe.price_ns == pytest.approx(3_000 + costs.BEYOND * 30_000)
    assert dear < 0.15, "1 500 calls of 75 us are eleven times the budget"


def test_the_first_reckoning_has_the_purse_charged_with_the_price_of_the_day(loaded: Any) -> None:
    """A probe is made with the price of before the first look at this machine; the advance is spent by that."""
    with testing.FakeClock() as clock:
        module = loaded()
        module.f()
        probe = module.probe("f")
        warm(open_ns=20_000.0)
        assert session.current is not None and not session.current.budget.accounts
        clock.advance(s=1.0)
        session.current.budget.tick()
        assert probe.price_ns == prices.open_ns == 20_000 * costs.UNSEEN
        assert session.current.budget.accounts[probe].price_ns == probe.price_ns


def calibrate(installer: Any) -> None:
    """Calibrate as the background thread does, on this one, which is measured again afterwards."""
    calibration.calibrate(installer)
    guard.suppressed.discard(get_ident())


def test_a_round_without_spans_leaves_what_others_have_found(
    loaded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = loaded()
    module.f()
    recorder.tick()
    assert session.current is not None
    warm(open_ns=10**6, span_ns=2_000.0)
    monkeypatch.setattr(calibration, "_usual", lambda taken: 0.0)
    calibrate(session.current.installer)
    assert prices.warm_ns < 10**6 and prices.warm_span_ns == 2_000.0


def test_calibration_leaves_the_spans_of_the_application(
    loaded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(costs.Prices, "follow", lambda self: None)  # which would take them in
    module = loaded()
    module.f()
    assert session.current is not None
    spans.clear()
    spans.extend(range(40))
    for _ in range(20):  # a profiler of somebody else's may be at work for a moment
        module.f()
        calibrate(session.current.installer)
        if prices.warm_span_ns:
            break
    assert prices.warm_span_ns > 0
    assert prices.warm_span_ns < prices.warm_ns
    assert set(range(40)) <= {*spans}


@pytest.mark.parametrize("timed", [False, True])
def test_stopwatches_are_measured_where_there_are_some_and_for_a_few_rounds(
    timed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_flushes: None
) -> None:
    """Each round is paid from the budget of the first seconds."""
    monkeypatch.setattr(wiring.Session, "_reckon", lambda self: None)
    options = {"policy": "profile_if_slow", "threshold": "100ms"} if timed else {}
    for load in mechanisms.loads(tmp_path):
        module = load("spliced_at_import", SOURCE, **options)
        module.f()
        recorder.tick()
        assert session.current is not None
        for _ in range(10):
            calibrate(session.current.installer)
        assert prices.rounds == calibration._ROUNDS
        assert prices.timed_rounds == (calibration._ROUNDS if timed else 0)
        assert (prices.stopwatch_ns != 150.0) == timed
