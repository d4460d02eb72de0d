"""A stopwatch under load: it reads no clock while paused, and opens nothing after the end."""

from __future__ import annotations

import time
from typing import Any

import pytest

from autoprof import gate, load, testing
from autoprof.sampler import recorder
from tests import governed
from tests.governed import Make, makes_slow

clock, load_as = governed.clock, governed.load_as


@pytest.fixture(params=["spliced_at_import", "spliced_live", "decorated_at_import"])
def make_slow(request: pytest.FixtureRequest, load_as: Any, clock: testing.FakeClock) -> Make:
    return makes_slow(request.param, load_as, clock)


def test_a_stopwatch_pauses_too(make_slow: Make) -> None:
    subject = make_slow()
    f, probe, clock = subject.module.f, subject.probe(), subject.clock
    timed = probe.gates[0].timed

    def slow() -> None:
        # The stopwatch reads its own clock in C; the portable back end the fake one.
        time.sleep(0.011)
        clock.advance(ms=11)

    f(act=slow)
    assert (probe.slow if timed else probe.profiled) == 1
    subject.pause()
    before_ns = probe.time_ns
    f(act=slow)
    f()
    assert (probe.calls, probe.profiled, probe.time_ns) == (3, 1, before_ns)
    if timed:
        assert probe.gates[0].clock is gate.EXHAUSTED and not recorder.watch
    subject.resume()
    f(act=slow)
    assert (probe.calls, probe.profiled) == (4, 2)
    assert bool(recorder.watch) == timed


def test_a_stopwatch_first_called_while_paused(make_slow: Make) -> None:
    subject = make_slow()
    subject.pause()
    subject.module.f(act=lambda: time.sleep(0.011))
    probe = subject.probe()
    assert (probe.calls, probe.slow, probe.time_ns) == (1, 0, 0)
    assert not recorder.watch
    subject.resume()
    assert subject.status().state == "installed"
    subject.module.f(act=lambda: (time.sleep(0.011), subject.clock.advance(ms=11)))
    assert probe.profiled == 1


def test_a_call_that_began_while_paused_is_not_timed(make_slow: Make) -> None:
    subject = make_slow()
    subject.module.f()
    subject.pause()

    def resume() -> None:
        time.sleep(0.011)
        subject.resume()

    before_ns = subject.probe().time_ns
    subject.module.f(act=resume)
    assert (subject.probe().slow, subject.probe().time_ns) == (0, before_ns)


def test_a_look_that_is_late_opens_nothing_after_stop(make_slow: Make) -> None:
    subject = make_slow()
    subject.module.f()
    (gate_,) = subject.probe().gates
    subject.pause()
    read = subject.pressure.read

    def stop_meanwhile(now_ns: int) -> load.Reading:
        subject.governor.end()  # what `stop` does first
        return read(now_ns)

    subject.pressure.read = stop_meanwhile  # type: ignore[method-assign]
    subject.resume()
    assert subject.governor.reason == "" and not recorder.watch
    if gate_.timed:
        assert gate_.clock is gate.EXHAUSTED
