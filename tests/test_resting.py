"""Threads that have not run since the last look count as they stood; whoever ran, ended or took another's place is walked."""

from __future__ import annotations

import _thread
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest

from autoprof import flight, resting, testing
from autoprof.sampler import recorder
from tests import sampled
from tests.sampled import stacks

pytestmark = [
    pytest.mark.usefixtures("no_flushes"),
    pytest.mark.skipif(not resting.clocks_are_exact(), reason="no exact clocks of other threads here"),
]

load, loaded, by_hand = sampled.load, sampled.loaded, sampled.by_hand


class Worker:
    """A thread that does what it is told inside one profiled call, and waits for the next order there."""

    def __init__(self, outer: Callable[[Callable[[], None]], object], start: Callable[..., object]) -> None:
        self.orders: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self.ready: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.outer = outer
        self.ended = threading.Event()
        start(self._work)
        self.ident = self.ready.get(timeout=5)
        at_rest(self.ident)

    def _work(self) -> None:
        try:
            self.outer(self.here)
        finally:
            self.ended.set()

    def here(self) -> None:
        """Wait for orders."""
        self.ready.put(_thread.get_ident())
        while (order := self.orders.get()) is not None:
            order()

    def there(self) -> None:
        """Wait for one order somewhere else."""
        self.ready.put(_thread.get_ident())
        self.orders.get()

    def tell(self, order: Callable[[], object] | None) -> None:
        """Give an order; return when the thread waits for the next one."""
        self.orders.put(order)
        if order is not None:
            self.ready.get(timeout=5)
            at_rest(self.ident)
        else:
            assert self.ended.wait(timeout=5)


def at_rest(ident: int) -> None:
    """Return when a thread has waited for a while."""
    native_id = resting._native_id(ident)
    if native_id is None:
        time.sleep(0.05)
        return
    clock_id = resting._clock_id(native_id)
    before_ns = -1
    while (used_ns := time.clock_gettime_ns(clock_id)) != before_ns:
        before_ns = used_ns
        time.sleep(0.005)


def by_threading(work: Callable[[], None]) -> None:
    threading.Thread(target=work, daemon=True).start()


@pytest.fixture
def worker(loaded: Any) -> Iterator[Worker]:
    """Give a thread inside `outer`, and end it."""
    module = loaded()
    made = Worker(module.outer, by_threading)
    made.module = module  # type: ignore[attr-defined]
    yield made
    if not made.ended.is_set():
        made.tell(None)


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Give a list that has an item for each time that the threads' frames were asked for."""
    asked: list[int] = []
    real = sys._current_frames

    def counted() -> Any:
        asked.append(1)
        return real()

    monkeypatch.setattr(sys, "_current_frames", counted)
    return asked


def probe_of(worker: Any) -> Any:
    return worker.module.probe("outer")


def test_who_waits_is_walked_when_met_and_once_more_and_then_counts_as_it_stood(
    by_hand: Any, worker: Worker, walks: list[int]
) -> None:
    for _ in range(10):
        by_hand()
    assert len(walks) == 2
    assert probe_of(worker).samples == 10
    assert list(stacks(probe_of(worker).target).values()) == [10]


def test_a_call_is_told_its_samples(by_hand: Any, worker: Worker) -> None:
    for _ in range(10):
        by_hand()
    with testing.capture("complete") as events:
        worker.tell(None)
    (event,) = events.named("complete", probe_of(worker).target)
    assert event.measurements["samples"] == 10


def test_who_goes_on_is_seen_where_it_is(by_hand: Any, worker: Worker) -> None:
    """Each stay is as short as it gets: what runs in between is a few microseconds."""
    expected = {"here": 0, "there": 0}
    for _ in range(100):
        for order, name in ((worker.there, "there"), (None, "here")):
            if order is not None:
                worker.tell(order)
            else:
                worker.orders.put(lambda: None)
                at_rest(worker.ident)
            for _ in range(3):
                by_hand()
            expected[name] += 3
    found = stacks(probe_of(worker).target)
    leaves = {"here": 0, "there": 0}
    for stack, samples in found.items():
        leaves["there" if "Worker.there" in stack else "here"] += samples
    assert leaves == expected


def test_the_weights_are_those_of_a_walk(loaded: Any, by_hand: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same seconds, once by walking and once at rest, of a call that stands for four."""
    module = loaded()
    probe = module.probe("outer")
    made = Worker(module.outer, by_threading)
    for each in flight.in_flight[made.ident]:
        each.weights = {probe: 4.0}  # as drawn at a quarter of the rate
    sums = []
    for exact in (False, True):
        monkeypatch.setattr(recorder._resting, "_exact", exact)
        with testing.FakeClock() as clock:
            recorder._last_ns = clock.now_ns
            for _ in range(20):
                clock.advance(ms=7)
                by_hand()
        sums.append([entry for (each, _), entry in recorder.drain().items() if each is probe])
    made.tell(None)
    assert sums[0] == sums[1] == [(20, 4 * 20 * 7_000_000)]


def test_after_a_drain_it_counts_anew(by_hand: Any, worker: Worker, walks: list[int]) -> None:
    for _ in range(3):
        for _ in range(5):
            by_hand()
        assert list(stacks(probe_of(worker).target).values()) == [5]
    assert len(walks) == 6


def test_beyond_the_duration_it_does_not_count(loaded: Any, by_hand: Any) -> None:
    module = loaded(duration="1s")
    with testing.FakeClock() as clock:
        made = Worker(module.outer, by_threading)
        for _ in range(25):
            clock.advance(ms=100)
            by_hand()
        made.tell(None)
    assert module.probe("outer").samples == 10


def test_two_calls_on_a_thread_both_count(by_hand: Any, worker: Worker) -> None:
    module: Any = worker.module  # type: ignore[attr-defined]
    worker.tell(lambda: module.inner(worker.there))
    for _ in range(10):
        by_hand()
    assert sum(stacks(f"{module.name}:inner").values()) == 10
    assert module.probe("outer").samples == module.probe("inner").samples == 10
    worker.orders.put(None)


def test_what_a_call_keeps_for_itself_goes_on_growing(loaded: Any, by_hand: Any) -> None:
    module = loaded(threshold="1ms")
    made = Worker(module.outer, by_threading)
    for _ in range(10):
        by_hand()
    (call,) = [each for each in flight.in_flight[made.ident] if module.probe("outer") in each.probes]
    assert call.stacks is not None
    assert sum(samples for samples, _ in call.stacks.values()) == 10
    made.tell(None)


def test_a_thread_that_threading_does_not_know_is_walked_each_time(
    loaded: Any, by_hand: Any, walks: list[int]
) -> None:
    module = loaded()
    made = Worker(module.outer, lambda work: _thread.start_new_thread(work, ()))
    for _ in range(5):
        by_hand()
    assert len(walks) == 5
    assert module.probe("outer").samples == 5
    made.tell(None)


def test_the_attributes_of_a_thread_of_the_application_are_not_asked(
    loaded: Any, by_hand: Any, walks: list[int]
) -> None:
    class Own(threading.Thread):
        asked: ClassVar[list[str]] = []

        def __getattribute__(self, name: str) -> Any:
            if _thread.get_ident() == me:
                Own.asked.append(name)
                raise RuntimeError(name)
            return super().__getattribute__(name)

    def start(work: Callable[[], None]) -> None:
        nonlocal me
        own = Own(target=work, daemon=True)
        own.start()
        me = _thread.get_ident()

    me = 0
    made = Worker(loaded().outer, start)
    for _ in range(5):
        by_hand()
    assert len(walks) == 2
    assert not Own.asked
    me = 0
    made.tell(None)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_the_main_thread_of_a_forked_child_has_no_number_of_its_parents() -> None:
    ident = threading.main_thread().ident
    assert ident is not None
    assert resting._native_id(ident) == os.getpid() == threading.main_thread().native_id
    child = os.fork()
    if not child:
        found = resting._native_id(ident)
        os._exit(0 if found is None or found == os.getpid() else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_without_exact_clocks_every_thread_is_walked(
    by_hand: Any, worker: Worker, walks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder._resting, "_exact", None)
    monkeypatch.setattr(resting, "clocks_are_exact", lambda: False)
    for _ in range(5):
        by_hand()
    assert len(walks) == 5
    assert probe_of(worker).samples == 5


@pytest.mark.parametrize("step_ns", [0, 10_000_000])
def test_clocks_that_stand_still_between_ticks_are_not_exact(
    monkeypatch: pytest.MonkeyPatch, step_ns: int
) -> None:
    real = time.clock_gettime_ns
    monkeypatch.setattr(time, "clock_gettime_ns", lambda which: real(which) // max(step_ns, 1) * step_ns)
    assert not resting.clocks_are_exact()


@pytest.mark.parametrize("error", [OSError, OverflowError])
def test_a_system_that_refuses_has_no_exact_clocks(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def refused(_: int) -> int:
        raise error

    monkeypatch.setattr(time, "clock_gettime_ns", refused)
    assert not resting.clocks_are_exact()


def test_a_thread_that_ends_is_forgotten(by_hand: Any, worker: Worker) -> None:
    for _ in range(3):
        by_hand()
    assert worker.ident in recorder._resting._seen
    calls, clock_id = flight.in_flight[worker.ident], recorder._resting._seen[worker.ident].clock_id
    worker.tell(None)
    with pytest.raises(OSError, match="Invalid argument"):
        while time.clock_gettime_ns(clock_id):
            time.sleep(0.001)
    flight.in_flight[worker.ident] = calls  # as if it had died inside the call
    by_hand()
    assert worker.ident not in recorder._resting._seen
    assert worker.ident not in flight.in_flight


def test_another_thread_with_the_same_ident_is_another(loaded: Any, by_hand: Any) -> None:
    module = loaded()
    idents = []
    for turn in range(8):
        made = Worker(module.outer, by_threading)
        for _ in range(3):
            by_hand()
        idents.append(made.ident)
        assert module.probe("outer").samples == 3 * (turn + 1)
        made.tell(None)
        while any(made.ident == each.ident for each in threading.enumerate()):
            time.sleep(0.001)
    assert len(set(idents)) < len(idents), "the system gave each thread an ident of its own"


def test_what_is_kept_is_bounded(by_hand: Any, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resting, "_KEPT", 4)
    me = threading.current_thread()
    active: dict[int, Any] = threading._active  # type: ignore[attr-defined]
    fakes = range(-20, 0)
    try:
        for ident in fakes:
            active[ident] = me
            recorder._resting._meet(ident)
            assert len(recorder._resting._seen) <= 4
    finally:
        for ident in fakes:
            del active[ident]
        recorder._resting.forget()


@pytest.fixture
def timed(load: Any, by_hand: Any) -> Worker:
    """Give a thread inside `outer`, which a stopwatch times; what is seen is in `recorder.watch`."""
    module = load("spliced_at_import", sampled.SOURCE, policy="profile_if_slow", threshold="1ms", **{"except": "*:inner"})
    recorder.stop(2.0)
    recorder.idle = False
    made = Worker(module.outer, by_threading)
    made.module = module  # type: ignore[attr-defined]
    return made


def looks() -> list[tuple[str, ...]]:
    (call,) = recorder.watch.calls.values()
    return [labels for _, _, labels in call.looks]


def test_what_a_stopwatch_times_is_looked_at_as_it_stood(
    by_hand: Any, timed: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, found = recorder.watch._find, []
    monkeypatch.setattr(recorder.watch, "_find", lambda leaf: found.append(leaf.f_code.co_name) or real(leaf))
    for _ in range(10):
        recorder.tick(True)
    assert found.count("here") == 2
    assert len(looks()) == 10
    assert len(set(looks())) == 1
    del found[:]
    timed.tell(timed.there)
    for _ in range(10):
        recorder.tick(True)
    assert found.count("there") == 2
    assert len(set(looks())) == 2
    timed.orders.put(lambda: None)
    at_rest(timed.ident)
    with testing.capture("complete") as events:
        timed.tell(None)
    (event,) = events
    assert event.measurements["samples"] == 20


def test_a_gate_put_on_while_a_thread_rests_is_looked_for(by_hand: Any, timed: Worker) -> None:
    watch = recorder.watch
    gates = [each() for each in watch._gates]
    watch.retain(lambda _: False)
    for _ in range(5):
        watch.look(sys._current_frames(), 1, 1)
    assert not watch.calls
    for each in gates:
        watch.add(each)
    watch.look(sys._current_frames(), 1, 1)
    assert len(looks()) == 1
    timed.tell(None)
