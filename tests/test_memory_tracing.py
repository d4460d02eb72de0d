"""The strategy `memory`: lines and types of one call at a time, beside an application that traces too."""

from __future__ import annotations

import gc
import json
import os
import signal
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autoprof import allocations, config, session, testing
from autoprof.errors import OptionError, PolicyErrors
from autoprof.policy import options_for
from autoprof.strategies import memory as detail
from tests.forked import told_by_child
from tests.memory_module import BACK_ENDS, FORK, SIZE, SOURCE, Failure, Make, makes, touched


@pytest.fixture(params=BACK_ENDS)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    yield from makes(request.param, tmp_path)


@pytest.fixture
def make_detail(make: Make) -> Make:
    return lambda **options: make(policy="profile", strategy="memory", rate=1.0, **options)


def test_the_file_names_lines_and_types(make_detail: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detail, "COUNT_MAX_NS", 10**12)
    subject = make_detail(format="json")
    gc.collect()
    with testing.capture() as events:
        subject.things(3_000)
    assert events.names == ["start", "stop", "memory", "complete"]
    (path,) = subject.files()
    assert events[-1].metadata["profile"] == str(path)
    assert path.name.startswith("memory-subject_memory-things-") and path.name.endswith(f"-{os.getpid()}.json")
    data = json.loads(path.read_text())
    assert data["types"] == events[2].measurements["types"]
    assert data["types"]["blocks"]["delta"] > 2_500
    row = next(each for each in data["objects"] if each["type"] == "subject_memory.Thing")
    assert (row["before"], row["after"], row["delta"]) == (0, 3_000, 3_000)
    line = SOURCE[: SOURCE.index("kept.append([Thing()")].count("\n") + 1
    assert data["sites"][0]["file"].endswith("subject_memory.py") and data["sites"][0]["line"] == line
    assert 3_000 * 16 < data["sites"][0]["size_bytes"] < 3_000 * 500
    assert not [each for each in data["sites"] if f"{os.sep}autoprof{os.sep}" in each["file"]]
    assert data["peak_bytes"] >= data["sites"][0]["size_bytes"]
    subject.kept.clear()


def test_text_is_the_default(make_detail: Make) -> None:
    subject = make_detail()
    subject.keep(touched)
    (path,) = subject.files()
    text = path.read_text()
    assert path.suffix == ".txt" and text.startswith("subject_memory:keep, one call")
    assert "subject_memory.py:" in text or "memory_module.py:" in text
    assert [line.split()[0] for line in text.splitlines() if line.startswith(("rss", "Python", "gc"))] == [
        "rss",
        "Python",
        "gc",
    ]
    subject.kept.clear()


def test_a_call_that_allocates_nothing_shows_nothing(
    make_detail: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detail, "COUNT_MAX_NS", 10**12)
    monkeypatch.setattr(detail, "BLOCKS_MAX", 10**9)
    subject = make_detail(format="json")
    gc.collect()
    objects: list[Any] = []
    sites: list[Any] = []
    # A collection, another thread or coverage's tracer may come between now and then.
    for _ in range(100):
        subject.nothing()
        (path,) = subject.files()
        data = json.loads(path.read_text())
        objects.append(data["objects"])
        sites.append([each for each in data["sites"] if "subject_memory" in each["file"]])
        if [] in objects and [] in sites:
            break
    assert [] in objects, objects[-5:]
    assert [] in sites, sites[-5:]


def test_rss_is_right_under_tracing_too(make_detail: Make) -> None:
    subject = make_detail()
    with testing.capture("memory") as events:
        subject.keep(touched)
    assert abs(events[0].measurements["delta"] - SIZE) < 0.05 * SIZE
    subject.kept.clear()


def test_files_replace_each_other(make_detail: Make, tmp_path: Path) -> None:
    subject = make_detail()
    for _ in range(5):
        subject.nothing()
        assert session.current is not None
        session.current.flusher.flush()
    subject.things(1)
    assert len(subject.files()) == 2
    session.stop()
    from autoprof.store import StoreReader

    listed = [each.path for each in StoreReader([str(subject.output)]).select().artefacts]
    assert sorted(listed) == sorted(path.name for path in subject.files())


def test_a_discarded_call_leaves_nothing(make_detail: Make) -> None:
    subject = make_detail(threshold="1h")
    with testing.capture() as events:
        subject.keep(touched)
    assert events.names == ["start"]
    probe = subject.probe("keep")
    assert (probe.discarded, probe.profiled, probe.memory_delta_bytes) == (1, 0, None)
    assert subject.files() == [] and not tracemalloc.is_tracing()
    subject.kept.clear()


def test_one_call_at_a_time(make_detail: Make) -> None:
    subject = make_detail()

    def other() -> None:
        thread = threading.Thread(target=subject.nothing)
        thread.start()
        thread.join()

    subject.call(other)
    assert subject.probe("nothing").skipped == {"busy": 1}
    assert subject.probe("call").profiled == 1
    subject.nothing()
    assert subject.probe("nothing").profiled == 1


def test_exceptions_end_the_tracing(make_detail: Make) -> None:
    subject = make_detail()
    with testing.capture() as events, pytest.raises(ValueError, match="reason"):
        subject.fail(Failure("reason"))
    assert events.names == ["start", "exception", "memory", "complete"]
    assert not tracemalloc.is_tracing() and len(subject.files()) == 1
    subject.kept.clear()


def test_generators_and_coroutines_end_it_too(make_detail: Make) -> None:
    import asyncio

    subject = make_detail(format="json")
    made = subject.stream(lambda: [0] * 100_000)
    next(made)
    assert allocations._is_tracing()
    list(made)
    del made
    gc.collect()
    assert not allocations._is_tracing()

    async def run() -> None:
        await subject.later(lambda: [0] * 100_000, asyncio.sleep(0))

    asyncio.run(run())
    assert not allocations._is_tracing()
    for path in subject.files():
        assert json.loads(path.read_text())["sites"][0]["size_bytes"] >= 800_000
    assert len(subject.files()) == 2
    subject.kept.clear()


def test_an_abandoned_generator_gives_the_tracer_back(make_detail: Make) -> None:
    subject = make_detail()
    made = subject.stream(lambda: 1)
    next(made)
    assert allocations._is_tracing()
    del made
    gc.collect()
    assert not allocations._is_tracing()
    subject.nothing()
    assert subject.probe("nothing").profiled == 1


def test_tracing_ends_at_the_duration_and_the_call_goes_on(make_detail: Make) -> None:
    subject = make_detail(duration="20ms", format="json")
    seen = []

    def act() -> str:
        subject.kept.append([0] * 100_000)
        deadline = time.monotonic() + 10
        while allocations._is_tracing() and time.monotonic() < deadline:
            time.sleep(0.005)
        seen.append(allocations._is_tracing())
        subject.nothing()
        return "done"

    assert subject.call(act) == "done"
    assert seen == [False]
    path = next(path for path in subject.files() if "call" in path.name)
    assert json.loads(path.read_text())["sites"][0]["size_bytes"] >= 800_000
    assert subject.probe("nothing").profiled == 1  # the tracer was free again
    subject.kept.clear()


def test_the_applications_tracing_goes_on(make_detail: Make) -> None:
    """Its traces are read, its frames stay as deep, nothing of it is cleared."""
    subject = make_detail(format="json")
    subject.nothing()
    tracemalloc.start(7)
    try:
        mine = [bytes(1_000) for _ in range(500)]
        before = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, __file__)])
        subject.things(2_000)
        assert tracemalloc.is_tracing() and tracemalloc.get_traceback_limit() == 7
        after = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, __file__)])
        here = {each.traceback: each.size for each in before.statistics("lineno") if each.size > 100_000}
        assert here
        assert here == {
            each.traceback: each.size for each in after.statistics("lineno") if each.traceback in here
        }
        everything = tracemalloc.take_snapshot().statistics("lineno")
        lines = [each for each in everything if "subject_memory" in str(each.traceback)]
        assert lines and lines[0].count >= 2_000
    finally:
        tracemalloc.stop()
    path = next(path for path in subject.files() if "things" in path.name)
    data = json.loads(path.read_text())
    assert data["sites"][0]["blocks"] >= 2_000 and "subject_memory" in data["sites"][0]["file"]
    assert data["peak_bytes"] is None
    del mine[:]
    subject.kept.clear()


def test_an_application_that_begins_to_trace_inside_gets_the_tracer(make_detail: Make) -> None:
    subject = make_detail(format="json")
    found: dict[str, Any] = {}

    def act() -> None:
        found["before"] = tracemalloc.is_tracing(), tracemalloc.get_traced_memory()
        tracemalloc.stop()
        with pytest.raises(RuntimeError, match="must be tracing"):
            tracemalloc.take_snapshot()
        tracemalloc.start(5)
        found["kept"] = [bytes(1_000) for _ in range(300)]

    try:
        subject.call(act)
        assert found["before"] == (False, (0, 0))
        assert tracemalloc.is_tracing() and tracemalloc.get_traceback_limit() == 5
        sizes = [each.size for each in tracemalloc.take_snapshot().statistics("lineno")]
        assert max(sizes) > 300_000
    finally:
        tracemalloc.stop()
    data = json.loads(subject.files()[0].read_text())
    assert data["sites"] is None and "began to trace" in data["sites_note"]


def test_an_application_that_ends_its_tracing_inside(make_detail: Make) -> None:
    subject = make_detail(format="json")
    tracemalloc.start()
    subject.call(tracemalloc.stop)
    assert not tracemalloc.is_tracing()
    data = json.loads(subject.files()[0].read_text())
    assert data["sites"] is None and "ended the tracing" in data["sites_note"]


def test_our_tracing_does_not_hold_back_the_flusher(make_detail: Make) -> None:
    from autoprof import flusher

    subject = make_detail()
    assert subject.call(lambda: (allocations._is_tracing(), flusher.memory_is_traced())) == (True, False)
    tracemalloc.start()
    try:
        assert flusher.memory_is_traced()
    finally:
        tracemalloc.stop()


def test_too_many_objects_are_not_counted(make_detail: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = make_detail(format="json")
    monkeypatch.setattr(detail, "COUNT_MAX_NS", -1)
    subject.nothing()
    (path,) = subject.files()
    data = json.loads(path.read_text())
    assert data["objects"] is None and "took too long" in data["objects_note"]
    assert data["sites"] is not None


def test_hostile_types_are_counted_without_running_their_code(
    make_detail: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detail, "COUNT_MAX_NS", 10**12)

    class Meta(type):
        @property
        def __module__(cls) -> str:  # type: ignore[override]
            raise AssertionError

    Odd = Meta("Odd\x1b[31m", (), {"__slots__": ("x",), "__class__": property(lambda self: 1 / 0)})
    subject = make_detail()
    subject.keep(lambda: [Odd() for _ in range(100)])
    (path,) = subject.files()
    text = path.read_text()
    assert "+100" in text and "Odd" in text and "\x1b" not in text
    subject.kept.clear()


@pytest.mark.parametrize("format_", ["svg", "html", "dot", "callgrind", "pstats"])
def test_other_formats_are_an_error(format_: str) -> None:
    with pytest.raises(OptionError, match=r"strategy memory has no such format.*known: text, json"):
        options_for("profile", strategy="memory", format=format_)
    text = f"version: 1\nrules: [{{match: 'a:b', policy: profile, strategy: memory, format: {format_}}}]\n"
    with pytest.raises(PolicyErrors, match="known: text, json"):
        config.loads(text, filename="p.yaml", env={})


@FORK
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_forked_inside_the_call_does_not_trace(make_detail: Make) -> None:
    subject = make_detail()

    def in_child() -> object:
        tracing = allocations._is_tracing(), tracemalloc.start is allocations._start
        subject.nothing()
        return *tracing, subject.probe("nothing").profiled, subject.probe("call").profiled

    assert told_by_child(lambda: subject.call(os.fork), in_child) == "(False, True, 1, 0)"
    assert subject.probe("call").profiled == 1


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers")
def test_an_interrupt_inside_ends_the_tracing(make_detail: Make) -> None:
    subject = make_detail()
    with pytest.raises(KeyboardInterrupt):
        subject.call(signal.raise_signal, signal.SIGINT)
    assert not allocations._is_tracing()
    subject.nothing()
    assert subject.probe("nothing").profiled == 1


def test_stopping_inside_a_call(make_detail: Make) -> None:
    subject = make_detail()
    subject.call(session.stop)
    assert not allocations._is_tracing()
