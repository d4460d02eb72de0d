"""Pausing under load: gates closed from outside, calls still exact, everything as before when the load is over."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import autoprof
from autoprof import calls, gate, session, testing, turns
from autoprof.governor import Governor
from autoprof.load import PAUSED_NS
from autoprof.policy import Policy
from autoprof.sampler import recorder
from autoprof.store import StoreReader
from tests import governed
from tests.governed import HEAVY, LIGHT, SOURCE, Make, Subject

clock, load_as, make = governed.clock, governed.load_as, governed.make


def test_paused_calls_are_counted_and_not_measured(make: Make) -> None:
    subject = make()
    f, probe = subject.module.f, subject.probe()
    assert (f(), probe.profiled) == (1, 1)
    subject.pause()
    for _ in range(100):
        f()
    assert (probe.calls, probe.profiled, probe.skipped) == (101, 1, {})
    status = subject.status()
    assert status.state == "paused"
    assert status.reason == (
        "paused by load: 95% of the machine's 2 CPUs is in use (mean of 5 s), above load: cpu 80%"
    )
    subject.resume()
    for _ in range(10):
        f()
    assert (probe.calls, probe.profiled, probe.skipped) == (111, 11, {})
    assert (subject.status().state, subject.status().reason) == ("installed", "")


def test_coroutines_and_generators(make: Make) -> None:
    subject = make()

    def both() -> None:
        assert asyncio.run(subject.module.co()) == 5
        assert list(subject.module.gen()) == [6]

    both()
    subject.pause()
    both()
    counts = [(subject.probe(each).calls, subject.probe(each).profiled) for each in ("co", "gen")]
    assert counts == [(2, 1), (2, 1)]
    subject.resume()
    both()
    assert [subject.probe(each).profiled for each in ("co", "gen")] == [2, 2]


def test_a_function_called_for_the_first_time_while_paused(make: Make) -> None:
    subject = make()
    subject.module.f()
    subject.pause()
    for _ in range(5):
        subject.module.other()
    assert (subject.probe("other").calls, subject.probe("other").profiled) == (5, 0)
    assert subject.status("other").state == "paused"
    subject.resume()
    subject.module.other()
    assert (subject.probe("other").calls, subject.probe("other").profiled) == (6, 1)


def test_check_load_false_goes_on(make: Make) -> None:
    subject = make(check_load=False)
    subject.module.f()
    subject.pause()
    subject.module.f()
    assert subject.probe().profiled == 2
    assert subject.status().state == "installed"


def test_a_call_in_flight_is_measured_to_its_end(make: Make) -> None:
    subject = make()
    subject.module.f(act=subject.pause)
    subject.module.f()
    assert (subject.probe().calls, subject.probe().profiled) == (2, 1)


def test_a_call_whose_gate_was_open_when_the_pause_came_is_skipped(make: Make, monkeypatch: Any) -> None:
    subject = make()
    subject.module.f()
    real = calls._take_off

    def late(*arguments: Any) -> Any:
        monkeypatch.setattr(calls, "_take_off", real)
        subject.pause()
        # One frame more than usual: the last argument counts them.
        return real(*arguments[:-1], arguments[-1] + 1)

    monkeypatch.setattr(calls, "_take_off", late)
    assert subject.module.f(7) == 7
    assert subject.probe().skipped == {"paused": 1}
    assert (subject.probe().calls, subject.probe().profiled) == (2, 1)


def test_both_signals_say_why(make: Make) -> None:
    subject = make()
    subject.module.f()
    with testing.capture("paused", "resumed") as events:
        subject.pause()
        subject.governor.look()
        subject.resume()
        subject.governor.look()
    assert events.names == ["paused", "resumed"]
    paused, resumed = events
    assert paused.target == resumed.target == "autoprof"
    assert paused.measurements == {
        "cpu": 0.95, "memory": 0.2, "gil": None, "queue": None, "throttled": None, "loop": None,
    }  # fmt: skip
    assert paused.metadata["reason"].startswith("paused by load: 95%")
    assert paused.metadata["probes"] == 4
    assert resumed.measurements["paused_ns"] == PAUSED_NS
    assert resumed.metadata["reason"] == "load is over: cpu 10%, memory 20%"
    assert {"event", "module", "function", "target", "pid", "env", "service"} <= set(paused.metadata)


def test_it_stays_paused_for_a_while(make: Make) -> None:
    subject = make()
    subject.pause()
    subject.pressure.reading = LIGHT
    for _ in range(10):
        subject.clock.advance(ns=PAUSED_NS // 10 - 1)
        subject.governor.look()
        assert subject.status().state == "paused"
    subject.clock.advance(ns=10)
    subject.governor.look()
    assert subject.status().state == "installed"


def test_every_and_a_pause_do_not_open_each_others_gates(make: Make) -> None:
    subject = make(every="30s")
    f, probe = subject.module.f, subject.probe()
    f()
    subject.pause()
    subject.resume()
    f()
    assert probe.profiled == 1  # `every` still closes it
    subject.clock.advance(s=6)
    subject.pause()
    assert subject.status().state == "paused"
    subject.clock.advance(s=40)
    turns.keep_time()
    f()
    assert probe.profiled == 1  # the pause does
    subject.resume()
    f()
    assert probe.profiled == 2


@pytest.mark.parametrize("way", ["spliced_at_import", "spliced_live", "decorator_in_code"])
def test_stop_while_paused_gives_the_code_back(load_as: Any, clock: testing.FakeClock, way: str) -> None:
    source = SOURCE.replace("def f(", "#@\ndef f(")
    subject = Subject(load_as(way, source), clock, False)
    module = subject.module
    spliced = module.f.__code__
    module.f()
    subject.pause()
    assert subject.status().state == "paused"
    session.stop()
    assert module.f.__code__ is not spliced and gate.gate_of(module.f.__code__) is None
    assert module.f(3) == 3
    assert not recorder.watch and calls.on_roused is calls.nobody_roused


def test_what_stop_says_of_a_paused_probe(make: Make) -> None:
    subject = make()
    probe = subject.probe()
    subject.pause()
    session.stop()
    assert (probe.state, probe.paused) == ("removed", "")


@pytest.mark.parametrize("way", ["decorator_in_code", "decorator_in_code_portable"])
def test_decorators_pause_too(load_as: Any, clock: testing.FakeClock, way: str) -> None:
    subject = Subject(load_as(way, SOURCE.replace("def f(", "#@\ndef f(")), clock, False)
    subject.module.f()
    subject.pause()
    subject.module.f()
    assert (subject.probe().calls, subject.probe().profiled) == (2, 1)
    assert subject.status().state == "paused"

    def late() -> int:
        return 4

    late.__module__ = subject.module.name
    decorated = autoprof.profile(rate=1.0)(late)  # installed during the pause
    assert decorated() == 4
    mine = subject.probe(late.__qualname__)
    assert (mine.calls, mine.profiled, mine.paused) == (1, 0, subject.governor.reason)
    subject.resume()
    decorated()
    subject.module.f()
    assert (mine.profiled, subject.probe().profiled) == (1, 2)


def test_the_default_session_has_the_default_limits() -> None:
    governor = Governor(None, list)
    governor.prepare()
    assert (governor.judge.cpu, governor.judge.memory) == (0.8, 0.9)


def test_force_measures_in_spite_of_load(make: Make) -> None:
    subject = make()
    subject.module.f()
    subject.pause()
    with testing.force(f"{subject.module.name}:f"):
        subject.module.f()
        subject.governor.look()
        subject.module.f()
    subject.module.f()
    assert (subject.probe().calls, subject.probe().profiled) == (4, 3)
    assert subject.status().state == "paused"


@settings(
    max_examples=60, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(("call", "slow", "heavy", "light")), st.integers(0, 12)), max_size=25
    )
)
def test_calls_stay_exact_whatever_the_load_does(make: Make, steps: list[tuple[str, int]]) -> None:
    subject = make()
    f, probe, governor = subject.module.f, subject.probe(), subject.governor
    made = measured = 0
    for what, amount in steps:
        if what == "call":
            for _ in range(amount):
                f()
            made += amount
            measured += 0 if governor.reason else amount
        else:
            subject.pressure.reading = {"heavy": HEAVY, "light": LIGHT}.get(what, subject.pressure.reading)
            subject.clock.advance(s=amount)
            governor.look()
        assert (probe.calls, probe.profiled, probe.skipped) == (made, measured, {})
        assert (subject.status().state == "paused") == bool(governor.reason) == bool(probe.paused)


def test_the_store_is_told_of_a_pause_and_of_its_end(make: Make, tmp_path: Path) -> None:
    subject = make()
    current = session.current
    assert current is not None
    current.flusher.start = lambda: None  # type: ignore[method-assign]

    def told() -> tuple[str, str]:
        current.flusher.flush()
        data = StoreReader([str(tmp_path / "out")]).select("last", stacks=False)
        return next((each.state, each.reason) for each in data.states if each.target.endswith(":f"))

    subject.module.f()
    assert told() == ("installed", "")
    subject.pause()
    state, reason = told()
    assert state == "paused" and reason.startswith("paused by load: 95% of the machine's 2 CPUs")
    subject.resume()
    assert told() == ("installed", "")


def test_policy_without_load_is_never_asked() -> None:
    made = Policy([], settings={"load_cpu": None, "load_memory": None})
    governor = Governor(made, list)
    governor.start()
    assert governor._thread is None
