"""Options of rules that say when and how measuring ends: `every`, `for`, `duration`, `async`."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from autoprof import artefacts, flusher, session, testing, turns
from autoprof.policy import Policy
from autoprof.schema import options_for
from autoprof.store import StoreReader
from tests import mechanisms
from tests.flames import BACK_ENDS, Make, makes
from tests.mechanisms import Loaded

Load = Callable[..., Loaded]
PLAIN = "def f(x=1, act=None):\n    if act: act()\n    return x\n"


@pytest.fixture(params=BACK_ENDS)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    yield from makes(request.param, tmp_path)


@pytest.fixture(params=BACK_ENDS)
def loaded(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Load]:
    loads = mechanisms.loads(tmp_path)
    load = next(loads)
    yield lambda source=PLAIN, **options: load(request.param, source, **options)
    next(loads, None)


def report_of(shop: Any) -> Any:
    """Stop, and return what `autoprof report` reads."""
    session.stop()
    return StoreReader([str(shop.output)]).select()


# every


def test_every_is_a_second_for_flame_graphs(make: Make) -> None:
    assert options_for("flame_graph")["every_ns"] == 10**9
    shop = make("def work(seconds): pass", every="1s")
    with testing.FakeClock() as clock:
        for advance_ms in (0, 500, 499, 1, 999, 1):
            clock.advance(ms=advance_ms)
            turns.keep_time()
            shop.work(0.0)
        assert (shop.probe.calls, shop.probe.profiled, shop.probe.skipped) == (6, 3, {})


def test_every_is_exact_when_many_threads_find_the_gate_open(loaded: Load) -> None:
    module = loaded(every="1h")
    count, calls = 8, 400
    barrier = threading.Barrier(count)
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def run() -> None:
        barrier.wait()
        for _ in range(calls):
            module.f()

    threads = [threading.Thread(target=run) for _ in range(count)]
    try:
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    finally:
        sys.setswitchinterval(interval_s)
    probe = module.probe("f")
    assert (probe.calls, probe.profiled, probe.skipped) == (count * calls, 1, {})


def test_a_second_thread_in_the_open_gate_is_turned_away(loaded: Load) -> None:
    module = loaded(every="1h")
    probe = module.probe("f")
    module.f()
    probe.closed_until_ns = 0  # as another thread saw it, a moment before
    turns.retune(probe.gates[0])
    module.f()
    assert (probe.calls, probe.profiled, probe.skipped) == (2, 1, {})


def test_every_holds_for_all_gates_of_a_target(loaded: Load) -> None:
    source = "def f():\n    return 1\ng = f\ndef f():\n    return 2\n"
    module = loaded(source, every="1h")
    assert [module.g(), module.f(), module.g(), module.f()] == [1, 2, 1, 2]
    probe = module.probe("f")
    assert len(probe.gates) == 2
    assert (probe.calls, probe.profiled, probe.skipped) == (4, 1, {})


# for


def test_a_rule_ends_when_its_time_is_over(loaded: Load) -> None:
    with testing.FakeClock() as clock:
        module = loaded(**{"for": "10m"})
        probe = module.probe("f")
        module.f()
        clock.advance(s=599)
        turns.keep_time()
        module.f()
        assert (probe.profiled, probe.state) == (2, "installed")
        clock.advance(s=1)
        turns.keep_time()
        for _ in range(5):
            module.f()
        assert (probe.calls, probe.profiled, probe.skipped) == (7, 2, {})
        assert (probe.state, probe.reason) == ("disabled", "its time is over (for: 10m)")
        assert not turns.expiring


def test_a_call_is_not_measured_even_before_the_background_thread_looks(loaded: Load) -> None:
    with testing.FakeClock() as clock, testing.capture() as events:
        module = loaded(**{"for": "1s"})
        probe = module.probe("f")
        module.f()
        sent = len(events)
        clock.advance(s=1)
        turns.expiring.clear()  # nobody looks
        assert module.f(3) == 3
        assert (probe.calls, probe.profiled, probe.state) == (2, 1, "disabled")
        assert len(events) == sent


def test_a_rule_ends_before_any_call_and_calls_still_reach_the_store(loaded: Load, tmp_path: Path) -> None:
    with testing.FakeClock() as clock:
        module = loaded(**{"for": "1s"})
        clock.advance(s=2)
        (status,) = [each for each in session.status() if each.target == f"{module.name}:f"]
        assert (status.state, status.reason) == ("disabled", "its time is over (for: 1s)")
        assert session.current is not None and session.current.flusher._thread is None
        for _ in range(3):
            module.f()
        probe = module.probe("f")
        assert (probe.calls, probe.profiled, probe.state) == (3, 0, "disabled")
        assert probe.reason == "its time is over (for: 1s)"
    session.stop()
    (row,) = StoreReader([str(tmp_path / "out")]).select().probes
    assert (row.calls, row.profiled) == (3, 0)


def test_the_background_thread_ends_a_rule_in_time(loaded: Load) -> None:
    module = loaded(**{"for": "200ms"})
    module.f()
    probe = module.probe("f")
    deadline = time.monotonic() + 20
    while probe.state == "installed" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert probe.state == "disabled"
    module.f()
    assert (probe.calls, probe.profiled) == (2, 1)


def test_functions_imported_later_go_to_the_next_rule(tmp_path: Path) -> None:
    start = mechanisms.policy("subject_for", str(tmp_path / "out"), **{"for": "1m"})
    start["rules"].append({"name": "after", "match": "subject_for:*", "policy": "profile", "rate": 1.0})
    with testing.FakeClock() as clock:
        session.start(start)
        try:
            assert session.current is not None
            policy = session.current.policy
            assert isinstance(policy, Policy) and "for" not in policy.inactive
            (grant,) = policy.decide("subject_for", "f").grants
            assert grant.rule.label == "rule 1"
            clock.advance(s=60)
            (grant,) = policy.decide("subject_for", "f").grants
            assert grant.rule.label == "after"
        finally:
            session.stop()


def test_a_stopped_session_leaves_nothing_that_waits(loaded: Load) -> None:
    module = loaded(every="1h", **{"for": "1h"})
    module.f()
    assert turns.reopen and turns.expiring
    session.stop()
    assert not turns.reopen and not turns.expiring and turns.next_turn_ns() is None


# duration


def test_the_duration_of_one_policy_does_not_bind_the_other(tmp_path: Path) -> None:
    start = mechanisms.policy("subject_limits", str(tmp_path / "out"), duration="20ms", interval="1ms")
    both = {"match": "subject_limits:f", "policy": "profile_production", "sample_rate": 1.0}
    start["rules"].append({**both, "interval": "1ms"})
    module = mechanisms.spliced_at_import(PLAIN, "subject_limits", start)
    try:
        module.f(act=lambda: time.sleep(0.3))
        assert session.current is not None
        found = session.current.installer.probes
        short = found["subject_limits:f", "profile"].samples
        whole = found["subject_limits:f", "profile_production"].samples
        assert 0 < short < whole / 2
    finally:
        session.stop()
        del sys.modules["subject_limits"]


# async


def test_files_are_complete_when_the_call_returns(make: Make) -> None:
    shop = make(format="json")
    with testing.capture("complete") as events:
        shop.work(0.02)
    path = events[0].metadata["profile"]
    assert json.loads(Path(path).read_text())["profiles"]


def test_nothing_is_measured_while_a_file_is_made(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = make()
    monkeypatch.setattr(artefacts, "render", lambda *_: shop.work(0.01))
    shop.work(0.01)
    assert (shop.probe.calls, shop.probe.profiled, shop.probe.skipped) == (2, 1, {"nested": 1})


def test_async_files_are_written_by_the_worker(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = make(format="json", **{"async": True})
    threads: list[int] = []
    render = artefacts.render

    def rendered(*args: Any) -> Any:
        threads.append(threading.get_ident())
        return render(*args)

    monkeypatch.setattr(artefacts, "render", rendered)
    with testing.capture() as events:
        shop.work(0.02)
    assert events.names == ["start", "stop", "complete"]
    path = Path(events[-1].metadata["profile"])
    deadline = time.monotonic() + 20
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert json.loads(path.read_text())["profiles"]
    assert threads and threads[0] != threading.get_ident()


def test_async_files_are_written_at_stop(make: Make) -> None:
    shop = make(**{"async": True})
    with testing.capture("complete") as events:
        shop.work(0.02)
    data = report_of(shop)
    path = events[0].metadata["profile"]
    assert [str(each) for each in shop.files()] == [path]
    assert [os.path.join(shop.output, each.path) for each in data.artefacts] == [path]


def test_the_queue_is_bounded_and_drops_are_counted(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flusher, "JOBS_HELD", 2)
    monkeypatch.setattr(flusher, "PERIOD_S", 60.0)
    shop = make(output="{time}.svg", **{"async": True})
    with testing.capture("complete") as events:
        for _ in range(4):
            shop.work(0.01)
            time.sleep(0.002)
    assert [each.metadata["profile"] is None for each in events] == [False, False, True, True]
    data = report_of(shop)
    assert data.dropped == 2
    assert len(shop.files()) == len(data.artefacts) == 2


def test_stop_waits_two_seconds_at_most(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flusher, "PERIOD_S", 60.0)
    monkeypatch.setattr(flusher, "CLOSE_S", 0.5)
    shop = make(output="{time}.svg", **{"async": True})
    monkeypatch.setattr(artefacts, "render", lambda *_: time.sleep(0.6) or "late")
    for _ in range(5):
        shop.work(0.01)
        time.sleep(0.002)
    data = report_of(shop)
    assert data.dropped == 4
    assert len(shop.files()) == 1


def test_async_files_are_written_at_exit(tmp_path: Path) -> None:
    program = f"""
from autoprof import flame_graph
from time import perf_counter
@flame_graph(async_=True, output={str(tmp_path / "one.svg")!r})
def work():
    end = perf_counter() + 0.03
    while perf_counter() < end: pass
work()
"""
    done = mechanisms.python(f"import os; os.chdir({str(tmp_path)!r})\n{program}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "work" in (tmp_path / "one.svg").read_text()
