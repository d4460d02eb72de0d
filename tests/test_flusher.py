"""The background writer: nothing is lost while the store can't be written, and memory stays bounded."""

from __future__ import annotations

import gc
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from autoprof import flusher as module_under_test
from autoprof import guard, sampler, session, testing, turns
from autoprof.errors import StoreError
from autoprof.flusher import Flusher, merged
from autoprof.probe import Probe
from autoprof.sampler import recorder
from autoprof.store import ProbeDelta, StoreReader
from autoprof.store_records import CallsDelta
from tests import mechanisms
from tests.mechanisms import Loaded

Load = Callable[..., Loaded]
SOURCE = "def f(act=None):\n    if act: act()\n"


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Load]:
    yield from mechanisms.loads(tmp_path)


class Store:
    """A writer that can be broken."""

    def __init__(self) -> None:
        self.broken: Exception | None = None
        self.probes: list[ProbeDelta] = []
        self.stacks: list[Any] = []
        self.dropped = 0
        self.closed = False
        self.stated = True
        self.attempts = 0

    def write(self, probes: list[Any], stacks: list[Any], artefacts: list[Any], **more: Any) -> None:
        self.attempts += 1
        if self.broken is not None:
            raise self.broken
        self.probes += probes
        self.stacks += stacks
        self.dropped += more["dropped"]

    def take_notices(self) -> list[str]:
        return []

    def close(self, now_ns: int) -> None:
        self.closed = True

    def calls(self) -> int:
        return sum(each.calls for each in self.probes)


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """No background thread: the test flushes."""
    monkeypatch.setattr(Flusher, "start", lambda self: None)


@pytest.fixture
def pair(quiet: None, load: Load) -> Iterator[tuple[Loaded, Flusher, Store]]:
    loaded = load("spliced_at_import", SOURCE)
    store = Store()
    assert session.current is not None
    flusher = session.current.flusher
    flusher._make_writer = lambda: store
    yield loaded, flusher, store


Pair = tuple[Loaded, Flusher, Store]


def test_increments_add_up(pair: Pair) -> None:
    loaded, flusher, store = pair
    for count in (3, 0, 5):
        for _ in range(count):
            loaded.f()
        flusher.flush()
    assert store.calls() == 8
    assert sum(each.profiled for each in store.probes) == 8
    assert sum(sum(each.durations.values()) for each in store.probes) == 8
    assert len(store.probes) == 2, "nothing new, nothing written"


def test_skipped_reasons_are_increments(pair: Pair) -> None:
    loaded, flusher, store = pair
    for _ in range(2):
        loaded.f(act=loaded.f)
        flusher.flush()
    assert [each.skipped for each in store.probes] == [{"nested": 1}, {"nested": 1}]


@pytest.mark.parametrize("error", [StoreError("newer schema"), PermissionError("read-only")])
def test_an_outage_is_told_once_and_loses_nothing(
    pair: Pair, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    loaded, flusher, store = pair
    with testing.FakeClock() as clock:
        store.broken = error
        for _ in range(4):
            loaded.f()
            flusher.flush()
            clock.advance(s=6)
        assert store.attempts == 4
        assert flusher.last_error == str(error)
        assert [(each.levelname, str(error) in each.message) for each in caplog.records] == [
            ("WARNING", True)
        ]
        store.broken = None
        loaded.f()
        flusher.flush()
    assert store.calls() == 5
    assert flusher.last_error is None
    assert sum(sum(each.durations.values()) for each in store.probes) == 5


def test_a_broken_store_is_not_hammered(pair: Pair) -> None:
    loaded, flusher, store = pair
    store.broken = StoreError("locked")
    with testing.FakeClock() as clock:
        for _ in range(10):
            loaded.f()
            flusher.flush()
            clock.advance(ms=500)
    assert store.attempts == 1


def test_memory_is_bounded_during_an_outage(pair: Pair) -> None:
    loaded, flusher, store = pair
    store.broken = StoreError("gone")
    for _ in range(600):
        loaded.f()
        flusher.flush()
    assert len(flusher._unsent_probes) < 150
    store.broken = None
    flusher.close()
    assert store.calls() == 600
    assert store.closed


def test_stacks_held_are_bounded_and_drops_counted(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, flusher, store = pair
    monkeypatch.setattr(module_under_test, "STACKS_HELD", 2)
    store.broken = StoreError("gone")
    probe = loaded.probe("f")
    loaded.f()
    for number in range(5):
        drained: sampler.Stacks = {(probe, (f"m:f{number}",)): (3, 30)}
        monkeypatch.setattr(recorder, "drain", lambda drained=drained: drained)
        flusher._collect(0, True)
    monkeypatch.setattr(recorder, "drain", dict)
    assert flusher.dropped == 9
    store.broken = None
    flusher.close()
    assert store.dropped == 9
    assert sum(each.samples for each in store.stacks) == 6


def test_the_same_stack_adds_up(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, flusher, store = pair
    loaded.f()
    stack = (loaded.probe("f"), ("m:f",))
    monkeypatch.setattr(recorder, "drain", lambda: {stack: (1, 10)})
    flusher._collect(0, True)
    flusher._collect(0, True)
    monkeypatch.setattr(recorder, "drain", dict)
    flusher.close()
    assert [(each.stack, each.samples, each.weight_ns) for each in store.stacks] == [(("m:f",), 2, 20)]


def test_sample_windows(pair: Pair) -> None:
    loaded, flusher, _ = pair
    probe = loaded.probe("f")
    with testing.FakeClock() as clock, testing.capture("sample") as events:
        loaded.f()
        probe.samples += 7
        clock.advance(s=10)
        flusher.flush()
        probe.samples += 1
        clock.advance(ms=500)
        flusher.flush()
        assert len(events) == 1, "once a second"
        clock.advance(ms=600)
        flusher.flush()
        clock.advance(s=5)
        flusher.flush()
        probe.samples += 2
        flusher.close()
    assert [each.measurements for each in events] == [{"samples": 7}, {"samples": 1}, {"samples": 2}]
    assert events[1].metadata["window"] == pytest.approx(1.1)
    assert events[0].metadata["target"] == f"{loaded.name}:f"


def test_an_unknown_error_is_reported_and_survived(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    from autoprof import guard

    loaded, flusher, store = pair
    store.broken = ZeroDivisionError("bug")
    loaded.f()
    flusher.flush()
    assert guard.internal_errors.pop("flusher") == 1
    guard._logged.discard("flusher")
    store.broken = None
    flusher.flush()
    assert store.calls() == 1


def test_merging_keeps_the_sums() -> None:
    def delta(calls: int, **more: Any) -> ProbeDelta:
        return ProbeDelta("m:f", "rule 1", "profile", "sample", calls=calls, **more)

    found = merged(
        [
            delta(1, durations={5: 1}, max_ns=5, skipped={"nested": 1}),
            delta(2, durations={5: 1, 6: 1}, max_ns=9, skipped={"busy": 1, "nested": 2}),
            CallsDelta(("m:f", "rule 1", "profile", "sample"), 4),
            CallsDelta(("m:g", "rule 1", "profile", "sample"), 1),
            CallsDelta(("m:g", "rule 1", "profile", "sample"), 2),
            CallsDelta(("m:h", "rule 1", "profile", "sample"), 1),
            ProbeDelta("m:h", "rule 1", "profile", "sample", calls=3, max_ns=7),
        ]
    )
    assert [(each.key[0], each.calls) for each in found] == [("m:f", 7), ("m:g", 3), ("m:h", 4)]
    assert [each.only_calls for each in found] == [False, True, False]
    assert found[2].max_ns == 7
    assert found[0].durations == {5: 2, 6: 1}
    assert found[0].skipped == {"nested": 3, "busy": 1}
    assert found[0].max_ns == 9


def test_the_thread_writes_within_a_second(load: Load, tmp_path: Path) -> None:
    loaded = load("spliced_at_import", SOURCE)
    loaded.f()
    loaded.f()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and not stored_calls(tmp_path / "out"):
        time.sleep(0.02)
    assert stored_calls(tmp_path / "out") == 2


def stored_calls(folder: Path) -> int:
    if not list(folder.glob("*.db")):
        return 0
    return sum(row.calls for row in StoreReader([str(folder)]).select().probes)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(load: Load, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o500)
    check_outage(load, tmp_path, lambda: (tmp_path / "out").chmod(0o700))


def test_a_file_in_the_folders_place(load: Load, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "out").write_text("in the way")
    check_outage(load, tmp_path, (tmp_path / "out").unlink)
    warnings = [each.message for each in caplog.records if each.levelno >= logging.WARNING]
    assert len(warnings) == 1 and "stay in memory" in warnings[0]


def check_outage(load: Load, tmp_path: Path, repair: Callable[[], Any]) -> None:
    """Signals go on while nothing can be written, and everything is there once it can."""
    loaded = load("spliced_at_import", SOURCE)
    with testing.capture("stop") as events:
        for _ in range(3):
            loaded.f()
        assert session.current is not None
        session.current.flusher.flush()
        assert session.current.flusher.last_error
    assert len(events) == 3
    repair()
    loaded.f()
    session.stop()
    assert stored_calls(tmp_path / "out") == 4


def test_closing_twice_and_without_anything(tmp_path: Path) -> None:
    store = Store()
    flusher = Flusher(lambda: store)
    flusher.close()
    flusher.close()
    assert store.attempts == 0 and not list(tmp_path.iterdir())


def test_a_probe_without_calls_has_nothing_to_tell() -> None:
    flusher = Flusher(Store)
    probe = Probe("m:f", "rule 1", "profile", None, {})
    flusher.watch(probe)
    flusher.watch(probe)
    flusher._collect(0, True)
    assert not flusher._unsent_probes
    assert sys.getrefcount(probe) < 20


@pytest.fixture
def growing() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Have something done at every collection of garbage, and collect at every allocation that may (3.11)."""
    before = gc.get_threshold()
    hooks: list[Any] = []

    def start(act: Callable[[], None]) -> None:
        def hook(phase: str, info: dict[str, int]) -> None:
            if phase == "start":
                act()

        hooks.append(hook)
        gc.callbacks.append(hook)
        gc.set_threshold(1, 1, 1)

    yield start
    gc.set_threshold(*before)
    for each in hooks:
        gc.callbacks.remove(each)


def test_a_first_call_made_by_a_finalizer_disturbs_no_flush(
    growing: Callable[[Callable[[], None]], None], pair: Pair
) -> None:
    """A collection in the middle of a look at the probes calls a function that was never called before."""
    _, flusher, _ = pair
    spare = [Probe(f"m:f{number}", "rule", "profile", None, {}) for number in range(9_000)]
    for _ in range(3_000):  # more than the tuples that CPython keeps at hand
        flusher.watch(spare.pop())
    growing(lambda: flusher.watch(spare.pop()) if spare else None)
    flusher._collect(0, True)
    assert not guard.internal_errors


def test_a_finalizer_disturbs_no_turn(growing: Callable[[Callable[[], None]], None]) -> None:
    spare = [Probe(f"m:f{number}", "rule", "profile", None, {}) for number in range(9_000)]
    far_ns = 1 << 62
    try:
        for _ in range(3_000):  # more than the tuples that CPython keeps at hand
            turns.reopen[spare.pop()] = far_ns
        growing(lambda: turns.reopen.__setitem__(spare.pop(), far_ns) if spare else None)
        turns.keep_time()
    finally:
        turns.reopen.clear()
