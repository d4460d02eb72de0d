"""Pausing under load: gates closed from outside, calls still exact, everything as before when the load is over."""

from __future__ import annotations

import asyncio
import os
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import autoprof
from autoprof import calls, gate, load, session, signals, testing, turns
from autoprof.governor import Governor
from autoprof.load import PAUSED_NS
from autoprof.policy import Policy
from autoprof.sampler import recorder
from autoprof.store import StoreReader
from tests import mechanisms, pressure
from tests.mechanisms import Loaded

SOURCE = textwrap.dedent("""
    def f(x=1, act=None):
        if act: act()
        return x
    def other(): pass
    async def co(): return 5
    def gen(): yield 6
""")
FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
NO_FORK_WARNING = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
HEAVY = load.NOTHING._replace(cpu=0.95, memory=0.2)
LIGHT = load.NOTHING._replace(cpu=0.1, memory=0.2)


class Pressure:
    """What stands in for the machine: says what the test wants."""

    reading = LIGHT

    def read(self, now_ns: int) -> load.Reading:
        return self.reading

    def woke(self, late_ns: int) -> None: ...

    def waited_ns(self) -> int:
        return 0

    def cpu_of(self) -> str:
        return "the machine's 2 CPUs"

    memory_of = cpu_of


class Subject:
    """A loaded module whose session's governor looks when the test says so."""

    def __init__(self, module: Loaded, clock: testing.FakeClock, threads: bool) -> None:
        assert session.current is not None
        self.module, self.clock = module, clock
        self.governor: Governor = session.current.governor
        self.pressure = Pressure()
        limits: Any = SimpleNamespace(load_cpu=0.8, load_memory=0.9)
        self.governor.retarget(limits)
        self.governor.prepare()
        self.governor.meter = self.pressure  # type: ignore[assignment]
        if not threads:
            self.governor.start = lambda: None  # type: ignore[method-assign]

    def probe(self, qualname: str = "f") -> Any:
        assert session.current is not None
        name = f"{self.module.name}:{qualname}"
        return next(each for key, each in session.current.installer.probes.items() if key[0] == name)

    def status(self, qualname: str = "f") -> autoprof.ProbeStatus:
        return next(each for each in session.status() if each.target == f"{self.module.name}:{qualname}")

    def pause(self) -> None:
        self.pressure.reading = HEAVY
        self.governor.look()

    def resume(self) -> None:
        self.pressure.reading = LIGHT
        self.clock.advance(ns=PAUSED_NS)
        self.governor.look()


Make = Callable[..., Subject]


@pytest.fixture
def clock() -> Iterator[testing.FakeClock]:
    with testing.FakeClock() as clock:
        yield clock


@pytest.fixture
def load_as(tmp_path: Path) -> Iterator[Callable[..., Loaded]]:
    yield from mechanisms.loads(tmp_path)


def _make(way: str, load_as: Any, clock: testing.FakeClock) -> Make:
    def make(threads: bool = False, source: str = SOURCE, **options: Any) -> Subject:
        return Subject(load_as(way, source, **options), clock, threads)

    return make


@pytest.fixture(params=["spliced_at_import", "decorated_at_import"])
def make(request: pytest.FixtureRequest, load_as: Any, clock: testing.FakeClock) -> Make:
    return _make(request.param, load_as, clock)


@pytest.fixture(params=["spliced_at_import", "spliced_live", "decorated_at_import"])
def make_slow(request: pytest.FixtureRequest, load_as: Any, clock: testing.FakeClock) -> Make:
    made = _make(request.param, load_as, clock)
    return lambda **options: made(policy="profile_if_slow", threshold="10ms", **{"rate": 1.0, **options})


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


@pytest.mark.parametrize("kind", ["profile", "profile_if_slow"])
def test_calls_stay_exact_with_threads_while_it_pauses_and_resumes(make: Make, kind: str) -> None:
    slow = {"policy": kind, "threshold": "10s"} if kind == "profile_if_slow" else {"policy": kind}
    subject = make(rate=0.05, **slow)
    f, probe = subject.module.f, subject.probe()
    f()
    before_s, many, count = sys.getswitchinterval(), 20_000, 0
    sys.setswitchinterval(1e-5)

    def work() -> None:
        for _ in range(many):
            f()

    threads = [threading.Thread(target=work) for _ in range(4)]
    try:
        for each in threads:
            each.start()
        while any(each.is_alive() for each in threads) or count < 20:
            turns.hold(probe, "" if count % 2 else "busy")
            count += 1
    finally:
        sys.setswitchinterval(before_s)
        for each in threads:
            each.join()
    turns.hold(probe, "")
    assert probe.calls == 4 * many + 1


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


# threads and forks


def _wait(true: Callable[[], object]) -> bool:
    deadline_s = time.monotonic() + 60
    while not true() and time.monotonic() < deadline_s:
        time.sleep(0.01)
    return bool(true())


def test_one_thread_from_the_first_call_to_the_end(make: Make) -> None:
    subject = make(threads=True)
    assert subject.governor._thread is None
    subject.module.f()
    thread = subject.governor._thread
    assert thread is not None and thread.running
    subject.module.other()
    assert subject.governor._thread is thread
    session.stop()
    assert _wait(lambda: not thread.running)


def test_no_thread_without_a_probe_that_minds_the_load(make: Make) -> None:
    subject = make(threads=True, check_load=False)
    subject.module.f()
    assert subject.governor._thread is None


def test_no_thread_without_limits(make: Make) -> None:
    subject = make(threads=True)
    off: Any = SimpleNamespace(load_cpu=None, load_memory=None)
    subject.governor.retarget(off)
    subject.module.f()
    assert subject.governor._thread is None


def test_a_failure_of_ours_is_counted_and_the_thread_goes_on(make: Make, monkeypatch: Any) -> None:
    from autoprof import guard

    subject = make(threads=True)
    looks: list[int] = []

    def fail(now_ns: int) -> load.Reading:
        looks.append(now_ns)
        raise ValueError("no figure")

    monkeypatch.setattr(guard, "internal_errors", {})
    monkeypatch.setattr(guard, "_logged", {"governor"})
    subject.pressure.read = fail  # type: ignore[method-assign]
    subject.module.f()
    assert _wait(lambda: len(looks) >= 2)
    assert guard.internal_errors["governor"] >= 1


def test_stop_from_a_receiver_of_paused(make: Make) -> None:
    subject = make(threads=True)
    told: list[str] = []

    def stop(sender: str, *, measurements: Any, metadata: Any) -> None:
        session.stop()
        told.append(metadata["reason"])

    with signals.paused.connected_to(stop):
        subject.pressure.reading = HEAVY
        subject.module.f()
        assert _wait(lambda: told)
    assert session.current is None
    assert subject.module.f(9) == 9


def _in_child(body: Callable[[], object]) -> bool:
    child = os.fork()
    if child == 0:  # pragma: no cover
        status = 1
        try:
            status = 0 if body() else 1
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1] == 0


@FORK
@NO_FORK_WARNING
def test_a_child_starts_unpaused_and_without_the_thread(make: Make) -> None:
    subject = make(threads=True)
    f, probe = subject.module.f, subject.probe()
    f()
    subject.pause()
    f()

    def body() -> bool:
        clean = subject.governor._thread is None and not subject.governor.reason and not probe.paused
        f()
        return clean and (probe.calls, probe.profiled) == (1, 1) and subject.governor._thread is not None

    assert _in_child(body)


@FORK
@NO_FORK_WARNING
def test_the_parent_stays_paused_and_its_next_call_starts_the_thread_again(make: Make) -> None:
    subject = make(threads=True)
    f, probe = subject.module.f, subject.probe()
    f()
    subject.pause()
    assert _in_child(lambda: True)
    assert subject.governor._thread is None
    f()
    f()
    assert subject.governor._thread is not None and subject.governor._thread.running
    assert (probe.calls, probe.profiled, probe.skipped) == (3, 1, {})
    assert subject.status().state == "paused"
    subject.pressure.reading = LIGHT
    subject.clock.advance(ns=PAUSED_NS)
    assert _wait(lambda: subject.status().state == "installed")
    f()
    assert (probe.calls, probe.profiled) == (4, 2)


@FORK
@NO_FORK_WARNING
def test_a_stopwatch_starts_the_thread_again_after_a_fork(make_slow: Make) -> None:
    subject = make_slow(threads=True)
    subject.module.f()
    assert _in_child(lambda: subject.module.f() and subject.governor._thread is not None)
    assert subject.governor._thread is None
    subject.module.f()
    assert subject.governor._thread is not None
    assert subject.probe().calls == 2


@pytest.mark.skipif(not os.path.exists("/proc/self/schedstat"), reason="needs schedstat")
@pytest.mark.parametrize("threads", [1, 2])
def test_busy_threads_wait_for_the_gil_when_they_are_two(tmp_path: Path, threads: int) -> None:
    """One busy thread alone never pauses, two that share the GIL do; the machine's own figures are kept out of it."""
    pressure.run(
        tmp_path,
        '{"cpu": "30%", "memory": "off"}',
        f"""
        proc = tempfile.mkdtemp()
        os.symlink("/proc/self", proc + "/self")
        os.symlink("/proc/thread-self", proc + "/thread-self")
        os.mkdir(proc + "/pressure")
        open(proc + "/pressure/cpu", "w").write("some avg10=0 total=0")
        governor.prepare()
        governor.meter = load.Meter(proc)
        seen = []
        read = governor.meter.read
        def reading(now_ns):
            seen.append(read(now_ns))
            return seen[-1]
        governor.meter.read = reading
        go_on = True
        def burn():
            while go_on:
                pass
        burners = [threading.Thread(target=burn) for _ in range({threads})]
        for each in burners:
            each.start()
        work()
        try:
            wait(lambda: told or ({threads} == 1 and len(seen) > 16 and governor.meter._taken > 5))
        finally:
            go_on = False
        if {threads} == 1:
            assert len(seen) > 16 and not told, (told, seen)
            assert governor.meter._taken > 5, "the GIL was not even taken"
        else:
            assert told and "threads had to wait for the GIL" in told[0][1], (told, seen)
        """,
    )


def test_policy_without_load_is_never_asked() -> None:
    made = Policy([], settings={"load_cpu": None, "load_memory": None})
    governor = Governor(made, list)
    governor.start()
    assert governor._thread is None
