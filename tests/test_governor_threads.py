"""The governor's thread: one while it is needed, none in a forked child, and calls exact with many beside it."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autoprof import load, session, signals, testing, turns
from autoprof.load import PAUSED_NS
from tests import governed, pressure
from tests.governed import HEAVY, LIGHT, Make, makes_slow

FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
NO_FORK_WARNING = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


clock, load_as, make = governed.clock, governed.load_as, governed.make


@pytest.fixture(params=["spliced_at_import", "spliced_live", "decorated_at_import"])
def make_slow(request: pytest.FixtureRequest, load_as: Any, clock: testing.FakeClock) -> Make:
    return makes_slow(request.param, load_as, clock)


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
