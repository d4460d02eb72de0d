"""The strategy `flame_graph`: one call, followed by pyinstrument's hook, drawn by our own renderers."""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autoprof import guard, testing
from autoprof.sampler import recorder
from tests.flames import BACK_ENDS, Make, makes
from tests.forked import told_by_child

stack_sampler = pytest.importorskip("pyinstrument.stack_sampler")


@pytest.fixture(params=BACK_ENDS)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    yield from makes(request.param, tmp_path)


def subscribers() -> list[Any]:
    """Return who else than nobody has pyinstrument's hook on this thread."""
    return list(stack_sampler.get_stack_sampler().subscribers)


def test_svg_is_the_default(make: Make) -> None:
    shop = make()
    with testing.capture() as events:
        assert shop.work() == "done"
    (path,) = shop.files()
    assert path.suffix == ".svg"
    text = path.read_text()
    ElementTree.fromstring(text)
    assert "work" in text and "run_spin" in text
    assert "test_svg_is_the_default" not in text
    assert events.names == ["start", "stop", "complete"]
    complete = events[-1]
    assert complete.metadata["profile"] == str(path)
    assert complete.metadata["strategy"] == "flame_graph"
    assert complete.measurements["samples"] > 5
    if os.name == "posix":
        assert path.stat().st_mode & 0o777 == 0o600


def test_html(make: Make) -> None:
    shop = make(format="html")
    shop.work()
    (path,) = shop.files()
    assert path.suffix == ".html"
    assert "run_spin" in path.read_text()


def test_json_is_a_speedscope_file(make: Make) -> None:
    shop = make(format="json")
    shop.work()
    (path,) = shop.files()
    document = json.loads(path.read_text())
    assert document["$schema"] == "https://www.speedscope.app/file-format-schema.json"
    names = [frame["name"] for frame in document["shared"]["frames"]]
    assert any("work" in name for name in names) and any("run_spin" in name for name in names)
    total_ns = sum(document["profiles"][0]["weights"])
    assert 10_000_000 < total_ns < 500_000_000


def test_output_placeholders_and_replacement(make: Make) -> None:
    shop = make(output="flames/{target}-{pid}.svg")
    shop.work()
    shop.work()
    (path,) = shop.files()
    assert path.parent.name == "flames"
    assert re.fullmatch(rf"subject_flame-work-{os.getpid()}\.svg", path.name)
    assert shop.probe.profiled == 2


def test_output_with_the_time_keeps_both(make: Make) -> None:
    shop = make(output="{time}.svg")
    shop.work()
    time.sleep(0.01)
    shop.work()
    assert len(shop.files()) == 2


def test_absolute_output(make: Make, tmp_path: Path) -> None:
    shop = make(output=str(tmp_path / "elsewhere" / "one.svg"))
    shop.work()
    assert (tmp_path / "elsewhere" / "one.svg").exists()


def test_an_unwritable_place_costs_the_file_only(make: Make, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    shop = make(output=str(blocked / "one.svg"))
    with testing.capture("complete") as events:
        assert shop.work() == "done"
    assert events[0].metadata["profile"] is None
    assert guard.internal_errors.pop("artefact") == 1


def test_every_is_a_second_unless_said_otherwise(make: Make) -> None:
    shop = make(every="1h")
    for _ in range(5):
        shop.work(0.005)
    assert (shop.probe.calls, shop.probe.profiled, shop.probe.skipped) == (5, 1, {})


def test_one_call_at_a_time(make: Make) -> None:
    shop = make()
    results: list[Any] = []

    def other() -> None:
        thread = threading.Thread(target=lambda: results.append(shop.work(0.001)))
        thread.start()
        thread.join()

    shop.work(0.02, act=other)
    assert results == ["done"]
    assert (shop.probe.calls, shop.probe.profiled, shop.probe.skipped) == (2, 1, {"busy": 1})
    shop.work(0.01)
    assert shop.probe.profiled == 2


def test_the_application_may_use_pyinstrument_inside(make: Make) -> None:
    from pyinstrument import Profiler

    shop = make()

    def act() -> str:
        with Profiler(interval=0.001) as profiler:
            end = time.perf_counter() + 0.02
            while time.perf_counter() < end:
                pass
        return profiler.output_text()

    assert "test_flame_graph.py" in shop.work(0.02, act=act)
    assert len(shop.files()) == 1
    assert "run_spin" in shop.files()[0].read_text()


def test_the_applications_pyinstrument_has_the_right_of_way(make: Make) -> None:
    from pyinstrument import Profiler

    shop = make()
    profiler = Profiler(interval=0.001)
    with profiler:
        assert shop.work() == "done"
    assert shop.probe.skipped == {"other_profiler": 1}
    assert "run_spin" in profiler.output_text(show_all=True)
    shop.work()
    assert shop.probe.profiled == 1


def test_exceptions_pass_and_are_drawn(make: Make) -> None:
    shop = make()
    error = ValueError("reason")
    with testing.capture() as events, pytest.raises(ValueError, match="reason") as caught:
        shop.work(fail=error)
    assert caught.value is error
    assert events.names == ["start", "exception", "complete"]
    assert len(shop.files()) == 1
    assert sys.getprofile() is None


def test_a_call_too_short_for_a_sample_makes_no_file(make: Make) -> None:
    shop = make(interval="50ms")
    assert shop.work(0.0) == "done"
    assert shop.probe.profiled == 1
    assert len(shop.files()) <= 1


def test_measuring_stops_at_the_duration(make: Make) -> None:
    shop = make(duration="30ms", format="json")
    seen: list[Any] = []

    def act() -> str:
        seen.append((sys.getprofile(), subscribers()))
        shop.run_spin(0.02)
        return "went on"

    assert shop.work(0.08, act=act) == "went on"
    assert seen == [(None, [])]
    stacks = shop.stacks()
    assert 5_000_000 < sum(stacks.values()) <= 30_000_000
    assert not any("act" in name for stack in stacks for name in stack)
    shop.files()[0].unlink()
    shop.work(0.01)
    assert sum(shop.stacks().values()) < 30_000_000  # no time from between the two


def test_after_the_limit_another_call_may_be_followed(make: Make) -> None:
    shop = make(duration="20ms")

    def other() -> None:
        thread = threading.Thread(target=shop.work, args=(0.02,))
        thread.start()
        thread.join()

    shop.work(0.04, act=other)
    assert (shop.probe.profiled, shop.probe.skipped) == (2, {})


def test_one_long_call_in_c_counts_up_to_the_limit(make: Make) -> None:
    shop = make(duration="20ms", format="json")
    shop.work(0.0, act=lambda: time.sleep(0.06))
    assert 10_000_000 < sum(shop.stacks().values()) <= 20_000_000


def test_the_applications_profiler_after_the_limit_counts_from_its_own_start(make: Make) -> None:
    from pyinstrument import Profiler

    shop = make(duration="5ms")
    totals: list[float] = []

    def act() -> None:
        shop.run_spin(0.05)
        with Profiler(interval=0.001) as profiler:
            shop.run_spin(0.01)
        totals.append(sum(span_s for _, span_s in profiler.last_session.frame_records))
        totals.append(profiler.last_session.duration)

    shop.work(0.01, act=act)
    assert 0 < totals[0] <= totals[1]


@pytest.mark.usefixtures("no_flushes")
def test_labels_are_the_samplers(make: Make) -> None:
    source = """
from time import perf_counter, sleep
class Till:
    def add(self, seconds):
        def spin():
            end = perf_counter() + seconds
            while perf_counter() < end: pass
        spin()
        sleep(0.01)
def work():
    Till().add(0.02)
"""
    shop = make(source, format="json")
    shop.work()
    stacks = shop.stacks()
    inner = ("subject_flame:work", "subject_flame:Till.add", "subject_flame:Till.add.<locals>.spin")
    assert sum(weight_ns for stack, weight_ns in stacks.items() if stack[:3] == inner) > 10_000_000
    assert stacks["subject_flame:work", "subject_flame:Till.add", "<built-in>:sleep"] > 8_000_000
    labels = {label for (probe, stack) in recorder.drain() if probe is shop.probe for label in stack}
    assert "subject_flame:Till.add (/nowhere/subject_flame.py:4)" in labels


def test_recursion_keeps_every_level(make: Make) -> None:
    source = """
from time import perf_counter
def work(depth=3):
    if depth: return work(depth - 1)
    end = perf_counter() + 0.02
    while perf_counter() < end: pass
"""
    shop = make(source, format="json", rate=1.0)
    shop.work()
    deepest = max(shop.stacks(), key=len)
    assert [each for each in deepest if each == "subject_flame:work"] == ["subject_flame:work"] * 4
    assert shop.probe.calls == 4


def test_a_profiler_of_the_applications_inside_stays(make: Make) -> None:
    shop = make()

    def mine(*_: object) -> None:
        """A profile function."""

    try:
        shop.work(0.01, act=lambda: sys.setprofile(mine))
        assert sys.getprofile() is mine
    finally:
        sys.setprofile(None)
    assert not subscribers()
    shop.work(0.01)
    assert shop.probe.profiled == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_failed_start_leaves_nothing(
    make: Make, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    shop = make()
    real = stack_sampler.StackSampler.subscribe

    def fails(self: Any, *args: Any, **more: Any) -> None:
        real(self, *args, **more)
        raise error("in the middle")

    monkeypatch.setattr(stack_sampler.StackSampler, "subscribe", fails)
    if error is KeyboardInterrupt:
        with pytest.raises(KeyboardInterrupt):
            shop.work(0.0)
    else:
        assert shop.work(0.0) == "done"
        assert shop.probe.skipped == {"error": 1}
        assert guard.internal_errors.pop("begin") == 1
    assert sys.getprofile() is None and not subscribers()
    monkeypatch.undo()
    assert shop.work(0.01) == "done"
    assert shop.probe.profiled == 1


def test_a_failing_look_ends_the_following_only(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from autoprof.strategies.flame_graph import Following

    shop = make()
    monkeypatch.setattr(Following, "_label", lambda *_: 1 / 0)
    hooks: list[Any] = []
    assert shop.work(0.01, act=lambda: hooks.append(sys.getprofile())) is None
    assert hooks == [None]
    assert guard.internal_errors.pop("flame graph") == 1


def test_the_applications_interrupt_passes_through_the_hook(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autoprof.strategies.flame_graph import Following

    shop = make()
    armed: list[bool] = []
    real = Following._look

    def interrupted(self: Any, *more: Any) -> None:
        if armed:
            raise KeyboardInterrupt
        real(self, *more)

    def act() -> None:
        armed.append(True)
        shop.run_spin(10)

    monkeypatch.setattr(Following, "_look", interrupted)
    with pytest.raises(KeyboardInterrupt):
        shop.work(0.01, act=act)
    assert sys.getprofile() is None and not subscribers()
    monkeypatch.undo()
    shop.work(0.01)
    assert shop.probe.profiled == 2


def test_stopping_on_another_thread_leaves_the_hook_to_its_own(make: Make) -> None:
    shop = make()
    hooks: list[Any] = []

    def act() -> None:
        thread = threading.Thread(target=shop.strategy()._current.stop)
        thread.start()
        thread.join()
        shop.run_spin(0.01)
        hooks.append(sys.getprofile())

    shop.work(0.01, act=act)
    assert hooks == [None]
    assert not subscribers()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_forked_inside_the_call_is_not_followed(make: Make) -> None:
    shop = make()

    def in_child() -> object:
        hook = sys.getprofile()
        again = shop.work(0.02)
        return hook is None, again, shop.probe.profiled, sys.getprofile() is None

    assert told_by_child(lambda: shop.work(0.02, act=os.fork), in_child) == "(True, 'done', 1, True)"
    assert shop.probe.profiled == 1
