"""The recorder's thread: asleep when there is nothing to see, awake with the first call, nobody else's business."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Any

import pytest

from autoprof import calibration, flight, guard, loops, sampler, session, testing
from autoprof.sampler import recorder
from tests import sampled
from tests.forked import told_by_child
from tests.sampled import SOURCE, looked_at

pytestmark = pytest.mark.usefixtures("no_flushes")


load, loaded, by_hand = sampled.load, sampled.loaded, sampled.by_hand


def test_asleep_without_calls_and_awake_with_them(loaded: Any) -> None:
    module = loaded(interval="1ms")
    deadline = time.monotonic() + 10
    while not recorder.idle and time.monotonic() < deadline:
        time.sleep(0.01)
    assert recorder.idle
    ticks = recorder.ticks
    time.sleep(0.05)
    assert recorder.ticks == ticks
    module.outer(looked_at(12))
    assert recorder.ticks > ticks
    assert module.probe("outer").samples > 10
    while not recorder.idle and time.monotonic() < deadline:
        time.sleep(0.01)
    assert recorder.idle


def test_rare_calls_are_looked_at_one_by_one(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that goes on looking in between takes half a percent of a core."""
    monkeypatch.setattr(calibration, "calibrate", lambda installer: None)  # it makes measured calls of its own
    module = loaded(interval="10ms")
    deadline = time.monotonic() + 60
    before = 0
    for number in range(21):
        module.inner(lambda: None)
        while not recorder.idle:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        before = before if number else recorder.ticks
        time.sleep(0.03)  # three intervals: the next call is a rare one
    assert recorder.ticks - before <= 25, "the look that finds nothing is the last one"


@pytest.mark.parametrize("kind", ["function", "generator"])
def test_a_call_that_begins_while_the_thread_goes_to_sleep_wakes_it(
    loaded: Any, by_hand: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its last look for open calls and its word that it sleeps; else nothing sees the call."""
    module = loaded(SOURCE + "def numbers(act):\n    yield act()\n")
    woken: list[bool] = []

    def falls_asleep(*_: Any) -> None:
        recorder.idle = True

    def wake(self: sampler.Sampler) -> None:
        woken.append(bool(flight.in_flight or flight.afloat))
        recorder.idle = False

    class Table(dict[int, Any]):
        def __setitem__(self, ident: int, stack: Any) -> None:
            falls_asleep()
            super().__setitem__(ident, stack)

    if kind == "function":
        monkeypatch.setattr(flight, "in_flight", Table())
    else:
        monkeypatch.setattr(loops, "meet", falls_asleep)
    monkeypatch.setattr(sampler.Sampler, "wake", wake)
    if kind == "function":
        module.inner(lambda: None)
    else:
        list(module.numbers(lambda: None))
    assert woken[-1:] == [True]


class Pauses:
    """A thread that is woken after each pause at once, by a clock that has gone on for so long."""

    wanted = True

    def __init__(self, clock: testing.FakeClock, looks: int) -> None:
        self.clock, self.left = clock, looks

    def pause(self, seconds: float) -> bool:
        self.clock.advance(s=seconds)
        self.left -= 1
        return self.left >= 0


def test_each_look_stands_for_an_interval_also_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A first one that stood for the part of an interval before it made calls as long as one count half."""
    weights: list[int] = []
    with testing.FakeClock() as clock:
        for _ in range(300):
            one = sampler.Sampler()
            monkeypatch.setattr(one, "_look_round", lambda now, weight, watching: weights.append(weight))
            monkeypatch.setattr(sampler, "in_flight", {1: []})
            one._sample_until_idle(Pauses(clock, 3))  # type: ignore[arg-type]
    assert weights[::3] == [pytest.approx(10_000_000, abs=2)] * 300
    assert sum(weights) / len(weights) == pytest.approx(10_000_000, rel=0.05)


def test_the_recorder_does_not_show_in_the_applications_threads(loaded: Any) -> None:
    module = loaded()
    before = threading.enumerate()
    module.outer(lambda: time.sleep(0.03))
    assert threading.enumerate() == before
    assert threading.active_count() == len(before)


def test_stop_ends_it_and_start_begins_again(loaded: Any) -> None:
    module = loaded(interval="1ms")
    module.outer(lambda: time.sleep(0.03))
    session.stop()
    ticks = recorder.ticks
    time.sleep(0.05)
    assert recorder.ticks <= ticks + 1
    again = loaded(interval="1ms")
    again.outer(lambda: time.sleep(0.05))
    assert again.probe("outer").samples > 5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_samples_on_its_own(loaded: Any) -> None:
    module = loaded(interval="1ms")
    module.outer(looked_at(5))
    parent = module.probe("outer").samples
    assert parent > 3

    def in_child() -> object:
        probe = module.probe("outer")
        inherited = (probe.calls, probe.profiled, probe.samples)
        module.outer(looked_at(7))
        return inherited, (probe.calls, probe.profiled, probe.samples > 5)

    assert told_by_child(lambda: module.outer(lambda: os.fork()), in_child) == "((0, 0, 0), (1, 1, True))"
    assert module.probe("outer").calls == 2 and module.probe("outer").profiled == 2


def test_a_stopped_recorder_leaves_no_thread(loaded: Any) -> None:
    module = loaded(interval="20ms")
    before = {ident for ident in guard.suppressed if ident in sys._current_frames()}
    for _ in range(5):
        module.outer(lambda: time.sleep(0.001))
        recorder.stop()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and set(sys._current_frames()) & guard.suppressed - before:
        time.sleep(0.01)
        session.stop()
    assert not set(sys._current_frames()) & guard.suppressed - before
